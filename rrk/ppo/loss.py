"""The equations of PPO on text, as pure functions of tensors; every one has a slow float64 twin in tests/ppo.

Shapes: (rows, tokens), one row a completion, `mask` true where a token was really drawn (a row may have none). Details and
sources: clipped losses, GAE (Schulman et al. 2016, 2017); reward = score - beta KL, adaptive beta (Ziegler et al. 2019);
missing-EOS penalty (Stiennon et al. 2020); whitening, value clipping, temperature in log-probabilities (Huang et al. 2024);
k1 and k3 (Schulman 2020, "Approximating KL divergence"); leave-one-out baseline (Ahmadian et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens of the mask; 0 where there are none."""
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def whiten(values: Tensor, mask: Tensor, shift: bool = True, eps: float = 1e-8) -> Tensor:
    """(x - mean) / sqrt(var + eps) over the mask, biased variance; shift=False keeps the mean. Outside the mask: 0."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    white = (values - mean) * torch.rsqrt(variance + eps)
    return (white if shift else white + mean).masked_fill(~mask, 0.0)


def kl_estimate(logp: Tensor, reference: Tensor, estimator: str = "k1") -> Tensor:
    """KL(policy | reference) from tokens drawn by the policy: k1 is unbiased and may be negative, k3 is never negative."""
    difference = logp - reference
    if estimator == "k1":
        return difference
    if estimator == "k3":
        return torch.expm1(-difference) + difference
    raise ValueError(f"no KL estimator '{estimator}'; there are k1 and k3")


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """-beta KL at every token, plus the program's score at its last one (Ziegler et al. 2019)."""
    rewards = (-beta * kl).masked_fill(~mask, 0.0)
    last = mask & (mask.long().cumsum(-1) == mask.sum(-1, keepdim=True))
    return torch.where(last, rewards + scores.unsqueeze(-1), rewards)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 1.0) -> tuple[Tensor, Tensor]:
    """Advantages and returns; masks are prefixes of rows, and the value after the last token is 0 (the episode ends)."""
    values = values.masked_fill(~mask, 0.0)
    rewards = rewards.masked_fill(~mask, 0.0)
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0]) if rewards.shape[1] else rewards.sum(-1)
    following = running
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = (delta + gamma * lam * running) * mask[:, t]
        advantages[:, t] = running
        following = values[:, t]
    return advantages, advantages + values


def rloo(rewards: Tensor, group: int) -> Tensor:
    """Reward of a completion minus the mean of the others of its prompt; rows of a prompt stand together."""
    if group < 2:
        raise ValueError("a leave-one-out baseline needs at least 2 samples a prompt")
    grouped = rewards.view(-1, group)
    others = (grouped.sum(-1, keepdim=True) - grouped) / (group - 1)
    return (grouped - others).reshape(-1)


def policy_loss(new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2) -> tuple[Tensor, Tensor]:
    """Sums over tokens of max(-A r, -A clip(r)) and of tokens where the clipped branch holds; divide by the token count.

    Sums, not means: micro-batches and processes then add up to exactly the loss of the whole minibatch. `mask` may hold
    numbers: how many equal rows a token stands for.
    """
    ratio = torch.exp((new - old).masked_fill(mask == 0, 0.0))
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    return _weighted_sum(torch.maximum(plain, clipped), mask), ((clipped > plain) * mask).sum()


def value_loss(new: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float = 0.2) -> Tensor:
    """Sum over tokens of max((v - R)^2, (clip(v) - R)^2) / 2, v kept within `clip` of the old value; clip 0: no clipping.

    `mask` as in policy_loss.
    """
    loss = (new - returns) ** 2
    if clip > 0:
        kept = old + (new - old).clamp(-clip, clip)
        loss = torch.maximum(loss, (kept - returns) ** 2)
    return 0.5 * _weighted_sum(loss, mask)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(R - V) / Var(R): 1 is a perfect critic, 0 no better than a constant; not a number if R does not vary."""
    wanted, error = returns[mask].double(), (returns - values)[mask].double()
    variance = wanted.var(unbiased=False)
    return float(1 - error.var(unbiased=False) / variance) if len(wanted) and variance > 0 else float("nan")


@dataclass
class KlController:
    """beta, fixed or adaptive: beta *= 1 + clip(KL / target - 1, +-0.2) n / horizon (Ziegler et al. 2019, section 2.2).

    KL is per completion (summed over its tokens), as there.
    """

    beta: float
    target: float | None = None
    horizon: int = 10_000

    def update(self, kl: float, rows: int) -> None:
        """Move beta after an update that drew `rows` completions."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.beta *= 1 + error * rows / self.horizon


def _weighted_sum(values: Tensor, weight: Tensor) -> Tensor:
    # Filled first: padding may hold infinities, and 0 * inf is not a number.
    return (values.masked_fill(weight == 0, 0.0) * weight).sum()
