"""The engine `transformers`: the model in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from rrk.generation import chat, dtypes, memory
from rrk.generation.models import load
from rrk.generation.sampler import Sampler
from rrk.generation.tasks import Order, Sample, Task, Tasks


def unused_settings(model: Any, order: Order) -> str:
    """What a model's generation_config would do to the odds and rrk does not."""
    own = getattr(model, "generation_config", None)
    plain = {"top_k": (None, 0, 50, order.top_k), "repetition_penalty": (None, 1.0), "no_repeat_ngram_size": (None, 0)}
    found = {name: getattr(own, name, None) for name in plain}
    return ", ".join(f"{name} {value}" for name, value in found.items() if value not in plain[name])


class Engine:
    """Loads the model once. `rows`: programs drawn at a time, None: as memory allows. `exact`: see sampler.py."""

    def __init__(
        self,
        order: Order,
        device: str,
        dtype: str,
        rows: int | None,
        exact: bool | None,
        notice: Callable[[str], None],
    ):
        model, tokenizer = load(order.model, device, dtype)
        self.about = {"dtype": dtypes.name(model)}
        self.model, self._chat = model, order.chat
        if unused := unused_settings(model, order):
            notice(f"the model's own generation_config asks for {unused}: not used (--top-k is yours)")
        self._sampler = Sampler(
            model,
            tokenizer,
            temperature=order.temperature,
            top_p=order.top_p,
            top_k=order.top_k,
            max_tokens=order.max_tokens,
            rows=rows,
            exact=exact,
            notice=notice,
        )

    def watch(self, ended: Callable[[int], None]) -> None:
        """`ended` hears how many programs have ended, each time some have."""
        self._sampler.ended = ended

    @property
    def reread(self) -> int:
        """Tokens of prompts that were read another time."""
        return self._sampler.reread

    @property
    def cost(self) -> dict[str, Any]:
        return memory.cost(self.model)

    def __call__(self, tasks: Tasks) -> Iterator[tuple[Task, list[Sample]]]:
        asked = (replace(task, ids=tuple(chat.render(self._sampler.tokenizer, [*task.messages]))) for task in tasks)
        given = asked if self._chat else tasks
        for task, group in self._sampler.stream(given, tasks.ready, ordered=not tasks.any_order):
            yield task, [Sample.of(c.text, c.logprobs, c.finish, len(c.prompt)) for c in group]
