"""`rrk train-reranker`: (chosen, rejected) pairs in, a reranker's folder out."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from rrk import options as shared
from rrk.errors import UsageError


def train_reranker(
    inputs: Annotated[list[str], typer.Argument(metavar="PAIRS...", help="Pair files of `rrk mine`; several: replay.")],
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", metavar="BASE", help="A causal or encoder checkpoint, or a reranker to go on with."
        ),
    ],
    output: shared.Folder,
    dev: Annotated[
        Optional[str],  # noqa: UP045 - typer reads this at run time
        typer.Option(
            metavar="ROWS", help="Executed candidates of other problems: best checkpoint, calibration, report card."
        ),
    ] = None,
    dev_share: Annotated[
        float,
        typer.Option(min=0, max=0.9, help="Without --dev: hold out this share of the base problems' pairs for it."),
    ] = 0.0,
    check: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="PAIRS", help="Report how many of these hard negatives now score below the median positive."
        ),
    ] = None,
    steps: Annotated[Optional[int], typer.Option(min=1, help="Optimiser steps; wins over --epochs.")] = None,  # noqa: UP045
    epochs: Annotated[float, typer.Option(help="Passes over the pairs.")] = 1.0,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Groups of pairs a step of all processes, each of one problem.")
    ] = 16,
    micro_batch: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Groups at a time. [default: as many as fit into half of the free memory]"),
    ] = None,
    group: Annotated[int, typer.Option(min=1, help="Pairs a group.")] = 2,
    cross: Annotated[
        bool,
        typer.Option(
            help="Compare every chosen with every rejected program of a group (pairs must be verified, and none may have a margin)."
        ),
    ] = True,
    lr: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="AdamW's rate. [default: 7e-4 up to 10M weights, 1e-4 to 100M, 2e-5 to 1B, 1e-5; LoRA: x10]"),
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="AdamW's weight decay.")] = 0.0,
    warmup: Annotated[float, typer.Option(min=0, help="Steps, or the share of them if below 1.")] = 0.05,
    schedule: Annotated[str, typer.Option(help="linear, cosine (both to zero) or constant.")] = "linear",
    center: Annotated[float, typer.Option(min=0, help="Keeps scores around 0 (Eisenstein 2023: 0.01); 0: off.")] = 0.01,
    lora_r: Annotated[int, typer.Option(min=0, help="LoRA's rank, 0: train all weights. The result is merged.")] = 0,
    qlora: shared.Qlora = False,
    keep_adapter: Annotated[bool, typer.Option("--keep-adapter", help="Save the LoRA adapter alone.")] = False,
    bf16: shared.Bf16 = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = False,
    template: Annotated[
        str,
        typer.Option(
            help="plain (prompt, program), the model's chat template: chat, or that with the whole program, as public reward models read it: answer; judge: the model is asked whether it is right, and the score begins as its own Yes against No."
        ),
    ] = "plain",
    language_tag: Annotated[
        bool, typer.Option("--language-tag", help="Write [py], [cpp], ... before the prompt.")
    ] = False,
    max_length: Annotated[
        int, typer.Option(min=8, help="Tokens; a longer text loses the prompt's beginning, never the program's end.")
    ] = 2048,
    pooling: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="likelihood: the score is the generator's mean log-probability of the program, from which training starts; last: a new head on a decoder; cls or mean: on an encoder. [default: likelihood of what writes text; last; cls; a reranker's own]"
        ),
    ] = None,
    beta: Annotated[float, typer.Option(help="What likelihoods are multiplied by in the loss (SimPO's beta).")] = 10.0,
    wise_ft: Annotated[
        float,
        typer.Option(
            "--wise-ft",
            metavar="SHARE",
            help="Save base + SHARE x (trained - base): at .5 a reranker keeps what its base knows of other models' programs (Wortsman 2022). Needs a base that scores already: likelihood, judge, a reranker.",
        ),
    ] = 1.0,
    eval_every: Annotated[int, typer.Option(min=1, help="Steps between looks at --dev.")] = 50,
    patience: Annotated[int, typer.Option(min=0, help="End after so many looks without a better AUC; 0: never.")] = 0,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints without --dev.")] = 100,
    seed: shared.Seed = 0,
    resume: shared.Resume = False,
    limit: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--limit", metavar="N", help="Only the first N pairs."),
    ] = None,
    report_to: shared.ReportTo = None,
    push_to_hub: shared.PushToHub = None,
    quiet: shared.Quiet = False,
) -> None:
    """Train a reranker on pairs (Bradley-Terry, TRL's RewardTrainer); the best by within-problem AUC is kept.

    A generator stays one, and its likelihood of a program is the score (--pooling); else the folder is an ordinary one-label
    transformers classifier. With it come rrk_reranker.json (how text is rendered, golden scores, calibration) and rrk.json (written
    last: figures and the report card on --dev). TERM saves; --resume goes on bit for bit.

    \b
    Examples:
      rrk train-reranker pairs.jsonl -m runs/sft -o runs/reranker --dev dev_verdicts.jsonl
      rrk train-reranker round0.jsonl round1.jsonl -m runs/sft -o runs/reranker1 --check round1.jsonl
      rrk train-reranker pairs.jsonl -m Qwen/Qwen2.5-Coder-0.5B -o runs/rr --lora-r 16 --bf16 --template chat --dev-share 0.1
    """
    import itertools
    import sys

    given = dict(locals())
    from dataclasses import fields

    from rrk import costs, jsonl, manifest, model_names, rows
    from rrk.generation import hub, processes, reports, runs
    from rrk.progress import Progress
    from rrk.reranking import pairs as data
    from rrk.reranking import record, training
    from rrk.stopping import Stopping

    chosen = training.TrainingOptions(**{f.name: given[f.name] for f in fields(training.TrainingOptions)})
    chosen.check()
    if dev and dev_share:
        raise UsageError("--dev and --dev-share: give one of them")
    extra = {"pairs": inputs, "model": model, "dev": dev, "dev_share": dev_share, "check": check, "limit": limit}
    params = {**vars(chosen), **extra}

    quiet = quiet or not processes.first()

    def note(text: str) -> None:
        if not quiet:
            print(f"rrk train-reranker: {text}", file=sys.stderr, flush=True)

    reports.check(report_to or ())
    hub.check(push_to_hub)
    model_names.check(model)
    if manifest.complete(output, params) and record.read(output) is not None:
        note(f"{output} is complete; nothing to do")
        hub.push(output, push_to_hub, note)
        return
    given_pairs = list(itertools.islice(jsonl.read(inputs), limit))
    for pair in given_pairs:
        data.validate_pair(pair)
    pairs, problems = data.split(given_pairs, list(jsonl.read([dev])) if dev else None, dev_share, seed, note)
    held_out = _dev(problems) if problems else None
    asked, meter = Stopping(), costs.Meter()
    with (
        Progress("train-reranker", unit="steps", quiet=quiet, opening=f"loading {model}") as progress,
        reports.session(report_to or ()),
    ):

        def on_step(step, of, figures):
            progress.total = of
            shown = [
                f"{k.removeprefix('eval_')} {figures[k]:.3f}" for k in ("loss", "accuracy", "eval_auc") if k in figures
            ]
            progress.advance(step - progress.done, " ".join(shown))

        result = training.train(
            pairs,
            model,
            output,
            chosen,
            dev=held_out,
            params=extra,
            resume=resume,
            should_stop=asked,
            on_step=on_step,
            note=note,
            report=report_to or (),
        )
    if result is None:
        raise asked.error(output)
    if not processes.first():
        return
    figures = {"pairs": len(pairs), **result.figures}
    if held_out is not None:
        figures["card"] = _card(problems, result.dev_scores)
    if check:
        figures["check"] = data.check_pairs(list(jsonl.read([check])), output)
    manifest.write(
        output,
        command="train-reranker",
        params=params,
        inputs=[*inputs, model, *([dev] if dev else []), *([check] if check else [])],
        seed=seed,
        cost={**meter.read(), **figures.pop("cost", {})},
        problems=rows.base_problems(pairs),
        chosen_by=rows.base_problems(problem[0] for problem in problems or ()),
        figures=figures,
    )
    told = [*([f"{figures['steps']} steps"] if figures["steps"] is not None else []), runs.loss_text(figures["loss"])]
    if held_out is not None:
        told.append(f"dev AUC {figures['dev_auc']:.3f} (step {figures['kept_step']})")
    if check:
        found = figures["check"]
        told.append(
            f"{found['below_median_positive']} of {found['hard_negatives']} hard negatives now below the median positive"
        )
    note(", ".join([*told, *runs.effort_text(figures)]))
    hub.push(output, push_to_hub, note)


def _dev(problems):
    import numpy as np

    from rrk.evaluation import card
    from rrk.reranking.training import Dev

    def platt(scores, passed):
        return card.platt(np.asarray(scores, dtype=float), np.asarray(passed, dtype=bool))

    return Dev(problems, card.auc, platt)


def _card(problems, scores):
    from rrk import rows
    from rrk.evaluation.card import Scored, report_card

    return report_card(
        [
            Scored(
                cluster=rows.base_problem(rows.task_id(problem[0])),
                language=rows.language_code(str(problem[0].get("language") or "py")),
                scores=own,
                passed=[bool(row["passed"]) for row in problem],
                lengths=[len(rows.completion(row)) for row in problem],
            )
            for problem, own in zip(problems, scores, strict=True)
        ]
    )
