"""Test idioms through the judge: right programs pass, wrong ones fail, and nothing gets a label by accident."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from rrk import benchmarks, rows
from rrk.errors import RrkError
from rrk.sandbox.judge import suites
from rrk.sandbox.judge.judge import Judge
from rrk.sandbox.judge.suites_text import vain
from rrk.sandbox.verdict import Job
from rrk.sandbox.workers.worker import Worker
from tests.sandbox.idioms import IDIOMS, Idiom
from tests.sandbox.odd_tests import ODD

try:
    Worker().close()
except RrkError as error:
    pytest.skip(str(error), allow_module_level=True)


def test_every_idiom_gets_the_right_label():
    """At least 80 ways to test: the right program passes, its wrong twin fails, and neither is called Tampered."""
    packages = {name: importlib.util.find_spec(name) for idiom in IDIOMS for name in idiom.needs}
    here: list[Idiom] = [idiom for idiom in IDIOMS if all(packages[name] for name in idiom.needs)]
    assert len(here) >= 80
    folders = {str(Path(spec.origin).parent.parent) for spec in packages.values() if spec and spec.origin}
    jobs = [Job("py", i.prompt, text, i.tests, i.entry) for i in here for text in (i.right, i.wrong)]
    with Judge(2, packages=sorted(folders)) as judge:
        verdicts = list(judge.judge(jobs))
    found = [(i.name, v.passed, v.status, v.stderr[-300:]) for i, v in zip(twice(here), verdicts, strict=True)]
    assert [line for n, line in enumerate(found) if line[1] is not (n % 2 == 0)] == []
    assert not [line for line in found if line[2] == "Tampered"]


def twice(things):
    return [thing for thing in things for _ in range(2)]


def test_main_parts_do_not_run_and_tests_that_test_nothing_give_no_label():
    """`return 42` must not pass because nobody called the tests; None, and the reason, where nothing can be run."""
    with Judge(2) as judge:
        verdicts = list(
            judge.judge([Job("py", "", text, o.tests, o.entry) for o in ODD for text in (o.right, o.wrong)])
        )
    for n, (odd, verdict) in enumerate(zip(twice(ODD), verdicts, strict=True)):
        assert verdict.passed is (None if odd.null else n % 2 == 0), (odd.name, verdict)
        assert not odd.null or (verdict.status, verdict.reason) == ("SandboxError", "tests"), (odd.name, verdict)


def test_a_script_runs_its_main_part():
    """MultiPL-E runs Python programs as scripts."""
    program = "def f(n):\n    return n\nif __name__ == '__main__':\n    raise ValueError\n"
    job = Job("py", "", program, "assert f(1) == 1\n", "f")
    with Judge(1) as judge:
        assert [v.passed for v in judge.judge([job, replace(job, main=True)])] == [True, False]


def test_a_canonical_solution_shows_tests_that_must_share_the_process():
    """What reading cannot see: the solution fails apart and passes whole, so its problem is judged whole."""
    # The program remembers its arguments by identity, which does not cross; no word of the tests shows it.
    right = "seen = {}\ndef f(x):\n    seen.setdefault(id(x), len(seen))\n    return seen[id(x)]\n"
    wrong = "def f(x):\n    return 1\n"
    tests = "a, b = [1], [1]\nassert f(a) == 0\nassert f(b) == 1\nassert f(a) == 0\n"
    assert suites.look(tests, "f").whole is None
    with Judge(1) as judge:
        found = list(judge.judge([Job("py", "", program, tests, "f", reference=right) for program in (right, wrong)]))
        assert [v.passed for v in found] == [True, False]
        assert found[0].integrity == "in_process"
        assert judge.figures["tests in the program's process"] == 2


@pytest.mark.parametrize(("name", "entries"), [("humaneval", 164), ("mbpp", 974)])
def test_benchmarks_stay_apart(shared, name, entries):
    """At least 95 of 100 problems need no shared process, and all of them test something."""
    with gzip.open(shared / f"data/problems/{name}.jsonl.gz", "rt") as lines:
        problems = [rows.problem(benchmarks.problem(json.loads(line))) for line in lines]
    found = [suites.look(problem.tests, problem.entry_point) for problem in problems]
    assert len(found) == entries
    assert [suite.vain for suite in found if suite.vain] == []
    assert sum(suite.whole is None for suite in found) >= 0.95 * entries, Counter(suite.whole for suite in found)


@pytest.mark.parametrize(
    ("language", "tests"),
    [
        ("js", ""),
        ("js", "// nothing\n"),
        ("js", "function test() { assert(f(1) === 2) }\n"),
        ("sh", "# only a comment\n"),
        ("sh", "run_test() {\n  [[ $(f 1) = 2 ]]\n}\n"),
        ("php", "<?php\n?>"),
        ("cpp", "/* nothing */ }\n"),
        ("rb", "\n"),
    ],
)
def test_tests_of_other_languages_that_test_nothing_are_told(language, tests):
    """Empty tests, and definitions that nobody calls."""
    assert vain(language, tests)


def test_real_tests_of_other_languages_are_taken(shared):
    """Every MultiPL-E problem: none is taken for empty."""
    for path in sorted((shared / "data/problems/multipl-e").glob("humaneval-*.jsonl.gz")):
        with gzip.open(path, "rt") as lines:
            problems = [rows.problem(benchmarks.problem(json.loads(line))) for line in lines]
        for problem in problems[::5]:
            if problem.language != "py":
                assert vain(problem.language, problem.tests) is None, (path.name, problem.task_id)
