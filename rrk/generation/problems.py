"""A problem while its programs are drawn, and a program that was drawn; what both ways of drawing share.

problem = Problem(asked, head, stops, room)     # asked: .prompt, .seeds, .stop
problem.end(0, ids, "eos", logprobs, tokenizer)   # completion 0 is drawn; logprobs: a token each
problem.done                                    # when all are
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from rrk.generation.models import encode_prompt
from rrk.generation.stopping import StopStrings, decode


@dataclass
class Completion:
    """One drawn program. `ids` are all drawn tokens, with the EOS or stop string; `text` ends before it."""

    prompt: list[int]
    ids: list[int]
    text: str
    finish: str  # eos, stop, length
    logprobs: list[float]  # nats, of each of ids, at temperature 1

    @property
    def logprob(self) -> float:
        """Of the whole program."""
        return sum(self.logprobs)


class Asked(Protocol):
    """What is asked of a sampler: a completion for each seed."""

    @property
    def prompt(self) -> str: ...
    @property
    def seeds(self) -> Sequence[int]: ...
    @property
    def stop(self) -> Sequence[str]: ...
    @property
    def ids(self) -> Sequence[int] | None: ...


@dataclass(frozen=True)
class Ask:
    """The plain one."""

    prompt: str
    seeds: Sequence[int]
    stop: Sequence[str] = ()
    ids: Sequence[int] | None = None  # the prompt's tokens, where they are not those of its text


@dataclass(eq=False)
class Problem:
    """`head`: its prompt's ids; `room`: the most tokens that a completion may have."""

    asked: Asked
    head: list[int]
    stops: StopStrings
    room: int
    drawn: list[Completion | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.drawn = [None] * len(self.asked.seeds)

    @property
    def done(self) -> bool:
        return None not in self.drawn

    def finish(self, ids: list[int], eos: set[int]) -> str | None:
        """How a completion ends with the last of these tokens, None: it goes on."""
        if ids[-1] in eos:
            return "eos"
        if self.stops.stops and self.stops.ended(ids):
            return "stop"
        return "length" if len(ids) >= self.room else None

    def end(self, number: int, ids: list[int], finish: str, logprobs: list[float], tokenizer) -> None:
        """Completion `number` is drawn."""
        text, stopped = self.stops.cut(decode(tokenizer, ids[:-1] if finish == "eos" else ids))
        self.drawn[number] = Completion(list(self.head), ids, text, "stop" if stopped else finish, logprobs)


TRIAL = 'def total(numbers):\n    """Return the sum of a list of numbers."""\n    result = 0\n    for n in numbers:\n        result += n\n'


def uniforms(seed: int, count: int) -> torch.Tensor:
    """A completion's own random stream: numbers in [0, 1), one a token."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


def trial_text(model, tokenizer, length: int) -> list[int]:
    """Ids of a text such as models know, to compare two ways of computing nearly the same.

    In bfloat16 they differ by tenths of a logit there, on random ids by up to 10 (Qwen2.5, whose keys are large, with scores
    rounded as by transformers' plain attention).
    """
    ids = encode_prompt(tokenizer, TRIAL)
    size = model.get_input_embeddings().num_embeddings
    return [ids[at % len(ids)] % size for at in range(length)]


def trial_prompts(model, lengths: Sequence[int]) -> list[list[int]]:
    """Ids of any tokens, to compare two ways of computing the same in every bit."""
    size = model.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(size, (length,), generator=generator).tolist() for length in lengths]
