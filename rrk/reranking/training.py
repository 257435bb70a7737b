"""Bradley-Terry training of a reranker, through TRL's RewardTrainer with rrk's rendering.

    result = train(pairs, "runs/sft", "runs/reranker", TrainingOptions(steps=300), dev=Dev(problems, auc, platt))

Loss: -log sigmoid(r_chosen - r_rejected - margin), plus `center` x mean((r_chosen + r_rejected)^2) (Eisenstein et al. 2023,
arXiv 2312.09244, equation 2): TRL's own code. What is ours: a step takes `batch_size` small groups of pairs, one problem each;
a program that stands in several pairs of its group is read once; and with `cross`, every chosen program of a group is compared
with every rejected one (sound where pairs are verified, as `rrk mine` writes them: passing against failing).

With dev problems (executed candidates), the within-problem AUC decides which checkpoint is kept and when to stop, and Platt's
parameters are fitted on them. A run that is stopped saves a checkpoint; --resume ends in the same weights bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from rrk.errors import RrkError, UsageError
from rrk.generation import dtypes, memory, packing, processes, quantised, reports, runs
from rrk.generation.models import pick_device
from rrk.reranking import finishing, network, reading, record
from rrk.reranking.finishing import Agreement, Dev, Result
from rrk.reranking.pairs import Collator, cut, groups
from rrk.reranking.render import Rendering
from rrk.reranking.scorer import Note, Scorer

# Passes over a batch, texts of like length together: in one pass all are padded to the longest. Packed rows differ less.
PARTS, PACKED_PARTS = 4, 2


@dataclass(frozen=True)
class TrainingOptions:
    """`batch_size`: groups (of one problem each) a step of all processes; `group`: pairs a group; `steps` wins over `epochs`.

    `lr` None: by the number of weights (DEFAULT_LR); ten times that with LoRA. `beta`: what likelihoods (pooling; nats a token)
    are multiplied by in the loss (Meng et al. 2024), which then leaves `center` out: it would raise wrong programs' too.
    `wise_ft`: how far the saved weights go from the base's to the trained ones (network.towards); 1: all the way.
    """

    steps: int | None = None
    epochs: float = 1.0
    batch_size: int = 16
    micro_batch: int | None = None
    group: int = 2
    cross: bool = True
    lr: float | None = None
    weight_decay: float = 0.0
    warmup: float = 0.05
    schedule: str = "linear"
    center: float = 0.01
    lora_r: int = 0
    qlora: bool = False
    keep_adapter: bool = False
    bf16: bool = False
    gradient_checkpointing: bool = False
    template: str = "plain"
    language_tag: bool = False
    max_length: int = 2048
    pooling: str | None = None
    beta: float = 10.0
    wise_ft: float = 1.0
    eval_every: int = 50
    patience: int = 0
    save_every: int = 100
    seed: int = 0

    def check(self) -> None:
        processes.split(self.batch_size, self.micro_batch)
        if self.schedule not in ("linear", "constant", "cosine"):
            raise UsageError(f"--schedule {self.schedule}: choose linear, cosine or constant")
        runs.check_adapters(self.lora_r, {"--keep-adapter": self.keep_adapter, "--qlora": self.qlora})
        if self.qlora:
            quantised.check()
        if not 0 < self.wise_ft <= 1:
            raise UsageError("--wise-ft is above 0 (the base) and at most 1 (as trained)")
        if self.qlora and self.keep_adapter:
            raise UsageError(
                "--keep-adapter would lay the adapter over whole weights: with --qlora it has learnt 4-bit ones"
            )


# Largest rate that trained steadily: up to so many weights, this rate (tiny models measured here; the rest is common practice).
DEFAULT_LR = ((10e6, 7e-4), (100e6, 1e-4), (1e9, 2e-5), (math.inf, 1e-5))


def train(
    pairs: Sequence[dict[str, Any]],
    base: str | Path,
    out: str | Path,
    options: TrainingOptions,
    *,
    dev: Dev | None = None,
    params: dict[str, Any] | None = None,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: runs.OnStep = lambda step, of, figures: None,
    note: Note = lambda text: None,
    report: Sequence[str] = (),
) -> Result | None:
    """Train and write everything but rrk.json into `out`. None if `should_stop` ended it: a checkpoint is there for --resume.

    Raises UsageError for contradictory options or an unfinished run of others, RrkError where the base cannot be a reranker.
    """
    options.check()
    if not pairs:
        raise UsageError("no pairs to train on; `rrk mine` makes them from executed candidates")
    out = Path(out)
    params = {**asdict(options), **(params or {})}
    checkpoint = runs.begin(out, params, resume)
    options = replace(options, bf16=dtypes.autocast(options.bf16, pick_device("auto"), note))
    if out.exists() and Path(base).exists() and out.samefile(base):
        raise UsageError(f"-o {out} is the base itself; give another folder")
    saved = finishing.unfinished(out, checkpoint)
    if saved and not resume:
        raise UsageError(f"{out} holds trained weights without {record.NAME}; --resume writes it, or remove the folder")
    drawn: list[str] = []  # told when nothing more can be refused
    model, tokenizer = (
        network.load(out, "auto", "float32", options.pooling)
        if saved
        else network.load_base(base, options.seed, drawn.append, options.pooling, options.template == "judge")
    )
    if drawn and options.wise_ft < 1:
        raise UsageError(f"--wise-ft holds on to what {base} knows, and its score is new: choose --pooling likelihood")
    encoder = network.is_encoder(model.config)
    rendering = Rendering(
        options.template,
        options.language_tag,
        min(options.max_length, network.longest(model, tokenizer) or options.max_length),
        options.pooling or ("cls" if encoder else "last"),
    )
    if rendering.pooling in ("mean", "likelihood") and processes.count() > 1:
        raise UsageError(
            f"{rendering.pooling} pooling trains in one process: it reads the model past the wrapper that averages gradients"
        )
    scorer = Scorer(model, tokenizer, rendering, note=note)
    examples = groups(pairs, scorer.renderer, size=options.group, cross=options.cross, seed=options.seed)
    cuts = dict(scorer.renderer.cuts)
    if cuts["prompt_cut"]:
        note(
            f"{cuts['prompt_cut']} of {cuts['programs']} prompts were cut on the left to {rendering.max_length} tokens"
            + (f", and {cuts['program_cut']} programs at their beginning" if cuts["program_cut"] else "")
        )
    if dev is not None and dev.mean_auc([[0.0] * len(p) for p in dev.problems]) is None:
        raise UsageError("--dev has no problem with both a passing and a failing candidate")
    weights = sum(p.numel() for p in model.parameters())
    lr = options.lr or runs.learning_rate(DEFAULT_LR, weights, bool(options.lora_r))
    figures = {"lr": lr, "weights": weights, "groups": len(examples), **cuts}
    if saved:
        note(f"{out}: trained, and its weights are saved; what was left to do is done now")
        history = finishing.History.read(checkpoint)
        return finishing.finish(out, rendering, scorer.device, dev, history, figures, note)[0]
    if options.qlora:
        quantised.shrink(model, [network.head(model)], options.bf16)
    trainer = _trainer(model, tokenizer, examples, scorer, options, lr, out, dev, should_stop, on_step, report)
    if options.qlora:
        quantised.widen(trainer.model)
    runs.check_sharing(
        trainer, {"--lora-r": options.lora_r, "--dev": dev is not None, "--wise-ft": options.wise_ft < 1}
    )
    reading.check(trainer, scorer, base)
    if options.lora_r and options.bf16:
        runs.narrow(trainer.model)
    runs.claim(out, params)
    for text in drawn:
        note(text)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if processes.any_of(should_stop()) and trainer.state.global_step < trainer.state.max_steps:
        return None

    def fresh():
        read = network.load_base(base, options.seed, pooling=options.pooling, judge=options.template == "judge")[0]
        return quantised.rounded(read, [network.head(read)]) if options.qlora else read

    return _finish(trainer, scorer, out, options, dev, figures, note, fresh)


def _trainer(
    model,
    tokenizer,
    examples,
    scorer: Scorer,
    options: TrainingOptions,
    lr: float,
    out: Path,
    dev,
    should_stop,
    on_step,
    report,
):
    from datasets import Dataset
    from transformers import EarlyStoppingCallback, PrinterCallback
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
            # Classifiers find the last token by this id; Trainer.train() sets it to the tokenizer's own, which may be EOS.
            reading.plain(self).config.get_text_config().pad_token_id = scorer.pad
            # DDP averages gradients once a forward pass.
            parts = 1 if processes.count() > 1 else PACKED_PARTS if packed else PARTS
            if packed:
                batch = packing.Packed.of(given)
                read: list[torch.Tensor] = []
                places: list[torch.Tensor] = []
                for rows in (batch.segments >= 0).sum(1).argsort(stable=True).chunk(parts):
                    read.append(network.read_packed(reading.plain(self), batch.rows(rows), pooling))
                    places.append(torch.isin(batch.row, rows).nonzero().squeeze(-1))
                return torch.cat(read)[torch.cat(places).argsort()]
            lengths = given["attention_mask"].sum(1)
            order = lengths.argsort(stable=True)
            read = [
                self.one_part(model, {k: v[part, : int(lengths[part].max())] for k, v in given.items()})
                for part in order.chunk(parts)
            ]
            return torch.cat(read)[order.argsort()]

        def one_part(self, model, given: dict[str, torch.Tensor]) -> torch.Tensor:
            if pooling != "mean":
                return model(**given).logits.float().squeeze(-1)
            mask = given["attention_mask"]
            batch = network.Batch(given["input_ids"], mask, mask.sum(1), given.get("token_type_ids"))
            return network.read_scores(reading.plain(self), batch, "mean")

        def evaluate(self, *_, **__):
            scorer.model = reading.plain(self)
            # The same precision that the training pass has; the head is float32 either way.
            with torch.autocast(scorer.device.type, torch.bfloat16) if options.bf16 else nullcontext():
                auc = dev.mean_auc(scorer.score_many(dev.questions()))
            metrics = {"eval_auc": auc}
            self.log(dict(metrics))
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

    pooling = scorer.renderer.rendering.pooling
    likelihood = pooling == "likelihood"
    micro, passes = processes.split(options.batch_size, options.micro_batch)
    evaluation: dict[str, Any] = {}
    callbacks = [runs.watch(should_stop, on_step, last_look=dev is not None), *reports.callbacks(report, out)]
    if dev is not None:
        every = options.eval_every
        evaluation = {
            "eval_strategy": "steps",
            "eval_steps": every,
            "save_steps": every,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_auc",
            "greater_is_better": True,
        }
        if options.patience:
            callbacks.append(EarlyStoppingCallback(options.patience))
    else:
        evaluation = {"save_steps": options.save_every}
    # Renamed in transformers 5.2x; TRL's default is on.
    known = RewardConfig.__dataclass_fields__
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    evaluation[checkpointing] = options.gradient_checkpointing
    arguments = RewardConfig(
        output_dir=str(out / runs.CHECKPOINTS),
        max_steps=options.steps or -1,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=passes,
        learning_rate=lr,
        weight_decay=options.weight_decay,
        warmup_steps=options.warmup,
        lr_scheduler_type=options.schedule,
        center_rewards_coefficient=None if likelihood else options.center or None,
        max_length=None,
        bf16=options.bf16,
        save_total_limit=2,
        **runs.settings(options.seed, report, out),
        **evaluation,
    )
    head = "classifier" if scorer.renderer.encoder else "score"
    data = Dataset.from_list(examples)
    longest = max(len(text) for example in examples for text in example["ids"])
    # Several processes need the pass through DDP's wrapper.
    packed = (
        processes.count() == 1
        and pooling in ("last", "likelihood")
        and network.can_pack(
            model,
            [example["ids"] for example in examples[:4]],
            scorer.pad,
            pooling,
            [place for example in examples[:4] for place in example["first"]],
            longest,
        )
    )
    if likelihood and not packed:
        window = packing.window(model.config)
        raise RrkError(
            f"{type(model).__name__} cannot read several programs behind one prompt"
            + (
                f" past its window of {window} tokens: choose --max-length {window}, or"
                if window is not None and longest > window
                else ": choose"
            )
            + " --pooling last"
        )
    trainer = Trainer(
        model=model,
        args=arguments,
        data_collator=Collator(scorer.pad, scorer.renderer.type_ids, packed),
        train_dataset=data,
        eval_dataset=data
        if dev is not None
        else None,  # evaluate() has its own; Trainer only asks whether there is one
        processing_class=tokenizer,
        peft_config=runs.adapters(options.lora_r, "CAUSAL_LM")
        if likelihood
        else runs.adapters(options.lora_r, "SEQ_CLS", modules_to_save=[head]),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)  # writes to standard output
    scorer.device = trainer.args.device  # where the model is by now
    return trainer


def _finish(
    trainer,
    scorer: Scorer,
    out: Path,
    options: TrainingOptions,
    dev: Dev | None,
    figures,
    note: Note,
    fresh: Callable[[], Any],
) -> Result:
    """Save; then load what was saved, write down what it scores, and tell if that is not what was trained."""
    reading.plain(trainer).config.get_text_config().pad_token_id = scorer.pad
    few = reading.shortest(trainer.train_dataset, reading.FEW)
    model = trainer.accelerator.unwrap_model(trainer.model)
    if options.wise_ft < 1:
        network.towards(model, options.wise_ft, fresh)
    trained = reading.as_trained(trainer, few)
    gathered = runs.whole(trainer)
    if trainer.is_world_process_zero():
        if options.lora_r and not options.keep_adapter:
            model = runs.merged(model, fresh)
        finishing.save(model, scorer.tokenizer, out, gathered)
    trainer.accelerator.wait_for_everyone()
    if not trainer.is_world_process_zero():
        return Result(figures)
    history = finishing.History.of(trainer.state)
    result, saved = finishing.finish(out, scorer.renderer.rendering, scorer.device, dev, history, figures, note)
    agreement = Agreement.of(trained, reading.as_scored(saved.model, saved, few), [len(one["ids"]) for one in few])
    result.figures |= {"as_trained": asdict(agreement), "peak_memory": memory.peak(scorer.device)}
    seconds = next((row["train_runtime"] for row in reversed(history.log) if "train_runtime" in row), None)
    # Both count from the start or the last --resume.
    result.figures["tokens_per_second"] = trainer._total_train_tokens / seconds if seconds else None
    result.figures["cost"] = memory.cost(saved.model, tokens_trained=int(trainer._total_train_tokens))
    if told := agreement.note(exact=not options.bf16):
        note(told)
    return result
