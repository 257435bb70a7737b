"""Supervised fine-tuning of a code model on solutions, through TRL's SFTTrainer.

    kept, left = examples(rows, tokenizer, max_length)     # prompt and completion ids; only the completion is learnt
    figures = train(rows, "base", "runs/sft", SftOptions(steps=600))

Rows are Candidates (where `passed` is there, only passing ones), Problems with a canonical_solution, or plain (prompt,
completion). A prompt is read as `rrk sample` reads it, and a completion ends with EOS: what is trained is what is sampled. A sample
that a stop string cut off has no EOS (`ends`).
A run that is stopped saves a checkpoint; --resume ends in the same weights bit for bit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rrk import rows as fields
from rrk.errors import RowError, RrkError, UsageError
from rrk.generation import dtypes, logprobs, memory, processes, quantised, reports, runs, threads
from rrk.generation.models import encode_prompt, load, pick_device, training_attention


@dataclass(frozen=True)
class SftOptions:
    """`batch_size` is examples an optimiser step of all processes, `micro_batch` how many go through a model at once.

    `lr` None: by the number of weights (DEFAULT_LR); ten times that with LoRA. `steps` wins over `epochs`.
    """

    steps: int | None = None
    epochs: float = 1.0
    batch_size: int = 32
    micro_batch: int | None = None
    lr: float | None = None
    weight_decay: float = 0.0
    warmup: float = 0.03
    schedule: str = "cosine"
    lora_r: int = 0
    qlora: bool = False
    bf16: bool = False
    gradient_checkpointing: bool = False
    max_length: int = 2048
    save_every: int = 100
    seed: int = 0

    def check(self) -> None:
        processes.split(self.batch_size, self.micro_batch)
        runs.check_adapters(self.lora_r, {"--qlora": self.qlora})
        if self.qlora:
            quantised.check()
        if self.schedule not in ("linear", "constant", "cosine"):
            raise UsageError(f"--schedule {self.schedule}: choose linear, cosine or constant")


# Up to so many weights, this rate: measured here for tiny models, common practice for the rest.
DEFAULT_LR = ((10e6, 2e-3), (100e6, 3e-4), (1e9, 2e-5), (math.inf, 1e-5))


def solution(row: dict[str, Any]) -> tuple[str, str] | None:
    """(prompt, completion) to learn, or None for a candidate that is not known to pass. RowError if it is neither."""
    if "completion" not in row and "solution" not in row:
        canonical = row.get("canonical_solution")
        if not isinstance(canonical, str):
            raise RowError("no field 'completion', 'solution' or 'canonical_solution' to learn from", fields.where(row))
        return fields.need(row, "prompt"), canonical
    if "passed" in row and row["passed"] is not True:
        return None
    text = fields.completion(row)
    # A program that stands alone is learnt as the answer to its prompt only if it begins with it; else from nothing.
    if fields.is_full(row):
        prompt = str(row.get("prompt") or "")
        return (prompt, text[len(prompt) :]) if prompt and text.startswith(prompt) else ("", text)
    return fields.need(row, "prompt"), text


def ends(row: dict[str, Any]) -> bool:
    """Whether EOS follows the completion. Not where a stop string cut it off: there the model had more to write, and will again.

    The blank space before the cut is not what it wrote either, for a token may hold several line breaks. Half taught to end there,
    or a single line break, a chat model does what it does at the end of its code: it closes a fence and explains it
    (examples/real/README.md).
    """
    return row.get("finish_reason") not in ("stop", "length")


def examples(
    rows: Iterable[dict[str, Any]], tokenizer: Any, max_length: int
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """TRL's columns input_ids and labels (-100 on the prompt), and counts of what was left out.

    Second copies of a (prompt, completion) are left out: a thousand passing samples of an easy problem are one lesson.
    A completion that does not fit behind its prompt costs the prompt's beginning; one longer than max_length is left out.
    """
    made, left = [], Counter[str]()
    seen: set[tuple[str, str]] = set()
    for row in rows:
        pair = solution(row)
        if pair is None:
            left["not passed"] += 1
        elif pair in seen and row.get("passed") is True:
            left["duplicates"] += 1
        else:
            seen.add(pair)
            prompt = encode_prompt(tokenizer, pair[0])
            text = pair[1] if (ended := ends(row)) else pair[1].rstrip()
            answer = list(tokenizer(text, add_special_tokens=False)["input_ids"])
            if ended:
                answer.append(tokenizer.eos_token_id)
            room = max_length - len(answer)
            if room < 1 or not answer:
                left["too long" if answer else "empty"] += 1
                continue
            left["prompts cut"] += len(prompt) > room
            prompt = prompt[-room:]
            made.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer})
    return made, left


@threads.repeatable()
def train(
    rows: Sequence[dict[str, Any]],
    base: str | Path,
    out: str | Path,
    options: SftOptions,
    *,
    params: dict[str, Any] | None = None,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: runs.OnStep = lambda step, of, figures: None,
    note: Callable[[str], None] = lambda text: None,
    report: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Train and write everything but rrk.json; the figures. None if `should_stop` ended it (a checkpoint is there).

    Raises UsageError for an unfinished run of others, RrkError where there is nothing to learn or the loss is no number.
    """
    options.check()
    out = Path(out)
    claimed = {**asdict(options), **(params or {})}
    checkpoint = runs.begin(out, claimed, resume)
    options = replace(options, bf16=dtypes.autocast(options.bf16, pick_device("auto"), note))
    fresh = lambda: load(base, "auto", "float32", training_attention())  # noqa: E731
    model, tokenizer = fresh()
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or options.max_length
    data, left = examples(rows, tokenizer, min(options.max_length, longest))
    if not data:
        raise RrkError(f"nothing to learn from: {dict(left) or 'no rows'}; rows need a completion that passed")
    weights = sum(p.numel() for p in model.parameters())
    lr = options.lr or runs.learning_rate(DEFAULT_LR, weights, bool(options.lora_r))
    if options.qlora:
        quantised.shrink(model, bf16=options.bf16)
    trainer = _trainer(model, tokenizer, data, options, lr, out, should_stop, on_step, note, report)
    runs.check_sharing(trainer, {"--lora-r": options.lora_r})
    if options.qlora:
        quantised.widen(trainer.model)
    if options.lora_r and options.bf16:
        runs.narrow(trainer.model)
    runs.claim(out, claimed)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if processes.any_of(should_stop()) and trainer.state.global_step < trainer.state.max_steps:
        return None
    # A run of fewer steps than are logged at a time has only the mean over all.
    history = trainer.state.log_history
    losses = [e["loss"] for e in history if "loss" in e] or [e["train_loss"] for e in history if "train_loss" in e]
    # Like the tokens, since the start or the last --resume.
    seconds = next((e["train_runtime"] for e in reversed(history) if "train_runtime" in e), None)
    if losses and not math.isfinite(losses[-1]):
        raise RrkError(f"training diverged (loss {losses[-1]}); use a smaller --lr")
    gathered = runs.whole(trainer)
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        if options.lora_r:
            model = runs.merged(model, lambda: quantised.rounded(fresh()[0]) if options.qlora else fresh()[0])
        model.save_pretrained(out, state_dict=gathered)
        tokenizer.save_pretrained(out)
    trainer.accelerator.wait_for_everyone()
    runs.end(out)
    return {
        "examples": len(data),
        **{name.replace(" ", "_"): count for name, count in left.items() if count},
        "tokens": sum(label != -100 for row in data for label in row["labels"]),
        "weights": weights,
        "tokens_per_second": trainer.tokens_read / seconds if seconds else None,
        "peak_memory": memory.peak(trainer.args.device),
        "cost": {**memory.cost(trainer.model, tokens_trained=trainer.tokens_read), "parameters": weights},
        "lr": lr,
        "steps": trainer.state.global_step,
        "loss_first": losses[0] if losses else None,
        "loss": sum(losses[-5:]) / len(losses[-5:]) if losses else None,
    }


def _rows(batch: dict[str, torch.Tensor], chosen: Sequence[int]) -> dict[str, torch.Tensor]:
    """Some rows of a right-padded batch, no wider than they need."""
    width = int(batch["attention_mask"][chosen].sum(1).max())
    return {name: grid[chosen, :width] for name, grid in batch.items()}


def _trainer(model, tokenizer, data, options: SftOptions, lr: float, out: Path, should_stop, on_step, note, report):
    from datasets import Dataset
    from transformers import PrinterCallback
    from transformers import Trainer as BareTrainer
    from trl import SFTConfig, SFTTrainer

    runs.silence()  # after the import, which sets a verbosity of its own

    alone = processes.count() == 1 and logprobs.is_plain(model)
    vocabulary = model.get_output_embeddings().weight.shape[0]

    class Trainer(SFTTrainer):
        budget = memory.Budget(note)
        tokens_read = 0
        whole = True  # the batch at hand is a step's

        def create_model_card(self, *_, **__):
            pass

        def training_step(self, bound, inputs, num_items_in_batch=None):
            """The same step in as many passes as fit: the loss is a sum over tokens, divided by the step's."""
            inputs = self._prepare_inputs(inputs)
            mask = inputs["attention_mask"]
            self.tokens_read += int(mask.sum())
            one = super().training_step
            if passes > 1 or not alone:
                return one(bound, inputs, num_items_in_batch)
            lengths = mask.sum(1).tolist()
            items = (inputs["labels"][:, 1:] != -100).sum() if num_items_in_batch is None else num_items_in_batch

            def step(tokens: int):
                self.whole = mask.numel() <= tokens
                if self.whole:
                    return one(bound, dict(inputs), items)
                parts = memory.groups(lengths, tokens)
                return sum(one(bound, _rows(inputs, chosen), items) for chosen in parts)

            return self.budget.run(model, lengths, step, bound.zero_grad)

        def compute_loss(self, bound, inputs, return_outputs=False, num_items_in_batch=None):
            if not alone or (self.whole and inputs["labels"].numel() * vocabulary <= logprobs.PIECE):
                # TRL's own adds entropy and accuracy of every token to its log: two fifths of a small model's step.
                return BareTrainer.compute_loss(self, bound, inputs, return_outputs, num_items_in_batch)
            labels = inputs.pop("labels")[:, 1:]
            learnt = labels != -100
            with self.accelerator.autocast():
                hidden = logprobs.trunk(model)(**inputs, use_cache=False).last_hidden_state[:, :-1][learnt]
                logp, _ = logprobs.read(hidden, model.get_output_embeddings(), labels[learnt])
            return -logp.sum() / (learnt.sum() if num_items_in_batch is None else num_items_in_batch)

    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        # Labels say what is learnt and the mask what is there, so pad = eos confuses nobody.
        width = max(len(row["input_ids"]) for row in batch)
        fill = lambda name, value: torch.tensor([row[name] + [value] * (width - len(row[name])) for row in batch])  # noqa: E731
        mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in batch])
        return {"input_ids": fill("input_ids", pad), "attention_mask": mask, "labels": fill("labels", -100)}

    micro, passes = processes.split(options.batch_size, options.micro_batch)
    # Not grouped by length, which saves a third of the padding: the tiny model learnt clearly less from such batches.
    arguments = runs.arguments(
        SFTConfig, options, out, lr, micro, passes, report,
        dataset_kwargs={"skip_prepare_dataset": True}, save_steps=options.save_every, save_total_limit=1,
    )  # fmt: skip
    model.train()
    trainer = Trainer(
        model=model,
        args=arguments,
        data_collator=collate,
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        peft_config=runs.adapters(options.lora_r, "CAUSAL_LM"),
        callbacks=[runs.watch(should_stop, on_step), *reports.callbacks(report, out)],
    )
    trainer.remove_callback(PrinterCallback)  # writes to standard output
    return trainer
