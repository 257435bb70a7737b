"""Candidate rows become jobs: the join of what a model wrote with the problem that it answers.

    problems = Problems(["problems.jsonl"])       # or Problems([]) where rows carry their own tests
    job = problems.job(row)                       # RowError (file:line, remedy) where a row fits no problem
    job, tests = Evidence(["generated.jsonl"], problems, shown=True).job(row)

A problem is found by task_id and language, for MultiPL-E names a problem alike in each language. With hidden=False the
problems' tests are never kept, so that nothing gathered from a program can come from them. With public=True the cases that a
problem's own text shows are all that is kept.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from rrk import cases, jsonl, rows
from rrk.cases import CaseSet
from rrk.errors import RowError, RrkError
from rrk.rows import Problem
from rrk.sandbox import shown
from rrk.sandbox.judge.snippets import asserts
from rrk.sandbox.languages import toolchains
from rrk.sandbox.verdict import Job, Verdict

OWN_TESTS = ("tests", "test", "test_list", "cases")


class Problems:
    """The problems of some files, by task_id and language."""

    def __init__(self, paths: Iterable[str], hidden: bool = True, public: bool = False) -> None:
        self._paths = list(paths)
        self._hidden, self._public = hidden, public
        self._found: dict[str, dict[str, Problem]] = {}
        self._case_sets: dict[tuple[str, str], CaseSet] = {}  # by task_id and language
        for row in jsonl.read(self._paths):
            problem = rows.problem(row, tests=hidden)
            same = self._found.setdefault(problem.task_id, {})
            earlier = same.get(problem.language)
            case_set = self._cases_of(row)
            key = (problem.task_id, problem.language)
            if earlier is not None and (earlier.tests != problem.tests or self._case_sets.get(key) != case_set):
                raise RowError(
                    f"problem '{problem.task_id}' ({problem.language}) stands here a second time with other tests",
                    rows.where(row),
                )
            same[problem.language] = problem
            if case_set is not None:
                self._case_sets[key] = case_set

    def problem(self, row: dict[str, Any]) -> Problem:
        """The problem a row belongs to; the row itself where no files were given."""
        task = rows.task_id(row)
        if not self._paths:
            if self._hidden and not any(name in row for name in OWN_TESTS):
                raise RowError("no tests for it; give the problems with -p FILE", rows.where(row))
            own = jsonl.Row({"prompt": "", **row}, rows.where(row))
            return replace(rows.problem(own, tests=self._hidden), canonical_solution=None)
        files = ", ".join(self._paths)
        known = self._found.get(task)
        if known is None:
            raise RowError(
                f"no problem '{task}' in {files}; give the file that has it with -p (several are allowed)",
                rows.where(row),
            )
        if row.get("language") is None:
            if len(known) == 1:
                return next(iter(known.values()))
            raise RowError(f"no field 'language', and '{task}' is there in {', '.join(sorted(known))}", rows.where(row))
        language = rows.language_code(str(row["language"]))
        if language not in known and (shared := self._shared(task)):
            return replace(shared, language=language, canonical_solution=None)
        if language not in known:
            raise RowError(
                f"no problem '{task}' in language '{language}' in {files} (it is there in {', '.join(sorted(known))})",
                rows.where(row),
            )
        return known[language]

    def _shared(self, task: str) -> Problem | None:
        """A problem that programs of any language may answer: they read and print."""
        for language, problem in self._found[task].items():
            case_set = self._case_sets.get((task, language))
            if case_set is not None and case_set.kind == "stdin":
                return problem
        return None

    def _cases_of(self, row: dict[str, Any]) -> CaseSet | None:
        if self._public:
            whole = cases.case_set(row)
            return whole.public() if whole else None
        return cases.case_set(row) if self._hidden else None

    def _case_set(self, row: dict[str, Any], problem: Problem) -> CaseSet | None:
        if not (self._hidden or self._public):
            return None
        if not self._paths:
            return self._cases_of(row)
        own = self._case_sets.get((problem.task_id, problem.language))
        if (
            own is None
            and (shared := self._shared(problem.task_id))
            and problem.language not in self._found[problem.task_id]
        ):
            own = self._case_sets[problem.task_id, shared.language]
        return own

    def job(self, row: dict[str, Any]) -> Job:
        """What to run for a row."""
        problem = self.problem(row)
        prompt = row.get("prompt")
        case_set = self._case_set(row, problem)
        if self._public and case_set is None:
            raise RowError(f"problem '{problem.task_id}' shows no case with public: true", rows.where(row))
        return Job(
            problem.language,
            prompt if isinstance(prompt, str) else problem.prompt,
            rows.completion(row),
            problem.tests,
            problem.entry_point,
            full=rows.is_full(row),
            main=problem.run_as_main,
            reference=problem.canonical_solution,
            case_set=case_set,
        )

    def found(self, row: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
        """A row's field `evidence`, of the cases that its problem shows (public=True)."""
        case_set = self._case_set(row, self.problem(row))
        count = len(case_set.cases) if case_set else 0
        return _evidence(verdict, count) | {"shown": count}


class Evidence:
    """Tests that are not the problem's own, by task_id: with shown=True first of all the examples that a prompt shows, and
    generated ones. A row of a file has one of

    tests: ["assert f(1) == 2", ...]   samples: what a model wrote when asked for tests (CodeT)   inputs: ["(1, 2)", ...]

    and the tests of all its rows count together. Snippets that do not parse or do not call the function are dropped. Generated
    tests are Python's. Elsewhere a prompt's examples are one test, which a program without any passes by compiling and loading;
    the language's file says how they are written.
    """

    def __init__(
        self,
        paths: Iterable[str],
        problems: Problems,
        most: int | None = None,
        shown: bool = False,
        sandboxes: Sequence[str] = (),
    ) -> None:
        self._paths = list(paths)
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._tests: dict[tuple[str, str], tuple[str, ...]] = {}
        self._examples: dict[tuple[str, str], tuple[str, ...]] = {}
        self._problems, self._most, self._shown, self._sandboxes = problems, most, shown, sandboxes
        for row in jsonl.read(self._paths):
            if not any(isinstance(row.get(name), list) for name in ("tests", "samples", "inputs")):
                raise RowError("a row of generated tests has a list 'tests', 'samples' or 'inputs'", rows.where(row))
            self._rows.setdefault(rows.task_id(row), []).append(row)
        if self._paths and not self._rows:
            raise RrkError(f"{', '.join(self._paths)}: no generated tests in it")

    def job(self, row: dict[str, Any]) -> tuple[Job, tuple[str, ...] | None]:
        """What to run for a row: a program with the tests to run on it one by one, or (None) with one text of tests in it."""
        job = self._problems.job(row)
        if job.language == "py":
            return replace(job, entry_point=self._entry_point(row), tests=""), self.tests(row)
        return replace(job, tests=self._program(row, job.language)), None

    def shows(self, row: dict[str, Any]) -> bool:
        """Whether a candidate's prompt has an example."""
        problem = self._problems.problem(row)
        if problem.language == "py":
            return bool(self._of_prompt(row))
        form = toolchains.load(problem.language, self._sandboxes).examples
        return form is not None and self._program(row, problem.language) != form.head + form.tail

    def found(self, row: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
        """A row's field `evidence`: `passed` and `outputs`, a test each, perhaps `shown` and `error`."""
        if self._problems.problem(row).language == "py":
            made, of_prompt = _evidence(verdict, len(self.tests(row))), len(self._of_prompt(row))
        elif verdict.passed is not None:
            made, of_prompt = {"passed": str(int(verdict.passed)), "outputs": [None]}, 1
        else:
            made, of_prompt = _evidence(verdict, 1), 1
        return made | ({"shown": of_prompt} if self._shown else {})

    def _entry_point(self, row: dict[str, Any]) -> str:
        problem = self._problems.problem(row)
        entry_point = problem.entry_point or row.get("entry_point") or problem.function
        if not entry_point:
            task = rows.task_id(row)
            raise RowError(f"problem '{task}' has no 'entry_point'; generated tests call it by name", rows.where(row))
        return str(entry_point)

    def tests(self, row: dict[str, Any]) -> tuple[str, ...]:
        """The tests for a candidate row, the same for every candidate of its problem."""
        task = rows.task_id(row)
        if self._paths and task not in self._rows:
            raise RowError(f"no generated tests for '{task}' in {', '.join(self._paths)}", rows.where(row))
        entry_point = self._entry_point(row)
        key = (task, entry_point)
        if key not in self._tests:
            found: dict[str, None] = dict.fromkeys(self._of_prompt(row))
            for source in self._rows.get(task, ()):
                texts = [str(text) for text in source.get("tests") or source.get("samples") or ()]
                per_sample = 1_000_000 if source.get("tests") else 5
                found |= dict.fromkeys(asserts(texts, entry_point, per_sample=per_sample))
                found |= dict.fromkeys(filter(None, (_call(entry_point, text) for text in source.get("inputs") or ())))
            self._tests[key] = tuple(found)[: self._most]
        return self._tests[key]

    def _of_prompt(self, row: dict[str, Any]) -> tuple[str, ...]:
        if not self._shown:
            return ()
        key = (rows.task_id(row), self._entry_point(row))
        if key not in self._examples:
            self._examples[key] = tuple(shown.asserts(self._problems.problem(row).prompt, key[1])[: self._most])
        return self._examples[key]

    def _program(self, row: dict[str, Any], language: str) -> str:
        key = (rows.task_id(row), language)
        if key not in self._examples:
            if not self._shown:
                raise RowError(f"generated tests are Python; for '{language}' there is --examples", rows.where(row))
            form = toolchains.load(language, self._sandboxes).examples
            if form is None:
                raise RowError(
                    f"--examples does not know how to test '{language}'; [examples] in its file says it",
                    rows.where(row),
                )
            prompt = self._problems.problem(row).prompt
            if form.fits is not None and not form.fits.search(prompt):
                raise RowError(
                    f"--examples cannot test prompts like this one's in '{language}'; [examples] in its file says which",
                    rows.where(row),
                )
            self._examples[key] = (shown.program(prompt, form),)
        return self._examples[key][0]


def _evidence(verdict: Verdict, count: int) -> dict[str, Any]:
    """What was found of `count` tests; where nothing could be, none counts as passed, and `error` says why."""
    if verdict.evidence is not None:
        return verdict.evidence
    return {"passed": "0" * count, "outputs": [None] * count, "error": f"{verdict.status}: {verdict.stderr}"}


def _call(entry_point: str, arguments: Any) -> str | None:
    """`f(1, 2)` from an argument list's text `(1, 2)` or `1, 2`; None if it is none."""
    for text in (f"{entry_point}{arguments}", f"{entry_point}({arguments})"):
        if (node := shown.call(text, entry_point)) is not None:
            return ast.unparse(node)
    return None
