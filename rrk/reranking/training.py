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

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rrk.errors import UsageError
from rrk.generation import checkpoints, dtypes, memory, processes, quantised, runs, threads
from rrk.generation.models import pick_device
from rrk.reranking import finishing, network, reading, record, trainer
from rrk.reranking.finishing import Agreement, Dev, Result
from rrk.reranking.options import DEFAULT_LR, TrainingOptions
from rrk.reranking.pairs import groups
from rrk.reranking.render import Rendering
from rrk.reranking.scorer import Note, Scorer


@threads.repeatable()
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
    judge = options.template == "judge"
    model, tokenizer, pooling = _opened(out if saved else None, base, options, judge, drawn.append)
    if drawn and options.wise_ft < 1:
        raise UsageError(f"--wise-ft holds on to what {base} knows, and its score is new: choose --pooling likelihood")
    most = min(options.max_length, network.longest(model, tokenizer) or options.max_length)
    rendering = Rendering(options.template, options.language_tag, most, pooling)
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
    run = trainer.make(model, tokenizer, examples, scorer, options, lr, out, dev, should_stop, on_step, report)
    if options.qlora:
        quantised.widen(run.model)
    runs.check_sharing(run, {"--lora-r": options.lora_r, "--dev": dev is not None, "--wise-ft": options.wise_ft < 1})
    reading.check(run, scorer, base)
    if options.lora_r and options.bf16:
        runs.narrow(run.model)
    runs.claim(out, params)
    for text in drawn:
        note(text)
    run.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if processes.any_of(should_stop()) and run.state.global_step < run.state.max_steps:
        return None

    def fresh():
        read = network.load_base(base, options.seed, pooling=pooling, judge=judge)[0]
        return quantised.rounded(read, [network.head(read)]) if options.qlora else read

    return _finish(run, scorer, out, options, dev, figures, note, fresh)


def _opened(saved: Path | None, base: str | Path, options: TrainingOptions, judge: bool, drawn: Note):
    """(model, tokenizer, pooling): the base, or what was trained of it and only wants its record."""
    pooling = options.pooling or ("last" if judge else network.usual_pooling(base))
    if saved:
        if pooling == "likelihood" and not checkpoints.generates(saved):
            pooling = "last"
        return *network.load(saved, "auto", "float32", pooling), pooling
    try:
        return *network.load_base(base, options.seed, drawn, pooling, judge), pooling
    except network.Unreadable:
        if options.pooling:
            raise
        return *network.load_base(base, options.seed, drawn, "last", judge), "last"


def _finish(
    run: Any,
    scorer: Scorer,
    out: Path,
    options: TrainingOptions,
    dev: Dev | None,
    figures,
    note: Note,
    fresh: Callable[[], Any],
) -> Result:
    """Save; then load what was saved, write down what it scores, and tell if that is not what was trained."""
    reading.plain(run).config.get_text_config().pad_token_id = scorer.pad
    few = reading.shortest(run.train_dataset, reading.FEW)
    model = run.accelerator.unwrap_model(run.model)
    if options.wise_ft < 1:
        network.towards(model, options.wise_ft, fresh)
    trained = reading.as_trained(run, few)
    gathered = runs.whole(run)
    if run.is_world_process_zero():
        if options.lora_r and not options.keep_adapter:
            model = runs.merged(model, fresh)
        finishing.save(model, scorer.tokenizer, out, gathered)
    run.accelerator.wait_for_everyone()
    if not run.is_world_process_zero():
        return Result(figures)
    history = finishing.History.of(run.state)
    result, saved = finishing.finish(out, scorer.renderer.rendering, scorer.device, dev, history, figures, note)
    agreement = Agreement.of(trained, reading.as_scored(saved.model, saved, few), [len(one["ids"]) for one in few])
    result.figures |= {"as_trained": asdict(agreement), "peak_memory": memory.peak(scorer.device)}
    seconds = next((row["train_runtime"] for row in reversed(history.log) if "train_runtime" in row), None)
    # Both count from the start or the last --resume.
    result.figures["tokens_per_second"] = run._total_train_tokens / seconds if seconds else None
    result.figures["cost"] = memory.cost(saved.model, tokens_trained=int(run._total_train_tokens))
    if told := agreement.note(exact=not options.bf16):
        note(told)
    return result
