"""The schemas of other tools are read as they are; wrong fields are named."""

from __future__ import annotations

import pytest

from rrk import rows, seeds
from rrk.errors import RowError
from rrk.jsonl import Row


def test_language_names_become_multipl_e_codes():
    assert [rows.language_code(n) for n in ("python", "C++", "TypeScript", "rs", "Bash")] == [
        "py",
        "cpp",
        "ts",
        "rs",
        "sh",
    ]
    assert rows.language_code("Brainf") == "brainf", "an unknown language is left to the toolchains"


def test_humaneval_calls_its_check_with_the_entry_point():
    row = {
        "task_id": "HumanEval/0",
        "prompt": "def f():\n",
        "entry_point": "f",
        "test": "def check(candidate):\n    pass\n",
    }
    assert rows.problem(row).tests.rstrip().endswith("check(f)")


def test_mbpp_tests_are_setup_and_asserts():
    row = {"task_id": 2, "prompt": "p", "test_setup_code": "import math", "test_list": ["assert a", "assert b"]}
    problem = rows.problem(row)
    assert (problem.task_id, problem.tests) == ("2", "import math\nassert a\nassert b\n")


def test_multipl_e_names_its_task_by_name():
    row = {"name": "HumanEval_1_x", "language": "cpp", "prompt": "p", "tests": "}\n", "stop_tokens": ["\n}"]}
    problem = rows.problem(row)
    assert (problem.task_id, problem.language, problem.stop_tokens) == ("HumanEval_1_x", "cpp", ("\n}",))


def test_candidates_continue_their_prompt_or_stand_alone():
    assert rows.program({"prompt": "a", "completion": "b"}) == "ab"
    assert rows.program({"prompt": "a", "completion": "b", "completion_kind": "full"}) == "b"
    assert rows.program({"solution": "c"}) == "c"
    assert rows.program({"completion": "b"}, prompt="x") == "xb"


@pytest.mark.parametrize(
    ("task", "base"),
    [
        ("HumanEval_0_has_close_elements", "HumanEval/0"),
        ("HumanEval/0", "HumanEval/0"),
        ("CPP/0", "HumanEval/0"),
        ("mbpp_3_is_not_prime", "Mbpp/3"),
        ("Mbpp/3", "Mbpp/3"),
        ("tiny/17", "tiny/17"),
    ],
)
def test_translations_of_a_problem_share_their_base(task, base):
    assert rows.base_problem(task) == base


def test_a_missing_or_wrong_field_names_file_line_and_field():
    row = Row({"completion": 3}, ("a.jsonl", 7))
    with pytest.raises(RowError, match=r"^a.jsonl:7: field 'completion' must be text, not 3"):
        rows.completion(row)
    with pytest.raises(RowError, match=r"^a.jsonl:7: no field 'task_id'"):
        rows.task_id(row)
    with pytest.raises(RowError, match="not True"):
        rows.need({"n": True}, "n", int)


def test_seeds_depend_on_purpose_alone_and_differ_between_purposes():
    assert seeds.derive(0, "t/1", 3) == seeds.derive(0, "t/1", 3)
    found = {seeds.derive(s, t, c) for s in range(5) for t in ("a", "b", "a1") for c in range(50)}
    assert len(found) == 5 * 3 * 50
    assert seeds.derive(0, "1") != seeds.derive(0, 1), "a name that looks like a number is another purpose"
    assert all(0 <= seed < 2**63 for seed in found)


@pytest.mark.parametrize(
    ("prompt", "entry_point", "function"),
    [
        ("def helper(x):\n    return x\n\ndef  asked (a):\n", None, "asked"),
        ("def asked(a):\n    def inner(b):\n", None, "asked"),
        ("def helper(x):\n", "named", "named"),
        ("# what is 1 + 1?\n", None, None),
    ],
)
def test_what_is_to_be_written_is_named_or_the_last_function_begun(prompt, entry_point, function):
    row = {"task_id": "a", "prompt": prompt, "tests": "assert asked(1)", "entry_point": entry_point}
    assert rows.problem(row).function == function
