"""LiveCodeBench: the files that its custom_evaluator takes and gives, a list of questions with their programs.

    for row in read(["codegeneration_output_eval_all.json"]): ...
    results(rows, lambda row: program, problems)     # the value that such a file holds

{question_id, code_list} is what its evaluator judges; where all rows have verdicts, the list is what its compute_scores sums up:
graded_list and pass@1, and of the question its title, platform, contest, date and difficulty, which problems have that
`rrk problems livecodebench` made. Questions stand in the order of their ids as texts, as its evaluator sorts them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rrk import rows
from rrk.errors import RowError, RrkError
from rrk.formats.common import Problems, find, load

PREFIX = "LiveCodeBench/"
NEEDED = ("platform", "contest_date", "difficulty")  # of what its scores are made for


def read(paths: Sequence[str], problems: Collection[rows.Problem]) -> Iterator[dict[str, Any]]:
    """A row a program, with a verdict where the file has one; RrkError for another file."""
    for path in paths:
        value = load(path)
        if not isinstance(value, list) or not all(
            isinstance(one, dict) and "question_id" in one and isinstance(one.get("code_list"), list) for one in value
        ):
            raise RrkError(f"{path}: a list of questions with 'question_id' and 'code_list' is expected")
        for question in value:
            graded = question.get("graded_list")
            if graded is not None and (not isinstance(graded, list) or len(graded) != len(question["code_list"])):
                raise RrkError(
                    f"{path}: question {question['question_id']}: {len(question['code_list'])} programs in code_list, "
                    "and not as many verdicts in graded_list"
                )
            about = {key: question[key] for key in rows.ABOUT if key in question}
            for number, program in enumerate(question["code_list"]):
                row = {
                    "task_id": f"{PREFIX}{question['question_id']}",
                    "language": "py",
                    "completion_id": number,
                    "solution": str(program),
                    "completion_kind": "full",
                    **about,
                }
                if graded is not None:
                    passed = bool(graded[number])
                    row |= {"passed": passed, "status": "OK" if passed else "Exception"}
                yield row


def results(
    source: Iterable[dict[str, Any]], whole: Callable[[dict[str, Any]], str], problems: Problems | None
) -> tuple[list[dict[str, Any]], int]:
    """The list of questions, and how many rows are in it. Either all rows have verdicts or none; RowError otherwise."""
    found: dict[str, dict[str, Any]] = {}
    graded: bool | None = None
    count = 0
    for row in source:
        verdict = row.get("passed")
        if graded is None:
            graded = isinstance(verdict, bool)
        if graded != isinstance(verdict, bool):
            raise RowError("some rows have no verdict in 'passed': judge all, or leave these out", rows.where(row))
        task = rows.task_id(row).removeprefix(PREFIX)
        question = found.get(task)
        if question is None:
            question = {"question_id": task, **_about(row, problems, graded), "output_list": [], "code_list": []}
            question |= {"graded_list": []} if graded else {}
            found[task] = question
        program = whole(row)
        question["code_list"].append(program)
        question["output_list"].append(program)
        if graded:
            question["graded_list"].append(verdict)
        count += 1
    for question in found.values():
        if graded:
            question["pass@1"] = question["graded_list"].count(True) / len(question["graded_list"])
    return [found[task] for task in sorted(found)], count


def _about(row: dict[str, Any], problems: Problems | None, graded: bool) -> Mapping[str, Any]:
    problem = find(problems, row)
    about = {key: row[key] for key in rows.ABOUT if key in row} | (dict(problem.about) if problem else {})
    if graded and (lacking := [key for key in NEEDED if key not in about]):
        raise RowError(
            f"no field '{lacking[0]}', which LiveCodeBench's scores need; give its problems with -p "
            "(rrk problems livecodebench)",
            rows.where(row),
        )
    return about
