"""One report against another, on the problems that both have, in pairs.

found = compare(ours, theirs)               # reports of report.build
metric, outcome = verdict(found)            # "better", "worse", "no clear difference"
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rrk import rows
from rrk.errors import UsageError
from rrk.evaluation import statistics

METRICS = ("pass@1", "ranked_pass@1", "auc")


def compare(
    ours: dict[str, Any], theirs: dict[str, Any], *, repeats: int = statistics.REPEATS, seed: int = 0
) -> dict[str, Any]:
    """Two reports' paired differences (ours - theirs) on the problems that both have, a metric each that both have."""

    def values(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
        return {(t["language"], t["task_id"]): {"pass@1": t["passed"] / t["n"], **t} for t in report["tasks"]}

    a, b = values(theirs), values(ours)
    common = [key for key in b if key in a]
    if not common:
        raise UsageError("the two have no problem in common: nothing can be compared in pairs")
    out: dict[str, Any] = {
        "common": len(common),
        "only_ours": len(b) - len(common),
        "only_theirs": len(a) - len(common),
    }
    for metric in METRICS:
        keys = [k for k in common if a[k].get(metric) is not None and b[k].get(metric) is not None]
        if not keys or (metric != "auc" and len(keys) < len(common)):
            continue
        found = statistics.compare(
            [a[k][metric] for k in keys],
            [b[k][metric] for k in keys],
            [language for language, _ in keys],
            [rows.base_problem(task) for _, task in keys],
            repeats=repeats,
            seed=seed,
        )
        out[metric] = found | {
            "ours": _mean(b, keys, metric),
            "theirs": _mean(a, keys, metric),
        }
    return out


def _mean(values: dict[Any, dict[str, Any]], keys: Sequence[tuple[str, str]], metric: str) -> float | None:
    return statistics.Table.build([values[k][metric] for k in keys], [language for language, _ in keys]).mean()


def verdict(comparison: dict[str, Any], level: float = 0.05) -> tuple[str, str]:
    """(metric, "better" | "worse" | "no clear difference"), by ranked pass@1 where both have it, else by pass@1. Both
    p-values must agree that there is a difference."""
    metric = "ranked_pass@1" if "ranked_pass@1" in comparison else "pass@1"
    found = comparison[metric]
    p = [found["p"], found["p_sign_flip"]]
    if None in p or max(p) >= level:
        return metric, "no clear difference"
    return metric, "better" if found["difference"] > 0 else "worse"
