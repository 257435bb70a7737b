"""Shares of asserts that held: `passed` is true exactly where the share is 1, and the tests go on after a failure."""

from __future__ import annotations

import pytest

from rrk.errors import RrkError
from rrk.sandbox import Job, Judge
from rrk.sandbox.workers.worker import Worker

try:
    Worker().close()
except RrkError as error:
    pytest.skip(str(error), allow_module_level=True)

ASSERTS = "\nassert f(1) == 1\nassert f(2) == 4\nassert f(3) == 9\nassert f(4) == 16\n"
CHECK = (
    "def check(candidate):\n    for n in range(3):\n        assert candidate(n) == n * n\n"
    "    with_message = candidate(5)\n    assert with_message == 25, 'five'\n    assert candidate(6) == 36\n\ncheck(f)\n"
)
NO_ASSERT = "if f(2) != 4:\n    raise ValueError\n"


def job(body: str, tests: str = ASSERTS, **more) -> Job:
    return Job("py", "", f"def f(x):\n    {body}\n", tests, entry_point="f", full=True, **more)


# body, tests, held, of how many
PROGRAMS = [
    ("return x * x", ASSERTS, 4, 4),
    ("return x * x", CHECK, 3, 3),
    ("return x * x", NO_ASSERT, 1, 1),
    ("return x", ASSERTS, 1, 4),
    ("return x * x if x != 2 else 1 / 0", ASSERTS, 3, 4),
    ("return x * x if x != 4 else exit(0)", ASSERTS, 0, 4),  # Tampered: no assert counts
    ("return x * x if x != 2 else exit(1)", ASSERTS, 3, 4),
    ("return x", CHECK, 0, 3),  # held for 0 and 1, not for 2
    ("return x * x if x != 5 else 0", CHECK, 2, 3),
    ("return x * x if x < 5 else 1 / 0", CHECK, 1, 3),  # an exception between asserts ends the tests
    ("return x", NO_ASSERT, 0, 1),
    ("return (", ASSERTS, 0, 4),
    ("while x == 3: pass\n    return x * x", ASSERTS, 2, 4),  # what follows an endless one is not reached
    ("return x * x if x != 3 else [0] * 10 ** 10", ASSERTS, 3, 4),
]


def test_shares_of_asserts_and_passed_agree():
    jobs = [job(body, tests, timeout=0.5) for body, tests, _, _ in PROGRAMS]
    with Judge(jobs=2, all_tests=True) as judge:
        found = list(judge.judge(jobs))
    with Judge(jobs=2) as judge:
        usual = list(judge.judge(jobs))
    for (body, _, held, total), one, other in zip(PROGRAMS, found, usual, strict=True):
        assert (one.tests_passed, one.tests_total) == (held, total), (body, one)
        assert one.passed == (one.pass_share == 1)
        assert (one.passed, one.status, one.reason, one.stderr) == (
            other.passed,
            other.status,
            other.reason,
            other.stderr,
        )
        assert other.pass_share is None


def test_tests_that_run_in_the_program_s_process_are_counted_too():
    thing = "class T:\n    def __init__(self, n): self.n = n\ndef f(x):\n    return T(x * x if x != 2 else 0)\n"
    tests = "assert isinstance(f(1), T)\nassert f(1).n == 1\nassert f(2).n == 4\nassert f(3).n == 9\n"
    with Judge(jobs=1, all_tests=True) as judge:
        (found,) = judge.judge([Job("py", "", thing, tests, entry_point="f", full=True)])
    assert (found.passed, found.tests_passed, found.tests_total) == (False, 3, 4), found


def test_tests_of_other_languages_count_as_one():
    tests = '}\n\ncandidate() {\n    f "$@"\n}\n\nset -e\nrun_test() {\n    [[ $(candidate 2) = "4" ]]\n}\n\nrun_test'
    jobs = [Job("sh", "f() {\n", f"    echo $(($1 {sign} $1))\n", tests) for sign in "*-"]
    with Judge(jobs=1, all_tests=True) as judge:
        found = list(judge.judge(jobs))
    assert [(v.tests_passed, v.tests_total, v.pass_share) for v in found] == [(1, 1, 1.0), (0, 1, 0.0)]
