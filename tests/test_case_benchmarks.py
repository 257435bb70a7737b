"""Benchmarks of whole programs become Problem rows: samples of our own in each one's shape, and hostile ones."""

from __future__ import annotations

import base64
import json
import pickle
import zlib

import pytest

from rrk import benchmarks, case_benchmarks, cases, jsonl
from rrk.errors import RowError

SUM = "Read two numbers and print their sum."
PROGRAM = "a, b = map(int, input().split())\nprint(a + b)"
TESTS = [
    {"input": "1 2\n", "output": "3\n", "testtype": "stdin"},
    {"input": "4 5\n", "output": "9\n", "testtype": "stdin"},
]


def packed(value) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


LCB = {
    "question_title": "Sum",
    "question_content": SUM,
    "platform": "atcoder",
    "question_id": "abc000_a",
    "contest_id": "abc000",
    "contest_date": "2026-01-01T00:00:00",
    "starter_code": "",
    "difficulty": "easy",
    "public_test_cases": json.dumps(TESTS[:1]),
    "private_test_cases": packed(json.dumps(TESTS[1:])),
    "metadata": "{}",
}
FUNCTIONAL = {
    **LCB,
    "platform": "leetcode",
    "question_id": "3000",
    "starter_code": "class Solution:\n    def total(self, xs: List[int], start: int) -> int:\n        ",
    "public_test_cases": json.dumps([{"input": "[1, 2]\n10", "output": "13", "testtype": "functional"}]),
    "private_test_cases": json.dumps([{"input": "[]\n0", "output": "0", "testtype": "functional"}]),
    "metadata": json.dumps({"func_name": "total"}),
}
SOLUTION = "class Solution:\n    def total(self, xs: List[int], start: int) -> int:\n        return sum(xs) + start\n"
APPS = {
    "problem_id": 7,
    "question": SUM,
    "solutions": json.dumps([PROGRAM]),
    "input_output": json.dumps({"inputs": ["1 2\n", ["4 5"]], "outputs": ["3\n", ["9", ""]]}),
    "difficulty": "introductory",
    "url": "https://example.org/7",
    "starter_code": "",
}
APPS_CALL = {
    **APPS,
    "problem_id": 8,
    "solutions": json.dumps(["def total(xs):\n    return sum(xs)"]),
    "input_output": json.dumps({"fn_name": "total", "inputs": [[[1, 2]], [[]]], "outputs": [[3], 0]}),
    "starter_code": "def total(xs):\n",
}
TACO = {**APPS, "name": "Sum", "source": "codeforces", "raw_tags": "[]", "time_limit": "2 seconds"}
CONTESTS = {
    "name": "1_A. Sum",
    "description": SUM,
    "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
    "private_tests": {"input": ["4 5\n"], "output": ["9\n"]},
    "generated_tests": {"input": ["0 0\n"], "output": ["0\n"]},
    "source": 2,
    "difficulty": 7,
    "solutions": {"language": [2, 3], "solution": ["int main() {}", PROGRAM]},
    "time_limit": {"seconds": 1, "nanos": 0},
    "memory_limit_bytes": 256000000,
    "input_file": "",
    "output_file": "",
}
ACE = {
    "id": "oss_1",
    "source": "oss",
    "question": "Write total(xs).",
    "test_cases": ["assert total([1, 2]) == 3", "assert total([]) == 0"],
    "inferences": [{"completion": "x", "pass_rate": 0.5}],
}
BIG = {
    "task_id": "BigCodeBench/0",
    "complete_prompt": 'import math\n\ndef task_func(x):\n    """The root of x."""\n',
    "instruct_prompt": "Write it.",
    "canonical_solution": "    return math.sqrt(x)\n",
    "code_prompt": "import math\n\ndef task_func(x):\n",
    "test": "import unittest\n\nclass TestCases(unittest.TestCase):\n    def test_four(self):\n        self.assertEqual(task_func(4), 2)\n",
    "entry_point": "task_func",
    "doc_struct": "{}",
    "libs": "['math']",
}
# raw row, schema, rule, number of cases, how many of them are public, a program that is right
CASES = [
    (LCB, "livecodebench", "lines", 2, 1, PROGRAM),
    (FUNCTIONAL, "livecodebench", "equal", 2, 1, SOLUTION),
    (APPS, "apps", "apps", 2, 0, PROGRAM),
    (APPS_CALL, "apps", "apps", 2, 0, "def total(xs):\n    return sum(xs)\n"),
    (TACO, "taco", "apps", 2, 0, PROGRAM),
    (CONTESTS, "codecontests", "floats", 3, 1, PROGRAM),
]


@pytest.mark.parametrize(("raw", "schema", "rule", "count", "public", "program"), CASES)
def test_each_schema_is_recognised_and_has_its_cases_and_its_rule(raw, schema, rule, count, public, program):
    assert benchmarks.recognise(raw) == schema
    made = benchmarks.problem(jsonl.Row(raw, ("f", 1)))
    found = cases.case_set(made)
    assert (found.rule.name, len(found.cases), sum(c.public for c in found.cases)) == (rule, count, public)
    assert list(made)[:3] == ["task_id", "language", "prompt"]
    compile(made["prompt"] + program, "x", "exec")
    # What was made is a problem of our own, and comes through unchanged.
    assert benchmarks.problem(jsonl.loads(jsonl.dumps(made))) == made


def test_prompts_programs_and_tests_go_together_in_the_judge(rrk, tmp_path):
    """Right and wrong programs of every benchmark, from its raw rows by `problems` to verdicts by `execute`."""
    raws = [raw for raw, *_ in CASES] + [ACE, BIG]
    programs = [program for *_, program in CASES] + ["def total(xs):\n    return sum(xs)\n", BIG["canonical_solution"]]
    wrong = "def total(*xs):\n    return -7\nclass Solution:\n    def total(self, *xs): return -7\nprint(-7)\n"
    for number, raw in enumerate(raws):
        jsonl.write(tmp_path / "raw.jsonl", [raw])
        done = rrk("problems", str(tmp_path / "raw.jsonl"), "-o", str(tmp_path / f"{number}.jsonl"))
        assert done.returncode == 0, done.stderr.decode()
    made = [next(iter(jsonl.read([str(tmp_path / f"{n}.jsonl")]))) for n in range(len(raws))]
    rows = []
    for problem, program in zip(made, programs, strict=True):
        for text in (program, "    return -7\n" if problem["task_id"].startswith("Big") else wrong):
            rows.append(
                {"task_id": problem["task_id"], "language": "py", "completion": text, "completion_id": len(rows)}
            )
    flags = [word for n in range(len(raws)) for word in ("-p", str(tmp_path / f"{n}.jsonl"))]
    done = rrk("execute", *flags, "--all-tests", input=b"".join(map(jsonl.dumps, rows)))
    out = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["passed"] for row in out] == [True, False] * len(raws), done.stderr.decode()
    counted = [row for row in out if row["task_id"] == "CodeContests/1_A. Sum"]
    assert [(r["tests_passed"], r["tests_total"], r["pass_share"]) for r in counted] == [(3, 3, 1.0), (0, 3, 0.0)]


def test_a_problem_of_cases_is_answered_in_any_language(rrk, tmp_path):
    jsonl.write(tmp_path / "p.jsonl", [benchmarks.problem(LCB)])
    row = {"task_id": "LiveCodeBench/abc000_a", "language": "bash", "completion_kind": "full"}
    rows = [{**row, "completion": "read a b; echo $((a + b))"}, {**row, "completion": "echo 3"}]
    done = rrk("execute", "-p", str(tmp_path / "p.jsonl"), input=b"".join(map(jsonl.dumps, rows)))
    out = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(r["passed"], r["tests_passed"]) for r in out] == [(True, 2), (False, 1)], done.stderr.decode()
    assert out[1]["failed_case"] == {"case": 1, "input": "4 5\n", "expected": "9\n", "got": "3\n"}


class Hostile:
    def __reduce__(self):
        return print, ("unpickled",)


@pytest.mark.parametrize(
    "text",
    [
        packed(Hostile()),
        packed([json.dumps(TESTS)]),
        packed({"a": "b"}),
        packed(b"[]"),
        packed("not JSON"),
        base64.b64encode(zlib.compress(b"\x80\x04cos\nsystem\n(S'true'\ntR.")).decode(),
        base64.b64encode(zlib.compress(pickle.dumps("[]"))[:-3]).decode(),
        base64.b64encode(b"no zlib").decode(),
        "*",
    ],
)
def test_private_tests_that_are_anything_but_one_text_are_refused_and_never_unpickled(text, capsys):
    with pytest.raises(RowError) as error:
        benchmarks.problem(jsonl.Row({**LCB, "private_test_cases": text}, ("lcb.jsonl", 3)))
    assert str(error.value).startswith("lcb.jsonl:3: field 'private_test_cases'")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_a_text_is_read(protocol):
    text = json.dumps(TESTS) + "é" * 300
    data = base64.b64encode(zlib.compress(pickle.dumps(text, protocol))).decode()
    assert case_benchmarks.pickled_text(data) == text


def test_problems_without_a_test_are_left_out_and_told(rrk, tmp_path):
    raws = [APPS, {**APPS, "problem_id": 9, "input_output": ""}, {**CONTESTS, "input_file": "in.txt"}]
    jsonl.write(tmp_path / "raw.jsonl", raws)
    done = rrk("problems", str(tmp_path / "raw.jsonl"))
    assert len(done.stdout.splitlines()) == 1
    assert b"rrk problems: 2 left out, as" in done.stderr
    assert b"raw.jsonl:2: a problem without tests" in done.stderr
