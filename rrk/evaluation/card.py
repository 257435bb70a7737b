"""The report card of a score: does it order programs rightly within a problem, and can one believe its
confidence?

    card = report_card([Scored(key=..., cluster=..., language=..., scores=..., passed=..., lengths=...), ...])

Ordering (a mean over problems with both passing and failing candidates; 0.5 AUC and 0 Kendall are chance):
`auc` (within-problem, ties count half), `kendall` (tau-b between score and verdict), `top1` (pass rate of the
best-scored candidate). Length: `length_score` is the mean within-problem rank correlation of score and
length in characters; `length_passed` that of verdict and length. A score that follows length far more than
the verdicts do has learned length.

Calibration: a score is a raw logit without a fixed zero, so it is no probability. `rrk` fits p = sigmoid(a +
b * score) (Platt 1999) on other base problems (5 folds, never the candidate's own problem) and reports what
that probability is worth: `brier`, `ece` (15 bins of equal width, Guo et al. 2017), beside `brier_constant`,
the Brier score of always saying the mean pass rate: no better than that means no calibrated information
across problems.

`risk_coverage`: answer only the problems whose best score is highest; accuracy of the top candidate on those.
A score that knows when it knows gains accuracy as coverage falls. `aurc` is the mean error over all
coverages.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rrk.evaluation.estimators import ranked_pass_at_1

BINS = 15
FOLDS = 5
COVERAGES = (1.0, 0.9, 0.75, 0.5, 0.25, 0.1)


@dataclass
class Scored:
    """The judged candidates of one problem with their scores."""

    cluster: Hashable
    language: str
    scores: Sequence[float]
    passed: Sequence[bool]
    lengths: Sequence[float] = field(default_factory=list)


def auc(scores: Sequence[float] | np.ndarray, passed: Sequence[bool] | np.ndarray) -> float | None:
    """Chance that a passing candidate outscores a failing one, ties half; None without one of each."""
    s, p = np.asarray(scores, dtype=float), np.asarray(passed, dtype=bool)
    good, bad = int(p.sum()), int((~p).sum())
    if not good or not bad:
        return None
    return float((average_ranks(s)[p].sum() - good * (good + 1) / 2) / (good * bad))


def kendall(scores: Sequence[float], passed: Sequence[bool]) -> float | None:
    """Kendall's tau-b of score and verdict; None where either is constant."""
    s, p = np.asarray(scores, dtype=float), np.asarray(passed, dtype=bool)
    a = auc(s, p)
    if a is None:
        return None
    n, good = len(s), int(p.sum())
    pairs = n * (n - 1) / 2
    _, counts = np.unique(s, return_counts=True)
    untied = pairs - float((counts * (counts - 1) / 2).sum())
    if not untied:
        return None
    across = good * (n - good)  # pairs whose verdicts differ: the only ones that can be con- or discordant
    return float((2 * a - 1) * across / np.sqrt(across * untied))


def average_ranks(x: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values sharing the mean of their ranks."""
    _, group, counts = np.unique(x, return_inverse=True, return_counts=True)
    upper = np.cumsum(counts)
    return (upper - (counts - 1) / 2)[group]


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Rank correlation; None where either is constant."""
    a, b = average_ranks(np.asarray(x, dtype=float)), average_ranks(np.asarray(y, dtype=float))
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def platt(scores: np.ndarray, passed: np.ndarray, steps: int = 50) -> tuple[float, float]:
    """(a, b) of p = sigmoid(a + b * score) by maximum likelihood, with Platt's smoothed targets so that
    separable data give finite weights."""
    good, bad = passed.sum(), (~passed).sum()
    target = np.where(passed, (good + 1) / (good + 2), 1 / (bad + 2))
    center, scale = float(scores.mean()), float(scores.std()) or 1.0
    x = np.stack([np.ones(len(scores)), (scores - center) / scale], axis=1)
    w = np.zeros(2)
    for _ in range(steps):
        p = sigmoid(x @ w)
        gradient = x.T @ (p - target)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        norm = float(np.abs(step).max())
        w -= step if norm <= 4 else step * (4 / norm)  # a full Newton step can overshoot far from the optimum
        if norm < 1e-10:
            break
    return float(w[0] - w[1] * center / scale), float(w[1] / scale)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def cross_fitted(
    scores: np.ndarray, passed: np.ndarray, clusters: Sequence[Hashable], folds: int = FOLDS
) -> np.ndarray:
    """Platt probabilities, each from a fit on the other folds of clusters. Folds follow the order of first
    appearance."""
    number = {c: i for i, c in enumerate(dict.fromkeys(clusters))}
    fold = np.array([number[c] for c in clusters]) % max(2, min(folds, len(number)))
    out = np.empty(len(scores))
    for f in np.unique(fold):
        train, test = fold != f, fold == f
        if not train.any():  # a single cluster: there is nothing else to fit on
            train = test
        a, b = platt(scores[train], passed[train])
        out[test] = sigmoid(a + b * scores[test])
    return out


def expected_calibration_error(probability: np.ndarray, passed: np.ndarray, bins: int = BINS) -> float:
    at = np.minimum((probability * bins).astype(int), bins - 1)
    gap = np.bincount(at, weights=probability - passed.astype(float), minlength=bins)
    return float(np.abs(gap).sum() / len(probability))


def reliability(probability: np.ndarray, passed: np.ndarray, bins: int = BINS) -> list[dict[str, float]]:
    """Mean probability and pass rate of each bin that is not empty."""
    at = np.minimum((probability * bins).astype(int), bins - 1)
    return [
        {
            "confidence": float(probability[at == b].mean()),
            "passed": float(passed[at == b].mean()),
            "samples": int((at == b).sum()),
        }
        for b in np.unique(at)
    ]


def risk_coverage(confidence: Sequence[float], accuracy: Sequence[float]) -> tuple[list[dict[str, Any]], float]:
    """Accuracy over the most confident share of problems, for each of COVERAGES, and the mean error over all
    coverages 1/n..1. Equal confidences are exchangeable: the expectation over their orders is taken."""
    c, acc = np.asarray(confidence, dtype=float), np.asarray(accuracy, dtype=float)
    _, group, counts = np.unique(-c, return_inverse=True, return_counts=True)
    expected = (np.bincount(group, weights=acc) / counts)[group][np.argsort(-c, kind="stable")]
    running = np.cumsum(expected) / np.arange(1, len(c) + 1)
    table = []
    for coverage in COVERAGES:
        k = max(1, int(np.ceil(coverage * len(c) - 1e-9)))
        table.append(
            {
                "coverage": coverage,
                "problems": k,
                "accuracy": float(running[k - 1]),
                "threshold": float(np.sort(-c)[k - 1] * -1.0),
            }
        )
    return table, float(1.0 - running.mean())


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _ordering(problems: Sequence[Scored]) -> dict[str, Any]:
    return {
        "auc": _mean([auc(p.scores, p.passed) for p in problems]),
        "kendall": _mean([kendall(p.scores, p.passed) for p in problems]),
        "top1": _mean([ranked_pass_at_1(p.scores, p.passed) for p in problems]),
        "length_score": _mean([spearman(p.lengths, p.scores) for p in problems if len(p.lengths)]),
        "length_passed": _mean([spearman(p.lengths, p.passed) for p in problems if len(p.lengths)]),
        "problems": len(problems),
        "mixed_problems": sum(any(p.passed) and not all(p.passed) for p in problems),
    }


def report_card(problems: Sequence[Scored]) -> dict[str, Any]:
    """Everything above for one scored set of candidates; empty if there is nothing scored."""
    problems = [p for p in problems if len(p.scores)]
    if not problems:
        return {}
    card = _ordering(problems)
    languages = list(dict.fromkeys(p.language for p in problems))
    if len(languages) > 1:
        card["languages"] = {name: _ordering([p for p in problems if p.language == name]) for name in languages}
    scores = np.concatenate([np.asarray(p.scores, dtype=float) for p in problems])
    passed = np.concatenate([np.asarray(p.passed, dtype=bool) for p in problems])
    if np.isfinite(scores).all():  # the oracle's and others' infinite scores have no slope to fit
        probability = cross_fitted(scores, passed, [p.cluster for p in problems for _ in p.scores])
        rate = float(passed.mean())
        card["calibration"] = {
            "ece": expected_calibration_error(probability, passed),
            "brier": float(((probability - passed) ** 2).mean()),
            "brier_constant": rate * (1 - rate),
            "bins": reliability(probability, passed),
        }
    table, aurc = risk_coverage(
        [max(p.scores) for p in problems], [ranked_pass_at_1(p.scores, p.passed) for p in problems]
    )
    card["risk_coverage"], card["aurc"] = table, aurc
    return card
