"""EvalPlus: its folder of programs in, its eval_results.json out.

    for row in folder("samples/"): ...
    results(rows_with_verdicts, lambda row: program)     # the value that eval_results.json holds

A folder holds one folder a problem, named by its task_id with `/` as `_`, with a whole program in each NUMBER.py
(EvalPlus, data/utils.py). rrk judges the base and the extra tests of a problem as one, so both statuses say the same:
EvalPlus's figure for base + extra tests is right, and the one for the base tests alone a lower bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from rrk import rows
from rrk.errors import RowError, UsageError


def folder(path: str) -> Iterator[dict[str, Any]]:
    """Candidate rows of a folder of programs, by task and number; UsageError where there is none."""
    found = False
    for task in sorted(filter(Path.is_dir, Path(path).iterdir()), key=_by_number):
        for number, file in enumerate(sorted(task.glob("*.py"), key=_by_number)):
            found = True
            try:
                program = file.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise UsageError(f"{file}: not UTF-8 ({error.reason}, byte {error.start})") from None
            yield {
                # As EvalPlus does it: HumanEval_0 is HumanEval/0.
                "task_id": task.name.replace("_", "/"),
                "language": "py",
                "completion_id": int(file.stem) if file.stem.isdecimal() else number,
                "solution": program,
                "completion_kind": "full",
            }
    if not found:
        raise UsageError(f"{path}: no folder of EvalPlus: TASK_ID/NUMBER.py is expected in it")


def results(source: Iterable[dict[str, Any]], whole: Callable[[dict[str, Any]], str]) -> tuple[dict[str, Any], int]:
    """What eval_results.json holds, and how many rows are in it; statuses that came from EvalPlus stay as they are."""
    found: dict[str, list[dict[str, Any]]] = {}
    count = 0
    for row in source:
        verdict = row.get("passed")
        if not isinstance(verdict, bool):
            raise RowError("no verdict in 'passed': run rrk execute, and leave unjudged rows out", rows.where(row))
        status = "pass" if verdict else "timeout" if row.get("status") == "Timeout" else "fail"
        task = rows.task_id(row)
        found.setdefault(task, []).append(
            {
                "task_id": task,
                "solution": whole(row),
                "base_status": row.get("base_status", status),
                "plus_status": row.get("plus_status", status),
                "base_fail_tests": [],
                "plus_fail_tests": [],
            }
        )
        count += 1
    return {"date": time.strftime("%Y-%m-%d %H:%M"), "hash": "", "eval": found}, count


def _by_number(path: Path) -> tuple[str, int, str]:
    """HumanEval_2 before HumanEval_10."""
    head, _, tail = path.stem.rpartition("_")
    return (head, int(tail), "") if tail.isdecimal() else (path.stem, -1, path.name)
