"""Problems whose tests let wrong programs pass are found; problems with complete tests are not."""

from __future__ import annotations

import json

from rrk import jsonl
from rrk.evaluation import suspect
from rrk.rows import Problem

WEAK = "assert top([1, 2, 3]) == 3\nassert top([4, 5]) == 5\n"
STRONG = WEAK + "assert top([3, 1, 2]) == 3\nassert top([-1, -2]) == -1\n"


def test_fresh_inputs_are_like_the_tests_own_and_the_same_every_time():
    calls = suspect.arguments("def check(candidate):\n    assert candidate([1, 2], 'ab') == 1\n    candidate(x)\n", "f")
    assert calls == [([1, 2], "ab")]
    made = suspect.fresh(calls, seed=1)
    assert made == suspect.fresh(calls, seed=1) != suspect.fresh(calls, seed=2)
    assert len({repr(args) for args in made}) == len(made) == suspect.INPUTS
    assert ([1, 2], "ab") not in made
    assert calls == [([1, 2], "ab")], "the tests' own are left as they are"
    for numbers, text in made:
        assert set(map(type, numbers)) <= {int}
        assert set(text) <= set("ab")
    assert suspect.fresh([()], 0) == []


def test_a_problem_that_names_no_function_is_read_from_its_asserts():
    assert suspect.tested("assert set(similar((1, 2), (2, 3))) == set((2,))") == "similar"
    found = suspect.Asked.of(
        Problem("a", "py", "", "assert f(1) == 2", canonical_solution="def f(x):\n    return 2"), 0
    )
    assert found.name == "f"
    assert found.reference == "def f(x):\n    return 2"
    assert suspect.Asked.of(Problem("a", "cpp", "", "assert(f(1) == 2);"), 0).inputs == []


def test_what_the_reference_refuses_accuses_nobody():
    outputs = [["a", "b", "c"], ["a", "x", "d"], ["a", None, "c"]]
    found = suspect.verdict(outputs, ["a", None, "c"])
    assert found == {"inputs": 2, "differ": 1, "outvoted": 1 / 3, "example": 2}
    assert suspect.verdict(outputs, None)["differ"] == 2, "without one the minority is wrong"
    assert suspect.verdict([["a"], ["a"]], ["a"]) == {"inputs": 1, "differ": 0, "outvoted": 0.0, "example": None}


def test_the_command_runs_programs_and_names_the_weak_problem_alone(rrk, tmp_path):
    """`xs[-1]` passes tests whose lists ascend; more of the same tests would have told it from max."""
    programs = ["    return max(xs)\n", "    return xs[-1]\n", "    return sorted(xs)[-1]\n"]
    prompt = "def top(xs):\n"
    problems = [
        {"task_id": name, "prompt": prompt, "tests": tests, "entry_point": "top", "canonical_solution": programs[0]}
        for name, tests in (("weak", WEAK), ("strong", STRONG))
    ]
    (tmp_path / "p.jsonl").write_bytes(b"".join(map(jsonl.dumps, problems)))
    rows = [
        {"task_id": name, "prompt": prompt, "completion": text, "completion_id": i, "passed": name == "weak" or i != 1}
        for name in ("weak", "strong")
        for i, text in enumerate(programs)
    ]
    (tmp_path / "v.jsonl").write_bytes(b"".join(map(jsonl.dumps, rows)))
    done = rrk("eval", "--suspect", "-p", "p.jsonl", "v.jsonl", "-o", "s.json")
    assert done.returncode == 0, done.stderr.decode()
    assert b"1 of 2 problems" in done.stdout
    weak, strong = json.loads((tmp_path / "s.json").read_bytes())["suspect"]
    assert (weak["task_id"], weak["programs"], round(weak["outvoted"], 2)) == ("weak", 3, 0.33)
    assert weak["differ"] > 5
    assert (strong["task_id"], strong["differ"], strong["inputs"] > 20) == ("strong", 0, True)
    arguments = eval(weak["example"].removeprefix("top"))
    assert max(arguments[0] if isinstance(arguments, tuple) else arguments) != arguments[0][-1]
    assert rrk("eval", "--suspect", "v.jsonl").returncode == 2
