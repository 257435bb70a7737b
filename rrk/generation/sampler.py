"""The in-process sampler: n programs a problem, many problems at a time. `rrk sample` and PPO's rollouts both use it.

    sampler = Sampler(model, tokenizer, temperature=0.8, top_p=0.95, max_tokens=256)
    groups = sampler(prompts, seeds, stops)          # seeds[i][j]: of completion j of prompt i -> groups[i][j]: Completion
    for asked, group in sampler.stream(asks): ...    # the same as it comes, in order, from any number of problems

Every completion has a random stream of its own, one uniform number a token, which follows from its seed alone. Rows are
filled from all problems (continuous.py): a row's logits then depend in their last bits on the rows beside it, as everywhere
in the field, and once in a while a token does. `exact` keeps that out (exact.py) at the price of speed: shards and resumed
runs then give the same bytes. It is the default for small models in float32 on a CPU, for which both ways are quick.

The generation config's penalties and the like are ignored: the distribution is that of picking.py, and `logprob` is always
that of the plain softmax at temperature 1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor

from rrk.errors import RrkError, UsageError
from rrk.generation import dtypes
from rrk.generation.continuous import Continuous
from rrk.generation.decoding import Unsupported
from rrk.generation.exact import Batches
from rrk.generation.models import encode_prompt, eos_ids
from rrk.generation.picking import Picker
from rrk.generation.problems import Ask, Asked, Completion, Problem, trial_text
from rrk.generation.slots import Slots
from rrk.generation.stopping import StopStrings

MEMORY = 2 << 30  # bytes of keys and values at a time, on a CPU
ROWS = {"cpu": 128, "cuda": 512}  # at most, unless told otherwise
A = TypeVar("A", bound=Asked)


class Sampler:
    """Draws completions from a causal model; it must be in eval mode if it has dropout."""

    def __init__(
        self,
        model,
        tokenizer,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        max_tokens: int = 256,
        stop: Sequence[str] = (),
        bf16: bool = False,
        rows: int | None = None,
        exact: bool | None = None,
        mix: bool | None = None,
        notice: Callable[[str], None] = lambda text: None,
    ):
        """`bf16`: autocast. `rows`: completions at a time (default: by memory). `exact`: None: for small float32 models.

        `mix`: of the exact way, problems together, None: by trial, and if that fails, not exact unless asked for.
        `notice` hears what the user should know, such as less memory than planned for.
        """
        self.pick = Picker(temperature, top_p, top_k)
        if max_tokens < 1:
            raise UsageError("max-tokens must be at least 1")
        self.model, self.tokenizer = model, tokenizer
        self.max_tokens, self.stop = max_tokens, tuple(stop)
        self.bf16, self.notice = bf16, notice
        # Hears how many programs have ended, where rows go on without them.
        self.ended: Callable[[int], None] = lambda count: None
        self.reread = 0  # tokens of prompts that were read another time (ordered=False)
        self._seen: set[tuple[int, ...]] = set()
        self.device = next(model.parameters()).device
        self.eos = eos_ids(model, tokenizer)
        self.longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 60
        self.exact = exact
        self.rows = rows or self._rows_by_memory()
        self.batches = Batches(self, rows, mix)
        self._continuous: bool | None = False if mix is False else None
        self._stops: dict[tuple[str, ...], StopStrings] = {}

    def __call__(
        self,
        prompts: Sequence[str],
        seeds: Sequence[Sequence[int]],
        stops: Sequence[Sequence[str]] | None = None,
    ) -> list[list[Completion]]:
        """Completions of every prompt, in order. Raises RrkError if a prompt leaves no room or memory does not suffice."""
        asks = [Ask(*one) for one in zip(prompts, seeds, stops or [()] * len(prompts), strict=True)]
        return [group for _, group in self.stream(asks, at_once=max(len(asks), 1))]

    def stream(
        self,
        asks: Iterable[A],
        ready: Callable[[], bool] = lambda: True,
        at_once: int | None = None,
        ordered: bool = True,
    ) -> Iterator[tuple[A, list[Completion]]]:
        """(what was asked, its completions), in order. `ready()` is false where the next would have to be waited for.

        `at_once`: problems that are drawn together if results are exact (default: as many as fit). `ordered=False`: as they are
        done, and prompts are kept for another ask of the same (`reread` counts those that were not). RrkError (as above) comes
        after what was asked before is drawn.
        """
        source = _Source(asks, self._problem)
        with self._autocast():
            for problem in self._drawn(source, ready, at_once, ordered):
                yield problem.asked, problem.drawn  # type: ignore[misc]
        if source.error:
            raise source.error

    def is_continuous(self) -> bool:
        """Whether rows are filled from all problems, or drawn batch by batch; by trial."""
        with self._autocast():
            exact = self._is_small() if self.exact is None else self.exact
            if exact and (self.exact or self.batches.mixes()):
                return False
            if self._continuous is None:
                self._continuous = self.agrees(self._forced)
                if not (self._continuous or self.batches.mixes()):
                    self.notice(
                        "drawing one problem at a time, which is slow: rrk's decoding does not give this model's logits"
                    )
            return self._continuous

    def less_memory(self, error: Exception, rows: int) -> int:
        """How many rows to go on with after this error with so many. Raises it, if it is another; RrkError: none fits."""
        out = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "memory" in str(error).lower()
        if not out:
            raise error
        if rows <= 1:
            raise RrkError("not enough memory for one program; lower --max-tokens or take a smaller model") from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.rows = max(1, rows // 2)
        self.notice(f"out of memory with {rows} programs at a time; going on with {self.rows}")
        return self.rows

    def token_bytes(self, size: int | None = None) -> int:
        """Memory of a token's keys and values; `size`: bytes a number, default: the weights'."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 2 * config.num_hidden_layers * heads * width * (size or next(self.model.parameters()).element_size())

    @torch.no_grad()
    def agrees(self, forced: Callable[[list[list[int]], list[int], list[list[int]]], Tensor]) -> bool:
        """Whether a decoder's logits are those of the model's own forward pass; a few tokens of four rows.

        `forced(prompts, owners, continuations)` -> (steps, rows, at least the vocabulary).
        """
        plain = self._is_float32() and not self.bf16
        text = trial_text(self.model, self.tokenizer, 12)
        prompts, owners = [text[:4], text[:9]], [0, 0, 1, 1]
        more = [text[4:7], text[9:], text[9:], text[4:7]]
        try:
            ours = forced(prompts, owners, more)
        except (Unsupported, TypeError, ValueError, AttributeError, RuntimeError, IndexError):
            return False
        for row, owner in enumerate(owners):
            ids = torch.tensor([prompts[owner] + more[row]], device=self.device)
            want = self.model(ids).logits[0, len(prompts[owner]) - 1 : -1].float()
            tolerance = (1e-4 if plain else 0.1) * max(1.0, float(want.abs().max()))
            if not bool(((ours[:, row, : want.shape[-1]] - want).abs() <= tolerance).all()):
                return False
        return True

    # ---- the two ways --------------------------------------------------------------------------------------------

    def count_read(self, problems: Iterable[Problem]) -> None:
        """The prompts of these were read just now."""
        for head in (tuple(problem.head) for problem in problems):
            self.reread += len(head) if head in self._seen else 0
            self._seen.add(head)

    def _drawn(
        self, source: _Source, ready: Callable[[], bool], at_once: int | None, ordered: bool
    ) -> Iterator[Problem]:
        first = next(source, None)
        if first is None:
            return
        if self.is_continuous():
            yield from Continuous(self, self.rows, ordered)(chain([first], source), ready)
            return
        fit = max(1, self.batches.rows // max(1, len(first.drawn)))
        most = at_once or (2 * fit if self.batches.mixes() else 1)
        batch = [first]
        while batch:
            while len(batch) < most and ready() and (more := next(source, None)) is not None:
                batch.append(more)
            self.batches(batch)
            if not ordered:
                self.count_read(batch)
            yield from batch
            batch = [more] if (more := next(source, None)) is not None else []

    def _problem(self, asked: Asked) -> Problem:
        head = encode_prompt(self.tokenizer, asked.prompt) if asked.ids is None else list(asked.ids)
        if len(head) >= self.longest:
            raise RrkError(
                f"a prompt has {len(head)} tokens, the model reads {self.longest}: {asked.prompt[:40]!r}...; leave it out"
            )
        key = (*self.stop, *asked.stop)
        if key not in self._stops:
            self._stops[key] = StopStrings(self.tokenizer, key)
        return Problem(asked, head, self._stops[key], min(self.max_tokens, self.longest - len(head)))

    def _is_small(self) -> bool:
        small = sum(weight.numel() for weight in self.model.parameters()) < dtypes.LARGE
        return small and self.device.type == "cpu" and self._is_float32()

    def _is_float32(self) -> bool:
        return dtypes.name(self.model) == "float32"

    def _rows_by_memory(self) -> int:
        memory = MEMORY if self.device.type == "cpu" else torch.cuda.mem_get_info(self.device)[0] // 2
        most = ROWS.get(self.device.type, ROWS["cuda"])
        row = self.token_bytes(2 if self.bf16 else None) * (self.max_tokens + 256)
        if self.device.type != "cpu":
            row += 16 * self.model.config.get_text_config().vocab_size  # logits, and the picker's copies
        return min(max(memory // row, 1), most)

    def _forced(self, prompts: list[list[int]], owners: list[int], forced: list[list[int]]) -> Tensor:
        slots = Slots(self.model)
        read = slots.read(prompts)
        slots.add(range(len(owners)), [read[owner] for owner in owners])
        given = [[prompts[owner][-1], *own] for owner, own in zip(owners, forced, strict=True)]
        made = []
        for step in range(len(forced[0])):
            order = slots.line_up()
            logits = slots.step([given[row][step] for row in order]).float()
            made.append(logits[torch.tensor(order, device=self.device).argsort()])
        return torch.stack(made)

    def _autocast(self):
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


class _Source:
    """Problems of what is asked, up to one that cannot be drawn: `error` says why, when the others are done."""

    def __init__(self, asks: Iterable[Asked], make: Callable[[Asked], Problem]):
        self._asks, self._make = iter(asks), make
        self.error: RrkError | None = None

    def __iter__(self) -> _Source:
        return self

    def __next__(self) -> Problem:
        if self.error:
            raise StopIteration
        try:
            return self._make(next(self._asks))
        except RrkError as error:
            self.error = error
            raise StopIteration from None
