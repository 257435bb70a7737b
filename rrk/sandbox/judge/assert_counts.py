"""Which asserts of a Python problem's tests held, for programs that failed some.

    answer = counted(answer, job, run)      # run(job) judges a job whose tests are another text; adds tests_passed, pass_share

A program that passed has passed them all. Tests apart count as they run (Job.count, inside/counting.py). Where they share the
program's process, or catch failures themselves, a program that failed is run once more with tests that go on; what they noted
comes back as the message of their last exception. What comes after an assert that never ends is not reached. Tests without an assert, and those of other languages, count as one test.
"""

from __future__ import annotations

import ast
import re
import secrets
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from rrk.sandbox.inside.counting import noting
from rrk.sandbox.verdict import EXCEPTION, MEMORY_LIMIT, OUTPUT_LIMIT, TIMEOUT, Job, Verdict
from rrk.sandbox.workers.process import PYTHON

AGAIN = (EXCEPTION, TIMEOUT, MEMORY_LIMIT, OUTPUT_LIMIT)  # other failures say that no assert counts
SHARE = 0.2  # of the CPU time that a program which ran out of it gets again: asserts before the endless one are quick
_MARK = f"held-{secrets.token_hex(8)}"  # the tests say it; no program is told
_PREFIX = f"_rrk_{secrets.token_hex(4)}"


def counted(answer: Verdict, job: Job, run: Callable[[Job], Verdict] | None = None) -> Verdict:
    """The verdict with its counts; without `run` nothing is run again, and the tests count as one."""
    if answer.passed is None:
        return answer
    held = 0
    if answer.tests_total is not None:
        # Counted on the way. It failed: whatever held later, something did not.
        total = answer.tests_total
        if answer.passed:
            held = total
        elif answer.status in AGAIN:
            held = min(answer.tests_passed or 0, total - 1)
        answer.tests_passed, answer.pass_share = held, held / total
        return answer
    text, total = _instrumented(job.tests) if run is not None else ("", 0)
    if answer.passed:
        held = max(total, 1)
    elif run is not None and total and answer.status in AGAIN:
        limit = max((job.timeout or PYTHON.cpu_s) * SHARE, 0.5) if answer.status == TIMEOUT else job.timeout
        again = run(replace(job, tests=text, timeout=limit))
        found = re.search(rf"{_MARK} ([01]*)", again.stderr)
        if found is not None and len(found[1]) == total:
            # It failed: whatever held now, something did not.
            held = min(found[1].count("1"), total - 1)
        answer.time += again.time
    answer.tests_passed, answer.tests_total = held, max(total, 1)
    answer.pass_share = held / answer.tests_total
    return answer


@lru_cache(maxsize=512)
def _instrumented(tests: str) -> tuple[str, int]:
    """The tests as they go on and take notes, and how many asserts there are (0: none, or no Python)."""
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "", 0
    tree, count = noting(tree, _PREFIX)
    if not count:
        return "", 0
    notes = f"{_PREFIX}_notes"
    tell = f"raise AssertionError({_MARK!r} + ' ' + ''.join(str(int({notes}.get(n) == 1)) for n in range({count})))"
    frame = ast.parse(
        f"{notes} = {{}}\n"
        f"def {_PREFIX}_held(n): {notes}.setdefault(n, 1)\n"
        f"def {_PREFIX}_failed(n, error): {notes}[n] = 0\n"
        "try:\n    pass\n"
        "except (Exception, SystemExit):\n    pass\n"
        # The program's process is gone: what was noted until then is told. Other signals of the judge's own go their way.
        f"except BaseException as error:\n    if type(error).__name__ == 'Gone':\n        {tell}\n    raise\n"
        f"{tell}\n"
    )
    attempt = frame.body[3]
    assert isinstance(attempt, ast.Try)
    attempt.body = tree.body
    try:
        return ast.unparse(ast.fix_missing_locations(frame)), count
    except RecursionError:
        return "", 0
