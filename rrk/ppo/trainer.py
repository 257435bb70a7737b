"""The PPO loop: rollout, score, advantages, clipped updates, probe, checkpoint.

    figures = train_ppo(problems, "runs/sft", reward, "runs/policy", PpoOptions(), probe=Probe(held_out, judge))

Several processes (accelerate launch) draw their share of the prompts and then exchange rollouts, so every one sees the
whole batch: whitening, baselines and minibatches are those of one process, and so is the loss.
"""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from rrk import manifest, rows, seeds
from rrk.errors import RrkError, Terminated, UsageError
from rrk.generation import checkpoints, dtypes, memory, processes, reports, runs, threads
from rrk.ppo import checkpoint, loss, sharding
from rrk.ppo.learner import Learner
from rrk.ppo.log import Clock, Log
from rrk.ppo.options import PpoOptions
from rrk.ppo.policy import Policy
from rrk.ppo.probe import Probe
from rrk.ppo.rollout import CacheSampler, Drawn, Reward, Rollout, ScoreNormaliser, annotate, mean, pick, score
from rrk.rows import Problem


@threads.repeatable()
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
    note: Callable[[str], None] = lambda text: None,
    report: Sequence[str] = (),
    tell: Callable[[str], None] = lambda text: None,
    began: Callable[[int], None] = lambda updates: None,
) -> dict[str, Any]:
    """Train; returns the figures that also stand in out/rrk.json. `should_stop` true: save after this update, then Terminated.

    report: places of rrk/generation/reports.py. `tell` hears where an update is: `rollout 12/256`, `optimise 3/32`; `began`
    how many updates an earlier run has done.
    """
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
        # A constant rate does not ask how many updates there will be: a run may be ended early, or go on for longer.
        if changed != ["updates"] or options.schedule != "constant":
            raise UsageError(f"{out} was begun with other parameters ({', '.join(changed)})")
    run = Trainer(problems, policy, reward, out, options, probe, params, note, report, tell)
    if state is not None:
        run.restore(state)
    began(run.update)
    run.loop(should_stop, on_update)
    return run.finish(inputs)


class Trainer:
    """One run. Its state is what `state()` returns; everything else follows from the options and the seed."""

    def __init__(
        self,
        problems,
        policy,
        reward: Reward,
        out: Path,
        options: PpoOptions,
        probe,
        params,
        note: Callable[[str], None] = lambda text: None,
        report: Sequence[str] = (),
        tell: Callable[[str], None] = lambda text: None,
    ):
        from accelerate import Accelerator
        from accelerate.utils import DistributedType

        self.problems, self.reward, self.out, self.options = list(problems), reward, out, options
        self.start = policy
        self.probe, self.params, self.tell = probe, params, tell
        self.note = functools.cache(note)  # every rollout has a sampler of its own, that would say the same again
        processes.state()  # first: Accelerator by itself would leave launched processes alone where there is no GPU
        self.accelerator = Accelerator(mixed_precision="no")  # --bf16 is ours, and the sampler's too
        if options.prompts_per_update * options.samples < self.accelerator.num_processes:
            raise UsageError(
                "there are more processes than programs an update: raise --samples or --prompts-per-update"
            )
        if self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise UsageError(
                "train-ppo shares weights out by itself: launch it with MULTI_GPU or MULTI_CPU, and --fsdp"
            )
        if options.fsdp and self.accelerator.num_processes == 1:
            raise UsageError("--fsdp needs several processes: start it with accelerate launch")
        random.seed(options.seed)
        torch.manual_seed(seeds.derive(options.seed, "ppo", "weights"))
        o = self.options = replace(options, bf16=dtypes.autocast(options.bf16, self.device, note))
        network, self.tokenizer = Policy.load(
            policy,
            separate=o.value_head == "separate",
            critic=o.advantage == "gae",
            lora_r=o.lora_r,
            bf16=o.bf16,
            checkpointing=o.gradient_checkpointing,
            # On a CPU the fused kernel's masked backward pass costs more than the plain one: 1.4 times in bf16.
            attention="eager" if self.device.type == "cpu" else None,
        )
        network.train()
        network.to(self.device)
        # Without LoRA the reference is a frozen copy; with it, the same weights with the adapters off.
        self.reference = None if o.lora_r else copy.deepcopy(network).requires_grad_(False).eval()
        if o.fsdp and self.reference is not None:
            sharding.share_out(network, self.device, self.accelerator.num_processes)
            sharding.share_out(self.reference, self.device, self.accelerator.num_processes)
        with sharding.whole(network):
            network.check_head(self.device)
        heads = [p for n, p in network.named_parameters() if p.requires_grad and n.startswith("value_head")]
        rest = [p for n, p in network.named_parameters() if p.requires_grad and not n.startswith("value_head")]
        groups = [{"params": rest, "factor": 1.0}] + ([{"params": heads, "factor": o.value_lr_factor}] if heads else [])
        optimizer: Any = torch.optim.AdamW(groups, lr=o.lr, eps=o.adam_eps, weight_decay=0.0)
        self.network, self.model, self.optimizer = network, network, optimizer
        if not o.fsdp:
            self.model, self.optimizer = self.accelerator.prepare(network, optimizer)
        self.budget = memory.Budget(note, most=o.token_budget, retry=self.accelerator.num_processes == 1)
        self.learner = Learner(self.model, self.optimizer, self.accelerator, o, self.budget, tell)
        self.kl = loss.KlController(o.kl, o.adaptive_kl, o.kl_horizon)
        self.normaliser = ScoreNormaliser()
        self.update = 0
        self.curves = reports.Curves(report, out, params)
        self.log = Log(out, [], self.accelerator.is_main_process, self.curves)
        self.clock = Clock(tell)
        self.best: dict[str, Any] | None = None  # {"update", "pass@1"}
        self.best_weights: dict[str, torch.Tensor] | None = None
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
            "optimizer": sharding.gather_optimizer(self.optimizer, self.accelerator.is_main_process),
            "beta": self.kl.beta,
            "normaliser": (self.normaliser.mean, self.normaliser.deviation),
            "log": self.log.rows,
            "best": self.best,
            "best_weights": self.best_weights if self.best else None,
            "stale": self.stale,
            "stopped": self.stopped,
            "token_budget": self.budget.tokens,
            "random": checkpoint.random_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of state()."""
        sharding.load(self.network, state["weights"])
        sharding.load_optimizer(self.optimizer, state["optimizer"])
        self.kl.beta = state["beta"]
        self.normaliser = ScoreNormaliser(*state["normaliser"])
        self.budget.tokens = state.get("token_budget")  # how passes are cut is in the last bits
        for name in ("update", "best", "best_weights", "stale", "stopped"):
            setattr(self, name, state[name])
        self.log = Log(self.out, state["log"], self.accelerator.is_main_process, self.curves)
        checkpoint.restore_random_state(state["random"])

    def _weights(self) -> dict[str, torch.Tensor]:
        return sharding.gather(self.network, self.accelerator.is_main_process)

    def save(self) -> None:
        """Checkpoint by the main process; the others wait."""
        state = self.state()  # by all of them: shared-out weights are gathered
        if self.accelerator.is_main_process:
            checkpoint.save(self.out, self.update, state)
        self.accelerator.wait_for_everyone()

    # ---- the loop ----------------------------------------------------------------------------------------------

    def loop(self, should_stop: Callable[[], bool], on_update: Callable[[dict[str, Any]], None]) -> None:
        """Updates until all are done or a stopping rule holds."""
        o = self.options
        if self.update == 0 and not self.log.rows and self.probe is not None:
            row = {"update": 0}  # where the SFT model stands
            self._probe(row)
            self._append(row)
        while self.update < o.updates and self.stopped is None:
            self.clock = Clock(self.tell)
            row = self.step()
            if o.stop_kl is not None and row["kl"] > o.stop_kl:
                self.stopped = f"KL {row['kl']:.1f} above --stop-kl"
            last = self.update == o.updates or self.stopped is not None
            if self.probe is not None and (last or self.update % o.probe_every == 0):
                self._probe(row)
            self._append(row)
            stop = processes.any_of(should_stop())
            if stop or self.update % o.save_every == 0:
                self.save()
            if self.accelerator.is_main_process:
                on_update(row)
            if stop and self.update < o.updates:
                raise Terminated

    def step(self) -> dict[str, Any]:
        """One update: rollout, advantages, epochs of clipped steps. Returns its log row."""
        o = self.options
        drawn, read = self._rollout()
        rollout = Rollout.of(drawn, o.samples)
        mask = rollout.mask
        self.normaliser.fit([d.score for d in drawn])
        scores = torch.tensor([self.normaliser(d, o.score_clamp, o.missing_eos_penalty) for d in drawn])
        kl = loss.kl_estimate(rollout.old, rollout.reference, o.kl_estimator).masked_fill(~mask, 0.0)
        if o.advantage == "rloo":
            # The completion is the action (A24): its reward is score - beta KL, its advantage that of every token.
            rollout.advantages = loss.rloo(scores - self.kl.beta * kl.sum(-1), o.samples).unsqueeze(-1) * mask
        else:
            rollout.advantages, rollout.returns = loss.gae(
                loss.token_rewards(scores, kl, mask, self.kl.beta), rollout.values, mask, o.gamma, o.lam
            )
        if o.whiten:
            rollout.advantages = loss.whiten(rollout.advantages, mask)
        with self.clock("optimise"):
            figures = self.learner(rollout, self.update)
        beta = self.kl.beta
        # The controller always follows k1's sum: it is the unbiased one, whatever the penalty uses.
        kl_sum = float((rollout.old - rollout.reference).sum(-1).mean())
        self.kl.update(kl_sum, len(drawn))
        self.update += 1
        explained = loss.explained_variance(rollout.values, rollout.returns, mask) if o.advantage == "gae" else None
        return {
            "update": self.update,
            "score": mean([d.score for d in drawn]),
            "reward": float(scores.mean()),
            "kl": kl_sum,
            "beta": beta,
            "length": mean([len(d.ids) for d in drawn]),
            "truncated": mean([d.finish == "length" for d in drawn]),
            "duplicates": 1 - len({(d.problem, d.text) for d in drawn}) / len(drawn),
            "explained_variance": explained,
            **figures,
            "tokens": int(mask.sum()),
            "tokens_read": read,
        }

    def _rollout(self) -> tuple[list[Drawn], int]:
        """This update's completions, all processes' together, in the order of prompts; tokens that a look at them reads."""
        o, world, rank = self.options, self.accelerator.num_processes, self.accelerator.process_index
        chosen = pick(len(self.problems), o.prompts_per_update, self.update, o.seed)
        mine = list(range(rank, len(chosen), world))
        problems = [self.problems[chosen[k]] for k in mine]
        # k is in the seed: a problem that comes twice in a batch gets other samples.
        streams = [[seeds.derive(o.seed, "rollout", self.update, k, j) for j in range(o.samples)] for k in mine]
        with self.clock("rollout"), sharding.whole(self.network):
            groups = self._sampler("rollout", len(mine) * o.samples)(
                [p.prompt for p in problems], streams, [p.stop_tokens for p in problems]
            )
        with self.clock("score"):
            score(groups, problems, self.reward)
        drawn = [d for group in groups for d in group]
        for k, group in zip(mine, groups, strict=True):
            for d in group:
                d.problem = chosen[k]
        with self.clock("annotate"):
            anchor = o.temperature if o.ref_temperature is None else o.ref_temperature
            longest = max(len(d.prompt) + len(d.ids) for d in drawn)
            budget = self.budget.fit(self.network.causal, longest)
            read = annotate(drawn, self.network, self.reference, o.temperature, anchor, budget, self.device)
        if world == 1:
            return drawn, read
        from accelerate.utils import gather_object

        everyone = gather_object(
            [(k, j, d) for k, group in zip(mine, groups, strict=True) for j, d in enumerate(group)]
        )
        all_read = self.accelerator.reduce(torch.tensor(float(read), device=self.device), "sum")
        return [d for _, _, d in sorted(everyone, key=lambda item: item[:2])], int(all_read)

    # ---- probe, log, end ---------------------------------------------------------------------------------------

    def _sampler(self, phase: str, programs: int) -> CacheSampler:
        o, done = self.options, 0

        def ended(count: int) -> None:
            nonlocal done
            done += count
            self.tell(f"{phase} {done}/{programs}")

        return CacheSampler(self.network, self.tokenizer, o.temperature, o.max_tokens, ended=ended, notice=self.note)

    def _probe(self, row: dict[str, Any]) -> None:
        """Measure by the main process, remember the best weights, apply the stopping rule."""
        o = self.options
        measured: list[dict[str, Any]] = [{}]
        with self.clock("probe"), sharding.whole(self.network):
            if self.accelerator.is_main_process:
                sampler = self._sampler("probe", len(self.probe.problems) * o.probe_samples)
                measured = [self.probe.measure(sampler, self.reward, o.probe_samples, o.seed)]
            if self.accelerator.num_processes > 1:
                from accelerate.utils import broadcast_object_list

                broadcast_object_list(measured)
        row.update(measured[0])
        rate = row["probe_pass@1"]
        if self.best is None or rate > self.best["pass@1"]:  # of equals the earlier: it is nearer to the SFT model
            self.best, self.stale = {"update": row["update"], "pass@1": rate}, 0
            self.best_weights = self._weights() if o.keep == "best" else None
        else:
            self.stale += 1
        if o.stop_auc is not None and (auc := row["probe_auc"]) is not None and auc < o.stop_auc:
            self.stopped = f"the reranker's AUC on the policy's samples, {auc:.3f}, is below --stop-auc"
        if o.probe_patience and self.stale >= o.probe_patience:
            self.stopped = f"{self.stale} probes without a new best"

    def _append(self, row: dict[str, Any]) -> None:
        row["seconds"] = self.clock.seconds()
        row["peak_memory"] = memory.peak(self.device)
        self.log.append(row)

    def _cost(self) -> dict[str, Any]:
        """Of all updates. Drawing and the looks of policy and reference are forward passes; the reranker's are not counted."""
        updates = [row for row in self.log.rows if "tokens_read" in row]
        told = ("tokens_read", "tokens", "tokens_trained")
        seen, drawn, trained = (sum(row[name] for row in updates) for name in told)
        size = sum(weight.numel() for weight in self.network.model.parameters())
        return {
            "wall_seconds": sum(row["seconds"]["total"] for row in updates),
            "peak_memory": max((row["peak_memory"] for row in updates), default=0),
            "parameters": size,
            "tokens_read": 2 * seen,
            "tokens_written": drawn,
            "tokens_trained": trained,
            "device": self.device.type,
            "items": len(updates),
        }

    def finish(self, inputs: Sequence[str]) -> dict[str, Any]:
        """Write the model (`keep`: the probe's best, or the last), the manifest last of all, and forget the states."""
        best = self.best if self.options.keep == "best" else None
        weights = self._weights() if best is None else self.best_weights or {}  # {}: not the main process
        kept = best["update"] if best else self.update
        final = self.log.rows[-1] if self.log.rows else {}
        figures = {"kept_update": kept, "stopped": self.stopped, "best_probe": self.best, "last": final}
        if self.accelerator.is_main_process:
            model: Any = self.network.model
            own: dict[str, torch.Tensor] | None = None
            if self.options.fsdp:
                own = {n.removeprefix("model."): w for n, w in weights.items() if n.startswith("model.")}
            else:
                sharding.load(self.network, weights)
            if self.options.lora_r:
                model = runs.merged(model, lambda: checkpoints.causal(self.start, dtype=torch.float32)[0])
            try:
                model.save_pretrained(self.out, state_dict=own)
                self.tokenizer.save_pretrained(self.out)
                manifest.write(
                    self.out,
                    command="train-ppo",
                    params=self.params,
                    inputs=inputs,
                    seed=self.options.seed,
                    figures=figures,
                    cost=self._cost(),
                    problems={rows.base_problem(problem.task_id) for problem in self.problems},
                    chosen_by={rows.base_problem(problem.task_id) for problem in self.probe.problems}
                    if self.probe
                    else (),
                )
            except Exception as error:  # safetensors has its own for a full disk
                raise RrkError(f"cannot save the model to {self.out} ({error}); --resume tries again") from error
            checkpoint.forget(self.out)
        self.accelerator.wait_for_everyone()
        return figures
