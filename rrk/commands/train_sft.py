"""`rrk train-sft`: correct solutions in, a fine-tuned generator's folder out."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from rrk import options as shared


def train_sft(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="ROWS...",
            help="Candidates that passed, problems with canonical_solution, or prompt/completion rows.",
        ),
    ],
    model: Annotated[str, typer.Option("--model", "-m", metavar="BASE", help="The code model to fine-tune.")],
    output: shared.Folder,
    steps: Annotated[Optional[int], typer.Option(min=1, help="Optimiser steps; wins over --epochs.")] = None,  # noqa: UP045
    epochs: Annotated[float, typer.Option(help="Passes over the rows.")] = 1.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Solutions a step of all processes.")] = 32,
    micro_batch: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Solutions at a time, if memory is short; the step stays --batch-size."),
    ] = None,
    lr: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="AdamW's rate. [default: 2e-3 up to 10M weights, 3e-4 to 100M, 2e-5 to 1B, 1e-5; LoRA: x10]"),
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="AdamW's weight decay.")] = 0.0,
    warmup: Annotated[float, typer.Option(min=0, help="Steps, or the share of them if below 1.")] = 0.03,
    schedule: Annotated[str, typer.Option(help="cosine, linear (both to zero) or constant.")] = "cosine",
    lora_r: Annotated[int, typer.Option(min=0, help="LoRA's rank, 0: train all weights. The result is merged.")] = 0,
    qlora: shared.Qlora = False,
    bf16: shared.Bf16 = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = False,
    max_length: Annotated[
        int, typer.Option(min=8, help="Tokens; a prompt loses its beginning, a longer solution is left out.")
    ] = 2048,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Learn from candidates without a verdict ('passed') too.")
    ] = False,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 100,
    seed: shared.Seed = 0,
    resume: shared.Resume = False,
    limit: shared.Limit = None,
    report_to: shared.ReportTo = None,
    push_to_hub: shared.PushToHub = None,
    quiet: shared.Quiet = False,
) -> None:
    """Fine-tune a code model on correct solutions (TRL's SFTTrainer; loss on the solution only, which ends with EOS
    unless a stop string cut it off).

    Of candidates only those with passed: true are learnt, each distinct one once; rows without a verdict are refused, unless
    --unverified says that they are right. The folder is an ordinary
    transformers checkpoint with rrk.json, written last. TERM saves; --resume goes on bit for bit.

    \b
    Examples:
      rrk train-sft verdicts.jsonl -m Qwen/Qwen2.5-Coder-0.5B -o runs/sft --lora-r 16 --bf16
      rrk train-sft problems.jsonl -m runs/base -o runs/sft --epochs 3
      accelerate launch -m rrk train-sft solutions.jsonl -m BASE -o runs/sft
    """
    import itertools
    import sys

    given = dict(locals())
    from dataclasses import fields

    from rrk import costs, jsonl, manifest, model_names, rows
    from rrk.errors import RowError
    from rrk.generation import hub, processes, reports, runs
    from rrk.progress import Progress
    from rrk.stopping import Stopping

    quiet = quiet or not processes.first()

    def note(text: str) -> None:
        if not quiet:
            print(f"rrk train-sft: {text}", file=sys.stderr, flush=True)

    from rrk.generation import sft

    chosen = sft.SftOptions(**{f.name: given[f.name] for f in fields(sft.SftOptions)})
    extra = {"rows": inputs, "model": model, "limit": limit, "unverified": unverified}
    params = {**vars(chosen), **extra}
    reports.check(report_to or ())
    hub.check(push_to_hub)
    model_names.check(model)
    if manifest.complete(output, params):
        note(f"{output} is complete; nothing to do")
        hub.push(output, push_to_hub, note)
        return
    read = list(itertools.islice(jsonl.read(inputs), limit))
    for row in read:
        sft.solution(row)
        if not unverified and "passed" not in row and ("completion" in row or "solution" in row):
            raise RowError(
                "no field 'passed': rrk execute says which programs are right; --unverified learns from all of them",
                rows.where(row),
            )
    if wrong := sum("passed" in row and row["passed"] is not True for row in read):
        note(f"{wrong} of {len(read)} rows did not pass and are left out")
    asked, meter = Stopping(), costs.Meter()
    with (
        Progress("train-sft", unit="steps", quiet=quiet, opening=f"loading {model}") as progress,
        reports.session(report_to or ()),
    ):

        def on_step(step, of, figures):
            progress.total = of
            progress.advance(step - progress.done, f"loss {figures['loss']:.3f}" if "loss" in figures else "")

        figures = sft.train(
            read,
            model,
            output,
            chosen,
            params=extra,
            resume=resume,
            should_stop=asked,
            on_step=on_step,
            note=note,
            report=report_to or (),
        )
    if figures is None:
        raise asked.error(output)
    if not processes.first():
        return
    manifest.write(
        output,
        command="train-sft",
        params=params,
        inputs=[*inputs, model],
        seed=seed,
        cost={**meter.read(), **figures.pop("cost")},
        problems=rows.base_problems(row for row in read if row.get("passed", True)),
        figures=figures,
    )
    told = [f"{figures['examples']} solutions, {figures['steps']} steps, {runs.loss_text(figures['loss'])}"]
    note(", ".join([*told, *runs.effort_text(figures)]))
    hub.push(output, push_to_hub, note)
