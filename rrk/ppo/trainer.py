"""The PPO loop: rollout, score, advantages, clipped updates, probe, checkpoint.

    figures = train_ppo(problems, "runs/sft", reward, "runs/policy", PpoOptions(), probe=Probe(held_out, judge))

Several processes (accelerate launch) draw their share of the prompts and then exchange rollouts, so every one sees the
whole batch: whitening, baselines and minibatches are those of one process, and so is the loss.
"""

from __future__ import annotations

import contextlib
import copy
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import torch

from rrk import manifest, seeds
from rrk.errors import RrkError, Terminated, UsageError
from rrk.ppo import checkpoint, loss
from rrk.ppo.options import PpoOptions
from rrk.ppo.policy import Policy, collate, token_budget
from rrk.ppo.probe import Probe
from rrk.ppo.rollout import CacheSampler, Drawn, Reward, ScoreNormaliser, annotate, mean, pad, pick, score
from rrk.rows import Problem

LOG = "log.jsonl"


def train_ppo(
    problems: Sequence[Problem],
    policy: str | Path,
    reward: Reward,
    out: str | Path,
    options: PpoOptions,
    probe: Probe | None = None,
    resume: bool = False,
    params: dict[str, Any] | None = None,
    inputs: Sequence[str] = (),
    should_stop: Callable[[], bool] = lambda: False,
    on_update: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:
    """Train; returns the figures that also stand in out/rrk.json. `should_stop` true: save after this update, then Terminated."""
    options.check()
    out = Path(out)
    params = {**asdict(options), **(params or {})}
    if manifest.complete(out, params):
        return manifest.read(out)["figures"]  # type: ignore[index]
    if not problems:
        raise UsageError("no problems to train on")
    out.mkdir(parents=True, exist_ok=True)
    state = checkpoint.load(out)
    if state is not None and not resume:
        raise UsageError(f"{out} holds an unfinished run; go on with --resume, or remove it")
    if state is not None and state["params"] != params:
        changed = sorted(k for k in params if state["params"].get(k) != params[k])
        raise UsageError(f"{out} was begun with other parameters ({', '.join(changed)})")
    run = Trainer(problems, policy, reward, out, options, probe, params)
    if state is not None:
        run.restore(state)
    run.loop(should_stop, on_update)
    return run.finish(inputs)


class Trainer:
    """One run. Its state is what `state()` returns; everything else follows from the options and the seed."""

    def __init__(self, problems, policy, reward: Reward, out: Path, options: PpoOptions, probe, params):
        from accelerate import Accelerator
        from accelerate.utils import DistributedType

        self.problems, self.reward, self.out, self.options = list(problems), reward, out, options
        self.probe, self.params = probe, params
        self.accelerator = Accelerator()
        if self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise UsageError(
                "train-ppo samples from whole weights: launch it with MULTI_GPU or MULTI_CPU (and --lora-r)"
            )
        random.seed(options.seed)
        torch.manual_seed(seeds.derive(options.seed, "ppo", "weights"))
        o = options
        network, self.tokenizer = Policy.load(
            policy,
            separate=o.value_head == "separate",
            critic=o.advantage == "gae",
            lora_r=o.lora_r,
            bf16=o.bf16,
            checkpointing=o.gradient_checkpointing,
        )
        network.train()
        network.to(self.device)
        network.check_head(self.device)
        # Without LoRA the reference is a frozen copy; with it, the same weights with the adapters off.
        self.reference = None if o.lora_r else copy.deepcopy(network).requires_grad_(False).eval()
        heads = [p for n, p in network.named_parameters() if p.requires_grad and n.startswith("value_head")]
        rest = [p for n, p in network.named_parameters() if p.requires_grad and not n.startswith("value_head")]
        groups = [{"params": rest, "factor": 1.0}] + ([{"params": heads, "factor": o.value_lr_factor}] if heads else [])
        optimizer = torch.optim.AdamW(groups, lr=o.lr, eps=o.adam_eps, weight_decay=0.0)
        self.model, self.optimizer = self.accelerator.prepare(network, optimizer)
        self.network: Policy = self.accelerator.unwrap_model(self.model)
        self.trained = [p for p in self.network.parameters() if p.requires_grad]
        self.kl = loss.KlController(o.kl, o.adaptive_kl, o.kl_horizon)
        self.normaliser = ScoreNormaliser()
        self.update = 0
        self.log: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None  # {"update", "pass@1"}
        self.stale = 0  # probes since the best
        self.stopped: str | None = None

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    # ---- state -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything an uninterrupted run would carry into the next update. The data position is the update's number."""
        return {
            "params": self.params,
            "update": self.update,
            "weights": self._weights(),
            "optimizer": self.optimizer.state_dict(),
            "beta": self.kl.beta,
            "normaliser": (self.normaliser.mean, self.normaliser.deviation),
            "log": self.log,
            "best": self.best,
            "best_weights": self.best_weights if self.best else None,
            "stale": self.stale,
            "stopped": self.stopped,
            "random": checkpoint.random_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of state()."""
        self._set_weights(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.kl.beta = state["beta"]
        self.normaliser = ScoreNormaliser(*state["normaliser"])
        for name in ("update", "log", "best", "best_weights", "stale", "stopped"):
            setattr(self, name, state[name])
        checkpoint.restore_random_state(state["random"])
        self._write_log()  # rows after the checkpoint will be made again

    def _weights(self) -> dict[str, torch.Tensor]:
        return {n: p.detach().cpu().clone() for n, p in self.network.named_parameters() if p.requires_grad}

    def _set_weights(self, weights: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(weights[name])

    def save(self) -> None:
        """Checkpoint by the main process; the others wait."""
        if self.accelerator.is_main_process:
            checkpoint.save(self.out, self.update, self.state())
        self.accelerator.wait_for_everyone()

    # ---- the loop ----------------------------------------------------------------------------------------------

    def loop(self, should_stop: Callable[[], bool], on_update: Callable[[dict[str, Any]], None]) -> None:
        """Updates until all are done or a stopping rule holds."""
        if self.update == 0 and not self.log:
            self._probe({"update": 0})  # where the SFT model stands
        while self.update < self.options.updates and self.stopped is None:
            started = time.perf_counter()
            row = self.step()
            row["seconds"] = round(time.perf_counter() - started, 3)
            if self.update % self.options.probe_every == 0 or self.update == self.options.updates:
                self._probe(row)
            else:
                self._append(row)
            if self.options.stop_kl is not None and row["kl"] > self.options.stop_kl:
                self.stopped = f"KL {row['kl']:.1f} above --stop-kl"
            stop = self._any(should_stop())
            if stop or self.update % self.options.save_every == 0:
                self.save()
            if self.accelerator.is_main_process:
                on_update(row)
            if stop and self.update < self.options.updates:
                raise Terminated

    def step(self) -> dict[str, Any]:
        """One update: rollout, advantages, epochs of clipped steps. Returns its log row."""
        o = self.options
        drawn = self._rollout()
        self.normaliser.fit([d.score for d in drawn])
        mask = pad([[1.0] * len(d.ids) for d in drawn]).bool()
        old, ref = pad([d.logprobs for d in drawn]), pad([d.reference for d in drawn])
        values = pad([d.values or [0.0] * len(d.ids) for d in drawn])
        kl = loss.kl_estimate(old, ref, o.kl_estimator).masked_fill(~mask, 0.0)
        scores = torch.tensor([self.normaliser(d, o.score_clamp, o.missing_eos_penalty) for d in drawn])
        if o.advantage == "rloo":
            # The completion is the action (A24): its reward is score - beta KL, its advantage that of every token.
            advantages = loss.rloo(scores - self.kl.beta * kl.sum(-1), o.samples).unsqueeze(-1) * mask
            returns = torch.zeros_like(values)
        else:
            advantages, returns = loss.gae(
                loss.token_rewards(scores, kl, mask, self.kl.beta), values, mask, o.gamma, o.lam
            )
        if o.whiten:
            advantages = loss.whiten(advantages, mask)
        figures = self._optimise(drawn, mask, old, values, advantages, returns)
        beta = self.kl.beta
        # The controller always follows k1's sum: it is the unbiased one, whatever the penalty uses.
        kl_sum = float((old - ref).masked_fill(~mask, 0.0).sum(-1).mean())
        self.kl.update(kl_sum, len(drawn))
        self.update += 1
        return {
            "update": self.update,
            "score": mean([d.score for d in drawn]),
            "reward": float(scores.mean()),
            "kl": kl_sum,
            "beta": beta,
            "length": mean([len(d.ids) for d in drawn]),
            "truncated": mean([d.finish == "length" for d in drawn]),
            "duplicates": 1 - len({(d.problem, d.text) for d in drawn}) / len(drawn),
            "explained_variance": loss.explained_variance(values, returns, mask) if o.advantage == "gae" else None,
            **figures,
        }

    def _rollout(self) -> list[Drawn]:
        """This update's completions, all processes' together, in the order of prompts."""
        o, world, rank = self.options, self.accelerator.num_processes, self.accelerator.process_index
        chosen = pick(len(self.problems), o.prompts_per_update, self.update, o.seed)
        mine = list(range(rank, len(chosen), world))
        problems = [self.problems[chosen[k]] for k in mine]
        # k is in the seed: a problem that comes twice in a batch gets other samples.
        streams = [[seeds.derive(o.seed, "rollout", self.update, k, j) for j in range(o.samples)] for k in mine]
        sampler = CacheSampler(self.network, self.tokenizer, o.temperature, o.max_tokens)
        groups = sampler([p.prompt for p in problems], streams, [p.stop_tokens for p in problems])
        score(groups, problems, self.reward)
        drawn = [d for group in groups for d in group]
        for k, group in zip(mine, groups, strict=True):
            for d in group:
                d.problem = chosen[k]
        annotate(drawn, self.network, self.reference, o.temperature, o.token_budget, self.device)
        if world == 1:
            return drawn
        from accelerate.utils import gather_object

        everyone = gather_object(
            [(k, j, d) for k, group in zip(mine, groups, strict=True) for j, d in enumerate(group)]
        )
        return [d for _, _, d in sorted(everyone, key=lambda item: item[:2])]

    def _optimise(self, drawn, mask, old, values, advantages, returns) -> dict[str, Any]:
        """Epochs over shuffled minibatches, each the exact sum of its micro-batches on all processes."""
        o = self.options
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        rate = o.lr * (1 - self.update / o.updates if o.schedule == "linear" else 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        totals = torch.zeros(6, dtype=torch.float64)  # policy, value, clipped, entropy, old|new KL, tokens
        first: float | None = None
        steps, early = 0, False
        for epoch in range(o.epochs):
            order = torch.tensor(
                random.Random(seeds.derive(o.seed, "minibatch", self.update, epoch)).sample(
                    range(len(drawn)), len(drawn)
                )
            )
            parts = torch.tensor_split(order, max(1, len(drawn) // max(o.minibatch, world)))
            for part in parts:
                here = part[rank::world].tolist()
                tokens = int(mask[part].sum())
                sums = self._backward([drawn[i] for i in here], here, tokens, mask, old, values, advantages, returns)
                sums = self._sum(sums)
                gradient = torch.nn.utils.clip_grad_norm_(self.trained, o.max_grad_norm)
                if not torch.isfinite(gradient):
                    raise RrkError(f"update {self.update + 1}: the gradient is {float(gradient)}; try a lower --lr")
                if o.target_kl is not None and steps and float(sums[4] / sums[5]) > o.target_kl:
                    self.optimizer.zero_grad()
                    early = True
                    break
                self.optimizer.step()
                self.optimizer.zero_grad()
                if first is None:
                    first = float((sums[0] + o.value_coef * sums[1]) / sums[5])
                totals += sums
                steps += 1
            if early:
                break
        names = ("policy_loss", "value_loss", "clip_fraction", "entropy", "policy_kl")
        row = {name: float(totals[i] / totals[5]) for i, name in enumerate(names)}
        return {"first_loss": first, **row, "steps": steps, "early_stop": early, "lr": rate}

    def _backward(self, rows, where, tokens: int, mask, old, values, advantages, returns) -> torch.Tensor:
        """Gradients of this process's share; sums of the figures."""
        o, world = self.options, self.accelerator.num_processes
        sums = torch.zeros(6, dtype=torch.float64)
        groups = token_budget([len(d.prompt) + len(d.ids) for d in rows], o.token_budget)
        for n, group in enumerate(groups):
            batch = collate([rows[i].prompt for i in group], [rows[i].ids for i in group], self.device)
            at = torch.tensor([where[i] for i in group])
            real = mask[at]
            o_logp, o_value, adv, ret = (x[at][real].to(self.device) for x in (old, values, advantages, returns))
            every = torch.ones_like(batch.drawn, dtype=torch.bool)
            # Gradients travel between processes once a minibatch, with its last micro-batch.
            last = n + 1 == len(groups)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                logits, value = self.model(batch)
                logp = loss.token_logprobs(logits, batch.drawn, o.temperature)
                policy, clipped = loss.policy_loss(logp, o_logp, adv, every, o.clip)
                total, critic = policy, torch.zeros(())
                if value is not None:
                    critic = loss.value_loss(value, o_value, ret, every, o.value_clip)
                    total = policy + o.value_coef * critic
                # Processes average their gradients: times their number it is the sum again.
                self.accelerator.backward(total * (world / max(tokens, 1)))
            with torch.no_grad():
                moved = loss.kl_estimate(o_logp, logp, "k3").sum()  # KL(old | new): the tokens are the old policy's
                spread = loss.entropy(logits, o.temperature).sum()
            figures = (policy, critic, clipped, spread, moved)
            sums += torch.tensor([*(float(x.detach()) for x in figures), len(every)], dtype=torch.float64)
        return sums

    # ---- probe, log, end ---------------------------------------------------------------------------------------

    def _probe(self, row: dict[str, Any]) -> None:
        """Measure by the main process, log, remember the best weights, apply the stopping rule."""
        if self.probe is not None:
            measured: list[dict[str, Any]] = [{}]
            if self.accelerator.is_main_process:
                o = self.options
                sampler = CacheSampler(self.network, self.tokenizer, o.temperature, o.max_tokens)
                measured = [self.probe.measure(sampler, self.reward, o.probe_samples, o.seed)]
            if self.accelerator.num_processes > 1:
                from accelerate.utils import broadcast_object_list

                broadcast_object_list(measured)
            row.update(measured[0])
            rate = row["probe_pass@1"]
            if rate is not None and (self.best is None or rate > self.best["pass@1"]):
                self.best, self.stale = {"update": row["update"], "pass@1": rate}, 0
                self.best_weights = self._weights()
            else:
                self.stale += 1
            if self.options.probe_patience and self.stale >= self.options.probe_patience:
                self.stopped = f"{self.stale} probes without a new best"
        if row["update"] > 0 or self.probe is not None:
            self._append(row)

    best_weights: dict[str, torch.Tensor] | None = None

    def _append(self, row: dict[str, Any]) -> None:
        self.log.append(row)
        self._write_log()

    def _write_log(self) -> None:
        if self.accelerator.is_main_process:
            part = self.out / (LOG + ".part")
            part.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in self.log))
            os.replace(part, self.out / LOG)

    def _sum(self, sums: torch.Tensor) -> torch.Tensor:
        return (
            self.accelerator.reduce(sums.to(self.device), "sum").cpu() if self.accelerator.num_processes > 1 else sums
        )

    def _any(self, flag: bool) -> bool:
        """True on every process if it is true on one."""
        return bool(self._sum(torch.tensor([float(flag)], dtype=torch.float64)) > 0)

    def finish(self, inputs: Sequence[str]) -> dict[str, Any]:
        """Write the model (the probe's best, or the last), the manifest last of all, and forget the states."""
        if self.best is not None and self.best_weights is not None:
            self._set_weights(self.best_weights)
        kept = self.best["update"] if self.best else self.update
        final = self.log[-1] if self.log else {}
        figures = {"kept_update": kept, "stopped": self.stopped, "best_probe": self.best, "last": final}
        if self.accelerator.is_main_process:
            model = self.network.model
            if self.options.lora_r:
                model = model.merge_and_unload()
            model.save_pretrained(self.out)
            self.tokenizer.save_pretrained(self.out)
            manifest.write(
                self.out,
                command="train-ppo",
                params=self.params,
                inputs=inputs,
                seed=self.options.seed,
                figures=figures,
            )
            checkpoint.forget(self.out)
        self.accelerator.wait_for_everyone()
        return figures
