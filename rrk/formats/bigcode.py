"""bigcode-evaluation-harness: generations.json, a list of whole programs a problem, in the order of the problems file.

for row in read(["generations.json"], problems): ...
write(rows, "generations.json", problems)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rrk import outputs, rows
from rrk.errors import RowError, RrkError, UsageError
from rrk.formats.common import Problems, find, load, whole


def read(paths: Sequence[str], problems: Problems | None) -> Iterator[dict[str, Any]]:
    if not problems:
        raise UsageError("generations.json names no problems: give them with -p, in the order they were generated in")
    for path in paths:
        value = load(path)
        if not isinstance(value, list) or not all(isinstance(group, list) for group in value):
            raise RrkError(f"{path}: a list of lists of programs is expected (generations.json)")
        for number, group in enumerate(value):
            if not all(isinstance(program, str) for program in group):
                raise RrkError(
                    f"{path}: problem {number} holds something else than programs (texts); generate it again"
                )
        if len(value) > len(problems):
            raise UsageError(f"{path}: {len(value)} problems, but -p has only {len(problems)}")
        # The harness takes the first problems where --limit was given.
        for problem, group in zip(problems.values(), value, strict=False):
            for number, program in enumerate(group):
                row = {
                    "task_id": problem.task_id,
                    "language": problem.language,
                    "prompt": problem.prompt,
                    "completion_id": number,
                }
                text = program
                if text.startswith(problem.prompt):
                    yield {**row, "completion": text[len(problem.prompt) :]}
                else:
                    yield {**row, "completion": text, "completion_kind": "full"}


def write(source: Iterable[dict[str, Any]], output: str, problems: Problems | None) -> int:
    groups: dict[tuple[str, str], list[str]] = {key: [] for key in problems or {}}
    count = 0
    for row in source:
        found = find(problems, row)
        if problems and found is None:
            raise RowError(f"'{rows.task_id(row)}' is not among the problems of -p", rows.where(row))
        key = (found.task_id, found.language) if found else rows.problem_key(row)
        groups.setdefault(key, []).append(whole(row, problems))
        count += 1
    with outputs.whole(output) as sink:
        sink.write(json.dumps(list(groups.values())).encode("ascii"))
    return count
