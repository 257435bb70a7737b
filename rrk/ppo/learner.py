"""The half of an update that learns: epochs of clipped steps over one rollout.

    learner = Learner(model, optimizer, accelerator, options)
    figures = learner(rollout, update)

A minibatch's loss is the exact sum of its micro-batches on all processes, divided by its tokens: how it is cut changes
nothing but rounding. Programs that a prompt got twice go through the model once and count twice.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import torch

from rrk import seeds
from rrk.errors import RrkError
from rrk.generation import memory
from rrk.ppo import loss
from rrk.ppo.batch import collate, cut
from rrk.ppo.options import PpoOptions
from rrk.ppo.rollout import Rollout
from rrk.ppo.sharding import clip_gradients, passes

# Over drawn tokens; behind them stand how many these were, and how many were read.
SUMS = ("policy_loss", "value_loss", "clip_fraction", "entropy", "policy_kl")


class Learner:
    """Owns the optimiser's steps; the rollout comes whole to every process."""

    def __init__(
        self,
        model,
        optimizer,
        accelerator,
        options: PpoOptions,
        budget: memory.Budget,
        tell: Callable[[str], None] = lambda text: None,
    ):
        self.model, self.optimizer, self.accelerator, self.options = model, optimizer, accelerator, options
        self.budget, self.tell = budget, tell
        self.trained = [p for p in model.parameters() if p.requires_grad]

    def __call__(self, rollout: Rollout, update: int) -> dict[str, Any]:
        """Train; returns what the log row says of it. Raises RrkError where the gradient is no number."""
        o = self.options
        world = self.accelerator.num_processes
        rate = o.lr * (1 - update / o.updates if o.schedule == "linear" else 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        totals = torch.zeros(len(SUMS) + 2, dtype=torch.float64)
        first: float | None = None
        norms: list[float] = []
        early = False
        for epoch in range(o.epochs):
            shuffle = random.Random(seeds.derive(o.seed, "minibatch", update, epoch))
            together = rollout.samples if o.by_problem else 1
            firsts = range(0, len(rollout.drawn), together)
            order = torch.tensor([at + n for at in shuffle.sample(firsts, len(firsts)) for n in range(together)])
            parts = torch.tensor_split(order, max(1, len(order) // max(o.minibatch, world)))
            for part in parts:
                sums = self.backward(rollout, part)
                norm = clip_gradients(self.trained, o.max_grad_norm)
                if norm != norm or norm == float("inf"):
                    raise RrkError(f"update {update + 1}: the gradient is {norm}; try a lower --lr")
                if o.target_kl is not None and norms and float(sums[4] / sums[5]) > o.target_kl:
                    early = True
                    break
                self.optimizer.step()
                self.optimizer.zero_grad()
                if first is None:
                    first = float((sums[0] + o.value_coef * sums[1]) / sums[5])
                totals += sums
                norms.append(norm)
                self.tell(f"optimise {len(norms)}/{len(parts) * o.epochs}")
            if early:
                self.optimizer.zero_grad()
                break
        row = {name: float(totals[i] / totals[-2]) for i, name in enumerate(SUMS)}
        steps = len(norms)
        return {
            "first_loss": first,
            **row,
            "grad_norm": sum(norms) / steps,
            "steps": steps,
            "early_stop": early,
            "lr": rate,
            "tokens_trained": int(totals[-1]),
        }

    def backward(self, rollout: Rollout, part: torch.Tensor) -> torch.Tensor:
        """Adds the minibatch's gradient to the parameters'; returns the figures' sums over all processes."""
        lengths = [len(rollout.drawn[i].prompt) + len(rollout.drawn[i].ids) for i in part.tolist()]
        causal = self.accelerator.unwrap_model(self.model).causal
        return self.budget.run(
            causal, lengths, lambda tokens: self._backward(rollout, part, tokens), self.optimizer.zero_grad
        )

    def _backward(self, rollout: Rollout, part: torch.Tensor, budget: int) -> torch.Tensor:
        o, device = self.options, self.accelerator.device
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        tokens = max(int(rollout.mask[part].sum()), 1)
        rows, counts = rollout.distinct(part[rank::world].tolist())
        drawn = [rollout.drawn[i] for i in rows]
        sums = torch.zeros(len(SUMS) + 2, dtype=torch.float64, device=device)
        parts = cut(drawn, budget, self.accelerator.unwrap_model(self.model).packs)
        own = len(parts)
        if o.fsdp:
            parts += parts[-1:] * (passes(own) - own)  # in step with the others, weighing nothing
        for n, part_rows in enumerate(parts):
            batch = collate(drawn, part_rows, device)
            group = [i for row in part_rows for i in row]
            at = torch.tensor([rows[i] for i in group])
            real = rollout.mask[at]
            old, value_then, advantages, returns = (
                x[at][real].to(device) for x in (rollout.old, rollout.values, rollout.advantages, rollout.returns)
            )
            weight = torch.tensor([counts[i] * (n < own) for i in group]).unsqueeze(-1).expand_as(real)[real].to(device)
            # Gradients travel between processes once a minibatch, with its last micro-batch.
            last = n + 1 == len(parts)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                seen = self.model(batch, o.temperature, entropy=True)
                logp, value = seen.logprobs, seen.values
                policy, clipped = loss.policy_loss(logp, old, advantages, weight, o.clip)
                total = policy
                critic = torch.zeros((), device=device)
                if value is not None:
                    critic = loss.value_loss(value, value_then, returns, weight, o.value_clip)
                    total = policy + o.value_coef * critic
                # Processes average their gradients: times their number it is the sum again.
                self.accelerator.backward(total * (world / tokens))
            with torch.no_grad():
                moved = loss.kl_estimate(old, logp, "k3")  # KL(old | new): the tokens are the old policy's
                spread = (seen.entropy * weight).sum()
                told = torch.stack([policy, critic, clipped, spread, (moved * weight).sum(), weight.sum()])
                sums[:-1] += told.to(sums)
                sums[-1] += batch.tokens
        return (self.accelerator.reduce(sums, "sum") if world > 1 else sums).cpu()
