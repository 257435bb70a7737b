"""The engine `transformers`: the model in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rrk.generation import dtypes
from rrk.generation.models import load
from rrk.generation.sampler import Sampler
from rrk.generation.tasks import Order, Sample, Task, Tasks


class Engine:
    """Loads the model once; draws as many problems at a time as are there and fit."""

    def __init__(self, order: Order, device: str, dtype: str, at_once: int | None, notice: Callable[[str], None]):
        model, tokenizer = load(order.model, device, dtype)
        self._sampler = Sampler(
            model,
            tokenizer,
            temperature=order.temperature,
            top_p=order.top_p,
            max_tokens=order.max_tokens,
            notice=notice,
        )
        self.about = {"dtype": dtypes.name(model)}
        self._most = at_once or self._sampler.problems_at_once(order.samples)

    def __call__(self, tasks: Tasks) -> Iterator[tuple[Task, list[Sample]]]:
        for first in tasks:
            batch = [first]
            while len(batch) < self._most and tasks.ready():
                more = next(tasks, None)
                if more is None:
                    break
                batch.append(more)
            groups = self._sampler([t.prompt for t in batch], [t.seeds for t in batch], [t.stop for t in batch])
            for task, group in zip(batch, groups, strict=True):
                yield task, [Sample(c.text, round(c.logprob, 6), len(c.ids), c.finish) for c in group]
