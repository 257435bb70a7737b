"""Which way of choosing is best on these candidates? Pure: choices in, figures out.

    found = compare({"random": values, "ngram": values}, languages, base_problems)
    table(found); advice(found)

Several languages: a method's figure is the mean over them, and each language has a column of its own.

`values` is one number a problem: how often the chosen candidate passes (the expectation over equal scores). Intervals and
p-values are over base problems (statistics.py). Every method is compared with the best of those that can be had without the
verdict, on the same problems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rrk.evaluation import statistics
from rrk.evaluation.tables import Table, figure, number, p_value

LIMITS = ("random", "oracle")  # what any choice lies between: no method that one would use


def compare(
    values: Mapping[str, Sequence[float]], strata: Sequence[str], clusters: Sequence[str], *, repeats: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Method -> {"mean", "low", "high", "best", "against", "languages"}, the best first.

    `against`: paired, best minus this one. `languages`: each one's mean (strata, in the order in which they come).
    """
    figures = {
        name: statistics.bootstrap(own, strata, clusters, repeats=repeats, seed=seed) for name, own in values.items()
    }
    usable = [name for name in figures if name not in LIMITS] or list(figures)
    best = max(usable, key=lambda name: figures[name]["mean"])
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(figures, key=lambda name: -figures[name]["mean"]):
        against = None
        if name != best:
            against = statistics.compare(values[name], values[best], strata, clusters, repeats=repeats, seed=seed)
        languages = statistics.Table.build(values[name], strata, clusters).means()
        found[name] = {**figures[name], "best": name == best, "against": against, "languages": languages}
    return found


def table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row a method; a column a language, where there are several."""
    lines = []
    languages = list(next(iter(found.values()))["languages"])
    if len(languages) == 1:
        languages = []
    for name, own in found.items():
        against = own["against"]
        lines.append(
            [
                name,
                *(number(round(own["languages"][language], 3)) for language in languages),
                figure(own),
                "best" if own["best"] else number(round(-against["difference"], 3) + 0.0),
                "" if own["best"] else p_value(against["p"]),
            ]
        )
    return "", ["method", *languages, "best-ranked passes", "against the best", "p"], lines


def advice(found: Mapping[str, Mapping[str, Any]]) -> str:
    """`use b4; codet and ngram are no worse by more than chance`."""
    best = next(name for name, own in found.items() if own["best"])
    level = [
        name
        for name, own in found.items()
        if name not in LIMITS and own["against"] and (own["against"]["p"] is None or own["against"]["p"] >= 0.05)
    ]
    text = f"use {best}"
    if level:
        shown = " and ".join(filter(None, [", ".join(level[:-1]), level[-1]]))
        text += f"; no more than chance between it and {shown}"
    chance = found.get("random", {}).get("against")
    if chance and (chance["p"] is None or chance["p"] >= 0.05):
        text = f"no method is clearly better than chance here; {text}"
    return text
