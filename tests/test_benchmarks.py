"""Benchmark files become Problem rows whose own solutions pass their own tests."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

from rrk import benchmarks, jsonl, rows
from rrk.errors import RowError, RrkError, UsageError

MBPP = {
    "text": 'Write a "function" to add\\subtract.',
    "code": "import math\r\ndef helper(a):\r\n  return a\r\ndef add(a, b):\r\n  return helper(a) + b",
    "task_id": 11,
    "test_setup_code": "limit = 3",
    "test_list": ["assert set([add(1, 2)]) == {limit}", "assert add(1, 1) == 2"],
    "challenge_test_list": ["assert add(0, 0) == 0"],
    "split": "train",
}
PLUS = {
    "task_id": "Mbpp/2",
    "prompt": '"""\nAdd halves.\n"""\n',
    "entry_point": "halves",
    "canonical_solution": "\ndef halves(t, s):\n  return [x / 2 for x in t] + [len(s)] if isinstance(t, tuple) else 1 / 0\n",
    "base_input": [[[1, 2], "inf"]],
    "plus_input": [[[], ""], [[3, float("inf")], "a inf b"], ["refused", 1]],
    "atol": 0.01,
    "assertion": "\nassert halves((1, 2), 'x') == [.5, 1, 1]\n",
}


def passes(row: dict, solution: str | None = None) -> bool:
    """Run prompt, solution and tests in a process (benchmarks' own solutions only: no sandbox is needed)."""
    p = rows.problem(row)
    text = p.prompt + (p.canonical_solution if solution is None else solution) + p.tests
    return subprocess.run([sys.executable, "-c", text], capture_output=True, timeout=60).returncode == 0


def test_mbpp_has_a_docstring_for_a_prompt_and_all_its_tests():
    row = benchmarks.problem(MBPP)
    assert row["task_id"] == "Mbpp/11"
    assert row["entry_point"] == "add"
    assert row["prompt"] == ('"""\nWrite a "function" to add\\\\subtract.\nassert set([add(1, 2)]) == {limit}\n"""\n')
    assert passes(row)
    assert not passes(row, "def add(a, b):\n    return a - b\n")
    assert not passes(row, "def add(a, b):\n    return a + b or 1\n"), "the challenge test counts"
    assert row["split"] == "train"


def test_the_sanitized_and_the_hub_forms_of_mbpp():
    sanitized = {"prompt": "Add.", "code": "def add(a, b): return a + b", "task_id": 3, "test_imports": ["import math"]}
    row = benchmarks.problem({**sanitized, "test_list": ["assert add(1, math.floor(2.5)) == 3"]})
    assert passes(row)
    assert "import math" in row["tests"]
    hub = {"task_id": 7, "prompt": "Add.", "code": "def add(a, b): return a + b", "test": "assert add(1, 2) == 3"}
    row = benchmarks.problem(benchmarks._from_hub("mbpp+", {**hub, "test_list": ["assert add(1, 1) == 2"]}))
    assert (row["task_id"], row["entry_point"]) == ("Mbpp/7", "add")
    assert passes(row)


def test_evalplus_runs_the_reference_beside_the_candidate():
    row = benchmarks.problem(PLUS)
    assert passes(row)
    assert passes(row, "def halves(t, s):\n    return [x * .5001 for x in t] + [len(s)]\n"), "within atol"
    assert not passes(row, "def halves(t, s):\n    return [x * .6 for x in t] + [len(s)]\n")
    assert not passes(
        row, "def halves(t, s):\n    assert isinstance(t, list)\n    return [x / 2 for x in t] + [len(s)]\n"
    )
    assert not passes(row, "def halves(t, s):\n    return [x / 2 for x in t] + [3 if s == 'inf' else 1]\n")
    assert not passes(row, "def halves(t, s):\n    return (*(x / 2 for x in t), len(s))\n"), "a tuple is no list"
    unordered = {**PLUS, "prompt": '"""\nassert set(halves((1,), "")) == {.5, 0}\n"""\n'}
    assert passes(benchmarks.problem(unordered), "def halves(t, s):\n    return (len(s), *(x / 2 for x in t))\n")
    assert "plus_input" not in row
    assert "assertion" not in row
    only = {key: value for key, value in PLUS.items() if not key.endswith("_input")} | {"base_input": []}
    assert passes(benchmarks.problem(only), "def halves(t, s):\n    return [.5, 1, 1]\n")


def test_multipl_e_keeps_prompt_tests_and_stops():
    row = {"name": "HumanEval_0_x", "language": "sh", "prompt": "f() {\n", "tests": "}\nf\n", "stop_tokens": ["\n}"]}
    assert benchmarks.problem(row) == {"task_id": row["name"], **{k: v for k, v in row.items() if k != "name"}}


def test_go_gets_what_it_imports_and_nothing_twice():
    row = {
        "task_id": "Go/1",
        "prompt": 'import (\n    "math"\n    "sort"\n)\n\n// F.\nfunc F(x []int) {\n',
        "import": 'import (\n    "math"\n    "sort"\n)\n',
        "declaration": "\nfunc F(x []int) {\n",
        "canonical_solution": "    sort.Ints(x)\n    strings.ToUpper(s)\n}\n",
        "test_setup": 'package main\n\nimport (\n    "testing"\n)\n',
        "test": "func TestF(t *testing.T) {}\n",
    }
    prompt = benchmarks.problem(row)["prompt"]
    assert prompt.startswith("package main\n")
    assert prompt.count('"sort"') == prompt.count('"strings"') == prompt.count('"testing"') == 1
    assert '"math"' not in prompt
    assert prompt.endswith("// F.\nfunc F(x []int) {\n")


def test_what_is_no_problem_is_named():
    with pytest.raises(RowError, match=r"it has completion, task_id"):
        benchmarks.problem({"task_id": "a", "completion": "x"})
    with pytest.raises(RowError, match="test_list"):
        benchmarks.problem({**MBPP, "test_list": []})


def test_the_hub_has_an_address_for_every_source_and_says_what_it_needs(monkeypatch):
    for source in benchmarks.SOURCES:
        name, _, split = benchmarks._address(source, "cpp", "mbpp")
        assert "/" in name
        assert split
    assert benchmarks._address("multipl-e", "c++", "mbpp")[:2] == ("nuprl/MultiPL-E", "mbpp-cpp")
    with pytest.raises(UsageError, match="--language"):
        list(benchmarks.hub("multipl-e"))
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(name, config, split):
        asked.append((name, config, split))
        return [MBPP]

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert next(benchmarks.problems(benchmarks.hub("mbpp", split="train")))["task_id"] == "Mbpp/11"
    assert asked == [("google-research-datasets/mbpp", "full", "train")]

    def offline(*_, **__):
        raise ConnectionError("Couldn't reach it\nlong story")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        RrkError, match=r"openai_humaneval from the hub: Couldn't reach it; give a local copy with --file$"
    ):
        list(benchmarks.hub("humaneval"))


def test_the_command(rrk, tmp_path):
    (tmp_path / "mbpp.jsonl").write_bytes(jsonl.dumps(MBPP) + jsonl.dumps({**MBPP, "task_id": 12, "split": "test"}))
    done = rrk("problems", "mbpp.jsonl")
    assert done.returncode == 0
    assert [json.loads(line)["task_id"] for line in done.stdout.splitlines()] == ["Mbpp/11", "Mbpp/12"]
    assert done.stderr.startswith(b"rrk problems: 2 rows, ")
    done = rrk("problems", "mbpp", "--file", "mbpp.jsonl", "--split", "test", "-o", "out.jsonl.gz", "-q")
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", b"")
    assert [row["task_id"] for row in jsonl.read([str(tmp_path / "out.jsonl.gz")])] == ["Mbpp/12"]
    assert rrk("problems", "mbpp.jsonl", "-l", "cpp", "-q").stdout == b""
    for arguments, code, text in (
        (["songs"], 2, "no benchmark 'songs'"),
        (["nowhere.jsonl"], 2, "nowhere.jsonl: no such file"),
        (["multipl-e"], 2, "needs --language"),
        (["humaneval"], 1, "--file"),
    ):
        done = rrk("problems", *arguments)
        assert done.returncode == code, done.stderr
        assert text in done.stderr.decode()
        assert len(done.stderr.decode().splitlines()) == 1
    (tmp_path / "bad.jsonl").write_bytes(jsonl.dumps(MBPP) + b'{"a": 1}\n')
    done = rrk("problems", "bad.jsonl", "-o", "bad-out.jsonl")
    assert done.returncode == 3
    assert "bad.jsonl:2: not a problem" in done.stderr.decode()
    assert not (tmp_path / "bad-out.jsonl").exists()


def test_the_command_keeps_the_contract_of_every_stage(rrk, tmp_path):
    """What is there is not written over, a stopped run goes on to the same bytes, shards add up."""
    raws = [jsonl.dumps({**MBPP, "task_id": n}) for n in range(5)]
    (tmp_path / "raw.jsonl").write_bytes(b"".join(raws[:3]) + b'{"a": 1}\n')
    command = ["problems", "raw.jsonl", "-o", "out.jsonl"]
    assert rrk(*command).returncode == 3
    (tmp_path / "raw.jsonl").write_bytes(b"".join(raws))
    done = rrk(*command)
    assert done.returncode == 2
    assert b"holds 3 items of a run that did not end" in done.stderr
    assert rrk(*command, "--resume").returncode == 0
    whole = rrk("problems", "raw.jsonl").stdout
    assert (tmp_path / "out.jsonl").read_bytes() == whole
    assert b"nothing to do" in rrk(*command, "--resume").stderr
    assert rrk(*command, "--style", "function", "--force").returncode == 0
    assert (tmp_path / "out.jsonl").read_bytes() != whole
    assert rrk("problems", "raw.jsonl", "--shard", "2/2").stdout.splitlines() == whole.splitlines()[1::2]


def test_every_file_of_the_shared_problems_can_be_read(shared):
    counted = {}
    for path in sorted((shared / "data/problems").rglob("*.jsonl.gz")):
        if path.name.startswith(("canonical", "gold")):
            continue
        made = [rows.problem(row) for row in benchmarks.problems(jsonl.read([str(path)]))]
        assert all(p.prompt and p.tests for p in made), path
        assert len({p.task_id for p in made}) == len(made), path
        counted[path.name] = len(made)
    assert len(counted) == 61
    assert counted["mbpp.jsonl.gz"] == 974


@pytest.mark.parametrize("name", ["humaneval", "mbpp", "mbppplus_v0.1.0", "humanevalpack/humanevalpack_python"])
def test_reference_solutions_pass(shared, name):
    path = shared / f"data/problems/{name}.jsonl.gz"
    made = list(benchmarks.problems(jsonl.read([str(path)])))
    for row in random.Random(0).sample(made, 8):
        assert passes(row), row["task_id"]
        assert not passes(
            row, f"\ndef {row['entry_point']}(*a):\n    return 'wrong'\n" if "Mbpp" in row["task_id"] else "    pass\n"
        )
