"""What a PPO run's log tells: does the pass rate follow the reranker's score?

    log = read("runs/policy/log.jsonl"); table(log); remarks(log)

Rows are those of rrk/ppo/trainer.py: `update`, `score`, `kl`, and at every probe `probe_pass@1`, `probe_score` and `probe_auc`. A score
that rises while the probe's pass rate falls is over-optimisation.
"""

from __future__ import annotations

from typing import Any

from rrk import jsonl, rows
from rrk.errors import RowError, UsageError
from rrk.evaluation.tables import Table, number

CHANCE = 0.5  # of an AUC


def read(path: str) -> list[dict[str, Any]]:
    """The log's rows by update; RowError if it is none."""
    log = []
    for row in jsonl.read([path]):
        rows.need(row, "update", int, "a log that rrk train-ppo wrote is expected")
        for name in ("score", "kl", "probe_pass@1", "probe_score", "probe_auc"):
            if row.get(name) is not None and not isinstance(row[name], (int, float)):
                raise RowError(f"field '{name}' must be a number", rows.where(row))
        log.append(row)
    if not log:
        raise UsageError(f"{path}: empty; train-ppo writes a line an update")
    return sorted(log, key=lambda row: row["update"])


def series(log: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """(updates, values) where the log has this figure."""
    known = [(row["update"], float(row[name])) for row in log if row.get(name) is not None]
    return [u for u, _ in known], [v for _, v in known]


def table(log: list[dict[str, Any]]) -> Table:
    """A row a probe (a row an update where there are no probes)."""
    probed = [row for row in log if row.get("probe_pass@1") is not None] or log
    names = {
        "score": "score",
        "probe_score": "score (probe)",
        "probe_pass@1": "pass@1 (probe)",
        "probe_auc": "AUC (probe)",
        "kl": "KL",
        "entropy": "entropy",
        "length": "tokens",
        "truncated": "cut off",
        "duplicates": "duplicates",
    }
    shown = [name for name in names if any(row.get(name) is not None for row in probed)]
    digits = {"length": 0, "kl": 2}
    lines = [[str(row["update"]), *(number(row.get(name), digits.get(name, 3)) for name in shown)] for row in probed]
    return "", ["update", *(names[name] for name in shown)], lines


def remarks(log: list[dict[str, Any]]) -> list[str]:
    """Over-optimisation in words, where the probe shows it."""
    updates, rates = series(log, "probe_pass@1")
    if len(rates) < 2:
        return ["no probe in this log: give --probe to train-ppo, or a rising score proves nothing"]
    best = max(range(len(rates)), key=lambda i: (rates[i], -i))
    said = [
        f"the probe's pass@1 is best at update {updates[best]}: {number(rates[best])} (at the start {number(rates[0])})"
    ]
    scores = dict(zip(*series(log, "probe_score"), strict=True)) or dict(zip(*series(log, "score"), strict=True))
    before, after = scores.get(updates[best]), scores.get(updates[-1])
    if best < len(rates) - 1 and rates[-1] < rates[best] and before is not None and after is not None:
        if after > before:
            fell = f"from there to update {updates[-1]} it falls to {number(rates[-1])} while the score rises"
            said.append(f"{fell} from {number(before)} to {number(after)}: over-optimised")
        else:
            said.append(f"it ends at {number(rates[-1])}; the score falls with it")
    probed, aucs = series(log, "probe_auc")
    if aucs and aucs[-1] < CHANCE + 0.1:
        said.append(
            f"at update {probed[-1]} the reranker tells right from wrong with an AUC of {number(aucs[-1])} ({number(CHANCE)} is "
            f"chance; at the start {number(aucs[0])}): retrain it on this policy's samples before more updates, or give --stop-auc"
        )
    return said
