"""TRL's RewardTrainer over programs that are read once; training.py says what it trains and what becomes of it.

    trainer = make(model, tokenizer, examples, scorer, options, lr, out, dev, should_stop, on_step, report)
    trainer.train()
    trainer.logits(trainer.model, given)                # one a program, as the loss reads them

The loss is TRL's own. Ours is the reading: several programs stand behind one prompt where the architecture allows it, a step is
cut by the memory that is free, and the score is what `rrk rerank` computes, whoever wraps the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from rrk.generation import memory, packing, processes, reports, runs
from rrk.reranking import network, reading
from rrk.reranking.finishing import Dev
from rrk.reranking.options import TrainingOptions
from rrk.reranking.pairs import Collator, cut
from rrk.reranking.scorer import Scorer

# Passes over a batch, texts of like length together: in one pass all are padded to the longest. Packed rows differ less.
PARTS, PACKED_PARTS = 4, 2


def make(
    model: Any,
    tokenizer: Any,
    examples: Sequence[dict[str, Any]],
    scorer: Scorer,
    options: TrainingOptions,
    lr: float,
    out: Path,
    dev: Dev | None,
    should_stop: Callable[[], bool],
    on_step: runs.OnStep,
    report: Sequence[str],
) -> Any:
    """The trainer of `examples` (rrk.reranking.pairs.groups). `model` gives scores from now on, if called with batch=."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    runs.silence()  # after the import, which sets a verbosity of its own

    class Trainer(RewardTrainer):
        """TRL's loss over programs that are read once; dev AUC in place of a loss on pairs."""

        def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
            return dataset

        def _set_signature_columns_if_needed(self):
            self._signature_columns: Any = ["ids", "first", "chosen", "rejected", "margin"]

        def create_model_card(self, *_, **__):
            pass

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            compared = torch.cat([inputs.pop("chosen"), inputs.pop("rejected")])

            def read(margin, use_cache, **given):
                scores = self.logits(model, given)[compared]
                return SimpleNamespace(logits=(scores * options.beta if likelihood else scores).unsqueeze(-1))

            loss = super().compute_loss(read, inputs, return_outputs, num_items_in_batch)
            return loss * self.weight if self.weight != 1.0 else loss

        weight = 1.0  # of the comparisons at hand among the step's
        budget = memory.Budget(scorer.note)

        def training_step(self, model, inputs, num_items_in_batch=None):
            """The same step in as many passes as fit: the loss is a mean over comparisons, so it is the sum of its parts."""
            inputs = self._prepare_inputs(inputs)

            def step(tokens: int):
                # DDP averages gradients once a forward pass.
                parts = [inputs] if processes.count() > 1 else cut(inputs, tokens)
                return sum(self._part_of_step(model, part, len(inputs["chosen"])) for part in parts)

            # Gradients of earlier passes of the step would be lost with this one's.
            if passes > 1 or processes.count() > 1:
                return step(inputs["attention_mask"].numel())
            return self.budget.run(reading.plain(self), inputs["attention_mask"].sum(1).tolist(), step, model.zero_grad)

        def _part_of_step(self, model, part, of: int):
            self.weight = len(part["chosen"]) / of
            try:
                return super().training_step(model, dict(part))
            finally:
                self.weight = 1.0

        def logits(self, model, given: dict[str, torch.Tensor], autocast: bool = True) -> torch.Tensor:
            """One a program, float32. In several parts, texts of like length together."""
            with self.accelerator.autocast() if autocast else nullcontext():
                return self.read(model, given)

        def read(self, model, given: dict[str, torch.Tensor]) -> torch.Tensor:
            # DDP averages gradients once a forward pass.
            parts = 1 if processes.count() > 1 else PACKED_PARTS if packed else PARTS
            batch = packing.Packed.of(given) if packed else network.Batch.of(given)
            owner = batch.row if isinstance(batch, packing.Packed) else torch.arange(len(batch.ids))
            read: list[torch.Tensor] = []
            places: list[torch.Tensor] = []
            for rows in given["attention_mask"].sum(1).argsort(stable=True).chunk(parts):
                read.append(model(batch=batch.rows(rows)))
                places.append(torch.isin(owner.to(rows.device), rows).nonzero().squeeze(-1))
            return torch.cat(read)[torch.cat(places).argsort()]

        def evaluate(self, *_, **__):
            scorer.model = reading.plain(self)
            # The same precision that the training pass has; the head is float32 either way.
            with torch.autocast(scorer.device.type, torch.bfloat16) if options.bf16 else nullcontext():
                auc = dev.mean_auc(scorer.score_many(dev.questions())) if dev else None
            metrics: dict[str, Any] = {"eval_auc": auc}
            self.log(dict(metrics))
            self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

    pooling = scorer.renderer.rendering.pooling
    likelihood = pooling == "likelihood"
    micro, passes = processes.split(options.batch_size, options.micro_batch)
    packed = pooling in ("last", "likelihood") and _packs(model, examples, scorer.pad, pooling)
    network.reads(model, pooling)
    head = "classifier" if scorer.renderer.encoder else "score"
    data = Dataset.from_list(list(examples))
    trainer = Trainer(
        model=model,
        args=runs.arguments(
            RewardConfig,
            options,
            out,
            lr,
            micro,
            passes,
            report,
            center_rewards_coefficient=None if likelihood else options.center or None,
            save_total_limit=2,
            **_evaluation(options, dev is not None),
        ),
        data_collator=Collator(scorer.pad, scorer.renderer.type_ids, packed),
        train_dataset=data,
        # evaluate() has its own; Trainer only asks whether there is one.
        eval_dataset=data if dev is not None else None,
        processing_class=tokenizer,
        peft_config=runs.adapters(options.lora_r, "CAUSAL_LM")
        if likelihood
        else runs.adapters(options.lora_r, "SEQ_CLS", modules_to_save=[head]),
        callbacks=_callbacks(options, dev is not None, should_stop, on_step, report, out),
    )
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)  # writes to standard output
    scorer.device = trainer.args.device  # where the model is by now
    return trainer


def _packs(model: Any, examples: Sequence[dict[str, Any]], pad: int, pooling: str) -> bool:
    longest = max(len(text) for example in examples for text in example["ids"])
    few = examples[: reading.FEW]
    first = [place for example in few for place in example["first"]]
    return network.can_pack(model, [example["ids"] for example in few], pad, pooling, first, longest)


def _callbacks(options: TrainingOptions, dev: bool, should_stop, on_step, report, out: Path) -> list[Any]:
    from transformers import EarlyStoppingCallback

    made = [runs.watch(should_stop, on_step, last_look=dev), *reports.callbacks(report, out)]
    return [*made, EarlyStoppingCallback(options.patience)] if dev and options.patience else made


def _evaluation(options: TrainingOptions, dev: bool) -> dict[str, Any]:
    """When to save, and with dev problems when to look and what to keep."""
    if not dev:
        return {"save_steps": options.save_every}
    return {
        "eval_strategy": "steps",
        "eval_steps": options.eval_every,
        "save_steps": options.eval_every,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_auc",
        "greater_is_better": True,
    }
