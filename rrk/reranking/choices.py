"""Every method that some rows allow, and how often its choice passes.

problems = judged(groups)                       # lists of candidates with a verdict
values(problems, "ngram", seed=0)               # {"random": [a number a problem], "b4": [...], ..., "oracle": [...]}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rrk import rows as fields
from rrk.errors import RowError, RrkError
from rrk.reranking import fusion
from rrk.reranking.methods import METHODS
from rrk.reranking.ranking import places

Problem = list[dict[str, Any]]
_EVIDENCE = ("examples", "mbr-exec", "codet", "b4")  # these leave whole groups of candidates equal
_FOLDS = 5


def validate(row: dict[str, Any]) -> None:
    """RowError unless the row can be compared at all."""
    METHODS["oracle"].validate(row)


def judged(problems: Sequence[Problem]) -> list[Problem]:
    """The problems without the candidates that could not be judged."""
    kept = [[row for row in problem if row["passed"] is not None] for problem in problems]
    return [problem for problem in kept if problem]


def languages(problems: Sequence[Problem]) -> list[str]:
    return [fields.language_code(str(problem[0].get("language") or "py")) for problem in problems]


def clusters(problems: Sequence[Problem]) -> list[str]:
    return [fields.base_problem(fields.task_id(problem[0])) for problem in problems]


def values(
    problems: Sequence[Problem], ties: str | None, seed: int, note: Callable[[str], None] = lambda text: None
) -> dict[str, list[float]]:
    """Method -> for each problem the chance that its choice passes. `note` is told of methods that are left out."""
    found: dict[str, list[float]] = {}
    left: list[str] = []
    found["random"] = [sum(row["passed"] for row in problem) / len(problem) for problem in problems]
    orders = {}
    for name, method in METHODS.items():
        if method.score is None or name in ("random", "oracle"):
            continue
        if lacking := _lacks(problems, method.validate):
            if name != "score":  # mostly nobody has ranked the rows
                left.append(f"{name} ({lacking})")
            continue
        orders[name] = [method.score(problem, seed) for problem in problems]
        found["reward (score)" if name == "score" else name] = _tops(problems, orders[name])
    for name in _EVIDENCE:
        if ties in orders and name in orders and name != ties:
            both = [places(a, b) for a, b in zip(orders[name], orders[ties], strict=True)]
            found[f"{name} --ties {ties}"] = _tops(problems, both)
    try:
        model = fusion.fit(problems, folds=_FOLDS, seed=seed)
        found["fused"] = _tops(problems, [model.score(problem) for problem in problems])
    except RrkError as error:
        left.append(f"fused ({error})")
    found["oracle"] = [float(any(row["passed"] for row in problem)) for problem in problems]
    if left:
        note(f"left out: {'; '.join(left)}")
    return found


def named(problems: Sequence[Problem], given: Sequence[Problem]) -> list[float | None]:
    """For each of `problems` how often the choice that these other rows make passes; None where they have none of it.

    Rows with a score choose by it; of others any is taken: one sample, or the greedy one. Where they are these very candidates
    (`rrk rerank --undecided`), a problem that they lack and whose programs have one verdict is known all the same.
    """
    own = {fields.problem_key(problem[0]): problem for problem in judged(given)}
    same = _same(problems, own)
    found: list[float | None] = []
    for problem in problems:
        rows = own.get(fields.problem_key(problem[0]))
        if rows is None:
            verdicts = {bool(row["passed"]) for row in problem}
            found.append(float(verdicts.pop()) if same and len(verdicts) == 1 else None)
            continue
        scored = all(isinstance(row.get("score"), (int, float)) for row in rows)
        found += _tops([rows], [[float(row["score"]) if scored else 0.0 for row in rows]])
    return found


def _same(problems: Sequence[Problem], own: Mapping[tuple[str, str], Problem]) -> bool:
    """Are these rows candidates of `problems`, and no other?"""
    texts = {fields.problem_key(problem[0]): {_text(row) for row in problem} for problem in problems}
    return all(key in texts and {_text(row) for row in rows} <= texts[key] for key, rows in own.items())


def _text(row: dict[str, Any]) -> Any:
    return row.get("completion", row.get("solution"))


def _lacks(problems: Sequence[Problem], validate: Callable[[dict[str, Any]], object]) -> str:
    """The first row's complaint, in a word or two; empty where all rows have what the method needs."""
    try:
        for problem in problems:
            for row in problem:
                validate(row)
    except RowError as error:
        return Exception.__str__(error).partition(";")[0]
    return ""


def _tops(problems: Sequence[Problem], scores: Sequence[Sequence[float]]) -> list[float]:
    """Share of passing candidates among those with the best score."""
    out = []
    for problem, own in zip(problems, scores, strict=True):
        best = max(own)
        tied = [bool(row["passed"]) for row, score in zip(problem, own, strict=True) if score == best]
        out.append(sum(tied) / len(tied))
    return out
