"""All evidence in one score: reward, log-probability, agreement by execution and by text, form of the program.

    fusion = fit(problems, seed=0)          # problems: lists of candidate rows with `passed`
    fusion.save("fusion.json")
    Fusion.load("fusion.json").score(rows)  # probability of passing, a row

Two logistic regressions. One orders a problem's candidates: Bradley-Terry on the differences between passing and failing ones,
every problem weighing the same. The other says how likely a problem is solved at all, from its candidates' mean features, and so
makes a probability of it. Whatever evidence a row lacks is a missing value and says nothing, so the same model serves rows with
and without a reward or generated tests. The model is cross-fitted: it keeps one member a fold of base problems, a problem that it
was trained on is scored by the member that did not see it, and a new problem by the mean of all. The file is JSON: loading one
runs nothing. (Boosted trees, which this was before, chose worse than the best single evidence where problems are few.)
"""

from __future__ import annotations

import ast
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rrk import __version__, jsonl, rows, seeds
from rrk.errors import RrkError
from rrk.reranking import evidence
from rrk.reranking.ranking import places

Problem = Sequence[dict[str, Any]]
FORMAT = 3
PAIRS = 512  # of a problem, at most, drawn from all
RIDGE, RIDGE_BETWEEN = 10.0, 1.0  # penalties of the two lines' weights; a problem weighs 1


def features(problem: Problem) -> dict[str, list[float]]:
    """Feature name -> one value a candidate; NaN where the evidence is not there."""
    n = len(problem)
    table: dict[str, list[float]] = {}
    similar = evidence.ngram(problem)
    for field in ("score", "logprob"):
        values = [_number(row.get(field)) for row in problem]
        table[field] = _standard(values)
        table[f"{field}_rank"] = _rank(values)
    means = [_ratio(row.get("logprob"), row.get("tokens")) for row in problem]
    table["logprob_mean"] = means
    table["logprob_mean_rank"] = _rank(means)
    sure = [_ratio(row.get("prob"), row.get("tokens")) for row in problem]
    table["prob_mean"], table["prob_mean_rank"] = sure, _rank(sure)
    if all(isinstance(row.get("evidence"), dict) for row in problem):
        matrix = evidence.passed_matrix(problem)
        m = max(matrix.shape[1], 1)
        codet, b4, mbr = evidence.codet(problem), evidence.b4(problem), evidence.mbr_exec(problem)
        top = max(codet) or 1.0
        share = matrix.mean(axis=0) if matrix.shape[1] else np.zeros(0)
        table |= {
            "codet": [value / top for value in codet],
            "same_outputs": [value / n for value in mbr],
            # Candidates of one group are equal to these methods: its most usual program goes first.
            "codet_rank": _rank(codet),
            "codet_ngram_rank": _rank(places(codet, similar)),
            "b4_rank": _rank(b4),
            "b4_ngram_rank": _rank(places(b4, similar)),
            "same_outputs_rank": _rank(mbr),
            "same_outputs_ngram_rank": _rank(places(mbr, similar)),
            "tests_passed": (matrix.sum(axis=1) / m).tolist(),
            "tests_passed_rank": _rank(matrix.sum(axis=1).tolist()),
            # Tests that many candidates pass are likelier to be right: weight them so.
            "weighted_passes": _standard((matrix @ share).tolist()),
            "raised": [_raised(row) for row in problem],
            "tests": [math.log1p(matrix.shape[1])] * n,
            "groups": [len(set(evidence.output_signatures(problem))) / n] * n,
            "largest_group": [max(mbr) / n] * n,
        }
        if all(isinstance(row["evidence"].get("shown"), int) for row in problem):
            passes = evidence.examples(problem)
            most = max(evidence.shown(problem[0]), 1)
            table["examples"] = [value / most for value in passes]
            table["examples_all"] = [float(value == most) for value in passes]
            table["examples_rank"] = _rank(passes)
            table["examples_ngram_rank"] = _rank(places(passes, similar))
            if not any(map(math.isnan, means)):
                table["examples_logprob_rank"] = _rank(places(passes, means))
    texts = [evidence.normal_text(row) for row in problem]
    counts = Counter(texts)
    table["same_text"] = [counts[text] / n for text in texts]
    table["ngram"] = similar
    table["ngram_rank"] = _rank(similar)
    lengths = [len(text) for text in texts]
    middle = float(np.median(lengths)) or 1.0
    table["length"] = [math.log((length + 1) / (middle + 1)) for length in lengths]
    table["lines"] = [math.log1p(text.count("\n")) for text in texts]
    table["parses"] = [_parses(row) for row in problem]
    table["stopped"] = [_stopped(row) for row in problem]
    table["returns"] = [float("return" in text) for text in texts]
    table["placeholder"] = [float(_is_placeholder(text)) for text in texts]
    table["repeats"] = [_repeats(text) for text in texts]
    return table


class Fusion:
    """Two lines, one member a fold; see the module's head."""

    def __init__(self, names: list[str], members: list[dict[str, Any]], seed: int, problems: list[str]):
        self.names, self.members, self.seed = names, members, seed
        self.known = frozenset(problems)

    def score(self, problem: Problem) -> list[float]:
        """Estimated probability that each candidate passes, from members that never saw this problem."""
        if not problem:
            return []
        x = _matrix(features(problem), self.names)
        base = rows.base_problem(rows.task_id(problem[0]))
        chosen = self.members
        if base in self.known and len(self.members) > 1:
            chosen = [self.members[fold(base, len(self.members), self.seed)]]
        return _sigmoid(np.mean([_predict(member, x) for member in chosen], axis=0)).tolist()

    @property
    def tells_apart(self) -> bool:
        """Whether a training problem with both passing and failing candidates has said how to order them."""
        return any(any(member["within"]) for member in self.members)

    def save(self, path: str | Path, figures: dict[str, Any] | None = None) -> None:
        record = {
            "format": FORMAT,
            "rrk": __version__,
            "seed": self.seed,
            "features": self.names,
            "problems": sorted(self.known),
            "figures": figures or {},
            "members": self.members,
        }
        jsonl.write(path, [record])

    @classmethod
    def load(cls, path: str | Path) -> Fusion:
        try:
            record = next(iter(jsonl.read([str(path)])))
            if record["format"] != FORMAT:
                raise RrkError(f"{path}: a fusion model of another rrk ({record['rrk']}); train it again")
            return cls(record["features"], record["members"], record["seed"], record["problems"])
        except (KeyError, StopIteration):
            raise RrkError(f"{path}: not a fusion model; `rrk train-fusion` makes one") from None


def fold(base: str, folds: int, seed: int) -> int:
    """The fold that holds a base problem out; depends on nothing else."""
    return seeds.derive(seed, "fold", base) % folds


def fit(problems: Sequence[Problem], folds: int = 5, seed: int = 0) -> Fusion:
    """Train on candidates whose `passed` is known (rows without are left out); every member leaves one fold out.

    Raises RrkError where there is nothing to learn from.
    """
    blocks, labels, bases = [], [], []
    for problem in problems:
        if not problem:
            continue
        blocks.append(features(problem))
        labels.append([row.get("passed") for row in problem])
        bases.append(rows.base_problem(rows.task_id(problem[0])))
    names = sorted({name for block in blocks for name, column in block.items() if not np.isnan(column).all()})
    if len(set(bases)) < folds:
        raise RrkError(f"{len(set(bases))} problems are too few for {folds} folds; give more, or fewer --folds")
    tables = []
    for block, own in zip(blocks, labels, strict=True):
        judged = np.array([label is True or label is False for label in own])
        tables.append((_matrix(block, names)[judged], np.array([label is True for label in own])[judged]))
    members = []
    for held_out in range(folds):
        part = [i for i, base in enumerate(bases) if fold(base, folds, seed) != held_out or folds == 1]
        members.append(_member([tables[i] for i in part if len(tables[i][1])], seeds.derive(seed, "fusion", held_out)))
    return Fusion(names, members, seed, bases)


def _member(tables: list[tuple[np.ndarray, np.ndarray]], seed: int) -> dict[str, Any]:
    """Both lines from (features [rows, names], passed [rows]) of problems."""
    if len({bool(one) for _, passed in tables for one in passed}) < 2:
        raise RrkError("train-fusion needs both passing and failing candidates (field 'passed')")
    every = np.concatenate([x for x, _ in tables])
    known = ~np.isnan(every)
    fill = np.where(known, every, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    tables = [(np.where(np.isnan(x), fill, x), passed) for x, passed in tables]
    draw = np.random.default_rng(seed % 2**32)
    differences, weights = [], []
    for x, passed in tables:
        pairs = np.argwhere(passed[:, None] & ~passed[None, :])
        if len(pairs) > PAIRS:
            pairs = pairs[draw.choice(len(pairs), PAIRS, replace=False)]
        differences.append(x[pairs[:, 0]] - x[pairs[:, 1]])
        weights.append(np.full(len(pairs), 1.0 / max(len(pairs), 1)))
    apart, weight = np.concatenate(differences), np.concatenate(weights)
    within = _logistic(apart, np.ones(len(apart)), weight, np.full(apart.shape[1], RIDGE))
    rows_of = [np.concatenate([_columns(x, within), np.ones((len(x), 1))], axis=1) for x, _ in tables]
    known_of = np.concatenate([passed for _, passed in tables]).astype(float)
    share = np.concatenate([np.full(len(x), 1.0 / len(x)) for x in rows_of])
    free = np.zeros(rows_of[0].shape[1])
    free[1:-1] = RIDGE_BETWEEN
    free[0] = 0.1  # where all is told apart, chances stay chances
    steep, *between, start = _logistic(np.concatenate(rows_of), known_of, share, free)
    # Whatever the second line says of problems, the first one orders their candidates.
    return {
        "fill": fill.tolist(), "within": within.tolist(),
        "steep": max(float(steep), 1e-3), "between": list(map(float, between)), "start": float(start),
    }  # fmt: skip


def _columns(x: np.ndarray, within: np.ndarray) -> np.ndarray:
    """[rows, 1 + names]: how far a candidate is above its problem's mean on the first line, and the problem's mean features."""
    line, middle = x @ within, x.mean(0)
    return np.column_stack([line - line.mean(), np.broadcast_to(middle, x.shape)])


def _predict(member: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """Log-odds [rows] of one problem's candidates."""
    filled = np.where(np.isnan(x), np.asarray(member["fill"]), x)
    weights = np.array([member["steep"], *member["between"]])
    return _columns(filled, np.asarray(member["within"])) @ weights + member["start"]


def _logistic(x: np.ndarray, target: np.ndarray, weight: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    """Weights of the logistic regression of target (0 or 1) on x without intercept, by Newton's method.

    ridge: the penalty of each weight, in units in which the column's mean square is 1. Where the step is too long it is halved.
    """
    scale = np.sqrt((x**2 * weight[:, None]).sum(0) / (weight.sum() or 1.0))  # of no row at all the weights are 0
    scale[scale < 1e-12] = 1.0
    x, w = x / scale, np.zeros(x.shape[1])

    def loss(w: np.ndarray) -> float:
        z = x @ w
        return float((weight * (np.logaddexp(0.0, z) - target * z)).sum() + 0.5 * (ridge * w**2).sum())

    before = loss(w)
    for _ in range(50):
        p = _sigmoid(x @ w)
        gradient = x.T @ (weight * (p - target)) + ridge * w
        hessian = (x * (weight * p * (1 - p))[:, None]).T @ x + np.diag(ridge + 1e-6)
        step = np.linalg.solve(hessian, gradient)
        while (after := loss(w - step)) > before and np.abs(step).max() > 1e-9:
            step = step / 2
        w, gained, before = w - step, before - after, after
        if gained < 1e-10:
            break
    return w / scale


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * z))


def _matrix(table: dict[str, list[float]], names: Sequence[str]) -> np.ndarray:
    length = len(next(iter(table.values())))
    return np.stack([np.asarray(table.get(name, [math.nan] * length), dtype=float) for name in names], axis=1)


def _standard(values: Sequence[float]) -> list[float]:
    """Standardised within the problem; NaN stays."""
    array = np.asarray(values, dtype=float)
    if np.isnan(array).all():
        return array.tolist()
    deviation = float(np.nanstd(array))
    return ((array - np.nanmean(array)) / (deviation or 1.0)).tolist()


def _rank(values: Sequence[float]) -> list[float]:
    """Share of the problem's candidates that are below, ties half; NaN stays."""
    array = np.asarray(values, dtype=float)
    if np.isnan(array).any():
        return [math.nan] * len(array)
    ordered = np.sort(array)
    below, upto = np.searchsorted(ordered, array, "left"), np.searchsorted(ordered, array, "right")
    return ((below + upto) / (2 * len(array))).tolist()


def _parses(row: dict[str, Any]) -> float:
    """1 if the program is whole by its form: Python by its parser, others by balanced brackets."""
    text = rows.program(row, prompt="")
    if rows.language_code(str(row.get("language", "py"))) != "py":
        return float(all(text.count(a) == text.count(b) for a, b in ("()", "[]", "{}")))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
        return 1.0
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return 0.0


def _stopped(row: dict[str, Any]) -> float:
    reason = row.get("finish_reason")
    return math.nan if reason is None else float(reason != "length")


def _is_placeholder(text: str) -> bool:
    body = [line.split(" ", 1)[1] for line in text.splitlines()]
    return (
        not body or body[-1] in ("pass", "...", "return", "return None") or "TODO" in text or "NotImplemented" in text
    )


def _repeats(text: str) -> float:
    """Share of lines that occurred before: degenerate samples repeat themselves."""
    lines = text.splitlines()
    return 1.0 - len(set(lines)) / len(lines) if lines else 0.0


def _raised(row: dict[str, Any]) -> float:
    outputs = row["evidence"].get("outputs")
    return math.nan if not outputs else sum(value is None for value in outputs) / len(outputs)


def _number(value: Any) -> float:
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else math.nan


def _ratio(total: Any, count: Any) -> float:
    return _number(total) / count if isinstance(count, int) and count > 0 else math.nan
