"""MBPP as signature and docstring: what the model is asked, and that the solution still solves it."""

from __future__ import annotations

import gzip
import json

import pytest

from rrk import benchmarks
from rrk.function_style import function_style

ROW = {
    "task_id": 7,
    "text": "Write a function that doubles.",
    "code": "import math\r\nK = 2\r\ndef double(a, times=1):\r\n\t# twice\r\n\tif times:\r\n\t\ta = helper(a)\r\n\treturn a\r\ndef helper(x):\r\n  return K*x",
    "test_list": ["assert double(1) == 2", "assert double([3], 0) == [3]", "assert double(5) == 10"],
}


def made(**changed):
    return function_style(benchmarks.problem({**ROW, **changed}))


def test_the_prompt_is_a_signature_with_the_text_and_two_examples():
    """The third assert stays hidden, and nothing of the solution's body shows."""
    assert made()["prompt"] == (
        'def double(a, times=1):\n    """Write a function that doubles.\n    >>> double(1)\n    2\n'
        '    >>> double([3], 0)\n    [3]\n    """\n'
    )


def test_the_solution_continues_the_prompt_and_passes():
    """Helpers, constants and imports follow the body, which is indented as the docstring is."""
    row = made()
    space: dict = {}
    exec(row["prompt"] + row["canonical_solution"] + row["tests"], space)
    assert row["canonical_solution"].startswith("    # twice\n    if times:\n        a = helper(a)\n")


@pytest.mark.parametrize(
    "code",
    ["double = lambda a: 2 * a", "def double(a): return 2 * a", "def double(a: List[int]):\n  return a", "def f(:"],
)
def test_what_has_no_body_to_continue_is_left_out(code):
    """None, so that the caller can count it: never a prompt that its own solution does not fit."""
    assert made(code=code) is None


def test_the_command_tells_how_many_problems_have_no_such_form(rrk, tmp_path):
    """`rrk problems --style function` leaves them out and says so."""
    rows = [ROW, {**ROW, "task_id": 8, "code": "double = lambda a: 2 * a"}]
    (tmp_path / "mbpp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = rrk("problems", "mbpp.jsonl", "--style", "function")
    assert [json.loads(line)["task_id"] for line in done.stdout.splitlines()] == ["Mbpp/7"]
    assert "1 left out" in done.stderr.decode()
    assert rrk("problems", "mbpp.jsonl", "--style", "poem").returncode == 2


def test_every_solution_of_mbpp_parses_in_that_form(shared):
    """974 problems as they were published."""
    with gzip.open(shared / "data/problems/mbpp.jsonl.gz", "rt") as lines:
        rows = [function_style(benchmarks.problem(json.loads(line))) for line in lines]
    assert len(rows) == 974
    assert all(rows)
    for row in rows:
        compile(row["prompt"] + row["canonical_solution"], row["task_id"], "exec")
