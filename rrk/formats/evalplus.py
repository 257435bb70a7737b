"""EvalPlus: its samples, folder of programs and eval_results.json (0.3) in; eval_results.json out.

    for row in read(["samples.jsonl", "samples/", "eval_results.json"]): ...
    results(rows_with_verdicts, lambda row: program)     # the value that eval_results.json holds

A folder holds one folder a problem, named by its task_id with `/` as `_`, with a whole program in each NUMBER.py
(EvalPlus, data/utils.py). rrk judges the base and the extra tests of a problem as one, so both statuses say the same:
EvalPlus's figure for base + extra tests is right, and the one for the base tests alone a lower bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rrk import jsonl, rows
from rrk.errors import RowError, RrkError, UsageError
from rrk.formats.common import load


def read(paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    for path in paths:
        if path != jsonl.STDIN and Path(path).is_dir():
            yield from folder(path)
            continue
        results = _results(path) if path != jsonl.STDIN else None
        if results is None:
            for row in jsonl.read([path]):
                rows.task_id(row)
                rows.completion(row)
                full = "solution" in row and "completion" not in row
                yield jsonl.Row({**row, **({"completion_kind": "full"} if full else {})}, row.where)
            continue
        for task, found in results.items():
            if not isinstance(found, list):
                raise RrkError(f"{path}: results without programs (EvalPlus before 0.3); convert its samples instead")
            for one in found:
                # plus_status is null where only the base tests were run.
                said = [one.get("base_status"), one.get("plus_status")]
                passed = all(status in ("pass", None) for status in said) and "pass" in said
                status = "OK" if passed else "Timeout" if "timeout" in said else "Exception"
                yield {
                    "task_id": task,
                    "language": "py",
                    "solution": str(one["solution"]),
                    "completion_kind": "full",
                    "passed": passed,
                    "status": status,
                    "base_status": said[0],
                    "plus_status": said[1],
                }


def _results(path: str) -> dict[str, Any] | None:
    """The `eval` part of an eval_results.json, or None if the file is samples."""
    if not path.endswith((".json", ".json.gz")):
        return None
    value = load(path)
    if not isinstance(value, dict) or not isinstance(value.get("eval"), dict):
        raise RrkError(f"{path}: neither EvalPlus samples (.jsonl) nor its eval_results.json")
    return value["eval"]


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
