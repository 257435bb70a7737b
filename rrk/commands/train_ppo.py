"""`rrk train-ppo`: train the generator against a reranker, with executed held-out problems as the witness."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from rrk import options as shared


def train_ppo(
    inputs: Annotated[list[str], typer.Argument(metavar="PROBLEMS...", help="Problem rows to train on.")],
    model: Annotated[str, typer.Option("--model", "-m", metavar="SFT", help="The fine-tuned model PPO starts from.")],
    reranker: Annotated[str, typer.Option(metavar="DIR", help="The reranker that gives the reward.")],
    output: shared.Folder,
    updates: Annotated[
        int,
        typer.Option(
            help="Rollouts, each followed by --epochs of steps. With --resume it may differ, at a constant rate."
        ),
    ] = 20,
    prompts_per_update: Annotated[int, typer.Option(help="Problems a rollout.")] = 64,
    samples: Annotated[int, typer.Option(help="Programs a problem and rollout (Ahmadian 2024: 2 to 4).")] = 4,
    epochs: Annotated[int, typer.Option(help="Passes over a rollout (Ziegler 2019: 4).")] = 2,
    minibatch: Annotated[int, typer.Option(help="Programs an optimiser step, over all processes.")] = 64,
    by_problem: Annotated[
        bool,
        typer.Option("--by-problem", help="A problem's programs in one minibatch: its prompt is read once for all."),
    ] = False,
    lr: Annotated[float, typer.Option(help="AdamW's rate, for tiny models; 3e-6 at 1B (Huang 2024).")] = 2e-4,
    value_lr_factor: Annotated[float, typer.Option(help="The value head's rate over --lr (ours).")] = 10.0,
    adam_eps: Annotated[float, typer.Option(help="AdamW's epsilon (Huang 2024).")] = 1e-5,
    max_grad_norm: Annotated[float, typer.Option(help="Gradient clipping.")] = 1.0,
    schedule: Annotated[str, typer.Option(help="constant, or linear to zero (Huang 2024).")] = "constant",
    clip: Annotated[float, typer.Option(help="Ratio clip (Schulman 2017).")] = 0.2,
    value_clip: Annotated[float, typer.Option(help="Value clip, 0: none (Huang 2024).")] = 0.2,
    value_coef: Annotated[float, typer.Option(help="Weight of the value loss (Ziegler 2019).")] = 0.1,
    gamma: Annotated[float, typer.Option(help="Discount (Ziegler 2019: 1).")] = 1.0,
    lam: Annotated[float, typer.Option("--lambda", help="GAE's lambda (ours: 1; Ziegler 2019: .95).")] = 1.0,
    advantage: Annotated[str, typer.Option(help="rloo (Ahmadian 2024) or gae (Schulman 2017).")] = "rloo",
    whiten: Annotated[bool, typer.Option(help="Whiten advantages over the rollout (Huang 2024).")] = True,
    kl: Annotated[float, typer.Option(help="beta: weight of the KL to the SFT model (Ziegler 2019).")] = 0.1,
    ref_temperature: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Of the SFT model in the KL. Below --temperature PPO may sharpen. [default: --temperature]"),
    ] = None,
    kl_estimator: Annotated[str, typer.Option(help="k1 (unbiased, may be negative) or k3 (Schulman 2020).")] = "k1",
    adaptive_kl: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(metavar="KL", help="Move beta towards this KL a program (Ziegler 2019: 6)."),
    ] = None,
    kl_horizon: Annotated[
        int, typer.Option(help="Programs over which --adaptive-kl moves beta (Ziegler 2019).")
    ] = 10_000,
    target_kl: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(metavar="KL", help="End an update's epochs when KL(old|new) a token passes this."),
    ] = None,
    stop_kl: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(metavar="KL", help="End the run when the KL to the SFT model a program passes this."),
    ] = None,
    score_clamp: Annotated[float, typer.Option(help="Limit of scores normalised by the first rollout.")] = 4.0,
    missing_eos_penalty: Annotated[
        float, typer.Option(help="Programs that never end get minus this as score (Stiennon 2020: 1); 0: off.")
    ] = 3.0,
    temperature: Annotated[float, typer.Option(help="Of rollouts and, as it must be, of log-probabilities.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(help="Longest program.")] = 256,
    value_head: Annotated[
        str, typer.Option(help="On the policy's trunk, or separate: a critic with its own.")
    ] = "trunk",
    lora_r: Annotated[int, typer.Option(help="LoRA's rank, 0: train all weights. The result is merged.")] = 0,
    fsdp: Annotated[
        bool,
        typer.Option(
            "--fsdp", help="Share weights, gradients and Adam's states out among the processes (ZeRO-3, FSDP2)."
        ),
    ] = False,
    bf16: shared.Bf16 = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = False,
    token_budget: Annotated[
        int, typer.Option(help="Tokens a micro-batch at most; fewer where memory is short.")
    ] = 8192,
    probe: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="FILE", help="Held-out problems with tests: sampled, executed; the best checkpoint is kept."
        ),
    ] = None,
    probe_every: Annotated[int, typer.Option(help="Updates between probes.")] = 5,
    probe_samples: Annotated[int, typer.Option(help="Programs a probe problem.")] = 4,
    probe_patience: Annotated[int, typer.Option(help="End after so many probes without a new best; 0: never.")] = 0,
    keep: Annotated[
        str,
        typer.Option(metavar="best|last", help="What is written: the update that the probe found best, or the last."),
    ] = "best",
    stop_auc: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            metavar="AUC",
            help="End the run when the reranker no longer tells right from wrong on the policy's own samples: its AUC within a problem of the probe (.5 is chance) falls below this.",
        ),
    ] = None,
    save_every: Annotated[int, typer.Option(help="Updates between checkpoints.")] = 5,
    jobs: shared.Jobs = 1,
    sandbox: Annotated[str, typer.Option(help="How the probe executes; see rrk execute --help.")] = "auto",
    seed: shared.Seed = 0,
    resume: shared.Resume = False,
    limit: shared.Limit = None,
    report_to: shared.ReportTo = None,
    push_to_hub: shared.PushToHub = None,
    quiet: shared.Quiet = False,
):
    """Train a generator with PPO so that a reranker scores its programs higher, held to the SFT model by a KL penalty.

    The folder is an ordinary transformers checkpoint, with rrk.json (written last) and log.jsonl (one line an update).
    Killed at any point, --resume ends in the same weights bit for bit. TERM saves after the current update (a second TERM
    ends at once). Under `accelerate launch`, the same losses on several processes.

    \b
    Examples:
      rrk train-ppo train.jsonl -m runs/sft --reranker runs/reranker -o runs/policy --probe dev.jsonl
      rrk train-ppo train.jsonl -m runs/sft --reranker runs/reranker -o runs/policy --resume
      accelerate launch -m rrk train-ppo train.jsonl -m runs/sft --reranker runs/reranker -o runs/policy --lora-r 16 --bf16
    """
    import contextlib
    import itertools
    import os
    import sys

    given = dict(locals())
    from dataclasses import fields

    from rrk import jsonl, model_names, rows

    model_names.check(model)
    model_names.check(reranker, "--reranker")
    import torch

    from rrk.errors import Terminated, UsageError
    from rrk.evaluation import ppo_log
    from rrk.generation import hub, processes, reports
    from rrk.ppo import log
    from rrk.ppo.options import PpoOptions
    from rrk.ppo.probe import Probe
    from rrk.ppo.trainer import train_ppo as train
    from rrk.progress import Progress
    from rrk.reranking.scorer import Question, Scorer
    from rrk.stopping import Stopping

    reports.check(report_to or ())
    hub.check(push_to_hub)
    chosen = PpoOptions(**{f.name: given[f.name] for f in fields(PpoOptions)})
    chosen.check()
    if stop_auc is not None and not probe:
        raise UsageError("--stop-auc is measured by --probe: give held-out problems with tests")
    quiet = quiet or not processes.first()
    problems = [rows.problem(row, tests=False) for row in itertools.islice(jsonl.read(inputs), limit)]
    # Under `accelerate launch` every process has a GPU of its own.
    local = os.environ.get("LOCAL_RANK")
    scorer = Scorer.load(reranker, f"cuda:{local}" if local and torch.cuda.is_available() else "auto")
    params = {"problems": inputs, "model": model, "reranker": reranker, "probe": probe, "limit": limit}
    asked = Stopping()

    def note(text: str) -> None:
        if not quiet:
            print(f"rrk train-ppo: {text}", file=sys.stderr, flush=True)

    with contextlib.ExitStack() as stack:
        witness = None
        if probe:
            from rrk.evaluation import card
            from rrk.sandbox import Job, Judge

            held_out = [rows.problem(row) for row in jsonl.read([probe])]
            judge = stack.enter_context(Judge(jobs=jobs, level=sandbox))

            def passed(programs):
                made = (Job(p.language, p.prompt, text, p.tests, p.entry_point) for p, text in programs)
                return [verdict.passed for verdict in judge.judge(made)]

            witness = Probe(held_out, passed, card.auc)
        stack.enter_context(reports.session(report_to or ()))
        progress = stack.enter_context(Progress("train-ppo", updates, "updates", quiet, opening="first update"))

        told = ""  # of the last update

        def show(row):
            nonlocal told
            rate = row.get("probe_pass@1")
            told = f"score {row['score']:.3f} KL {row['kl']:.2f}" + (f" probe {rate:.3f}" if rate is not None else "")
            progress.advance(1, told)

        try:
            figures = train(
                problems,
                model,
                lambda questions: scorer.score_many([Question(*q) for q in questions]),
                output,
                chosen,
                witness,
                resume,
                params,
                [*inputs, model, reranker, *([probe] if probe else [])],
                should_stop=asked,
                on_update=show,
                note=note,
                report=report_to or (),
                tell=lambda text: progress.advance(0, f"{told}; {text}" if told else text),
                began=progress.began,
            )
        except Terminated as stopped:
            raise (asked.error(output) if asked() else stopped) from None
    last = figures["last"]
    line = f"update {figures['kept_update']} kept" + (f", score {last['score']:.3f}" if "score" in last else "")
    if "peak_memory" in last:
        line += f", {last['peak_memory'] / 1e9:.1f} GB at most"
    note(line + (f"; {figures['stopped']}" if figures["stopped"] else ""))
    path = os.path.join(output, log.NAME)
    if probe and keep == "best" and os.path.exists(path):  # a folder that was complete may have lost it
        remark = ppo_log.untold(ppo_log.read(path), figures["kept_update"])
        if remark:
            note(remark)
    hub.push(output, push_to_hub, note)
