"""What every run of a transformers Trainer shares: one run a folder, requests to stop, progress, silence.

checkpoint = begin(out, params, resume)       # refuses to mix runs; where to go on, or None
Trainer(..., callbacks=[watch(should_stop, on_step)], args=Config(output_dir=str(out / CHECKPOINTS), ...))
end(out)                                      # the model is saved: forget the checkpoints
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rrk import jsonl
from rrk.errors import UsageError
from rrk.generation import processes, reports

RUN = "rrk_run.json"  # parameters of a run that has not ended
CHECKPOINTS = "checkpoints"

# (step, of how many, the latest logged figures)
OnStep = Callable[[int, int, dict[str, Any]], None]


def begin(out: Path, params: dict[str, Any], resume: bool) -> Path | None:
    """The checkpoint that a run with these parameters goes on from, if there is one.

    Raises UsageError if the folder holds an unfinished run and resume is false, or one of other parameters.
    """
    hush()  # before the libraries that have something to say are imported
    params = jsonl.loads(jsonl.dumps(params))
    before = out / RUN
    if before.exists():
        if not resume:
            raise UsageError(f"{out} holds an unfinished run; go on with --resume, or remove it")
        old = jsonl.loads(before.read_bytes())
        if old != params:
            changed = sorted(k for k in {*old, *params} if old.get(k) != params.get(k))
            raise UsageError(f"{out} was begun with other parameters ({', '.join(changed)}); remove it to start again")
    # trainer_state.json is written last: a checkpoint without it was cut short.
    whole = [p for p in (out / CHECKPOINTS).glob("checkpoint-*") if (p / "trainer_state.json").is_file()]
    return max(whole, key=lambda p: int(p.name.split("-")[1]), default=None)


def claim(out: Path, params: dict[str, Any]) -> None:
    """The folder is this run's from now on. Late, so that a run that is refused does not ask for --resume."""
    if processes.first():
        out.mkdir(parents=True, exist_ok=True)
        (out / RUN).write_bytes(jsonl.dumps(params))


def end(out: Path) -> None:
    """The run is complete: its checkpoints and its claim go."""
    if processes.first():
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
        (out / RUN).unlink(missing_ok=True)


def settings(seed: int, report: Sequence[str] = (), out: Path | None = None) -> dict[str, Any]:
    """The Trainer arguments that no stage chooses: where it runs, what seeds it, how and where it logs, when it saves."""
    import torch

    gpu = torch.cuda.is_available()
    return {
        "use_cpu": not gpu,
        "dataloader_pin_memory": gpu,
        "seed": seed,
        "data_seed": seed,
        "save_strategy": "steps",
        "logging_steps": 10,
        "disable_tqdm": True,
        **reports.arguments(report, out),
    }


def arguments(
    kind: Any, options: Any, out: Path, lr: float, micro: int, passes: int, report: Sequence[str], **more: Any
) -> Any:
    """TRL's configuration (of class `kind`) of a stage that trains by transformers' Trainer; `more` is the stage's own.

    options: of the stage, which has steps, epochs, weight_decay, warmup, schedule, bf16, gradient_checkpointing and seed.
    """
    # Renamed in transformers 5.2x; TRL's default is on.
    known = kind.__dataclass_fields__
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    return kind(
        output_dir=str(out / CHECKPOINTS),
        max_steps=options.steps or -1,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=passes,
        learning_rate=lr,
        weight_decay=options.weight_decay,
        warmup_steps=options.warmup,
        lr_scheduler_type=options.schedule,
        max_length=None,
        bf16=options.bf16,
        **{checkpointing: options.gradient_checkpointing},
        **settings(options.seed, report, out),
        **more,
    )


def loss_text(loss: float | None) -> str:
    """The loss in a summary line."""
    return "no loss" if loss is None else f"loss {loss:.3f}"


def effort_text(figures: dict[str, Any]) -> list[str]:
    """Speed and memory in a summary line, where they are known."""
    if not figures.get("tokens_per_second"):
        return []
    return [f"{figures['tokens_per_second']:.0f} tokens/s, {figures['peak_memory'] / 1e9:.1f} GB at most"]


def learning_rate(by_weights: Sequence[tuple[float, float]], weights: int, lora: bool) -> float:
    """The default for so many weights: the rate of the first (up to, rate) that fits; ten times that for adapters."""
    return next(rate for size, rate in by_weights if weights <= size) * (10 if lora else 1)


def adapters(rank: int, task: str, **more: Any) -> Any:
    """PEFT's configuration of LoRA on every linear layer, alpha twice the rank; None for rank 0."""
    if not rank:
        return None
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type=task, **more)


def check_adapters(rank: int, needing: Mapping[str, bool]) -> None:
    """UsageError for an option that is given without LoRA and means nothing then."""
    for option, given in needing.items():
        if given and not rank:
            raise UsageError(f"{option} needs --lora-r")


def narrow(model: Any) -> None:
    """Frozen weights to bf16, in which autocast would read them anyway: half the memory, and no copy at every pass."""
    import torch

    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.dtype == torch.float32:
            parameter.data = parameter.data.to(torch.bfloat16)


def merged(model: Any, fresh: Callable[[], Any]) -> Any:
    """A LoRA model's plain one, with the adapters added to float32 weights.

    Where the frozen weights are narrower, to those of `fresh()`, the base as it was read: bf16 would round the changes away.
    """
    import torch
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    if any(p.dtype != torch.float32 for p in model.parameters() if not p.requires_grad):
        adapters = {name: weight.cpu() for name, weight in get_peft_model_state_dict(model).items()}
        model = get_peft_model(fresh(), model.peft_config["default"])
        set_peft_model_state_dict(model, adapters)
    return model.merge_and_unload()


def whole(trainer: Any) -> dict[str, Any] | None:
    """The weights that FSDP has shared out among the processes, gathered in the first; None where each has them whole.

    All processes take part.
    """
    return trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None


def check_sharing(trainer: Any, refused: Mapping[str, Any]) -> None:
    """UsageError for options that do not go with weights that are shared out (option -> whether it is given)."""
    for option, given in refused.items():
        if given and trainer.is_fsdp_enabled:
            raise UsageError(f"{option} needs whole weights in every process: leave it out, or launch without FSDP")


def hush() -> None:
    """No warnings of libraries about names that one of them still uses in another."""
    import logging
    import warnings

    # bitsandbytes, which PEFT imports where it is installed, misses an optional package of kernels on some CPUs.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|trl)\b")


def silence() -> None:
    """transformers and datasets draw bars and write warnings; rrk has its own progress."""
    from datasets import disable_progress_bars
    from transformers.utils import logging as chatter

    hush()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    disable_progress_bars()


def watch(should_stop: Callable[[], bool], on_step: OnStep, last_look: bool = False):
    """A TrainerCallback: progress out, requests to stop in (the run saves a checkpoint first).

    last_look: evaluate and save after the last step too, whatever the schedule.
    """
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        last: dict[str, Any] = {}  # noqa: RUF012 - one run, one instance

        def on_log(self, args, state, control, logs=None, **_):
            self.last = {**self.last, **(logs or {})}

        def on_step_end(self, args, state, control, **_):
            on_step(state.global_step, state.max_steps, self.last)
            # A run of fewer steps than are logged at a time has a loss, too.
            control.should_log |= state.global_step >= state.max_steps
            if last_look and state.global_step >= state.max_steps:
                control.should_evaluate = control.should_save = True
            if processes.any_of(should_stop()):
                control.should_save = control.should_training_stop = True
            return control

    return Watch()
