"""One rollout: draw programs from the policy, score them, and note what the update needs to know of each.

    sampler = CacheSampler(network, tokenizer, temperature=1.0, max_tokens=256, stop=())
    drawn = sampler(prompts, seeds)                     # seeds[i][j]: of completion j of prompt i

A completion's random stream depends on its own seed alone, so a rollout is the same in one process or in several.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from rrk import seeds as streams
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
    """Prompt prefilled once, its cache repeated over the samples; rows that have ended leave the cache."""

    def __init__(self, network: Policy, tokenizer, temperature=1.0, max_tokens=256, stop: Sequence[str] = ()):
        self.network, self.tokenizer = network, tokenizer
        self.temperature, self.max_tokens, self.stop = temperature, max_tokens, tuple(stop)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], seeds: Sequence[Sequence[int]], stops=None) -> list[list[Drawn]]:
        stops = stops or [()] * len(prompts)
        model = self.network.model
        training = model.training
        model.eval()  # gradient checkpointing forbids the cache in train() mode
        try:
            return [
                self._draw(prompt, own, (*self.stop, *more))
                for prompt, own, more in zip(prompts, seeds, stops, strict=True)
            ]
        finally:
            model.train(training)

    def _draw(self, prompt: str, seeds: Sequence[int], stop: tuple[str, ...]) -> list[Drawn]:
        from transformers import DynamicCache

        model, eos = self.network.causal, self.tokenizer.eos_token_id
        device = next(model.parameters()).device
        head = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        if not head:
            head = [self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else eos]
        with torch.autocast(device.type, torch.bfloat16, enabled=self.network.bf16):
            cache = DynamicCache(config=model.config)
            out = model(torch.tensor([head], device=device), past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.batch_repeat_interleave(len(seeds))
            logits = out.logits[:, -1].float().expand(len(seeds), -1)
            uniforms = [torch.Generator().manual_seed(seed) for seed in seeds]
            ids: list[list[int]] = [[] for _ in seeds]
            ends = {}
            alive = list(range(len(seeds)))
            for step in range(self.max_tokens):
                if self.temperature == 0:
                    picked = logits.argmax(-1)
                else:
                    u = torch.stack([torch.rand((), generator=uniforms[i]) for i in alive]).to(device)
                    cdf = (logits / self.temperature).softmax(-1).cumsum(-1)
                    picked = torch.searchsorted(cdf, (u * cdf[:, -1]).unsqueeze(-1), right=True).squeeze(-1)
                    picked = picked.clamp(max=logits.shape[-1] - 1)
                rest = []
                for row, (i, token) in enumerate(zip(alive, picked.tolist(), strict=True)):
                    ids[i].append(token)
                    if token == eos:
                        ends[i] = "eos"
                    elif stop and any(s in self.tokenizer.decode(ids[i]) for s in stop):
                        ends[i] = "stop"
                    else:
                        rest.append(row)
                if not rest or step + 1 == self.max_tokens:
                    break
                if len(rest) < len(alive):
                    keep = torch.tensor(rest, device=device)
                    cache.batch_select_indices(keep)
                    picked, alive = picked[keep], [alive[row] for row in rest]
                out = model(picked.unsqueeze(-1), past_key_values=cache, use_cache=True)
                logits = out.logits[:, -1].float()
        return [self._finish(head, tokens, ends.get(i, "length"), stop) for i, tokens in enumerate(ids)]

    def _finish(self, head: list[int], ids: list[int], finish: str, stop: tuple[str, ...]) -> Drawn:
        text = self.tokenizer.decode(ids[:-1] if finish == "eos" else ids, clean_up_tokenization_spaces=False)
        cut = min((at for s in stop if (at := text.find(s)) >= 0), default=len(text))
        return Drawn(list(head), ids, text[:cut], finish)


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
