"""One rollout: draw programs from the policy, score them, and note what the update needs to know of each.

    sampler = CacheSampler(network, tokenizer, temperature=1.0, max_tokens=256, stop=())
    drawn = sampler(prompts, seeds)                     # seeds[i][j]: of completion j of prompt i

A completion's random stream depends on its own seed alone, so a rollout is the same in one process or in several (as far
as logits are: see rrk/generation/sampler.py).
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rrk import seeds as streams
from rrk.errors import RrkError
from rrk.generation.sampler import Sampler
from rrk.ppo.batch import Text, collate, cut
from rrk.ppo.policy import Policy
from rrk.ppo.sharding import whole
from rrk.rows import Problem

NOTHING = torch.zeros(0)


@dataclass
class Drawn(Text):
    """One completion. `text` ends before EOS or the stop string."""

    text: str
    finish: str  # eos, stop, length
    score: float = 0.0  # the reranker's, raw
    problem: int = 0
    # Under the policy that drew it, by the pass that trains; under the reference; the critic's. (tokens,), on the CPU.
    logprobs: Tensor = NOTHING
    reference: Tensor = NOTHING
    values: Tensor = NOTHING


# Questions (prompt, its programs, language) -> scores of each one's programs; programs are completions.
Reward = Callable[[Sequence[tuple[str, Sequence[str], str | None]]], Sequence[Sequence[float]]]


class CacheSampler:
    """rrk.generation's sampler on a policy in training (its weights whole): batches of many prompts, bf16 by autocast.

    `ended` hears how many programs have ended, each time some have; `notice` what the user should know.
    """

    def __init__(
        self,
        network: Policy,
        tokenizer,
        temperature=1.0,
        max_tokens=256,
        stop: Sequence[str] = (),
        ended: Callable[[int], None] | None = None,
        notice: Callable[[str], None] = lambda text: None,
    ):
        self.network = network
        # Always all prompts together: a rollout is the same for the same prompts, and a run has the same at every resume.
        self._sampler = Sampler(
            network.causal,
            tokenizer,
            temperature=temperature,
            max_tokens=max_tokens,
            stop=stop,
            bf16=network.bf16,
            mix=True,
            notice=notice,
        )
        if ended is not None:
            self._sampler.ended = ended

    def __call__(self, prompts: Sequence[str], seeds: Sequence[Sequence[int]], stops=None) -> list[list[Drawn]]:
        model = self.network.model
        training = model.training
        model.eval()  # gradient checkpointing forbids the cache in train() mode
        try:
            groups = self._sampler(prompts, seeds, stops)
        finally:
            model.train(training)
        return [[Drawn(c.prompt, c.ids, c.text, c.finish) for c in group] for group in groups]


def pick(size: int, want: int, update: int, seed: int) -> list[int]:
    """This update's problems: an own shuffle an epoch, so the data position is a function of the update's number."""
    picked = []
    order: list[int] = []
    for at in range(update * want, (update + 1) * want):
        epoch, place = divmod(at, size)
        if not order or place == 0:
            order = random.Random(streams.derive(seed, "order", epoch)).sample(range(size), size)
        picked.append(order[place])
    return picked


def score(drawn: Sequence[Sequence[Drawn]], problems: Sequence[Problem], reward: Reward) -> None:
    """The reranker's score of every program; identical programs of a problem are scored once. RrkError: not a number."""
    texts = [list(dict.fromkeys(s.text for s in samples)) for samples in drawn]
    questions = [(p.prompt, own, p.language) for p, own in zip(problems, texts, strict=True)]
    for problem, samples, own, got in zip(problems, drawn, texts, reward(questions), strict=True):
        known = {text: float(value) for text, value in zip(own, got, strict=True)}
        for text, value in known.items():
            if not math.isfinite(value):
                raise RrkError(f"the reranker scores a program of {problem.task_id} as {value}: {text[:60]!r}")
        for sample in samples:
            sample.score = known[sample.text]


@torch.no_grad()
def annotate(
    drawn: Sequence[Drawn],
    network: Policy,
    reference: Policy | None,
    temperature: float,
    ref_temperature: float,
    budget: int,
    device,
) -> int:
    """Old log-probabilities and values by the pass that trains (so ratios start at 1), and the reference's.

    Returns how many tokens each of the two has read.

    The reference below the policy's temperature is the SFT model sharpened: KL to it does not hold the policy to the SFT
    model's noise. Identical completions of a prompt take one pass.
    """
    same: dict[tuple, list[Drawn]] = {}
    for d in drawn:
        same.setdefault((tuple(d.prompt), tuple(d.ids)), []).append(d)
    copies = list(same.values())
    distinct = [own[0] for own in copies]
    parts = cut(distinct, budget, network.packs)

    def batches():
        for part in parts:
            flat = [i for row in part for i in row]
            yield [copies[i] for i in flat], [len(distinct[i].ids) for i in flat], collate(distinct, part, device)

    read = 0
    with whole(network):
        for rows, lengths, batch in batches():
            read += batch.tokens
            seen = network(batch, temperature)
            values = torch.zeros_like(seen.logprobs) if seen.values is None else seen.values
            found = torch.stack([seen.logprobs, values])
            for same_rows, (logprobs, value) in zip(rows, found.cpu().split(lengths, dim=1), strict=True):
                for d in same_rows:
                    d.logprobs, d.values = logprobs, value
    anchor = network if reference is None else reference
    with whole(anchor), network.as_reference() if reference is None else contextlib.nullcontext():
        for rows, lengths, batch in batches():
            logp = anchor(batch, ref_temperature, values=False).logprobs
            for same_rows, logprobs in zip(rows, logp.cpu().split(lengths), strict=True):
                for d in same_rows:
                    d.reference = logprobs
    return read


@dataclass
class Rollout:
    """A rollout as the learner takes it: tensors (rows, tokens), rows of a prompt together; `mask`: tokens drawn."""

    drawn: list[Drawn]
    samples: int
    mask: Tensor
    old: Tensor
    reference: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    @classmethod
    def of(cls, drawn: list[Drawn], samples: int) -> Rollout:
        """Padded; advantages and returns are still 0."""
        mask, old, reference, values = (
            torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            for rows in (
                [torch.ones(len(d.ids), dtype=torch.bool) for d in drawn],
                [d.logprobs for d in drawn],
                [d.reference for d in drawn],
                [d.values for d in drawn],
            )
        )
        return cls(drawn, samples, mask, old, reference, values, torch.zeros_like(old), torch.zeros_like(old))

    def distinct(self, rows: Sequence[int]) -> tuple[list[int], list[int]]:
        """Rows without repeats of a prompt's same tokens, and how often each came: equal rows have equal advantages."""
        first: dict[tuple, int] = {}
        counts: dict[int, int] = {}
        for i in rows:
            kept = first.setdefault((i // self.samples, *self.drawn[i].ids), i)
            counts[kept] = counts.get(kept, 0) + 1
        return list(counts), list(counts.values())


@dataclass
class ScoreNormaliser:
    """(score - mean) / deviation of the first batch, frozen: later progress stays visible. Clamped, then the EOS penalty."""

    mean: float | None = None
    deviation: float = 1.0

    def fit(self, scores: Sequence[float]) -> None:
        """Take mean and deviation from these, once."""
        if self.mean is None:
            values = torch.tensor(scores, dtype=torch.float64)
            self.mean = float(values.mean())
            self.deviation = float(values.std(unbiased=False)) or 1.0

    def __call__(self, drawn: Drawn, clamp: float, penalty: float) -> float:
        assert self.mean is not None, "fit first"
        value = min(max((drawn.score - self.mean) / self.deviation, -clamp), clamp)
        # Stiennon et al. 2020: a program that never ended gets a fixed penalty whatever its score.
        return -penalty if drawn.finish == "length" and penalty > 0 else value


def mean(values: Sequence[float]) -> float:
    """Mean of numbers or truths; 0 of none."""
    return sum(map(float, values)) / max(len(values), 1)
