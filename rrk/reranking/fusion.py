"""All evidence in one score: reward, log-probability, agreement by execution and by text, form of the program.

    fusion = fit(problems, seed=0)          # problems: lists of candidate rows with `passed`; needs scikit-learn
    fusion.save("fusion.json")
    Fusion.load("fusion.json").score(rows)  # probability of passing, a row; needs numpy only

A gradient-boosted model over features that are relative to the problem's other candidates. Whatever evidence a row lacks is
a missing value, so the same model serves rows with and without a reward or generated tests. The model is cross-fitted: it
keeps one member a fold of base problems, a problem that it was trained on is scored by the member that did not see it, and
a new problem by the mean of all. The file is JSON: loading one runs nothing.
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
FORMAT = 2
_FILL = -1e3  # below every feature: a tree may send "missing" to a side of its own


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
    """Boosted trees, one member a fold; see the module's head."""

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
        logits = np.mean([_predict(member, x) for member in chosen], axis=0)
        return (1.0 / (1.0 + np.exp(-logits))).tolist()

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


def fit(problems: Sequence[Problem], folds: int = 5, seed: int = 0, trees: int = 150) -> Fusion:
    """Train on candidates whose `passed` is known (rows without are left out); every member leaves one fold out.

    Raises RrkError where scikit-learn is missing or there is nothing to learn from.
    """
    try:
        from sklearn.ensemble import GradientBoostingClassifier
    except ImportError:
        raise RrkError("train-fusion needs scikit-learn: pip install 'rrk[fusion]'") from None
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
    members = []
    for held_out in range(folds):
        part = [i for i, base in enumerate(bases) if fold(base, folds, seed) != held_out or folds == 1]
        x = np.concatenate([_matrix(blocks[i], names) for i in part])
        y = np.array([label for i in part for label in labels[i]], dtype=object)
        # Every problem weighs the same, however many candidates it has.
        weight = np.concatenate([np.full(len(labels[i]), 1.0 / len(labels[i])) for i in part])
        judged = np.array([label is True or label is False for label in y])
        if len(set(y[judged])) < 2:
            raise RrkError("train-fusion needs both passing and failing candidates (field 'passed')")
        model = GradientBoostingClassifier(
            n_estimators=trees,
            learning_rate=0.05,
            max_depth=3,
            subsample=0.5,
            min_samples_leaf=30 if judged.sum() > 1000 else 5,
            max_features=0.5,
            random_state=seeds.derive(seed, "fusion", held_out) % 2**31,
        )
        target = y[judged].astype(int)
        model.fit(x[judged], target, sample_weight=weight[judged] * judged.sum() / weight[judged].sum())
        members.append(_export(model, x[judged]))
    return Fusion(names, members, seed, bases)


def _export(model: Any, x: np.ndarray) -> dict[str, Any]:
    """The fitted trees as plain lists; their sum must give back what scikit-learn computes."""
    trees = []
    for (regressor,) in model.estimators_:
        tree = regressor.tree_
        trees.append(
            {
                "left": tree.children_left.tolist(),
                "right": tree.children_right.tolist(),
                "feature": tree.feature.tolist(),
                "threshold": tree.threshold.tolist(),
                "value": (tree.value[:, 0, 0] * model.learning_rate).tolist(),
            }
        )
    start = float(model.decision_function(x[:1])[0]) - float(_predict({"start": 0.0, "trees": trees}, x[:1])[0])
    member = {"start": start, "trees": trees}
    if not np.allclose(_predict(member, x[:50]), model.decision_function(x[:50]), atol=1e-6):
        raise RrkError("the exported trees do not give scikit-learn's own values; is this version supported?")
    return member


def _predict(member: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """Log-odds [rows]: all rows walk down each tree together."""
    total = np.full(len(x), member["start"])
    # scikit-learn compares float32 features with float64 thresholds.
    x = x.astype(np.float32).astype(np.float64)
    every = np.arange(len(x))
    for tree in member["trees"]:
        left, right, feature = np.array(tree["left"]), np.array(tree["right"]), np.array(tree["feature"])
        threshold = np.array(tree["threshold"])
        node = np.zeros(len(x), dtype=int)
        while (inner := left[node] >= 0).any():
            goes_left = x[every, np.maximum(feature[node], 0)] <= threshold[node]
            node = np.where(inner, np.where(goes_left, left[node], right[node]), node)
        total += np.array(tree["value"])[node]
    return total


def _matrix(table: dict[str, list[float]], names: Sequence[str]) -> np.ndarray:
    length = len(next(iter(table.values())))
    columns = [np.asarray(table.get(name, [math.nan] * length), dtype=float) for name in names]
    return np.nan_to_num(np.stack(columns, axis=1), nan=_FILL)


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
