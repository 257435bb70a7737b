"""What formats share: the problem that a row belongs to, its prompt and whole program, and files of one JSON value.

find(problems, row); entry_point(row, problems); prompt_of(row, problems); whole(row, problems)
load("generations.json.gz"); dump(Path("x.json.gz"), value)
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rrk import jsonl, outputs, rows
from rrk.errors import RrkError

Problems = Mapping[tuple[str, str], rows.Problem]  # by task_id and language, in the order of their file


def find(problems: Problems | None, row: Mapping[str, Any]) -> rows.Problem | None:
    """A row's problem. A row that names no language belongs to the only problem of its name."""
    if not problems:
        return None
    own = dict(row)
    if found := problems.get(rows.problem_key(own)):
        return found
    same = (
        [problem for (task, _), problem in problems.items() if task == rows.task_id(own)]
        if "language" not in own
        else []
    )
    return same[0] if len(same) == 1 else None


def entry_point(row: Mapping[str, Any], problems: Problems | None) -> str | None:
    """The function that a row's problem asks for, if the row or the problem says so."""
    problem = find(problems, row)
    own = problem.entry_point if problem else row.get("entry_point")
    return own if isinstance(own, str) and own else None


def prompt_of(row: Mapping[str, Any], problems: Problems | None) -> str | None:
    own = row.get("prompt")
    if isinstance(own, str):
        return own
    problem = find(problems, row)
    return problem.prompt if problem else None


def whole(row: dict[str, Any], problems: Problems | None) -> str:
    return rows.program(row, prompt_of(row, problems))


def load(path: str) -> Any:
    with jsonl.open_binary(path) as stream:
        try:
            return jsonl.loads(stream.read())
        except (ValueError, gzip.BadGzipFile, EOFError) as error:
            raise RrkError(f"{path}: not JSON, or damaged ({error})") from None


def dump(path: Path, value: Any) -> None:
    with outputs.whole(path) as raw, outputs.packed(raw, path.name) as sink:
        sink.write(json.dumps(value, indent=2).encode("ascii"))
