"""How scores become ranks, and what a rank means where scores tie.

    ranked = rank(problem, scores, seed=0)               # adds `score` and `rank`: 1 is the best, no rank twice
    scores = places(method_scores, other_scores)         # equal scores ordered by a second method

Equal scores are ordered by the seed and the candidate's own number, so neither its position nor its neighbours decide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rrk import rows as fields
from rrk import seeds
from rrk.errors import RowError
from rrk.jsonl import NonFinite

Rows = Sequence[dict[str, Any]]


def places(scores: Sequence[float], ties: Sequence[float]) -> list[float]:
    """Each candidate's number of places from the bottom, by `scores` and, where those are equal, by `ties`."""
    both = list(zip(scores, ties, strict=True))
    place = {pair: float(i) for i, pair in enumerate(sorted(set(both)))}
    return [place[pair] for pair in both]


def rank(rows: Rows, scores: Sequence[float], *, seed: int, method: str = "") -> list[dict[str, Any]]:
    """The rows of one problem with `score` and `rank` (1 = best). Equal scores are ordered by the seed, not by position."""
    for row, score in zip(rows, scores, strict=True):
        if math.isnan(score):
            raise RowError(f"--method {method} gives no number for this row", fields.where(row))
    task = fields.task_id(rows[0])
    tie = [seeds.derive(seed, "tie", task, identity(row, i)) for i, row in enumerate(rows)]
    order = sorted(range(len(rows)), key=lambda i: (-scores[i], tie[i], i))
    place = {index: position for position, index in enumerate(order, start=1)}
    shown = [score if math.isfinite(score) else NonFinite(score) for score in scores]
    return [{**row, "score": shown[i], "rank": place[i]} for i, row in enumerate(rows)]


def identity(row: dict[str, Any], position: int) -> int | str:
    """What a tie is broken by: the candidate's own number, so that sorting the file differently changes nothing."""
    own = row.get("completion_id")
    return own if isinstance(own, (int, str)) and not isinstance(own, bool) else position
