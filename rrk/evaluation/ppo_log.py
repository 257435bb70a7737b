"""What a PPO run's log tells: does the pass rate follow the reranker's score?

    log = read("runs/policy/log.jsonl"); table(log); remarks(log)

Rows are those of rrk/ppo/trainer.py: `update`, `score`, `kl`, and at every probe `probe_pass@1`, `probe_score` and `probe_auc`. A score
that rises while the probe's pass rate falls is over-optimisation. `probe_passed`, the verdicts behind the rate, gives it an interval
over base problems, and the difference of two updates in pairs; logs of before have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rrk import jsonl, rows
from rrk.errors import RowError, UsageError
from rrk.evaluation import statistics
from rrk.evaluation.tables import Table, figure, number, p_value

CHANCE = 0.5  # of an AUC


def read(path: str) -> list[dict[str, Any]]:
    """The log's rows by update; RowError if it is none."""
    log = []
    for row in jsonl.read([path]):
        rows.need(row, "update", int, "a log that rrk train-ppo wrote is expected")
        for name in ("score", "kl", "probe_pass@1", "probe_score", "probe_auc"):
            if row.get(name) is not None and not isinstance(row[name], (int, float)):
                raise RowError(f"field '{name}' must be a number", rows.where(row))
        told = row.get("probe_passed", [])
        if not isinstance(told, list) or not all(
            isinstance(of, dict) and isinstance(of.get("passed"), list) for of in told
        ):
            raise RowError("field 'probe_passed' must be a list of problems with 'passed', a list", rows.where(row))
        log.append(row)
    if not log:
        raise UsageError(f"{path}: empty; train-ppo writes a line an update")
    return sorted(log, key=lambda row: row["update"])


def series(log: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """(updates, values) where the log has this figure."""
    known = [(row["update"], float(row[name])) for row in log if row.get(name) is not None]
    return [u for u, _ in known], [v for _, v in known]


def best(rates: Sequence[float]) -> int:
    """The place of the best rate; of equals the first, as train-ppo keeps it."""
    return max(range(len(rates)), key=lambda i: (rates[i], -i))


def probes(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that hold a probe."""
    return [row for row in log if row.get("probe_pass@1") is not None]


def verdicts(row: dict[str, Any]) -> dict[tuple[str, str, int], tuple[float, str]]:
    """Of a probe: (task_id, language, number of the sample) -> (1 or 0, base problem), where it could be judged."""
    found = {}
    for of in row.get("probe_passed") or ():
        task, language = rows.problem_key(of)
        for at, passed in enumerate(of.get("passed") or ()):
            if passed is not None:
                found[task, language, at] = float(passed), rows.base_problem(task)
    return found


def rate(row: dict[str, Any]) -> dict[str, Any]:
    """{'mean', 'low', 'high'} of the probe's pass@1, its interval over base problems (None where the log lacks the verdicts)."""
    known = list(verdicts(row).values())
    found = statistics.bootstrap([v for v, _ in known], None, [base for _, base in known])
    return found | {"mean": row["probe_pass@1"]}


def gain(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any] | None:
    """The paired difference of two probes' pass@1 (statistics.compare); None where the log lacks the verdicts."""
    a, b = verdicts(before), verdicts(after)
    both = [key for key in a if key in b]
    if not both:
        return None
    return statistics.compare([a[k][0] for k in both], [b[k][0] for k in both], None, [a[k][1] for k in both])


def table(log: list[dict[str, Any]]) -> Table:
    """A row a probe (a row an update where there are no probes)."""
    probed = probes(log) or log
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

    def cell(row: dict[str, Any], name: str) -> str:
        if name == "probe_pass@1" and row.get(name) is not None:
            return figure(rate(row))
        return number(row.get(name), digits.get(name, 3))

    lines = [[str(row["update"]), *(cell(row, name) for name in shown)] for row in probed]
    return "", ["update", *(names[name] for name in shown)], lines


def remarks(log: list[dict[str, Any]]) -> list[str]:
    """Over-optimisation in words, where the probe shows it."""
    updates, rates = series(log, "probe_pass@1")
    if len(rates) < 2:
        return ["no probe in this log: give --probe to train-ppo, or a rising score proves nothing"]
    at, probed = best(rates), probes(log)
    start = f"at the start {number(rates[0])}"
    if at and (gained := gain(probed[0], probed[at])):
        start += f"; {_difference(gained)}, not counting that it was chosen as the best of {len(rates)}"
    said = [f"the probe's pass@1 is best at update {updates[at]}: {number(rates[at])} ({start})"]
    scores = dict(zip(*series(log, "probe_score"), strict=True)) or dict(zip(*series(log, "score"), strict=True))
    before, after = scores.get(updates[at]), scores.get(updates[-1])
    if at < len(rates) - 1 and rates[-1] < rates[at] and before is not None and after is not None:
        fall = gain(probed[at], probed[-1])
        chance = fall is not None and _by_chance(fall)
        ends = number(rates[-1]) + (f" ({_difference(fall)})" if fall else "")
        if after > before:
            fell = f"from there to update {updates[-1]} it falls to {ends} while the score rises"
            why = "over-optimised, or chance: a larger probe would tell" if chance else "over-optimised"
            said.append(f"{fell} from {number(before)} to {number(after)}: {why}")
        else:
            said.append(f"it ends at {ends}; the score falls with it" + (", or by chance" if chance else ""))
    asked, aucs = series(log, "probe_auc")
    if aucs and aucs[-1] < CHANCE + 0.1:
        said.append(
            f"at update {asked[-1]} the reranker tells right from wrong with an AUC of {number(aucs[-1])} ({number(CHANCE)} is "
            f"chance; at the start {number(aucs[0])}): retrain it on this policy's samples before more updates, or give --stop-auc"
        )
    return said


def untold(log: list[dict[str, Any]], kept: int) -> str | None:
    """Where the probe kept an update before the last, and the two differ by no more than chance: that, in words."""
    probed = {row["update"]: row for row in probes(log)}
    last = max(probed, default=kept)
    if kept not in probed or kept == last:
        return None
    found = gain(probed[kept], probed[last])
    if found is None or not _by_chance(found):
        return None
    return f"the probe does not tell update {kept} from {last} ({_difference(found)}): a larger one would; --keep last keeps the last"


def _by_chance(found: dict[str, Any]) -> bool:
    """May the difference be no more than that? So also where there are too few problems for a p."""
    return found["p"] is None or bool(found["p"] >= 0.05)


def _difference(found: dict[str, Any]) -> str:
    return f"{figure({**found, 'mean': found['difference']})}, p {p_value(found['p'])}"
