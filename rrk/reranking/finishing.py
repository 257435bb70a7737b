"""The end of a reranker's training: weights first, then what they score, then a look at whether that is what was trained.

    save(trainer, tokenizer, out, merge=True)            # whole or not at all
    result = finish(out, rendering, device, dev, history, figures)      # loads them, writes rrk_reranker.json
    agreement(trained, scored, groups).note()             # a sentence, or None; never an error

Nothing that comes after `save` can lose the weights, and `unfinished(out)` says that only `finish` is left to do: so a run
whose last minute failed is finished by --resume.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rrk import jsonl
from rrk.errors import RrkError
from rrk.generation import runs
from rrk.reranking import network, record
from rrk.reranking.render import Rendering
from rrk.reranking.scorer import Note, Question, Scorer, question

PART = "weights.part"
_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass
class Dev:
    """Executed candidates of problems that are not trained on. `auc(scores, passed)` of one problem, None if it has no pair;
    `platt(scores, passed)` over all."""

    problems: Sequence[Sequence[dict[str, Any]]]
    auc: Callable[[Sequence[float], Sequence[bool]], float | None]
    platt: Callable[[Sequence[float], Sequence[bool]], tuple[float, float]]

    def questions(self) -> list[Question]:
        return [question(problem) for problem in self.problems]

    def mean_auc(self, scores: Sequence[Sequence[float]]) -> float | None:
        found = [self.auc(s, [bool(row["passed"]) for row in p]) for s, p in zip(scores, self.problems, strict=True)]
        known = [value for value in found if value is not None]
        return sum(known) / len(known) if known else None


@dataclass
class Result:
    """`figures` go into rrk.json; `dev_scores` are the kept model's, a list a dev problem."""

    figures: dict[str, Any] = field(default_factory=dict)
    dev_scores: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class History:
    """What transformers' Trainer remembers of a run: its step, its log, the step that was kept."""

    step: int | None
    log: Sequence[dict[str, Any]]
    best: str | None

    @classmethod
    def of(cls, state: Any) -> History:
        return cls(state.global_step, state.log_history, state.best_model_checkpoint)

    @classmethod
    def read(cls, checkpoint: Path | None) -> History:
        """From a checkpoint's folder; without one nothing is known."""
        if checkpoint is None:
            return cls(None, [], None)
        state = jsonl.loads((checkpoint / "trainer_state.json").read_bytes())
        return cls(state["global_step"], state["log_history"], state.get("best_model_checkpoint"))

    def means(self, *names: str) -> dict[str, float | None]:
        """Of the last five rows of the log."""
        rows = [row for row in self.log if "loss" in row][-5:]
        known = {name: [row[name] for row in rows if name in row] for name in names}
        return {name: sum(values) / len(values) if values else None for name, values in known.items()}


def save(model: Any, tokenizer: Any, out: Path, weights: dict[str, Any] | None = None) -> None:
    """Write the files beside the folder's own and rename them into it, the weights last: they are whole if they are there.

    `weights` in the place of the model's own.
    """
    part = out / PART
    shutil.rmtree(part, ignore_errors=True)
    try:
        model.save_pretrained(part, state_dict=weights)
        tokenizer.save_pretrained(part)
        made = sorted(part.iterdir(), key=lambda path: (path.suffix == ".safetensors", path.name))
        for path in made:
            os.replace(path, out / path.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def unfinished(out: Path, checkpoint: Path | None) -> bool:
    """Whether the trained weights are saved and the record is missing: everything but `finish` was done.

    Weights that were there before the run was claimed, or before its last checkpoint, are not its result.
    """
    weights = [path.stat().st_mtime_ns for pattern in _WEIGHTS for path in out.glob(pattern)]
    if not weights or (out / record.NAME).exists() or not record.left_by_training(out):
        return False
    before = [out / runs.RUN] + ([checkpoint / "trainer_state.json"] if checkpoint else [])
    return all(path.stat().st_mtime_ns <= min(weights) for path in before if path.exists())


def finish(
    out: Path, rendering: Rendering, device: Any, dev: Dev | None, history: History, figures: dict[str, Any], note: Note
) -> tuple[Result, Scorer]:
    """Load what was saved in float32, write the record, forget the run's checkpoints; (result, the saved model's scorer).

    RrkError where the scores are no numbers; the weights stay.
    """
    model, tokenizer = network.load(out, str(device), "float32", rendering.pooling)
    saved = Scorer(model, tokenizer, rendering, note=note)
    golden, calibration = saved.golden(), None
    if not all(map(math.isfinite, golden)):
        raise RrkError(
            f"training diverged: the reranker's scores are not finite; train again with a smaller --lr "
            f"(the weights are kept in {out})"
        )
    result = Result({**figures, "steps": history.step, **history.means("loss", "accuracy", "margin")})
    if dev is not None:
        result.dev_scores = saved.score_many(dev.questions())
        passed = [bool(row["passed"]) for problem in dev.problems for row in problem]
        calibration = dev.platt([score for scores in result.dev_scores for score in scores], passed)
        result.figures |= {
            "dev_auc": dev.mean_auc(result.dev_scores),
            "dev_auc_curve": [(row["step"], row["eval_auc"]) for row in history.log if "eval_auc" in row],
            "kept_step": int(history.best.rsplit("-", 1)[1]) if history.best else history.step,
        }
    record.write(out, record.Record(rendering, golden, calibration))
    runs.end(out)
    return result, saved


@dataclass(frozen=True)
class Agreement:
    """How far two readings of the same programs are apart. `same_order`: share of a group's pairs that both order alike.

    `spread` is the standard deviation of the scores; a difference matters by its share of that. `apart` is the largest
    difference less what moves all scores alike, as fewer bits do: Bradley-Terry and rank do not see it.
    """

    programs: int
    largest_difference: float
    apart: float
    spread: float
    same_order: float | None

    @classmethod
    def of(cls, trained: Tensor, scored: Tensor, sizes: Sequence[int]) -> Agreement:
        """Scores of the same programs, groups of `sizes` one after the other."""
        alike = pairs = 0
        for one, other in zip(trained.split(list(sizes)), scored.split(list(sizes)), strict=True):
            first, second = torch.triu_indices(len(one), len(one), 1)
            same = torch.sign(one[first] - one[second]) == torch.sign(other[first] - other[second])
            alike += int(same.sum())
            pairs += len(first)
        difference = trained - scored
        return cls(
            len(scored),
            float(difference.abs().max()),
            float((difference - difference.mean()).abs().max()),
            float(scored.std(unbiased=False)),
            alike / pairs if pairs else None,
        )

    def note(self, exact: bool) -> str | None:
        """What to tell of it. `exact`: both are float32; otherwise one is bf16, whose rounding is a few hundredths of the spread."""
        allowed = max(1e-3, 0.01 * self.spread) if exact else max(0.1, 0.25 * self.spread)
        if (self.largest_difference if exact else self.apart) <= allowed:
            return None
        order = "" if self.same_order is None else f", {self.same_order:.0%} of pairs in the same order"
        return (
            f"the saved reranker's scores of {self.programs} training programs differ by up to {self.largest_difference:.3g} "
            f"from those of the last step (their standard deviation is {self.spread:.3g}{order}); "
            "look at `rrk eval` on held-out candidates before you use it"
        )
