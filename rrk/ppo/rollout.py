"""One rollout: draw programs from the policy, score them, and note what the update needs to know of each.

    sampler = CacheSampler(network, tokenizer, temperature=1.0, max_tokens=256, stop=())
    drawn = sampler(prompts, seeds)                     # seeds[i][j]: of completion j of prompt i

A completion's random stream depends on its own seed alone, so a rollout is the same in one process or in several (as far
as logits are: see rrk/generation/sampler.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from rrk import seeds as streams
from rrk.generation.sampler import Sampler
from rrk.ppo import loss
from rrk.ppo.policy import Policy, collate, token_budget


@dataclass
class Drawn:
    """One completion. `ids` are all tokens that were drawn, with the EOS or stop string; `text` ends before it."""

    prompt: list[int]
    ids: list[int]
    text: str
    finish: str  # eos, stop, length
    score: float = 0.0  # the reranker's, raw
    problem: int = 0
    logprobs: list[float] = field(
        default_factory=list
    )  # under the policy that drew it, recomputed by the training pass
    reference: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


# (prompt, programs, language) -> scores; programs are completions, as rrk.reranking.render takes them.
Reward = Callable[[str, Sequence[str], str | None], Sequence[float]]


class CacheSampler:
    """rrk.generation's sampler on a policy in training: batches of many prompts, bf16 by autocast."""

    def __init__(self, network: Policy, tokenizer, temperature=1.0, max_tokens=256, stop: Sequence[str] = ()):
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
        )

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


def score(drawn: Sequence[Sequence[Drawn]], problems: Sequence, reward: Reward) -> None:
    """The reranker's score of every program; identical programs of a problem are scored once."""
    for problem, samples in zip(problems, drawn, strict=True):
        texts = list(dict.fromkeys(s.text for s in samples))
        scores = dict(zip(texts, reward(problem.prompt, texts, problem.language), strict=True))
        for sample in samples:
            sample.score = float(scores[sample.text])


@torch.no_grad()
def annotate(
    drawn: Sequence[Drawn], network: Policy, reference: Policy | None, temperature: float, budget: int, device
) -> None:
    """Old log-probabilities and values by the pass that trains (so ratios start at exactly 1), and the reference's."""
    for group in token_budget([len(d.prompt) + len(d.ids) for d in drawn], budget):
        rows = [drawn[i] for i in group]
        batch = collate([d.prompt for d in rows], [d.ids for d in rows], device)
        logits, values = network(batch)
        logp = loss.token_logprobs(logits, batch.drawn, temperature).tolist()
        if reference is not None:
            logits, _ = reference(batch, values=False)
        else:
            with network.as_reference():
                logits, _ = network(batch, values=False)
        frozen = loss.token_logprobs(logits, batch.drawn, temperature).tolist()
        at = 0
        for d in rows:
            end = at + len(d.ids)
            d.logprobs, d.reference = logp[at:end], frozen[at:end]
            d.values = values[at:end].tolist() if values is not None else []
            at = end


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


def pad(rows: Sequence[Sequence[float]]) -> torch.Tensor:
    """Rows of different lengths as one tensor, zeros behind."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def mean(values: Sequence[float]) -> float:
    """Mean of numbers or truths; 0 of none."""
    return sum(map(float, values)) / max(len(values), 1)
