"""Programs on the examples of their prompts, beside the caller's own work."""

from __future__ import annotations

import time

import pytest

from rrk.errors import RowError, RrkError
from rrk.sandbox.live import Live

PROMPT = 'def f(x):\n    """\n    >>> f(1)\n    2\n    >>> f(2)\n    3\n    """\n'


def row(completion: str, **more) -> dict:
    return {"task_id": "t/0", "prompt": PROMPT, "entry_point": "f", "completion": completion, **more}


def gather(examples: Live, count: int) -> dict:
    found: dict = {}
    while len(found) < count:
        found |= dict(examples.results(wait=True))
    return found


def test_results_are_those_of_execute_examples():
    programs = ["    return x + 1\n", "    return 2\n", "    return\n", "    ]\n"]
    with Live(jobs=2) as examples:
        assert examples.results(wait=False) == []
        for n, program in enumerate(programs):
            examples.submit(n, row(program))
        found = gather(examples, len(programs))
    assert [found[n]["passed"] for n in range(4)] == ["11", "10", "00", "00"]
    assert all(one["shown"] == 2 for one in found.values())


def test_another_language_and_prompts_without_an_example():
    with Live(jobs=1) as examples:
        assert examples.shows(row(""))
        assert not examples.shows(row("", task_id="t/1", prompt="def f(x):\n"))
        php = {"task_id": "t", "language": "php", "completion": ""}
        assert examples.shows({**php, "prompt": "<?php\n// >>> f(1)\n// 2\nfunction f($x) {"})
        assert not examples.shows({**php, "task_id": "u", "prompt": "<?php\nfunction f($x) {"})
        with pytest.raises(RowError, match="examples"):
            examples.submit(0, {**php, "language": "swift", "prompt": "func f(x: Int) -> Int {"})
        go = {**php, "language": "go", "task_id": "v"}
        with pytest.raises(RowError, match="prompts like this"):
            examples.shows(
                {
                    **go,
                    "prompt": 'package main\n\nimport (\n    "testing"\n    "github.com/stretchr/testify/assert"\n)\n\nfunc f() int {\n',
                }
            )


def test_leaving_it_ends_what_still_runs():
    with Live(jobs=1) as examples:
        examples.submit("endless", row("    while True: pass\n"))
        time.sleep(0.3)
        began = time.monotonic()
    assert time.monotonic() - began < 3, "a test may take a second, a program ten"


def test_what_the_judge_cannot_do_is_raised_where_results_are_asked_for():
    def broken(**how):
        raise RrkError("no worker here")

    with Live(jobs=1) as examples:
        examples.try_out()
    with Live(jobs=1, worker=broken) as examples, pytest.raises(RrkError, match="no worker here"):
        examples.try_out()
    with Live(jobs=1, worker=broken) as examples:
        examples.submit("a", row("    return x + 1\n"))
        with pytest.raises(RrkError, match="no worker here"):
            examples.results(wait=True)
