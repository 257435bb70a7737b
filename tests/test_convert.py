"""Other tools' files: there and back, and the mistakes one makes with them."""

from __future__ import annotations

import gzip
import json
import re

import pytest

from rrk import interop, jsonl

PROBLEMS = [
    {"task_id": f"HumanEval/{p}", "language": "py", "prompt": f"def f{p}():\n", "tests": f"assert f{p}() == {p}\n"}
    | {"stop_tokens": ["\ndef"]}
    for p in range(3)
]


def rows():
    return [
        {
            "task_id": problem["task_id"],
            "language": "py",
            "prompt": problem["prompt"],
            "completion_id": c,
            "completion": f"    return {c}",
            "temperature": 1.0,
            "passed": c == p,
            "status": "OK" if c == p else "Exception",
            "exit_code": int(c != p),
            "stdout": "",
            "stderr": "",
        }
        for p, problem in enumerate(PROBLEMS)
        for c in range(2)
    ]


@pytest.fixture
def folder(tmp_path):
    jsonl.write(tmp_path / "rows.jsonl", rows())
    jsonl.write(tmp_path / "problems.jsonl", PROBLEMS)
    return tmp_path


def read(data: bytes):
    return [json.loads(line) for line in data.splitlines()]


def ok(done):
    assert done.returncode == 0, done.stderr.decode()
    return done


KEYS = {
    "human-eval": ("task_id", "completion_id", "completion", "passed", "status"),
    "multipl-e": (
        "task_id",
        "language",
        "prompt",
        "completion_id",
        "completion",
        "temperature",
        "passed",
        "status",
        "exit_code",
    ),
    "bigcode": ("task_id", "language", "prompt", "completion_id", "completion"),
    "trl": ("prompt", "completion_id", "completion", "passed"),
}


@pytest.mark.parametrize("form", KEYS)
def test_there_and_back_keeps_what_the_format_has(rrk, folder, form):
    target = "out" if form == "multipl-e" else "out.json"
    ok(rrk("convert", "--to", form, "-p", "problems.jsonl", "rows.jsonl", "-o", target))
    back = read(ok(rrk("convert", "--from", form, "-p", "problems.jsonl", target)).stdout)
    expected = [{key: row[key] for key in KEYS[form]} for row in rows()]
    assert [{key: row[key] for key in KEYS[form]} for row in back] == expected


def test_every_format_is_in_the_help(rrk):
    text = rrk("convert", "--help").stdout.decode()
    assert not [
        name for name in {*interop.SOURCES, *interop.TARGETS} if not re.search(rf"(?<![\w-]){name}(?![\w-])", text)
    ]


def test_evalplus_takes_whole_programs(rrk, folder):
    done = ok(rrk("convert", "--to", "evalplus", "rows.jsonl"))
    samples = read(done.stdout)
    assert samples[1] == {"task_id": "HumanEval/0", "solution": "def f0():\n    return 1"}
    back = read(ok(rrk("convert", "--from", "evalplus", input=done.stdout)).stdout)
    assert back[1] == {**samples[1], "completion_kind": "full", "language": "py", "completion_id": 1}


def test_evalplus_results_need_base_and_plus(rrk, tmp_path):
    one = {"task_id": "HumanEval/0", "solution": "pass"}
    found = [
        {**one, "base_status": "pass", "plus_status": "pass"},
        {**one, "base_status": "pass", "plus_status": "fail"},
        {**one, "base_status": "timeout", "plus_status": "timeout"},
        {**one, "base_status": "pass", "plus_status": None},
    ]
    (tmp_path / "eval_results.json").write_text(json.dumps({"date": "", "hash": "", "eval": {"HumanEval/0": found}}))
    back = read(ok(rrk("convert", "--from", "evalplus", "eval_results.json")).stdout)
    assert [(r["passed"], r["status"]) for r in back] == [
        (True, "OK"),
        (False, "Exception"),
        (False, "Timeout"),
        (True, "OK"),
    ]
    assert [r["completion_id"] for r in back] == [0, 1, 2, 3]


def test_human_eval_results_become_verdicts(rrk):
    lines = [
        {"task_id": "HumanEval/0", "completion": "x", "result": "passed", "passed": True},
        {"task_id": "HumanEval/0", "completion": "y", "result": "timed out", "passed": False},
        {"task_id": "HumanEval/0", "completion": "z", "result": "failed: name 'z' is not defined", "passed": False},
    ]
    back = read(ok(rrk("convert", "--from", "human-eval", input=b"".join(map(jsonl.dumps, lines)))).stdout)
    assert [r["status"] for r in back] == ["OK", "Timeout", "Exception"]
    assert back[2]["stderr"] == "name 'z' is not defined"


def test_multipl_e_as_its_own_tools_write_it(rrk, tmp_path):
    """Fields of a file of theirs: no `completions` beside results; a program is prompt + completion + newline + tests."""
    common = {
        "name": "HumanEval_0_f",
        "language": "go_test.go",
        "temperature": 0.2,
        "top_p": 0.95,
        "prompt": "P\n",
        "tests": "T\n",
    }
    results = [
        {"program": "P\ncode\n\nT\n", "timestamp": 1, "stdout": "", "stderr": "", "exit_code": 0, "status": "OK"},
        {"program": "P\n\nT\n", "timestamp": 1, "stdout": "", "stderr": "bad", "exit_code": 1, "status": "SyntaxError"},
        {"program": "P\nx\nT\n", "timestamp": 1, "stdout": "", "stderr": "", "exit_code": 1, "status": "OK"},
    ]
    (tmp_path / "d" / "sub").mkdir(parents=True)
    base = tmp_path / "d" / "sub" / "HumanEval_0_f"
    base.with_suffix(".json.gz").write_bytes(
        gzip.compress(json.dumps({**common, "completions": ["code\n", "", "x"]}).encode())
    )
    base.with_suffix(".results.json.gz").write_bytes(gzip.compress(json.dumps({**common, "results": results}).encode()))
    back = read(ok(rrk("convert", "--from", "multipl-e", "d")).stdout)
    assert [r["completion"] for r in back] == ["code\n", "", "x"]
    assert [(r["passed"], r["status"]) for r in back] == [(True, "OK"), (False, "SyntaxError"), (False, "Exception")]
    assert {r["language"] for r in back} == {"go"}
    base.with_suffix(".results.json.gz").unlink()
    fresh = read(ok(rrk("convert", "--from", "multipl-e", "d")).stdout)
    assert [r["completion"] for r in fresh] == ["code\n", "", "x"]
    assert "passed" not in fresh[0]


def test_multipl_e_files_hold_what_its_evaluator_reads(rrk, folder):
    ok(rrk("convert", "--to", "multipl-e", "-p", "problems.jsonl", "rows.jsonl", "-o", "out"))
    value = json.loads(gzip.decompress((folder / "out" / "HumanEval_1.json.gz").read_bytes()))
    assert value["completions"] == ["    return 0", "    return 1"]
    assert value["tests"] == PROBLEMS[1]["tests"]
    assert value["stop_tokens"] == ["\ndef"]
    results = json.loads(gzip.decompress((folder / "out" / "HumanEval_1.results.json.gz").read_bytes()))
    assert results["results"][1]["program"] == "def f1():\n    return 1\nassert f1() == 1\n"
    assert [r["status"] for r in results["results"]] == ["Exception", "OK"]


def test_bigcode_keeps_the_order_of_problems(rrk, folder):
    jsonl.write(folder / "mixed.jsonl", rows()[::-1])
    ok(rrk("convert", "--to", "bigcode", "-p", "problems.jsonl", "mixed.jsonl", "-o", "g.json"))
    generations = json.loads((folder / "g.json").read_bytes())
    assert [group[0].split(":")[0] for group in generations] == ["def f0()", "def f1()", "def f2()"]


def test_preferences_become_each_program_once(rrk):
    pair = {"prompt": "p", "chosen": "good", "rejected": "bad"}
    message = {"prompt": [{"role": "user", "content": "p"}], "chosen": [{"role": "assistant", "content": "good"}]}
    pairs = [pair, {**pair, "rejected": "worse"}, {**message, "rejected": [{"role": "assistant", "content": "bad"}]}]
    back = read(ok(rrk("convert", "--from", "trl", input=b"".join(map(jsonl.dumps, pairs)))).stdout)
    assert [(r["completion"], r["passed"]) for r in back] == [("good", True), ("bad", False), ("worse", False)]
    assert len({r["task_id"] for r in back}) == 1


def test_pairs_leave_as_plain_preferences(rrk):
    pair = {"task_id": "t", "prompt": "p", "chosen": "a", "rejected": "b", "margin": 0.5, "kind": "hard", "reason": "x"}
    [out] = read(ok(rrk("convert", "--to", "trl", input=jsonl.dumps(pair))).stdout)
    assert out == {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 0.5}


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ([], 2, "nothing to convert"),
        (["--to", "csv"], 2, "--to csv"),
        (["--to", "bigcode"], 2, "needs -o FILE"),
        (["--to", "multipl-e"], 2, "needs -o DIR"),
        (["--from", "bigcode", "rows.jsonl"], 2, "-p"),
        (["--cut", "rows.jsonl"], 2, "--cut needs -p"),
        (["--from", "evalplus", "x.json"], 1, "neither EvalPlus"),
        (["--from", "multipl-e", "x.json"], 1, "not a file of MultiPL-E"),
        (["--from", "multipl-e", "empty"], 2, "no .json"),
        (["--from", "trl", "rows.jsonl"], 3, "chosen"),
        (["--to", "evalplus", "nowhere"], 2, "no such file"),
    ],
)
def test_mistakes_are_one_line(rrk, folder, args, code, said):
    (folder / "x.json").write_text("{}")
    (folder / "empty").mkdir()
    done = rrk("convert", *args, *([] if any("." in a or a in ("nowhere", "empty") for a in args) else ["rows.jsonl"]))
    assert done.returncode == code, done.stderr.decode()
    [line] = done.stderr.decode().splitlines()
    assert said in line


def test_unjudged_rows_have_no_label(rrk):
    row = {"task_id": "a", "prompt": "p", "completion": "c", "passed": None}
    done = rrk("convert", "--to", "trl", input=jsonl.dumps(row))
    assert done.returncode == 3
    assert b"leave unjudged rows out" in done.stderr


def test_a_pair_of_real_tools_agrees(rrk, shared, tmp_path):
    """CodeT's candidates through MultiPL-E's files and back: nothing is lost."""
    source = shared / "data/candidates/codet_humaneval_codegen16b.jsonl.gz"
    first = [row for _, row in zip(range(300), jsonl.read([str(source)]), strict=False)]
    jsonl.write(tmp_path / "rows.jsonl", first)
    problems = str(shared / "data/problems/humaneval.jsonl.gz")
    ok(rrk("convert", "--to", "multipl-e", "-p", problems, "rows.jsonl", "-o", "out"))
    back = read(ok(rrk("convert", "--from", "multipl-e", "out")).stdout)
    key = lambda r: (r["task_id"], r["completion"], r["passed"])  # noqa: E731
    assert sorted(map(key, back)) == sorted(map(key, first))


def test_programs_end_at_stop_tokens_and_lose_what_is_known_of_the_longer_text(rrk, folder):
    before = rows()
    before[0] |= {"time": 0.1, "sandbox": "jail", "confidence": 0.5, "logprob": -1.0}
    before[0]["completion"] += "\ndef more():\n    pass"
    before[1]["completion"] += "\n# END"
    before[2] |= {"completion": "def f1():\n    return 1\ndef g(): pass", "completion_kind": "full"}
    jsonl.write(folder / "rows.jsonl", before)
    by_problem = read(ok(rrk("convert", "--cut", "-p", "problems.jsonl", "rows.jsonl")).stdout)
    assert by_problem[0]["completion"] == "    return 0"
    assert not by_problem[0].keys() & {"passed", "status", "exit_code", "time", "sandbox", "confidence", "logprob"}
    assert by_problem[1:] == before[1:], "whole programs too"
    named = read(ok(rrk("convert", "--stop", "\\n#", "rows.jsonl")).stdout)
    assert named[1]["completion"] == "    return 1"
    assert named[:1] + named[2:] == before[:1] + before[2:]
    assert read(ok(rrk("convert", "--cut", "-p", "problems.jsonl", "--to", "human-eval", "rows.jsonl")).stdout)[0] == {
        "task_id": "HumanEval/0",
        "completion": "    return 0",
    }
