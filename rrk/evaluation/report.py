"""From executed (and scored) candidates to a report: how good are the samples, how good is the ranking, how sure is that.

    samples = Samples()
    for row in rows: samples.add(row)          # rows of a problem may stand anywhere
    report = build(samples, ks=[1, 2, 4, 8])   # a plain dict, ready for JSON

A problem is a task in a language: MultiPL-E's HumanEval_0 is one problem in each of its languages. Figures are means over
problems within a language, and then over languages (the paper's average); intervals are bootstrapped over base problems
(statistics.py). Candidates that could not be judged (`passed: null`) are counted and enter no figure.

    pass@k         {k: figure}, unbiased; null where any problem has fewer than k judged candidates
    random         = pass@1: what a pick without a ranking gives
    oracle         share of problems with a passing candidate: what a perfect ranking gives
    ranked_pass@1  pass rate of the best-scored candidate (the expected one of those tied)
    best_of_k      [figure with k]: the same among k candidates drawn from the n
    gap_closed     (ranked - random) / (oracle - random)
    falls          the best-of-k curve has its peak before n: the mark of an over-optimised score
    auc, card      the report card of the score (card.py)

A figure is {"mean", "low", "high"}, with "bca": [low, high] beside the percentile interval; low and high are null where there
are fewer than two base problems. `bootstrap` says how they were drawn.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rrk import rows
from rrk.errors import RowError, UsageError
from rrk.evaluation import card, contamination, estimators, statistics
from rrk.evaluation import cost as costing
from rrk.lineage import Lineage

KEY = "rrk_eval"  # the first key of a report's JSON: by it a report is told from rows
VERSION = 1
_KEPT = 32  # passing programs of a problem, among which the page looks for the nearest to a wrong one
_CURVE = 64  # points of a best-of-k curve, at most; all of k = 1..n up to here


@dataclass
class Judged:
    """The judged candidates of one problem, without their texts."""

    task_id: str
    language: str
    # Arrays, for a million candidates must fit.
    passed: MutableSequence[bool] = field(default_factory=lambda: array("b"))  # type: ignore[arg-type, return-value]
    scores: MutableSequence[float] = field(default_factory=lambda: array("d"))  # empty: not scored
    lengths: MutableSequence[int] = field(default_factory=lambda: array("q"))
    unjudged: int = 0
    best: dict[bool, dict[str, Any]] = field(default_factory=dict)  # the best-scored passing and failing row, if kept
    passing: list[dict[str, Any]] = field(default_factory=list)  # some passing rows, if kept
    drawn: dict[str, costing.Drawn] = field(default_factory=dict)  # by model: what they cost

    @property
    def cluster(self) -> str:
        return rows.base_problem(self.task_id)


class Samples:
    """Candidates gathered row by row. Rows of temperature 0 beside others are the greedy run, reported apart.

    keep=True keeps programs for the HTML report: the best-scored passing and failing one of a problem, and some that pass.
    """

    def __init__(self, keep: bool = False):
        self.drawn: dict[tuple[str, str], Judged] = {}
        self.greedy: dict[tuple[str, str], Judged] = {}
        self.statuses: Counter[str] = Counter()
        self.repeated = 0  # rows seen before: a file given twice
        self.cost: Counter[str] = Counter()
        self.until = False  # whether programs were drawn until one passed its examples
        self._keep = keep
        self._scored: dict[bool, bool] = {}
        self._seen: dict[int, str] = {}  # the file in which a candidate was met first

    def add(self, row: dict[str, Any]) -> None:
        """Count one candidate; RowError if it was never executed, or scored unlike the rows before it."""
        task = rows.task_id(row)
        verdict = rows.need(row, "passed", (bool, type(None)), "only executed candidates can be evaluated: rrk execute")
        language = rows.language_code(str(row.get("language") or "py"))
        temperature = row.get("temperature")
        greedy = isinstance(temperature, (int, float)) and not isinstance(temperature, bool) and temperature == 0
        group = self.greedy if greedy else self.drawn
        problem = group.setdefault((language, task), Judged(task, language))
        self.statuses[str(row.get("status") or {True: "OK", False: "Failed", None: "Unjudged"}[verdict])] += 1
        self._add_cost(row)
        self.until |= "until" in row
        problem.drawn.setdefault(str(row.get("model") or ""), costing.Drawn()).add(row)
        self._notice_repeats(row, language, task)
        if verdict is None:
            problem.unjudged += 1
            return
        score = self._score(row, greedy)
        text = row.get("completion", row.get("solution"))
        problem.passed.append(verdict)
        problem.lengths.append(len(text) if isinstance(text, str) else -1)
        if score is not None:
            problem.scores.append(score)
        if self._keep:
            if verdict and len(problem.passing) < _KEPT:
                problem.passing.append(row)
            held = problem.best.get(verdict)
            if held is None or (score is not None and score > held["score"]):
                problem.best[verdict] = row

    def samples(self) -> list[Judged]:
        """The problems with their drawn candidates; the greedy ones where nothing else is there."""
        return list((self.drawn or self.greedy).values())

    def models(self) -> list[str]:
        """The generators that rows name."""
        return list(dict.fromkeys(name for p in [*self.drawn.values(), *self.greedy.values()] for name in p.drawn))

    def greedy_run(self) -> list[Judged]:
        """The greedy run's judged problems, where there is one beside the drawn candidates."""
        return [p for p in self.greedy.values() if p.passed] if self.drawn else []

    def _score(self, row: dict[str, Any], greedy: bool) -> float | None:
        there = "score" in row
        if self._scored.setdefault(greedy, there) != there:
            missing = "has no 'score'" if not there else "has a 'score'"
            raise RowError(f"this row {missing}, unlike the rows before it; rerank all of them alike", rows.where(row))
        if not there:
            return None
        score = float(rows.need(row, "score", (int, float), "rrk rerank writes it"))
        if math.isnan(score):
            raise RowError("the score is not a number (NaN) and cannot be ranked", rows.where(row))
        return score

    def _add_cost(self, row: dict[str, Any]) -> None:
        for name in ("time", "time_wall", "tokens"):
            value = row.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                self.cost[name] += value  # type: ignore[assignment]
                self.cost[f"{name}_rows"] += 1

    def _notice_repeats(self, row: dict[str, Any], language: str, task: str) -> None:
        if "completion_id" not in row:
            return
        parts = (language, task, *(str(row.get(f)) for f in ("completion_id", "model", "temperature", "seed", "round")))
        key = hash((*parts, str(row.get("completion", row.get("solution")))))
        file = (rows.where(row) or ("", 0))[0]
        self.repeated += key in self._seen
        first = self._seen.setdefault(key, file)
        if first != file:
            # Counted as one, two rankings of the same candidates would make a third that nobody has.
            raise UsageError(
                f"{file} and {first} hold the same candidate ({task} #{row['completion_id']}): to see them side by side give"
                f" --rounds, to compare them in pairs --against {first}"
            )


def parse_ks(text: str | None) -> list[int] | None:
    """`1,2,4` -> [1, 2, 4]."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--k {text}: give whole numbers from 1, as in 1,2,4,8")
    return sorted({int(part) for part in parts})


def build(
    samples: Samples,
    *,
    ks: Sequence[int] | None = None,
    repeats: int = statistics.REPEATS,
    seed: int = 0,
    lineage: Lineage | None = None,
) -> dict[str, Any]:
    """The report of one set of candidates. `ks` defaults to powers of two up to the n that every problem has, and
    that n. `lineage`: what the rows were made from."""
    everything = samples.samples()
    problems = [p for p in everything if p.passed]
    greedy = samples.greedy_run()
    least = min((len(p.passed) for p in problems), default=0)
    wanted = list(ks) if ks else sorted({*(2**i for i in range(max(1, least.bit_length()))), max(1, least)})
    languages = list(dict.fromkeys(p.language for p in problems))

    def section(name: str | None) -> dict[str, Any]:
        mine = [p for p in problems if name in (None, p.language)]
        return _section(mine, [p for p in greedy if name in (None, p.language)], wanted, repeats, seed)

    spent, tasks = _cost(samples, everything, wanted, lineage, repeats, seed)
    return {
        KEY: VERSION,
        **section(None),
        "bootstrap": {"unit": "base problem", "resamples": repeats, "seed": seed, "interval": "percentile"},
        "unjudged": sum(p.unjudged for p in everything),
        "unjudged_problems": sum(not p.passed for p in everything),
        "repeated": samples.repeated,
        **({"until": True} if samples.until else {}),
        "languages": {name: section(name) for name in languages} if len(languages) > 1 else {},
        "language": languages[0] if len(languages) == 1 else None,
        "seen": contamination.seen((p.cluster for p in [*problems, *greedy]), lineage.models if lineage else {}),
        "card": _card(problems),
        "statuses": dict(samples.statuses.most_common()),
        "cost": spent,
        "tasks": tasks,
    }


def _section(
    problems: list[Judged], greedy: list[Judged], ks: Sequence[int], repeats: int, seed: int
) -> dict[str, Any]:
    sizes = [len(p.passed) for p in problems]
    out: dict[str, Any] = {
        "problems": len(problems),
        "samples": sum(sizes),
        "n": [min(sizes, default=0), max(sizes, default=0)],
    }
    if not problems:
        return out | {"pass@k": {str(k): None for k in ks}, "random": None, "oracle": None}
    n, scored = min(sizes), all(p.scores for p in problems)
    points = _curve_points(n, ks)
    strata, clusters = [p.language for p in problems], [p.cluster for p in problems]
    columns: dict[Any, list[float]] = {"random": [sum(p.passed) / len(p.passed) for p in problems]}
    columns["oracle"] = [estimators.oracle(p.passed) for p in problems]
    columns["pass", 1] = columns["random"]  # the formula gives the same but for the last bit
    for k in ks:
        if 1 < k <= n:
            columns["pass", k] = [float(estimators.pass_at_k(len(p.passed), sum(p.passed), k) or 0.0) for p in problems]
    if scored:
        columns["ranked"] = [estimators.ranked_pass_at_1(p.scores, p.passed) for p in problems]
        curves = np.array([estimators.best_of_ks(p.scores, p.passed, points) for p in problems])
        columns |= {("best", k): curves[:, i].tolist() for i, k in enumerate(points)}
    at = {name: i for i, name in enumerate(columns)}
    drawn = statistics.resample(list(columns.values()), strata, clusters, repeats=repeats, seed=seed)

    def figure(name: Any) -> dict[str, Any] | None:
        return (
            _figure(float(drawn.means[at[name]]), drawn.interval(at[name]), drawn.bca(at[name])) if name in at else None
        )

    out["pass@k"] = {str(k): figure(("pass", k)) for k in ks}
    out["random"], out["oracle"] = figure("random"), figure("oracle")
    if greedy:
        rates = [sum(p.passed) / len(p.passed) for p in greedy]
        found = statistics.resample(
            [rates], [p.language for p in greedy], [p.cluster for p in greedy], repeats=repeats, seed=seed
        )
        out["greedy"] = _figure(float(found.means[0]), found.interval(0), found.bca(0)) | {"problems": len(greedy)}
    if scored:
        out["ranked_pass@1"] = figure("ranked")
        out["best_of_k"] = [{"k": k, **(figure(("best", k)) or {})} for k in points]
        r, low, high = (at[name] for name in ("ranked", "random", "oracle"))
        with np.errstate(invalid="ignore", divide="ignore"):
            gaps = (drawn.draws[:, r] - drawn.draws[:, low]) / (drawn.draws[:, high] - drawn.draws[:, low])
            mean = estimators.gap_closed(*(float(drawn.means[i]) for i in (r, low, high)))
            j = drawn.without
            apart = (j[:, r] - j[:, low]) / (j[:, high] - j[:, low]) if len(j) else np.zeros(0)
        bca = None if mean is None else statistics.bca(mean, gaps, apart)
        out["gap_closed"] = None if mean is None else _figure(mean, statistics.quantiles(gaps), bca)
        out["falls"] = _falls(drawn, at, points)
        out["auc"] = _auc(problems, repeats, seed)
    return out


def _curve_points(n: int, ks: Sequence[int]) -> list[int]:
    if n <= _CURVE:
        return list(range(1, n + 1))
    return sorted({*(round(x) for x in np.geomspace(1, n, _CURVE)), *(k for k in ks if k <= n)})


def _figure(
    mean: float, interval: tuple[float, float] | None, bca: tuple[float, float] | None = None
) -> dict[str, Any]:
    low, high = interval or (None, None)
    return {"mean": mean, "low": low, "high": high, **({"bca": list(bca)} if bca else {})}


def _falls(drawn: statistics.Resampled, at: dict[Any, int], points: Sequence[int]) -> dict[str, Any] | None:
    """Where the curve's peak lies if not at its end. The interval is that of the drop from the peak to the end: the peak
    was chosen after looking, so a drop whose interval only just excludes 0 is a hint, not a proof."""
    curve = [float(drawn.means[at["best", k]]) for k in points]
    peak = int(np.argmax(curve))
    if peak + 1 == len(points) or curve[peak] - curve[-1] < 1e-9:
        return None
    draws = drawn.draws[:, at["best", points[peak]]] - drawn.draws[:, at["best", points[-1]]]
    drop = _figure(curve[peak] - curve[-1], statistics.quantiles(draws))
    clear = drop["low"] is not None and drop["low"] > 0
    return {"k": points[peak], "peak": curve[peak], "end": curve[-1], "n": points[-1], "drop": drop, "clear": clear}


def _auc(problems: Sequence[Judged], repeats: int, seed: int) -> dict[str, Any] | None:
    mixed = [(p, a) for p in problems if (a := card.auc(p.scores, p.passed)) is not None]
    if not mixed:
        return None
    found = statistics.resample(
        [[a for _, a in mixed]],
        [p.language for p, _ in mixed],
        [p.cluster for p, _ in mixed],
        repeats=repeats,
        seed=seed,
    )
    return _figure(float(found.means[0]), found.interval(0), found.bca(0)) | {"problems": len(mixed)}


def _card(problems: Sequence[Judged]) -> dict[str, Any]:
    return card.report_card(
        [
            card.Scored(p.cluster, p.language, p.scores, p.passed, p.lengths if min(p.lengths) >= 0 else [])
            for p in problems
            if p.scores
        ]
    )


def _cost(
    samples: Samples, everything: list[Judged], ks: Sequence[int], lineage: Lineage | None, repeats: int, seed: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the samples cost, where the rows say it (`_rows` is how many of them do), and what an answer does; the tasks."""
    cost = samples.cost
    out: dict[str, Any] = {}
    if cost["time_rows"]:
        out |= {"cpu_seconds": float(cost["time"]), "cpu_seconds_rows": int(cost["time_rows"])}
    if cost["time_wall_rows"]:
        out["wall_seconds"] = float(cost["time_wall"])
    if cost["tokens_rows"]:
        out |= {"tokens": int(cost["tokens"]), "tokens_rows": int(cost["tokens_rows"])}
    judged = [p for p in everything if p.passed]
    scored = bool(judged) and all(p.scores for p in judged)
    spent, each = costing.of([p.drawn for p in everything], scored, lineage.stages if lineage else [])
    here = [i for i, p in enumerate(everything) if p.passed]
    amounts = {name: amount.total()[here] for name, amount in each.items()}
    tasks = [_task(p) | {"cost": {name: float(a[i]) for name, a in amounts.items()}} for i, p in enumerate(judged)]
    least = min((len(p.passed) for p in judged), default=0)
    # The best of fewer than n: what a smaller n would have been worth, and cost. Of the K best (--top) nothing can tell it.
    picked = any(s["stage"] == "rerank" and s["params"].get("top") for s in lineage.stages) if lineage else False
    curve = [k for k in ks if k < least] if scored and not picked else []
    columns: dict[tuple[int | None, str], Any] = {(None, name): a for name, a in amounts.items()}
    columns |= {(k, name): amount.best_of(k)[here] for k in curve for name, amount in each.items()}
    for i, (p, task) in enumerate(zip(judged, tasks, strict=True)) if curve else []:
        worth = estimators.best_of_ks(p.scores, p.passed, curve)
        task["best_of_k"] = {
            str(k): {"passes": float(passes), **{name: float(columns[k, name][i]) for name in each}}
            for k, passes in zip(curve, worth, strict=True)
        }
    drawn = statistics.resample(
        list(columns.values()), [p.language for p in judged], [p.cluster for p in judged], repeats=repeats, seed=seed
    )
    found: dict[int | None, dict[str, Any]] = {None: {}, **{k: {} for k in curve}}
    for i, (k, name) in enumerate(columns):
        found[k][name] = _figure(float(drawn.means[i]), drawn.interval(i), drawn.bca(i))
    spent |= {"answer": found[None], "best_of_k": [{"k": k, **found[k]} for k in curve]}
    trained = costing.training(lineage.models) if lineage else {}
    return out | spent | ({"training": trained} if trained else {}), tasks


def _task(p: Judged) -> dict[str, Any]:
    out: dict[str, Any] = {"task_id": p.task_id, "language": p.language, "n": len(p.passed), "passed": sum(p.passed)}
    if p.scores:
        out |= {
            "ranked_pass@1": estimators.ranked_pass_at_1(p.scores, p.passed),
            "auc": card.auc(p.scores, p.passed),
        }
    return out
