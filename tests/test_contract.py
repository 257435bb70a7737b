"""The stage contract (DESIGN section 3): one suite of properties, run over every row stage.

A stage joins by a Case: how it is called, and rows that it accepts.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import zstandard

from rrk import jsonl
from tests.conftest import environment, rrk_command
from tests.generation.tiny import make_model


@dataclass
class Case:
    """One stage: its command without input and output, rows for its input, and what kind of stage it is."""

    name: str
    command: list[str]
    rows: list[dict]
    by_problem: bool = False
    slow: list[str] = field(default_factory=list)  # options that make a run long enough to be interrupted
    jobs: list[str] = field(default_factory=list)  # options that make it work on several rows at once
    keeps: bool = True  # every input row comes out, with its other fields untouched
    bad: dict = field(default_factory=lambda: {"task_id": "t/9", "nothing": 1})
    changed: list[str] = field(default_factory=list)  # options that change the output: not to be mixed by --resume
    verb: str = ""


def candidates(problems: int = 4, each: int = 3) -> list[dict]:
    """Candidate rows with fields that no stage knows: a long integer, a lone surrogate, nested values."""
    return [
        {
            "task_id": f"t/{p}",
            "language": "py",
            "prompt": f"def f{p}(x):\n",
            "completion_id": c,
            "completion": f"    return x + {(p + c) % 3}\n",
            "odd": {"big": 2**70 + c, "text": "é\ud800", "deep": [1, {"a": None}]},
        }
        for p in range(problems)
        for c in range(each)
    ]


def executable(folder: Path) -> tuple[list[str], list[dict]]:
    """A problems file, and candidates that sleep a little: several runs of each (--repeat) can be interrupted."""
    rows = candidates()
    problems = folder / "execute-problems.jsonl"
    tests = "def check(candidate):\n    assert candidate(1) == {}\n\ncheck(f{})\n"
    problems.write_bytes(
        encode(
            [
                {
                    "task_id": f"t/{p}",
                    "language": "py",
                    "prompt": f"def f{p}(x):\n",
                    "tests": tests.format(1 + p % 3, p),
                }
                for p in range(4)
            ]
        )
    )
    for row in rows:
        row["completion"] = f"    import time; time.sleep(0.03)\n{row['completion']}"
    return ["-p", str(problems)], rows


SLOWLY = [sys.executable, "-m", "tests.slowly"]
TOY = [sys.executable, "-m", "tests.toy_stage"]


def cases(folder: Path) -> dict[str, Case]:
    """Every row stage, with its fixtures made in `folder`."""
    problems, programs = executable(folder)
    return {
        "execute": Case(
            "execute",
            [*rrk_command("execute"), *problems, "-j", "1"],
            programs,
            slow=["--repeat", "8"],
            jobs=["-j", "3"],
            changed=["--timeout", "9"],
        ),
        "toy-row": Case(
            "toy-row",
            [*TOY, "row"],
            candidates(),
            slow=["--slow", "0.25"],
            jobs=["--jobs", "3"],
            changed=["--add", "5"],
        ),
        "toy-problem": Case(
            "toy-problem",
            [*TOY, "problem"],
            candidates(),
            by_problem=True,
            slow=["--slow", "0.4"],
            jobs=["--jobs", "2"],
            changed=["--add", "5"],
        ),
        "mine": Case(
            "mine",
            [*SLOWLY, "mine"],
            [{**row, "passed": row["completion_id"] == 0} for row in candidates()],
            by_problem=True,
            slow=["--slow", "0.4"],
            keeps=False,
            changed=["--seed", "5"],
            verb="mine",
        ),
        "rerank": Case(
            "rerank",
            [*SLOWLY, "rerank", "--method", "majority"],
            candidates(),
            by_problem=True,
            slow=["--slow", "0.4"],
            changed=["--seed", "5"],
            verb="rerank",
        ),
        "rerank-reward": Case(
            "rerank-reward",
            [*SLOWLY, "rerank", "-m", str(reranker(folder / "reranker"))],
            candidates(),
            by_problem=True,
            slow=["--slow", "0.4"],
            changed=["--seed", "5"],
            verb="rerank",
        ),
        "sample": Case(
            "sample",
            [*SLOWLY, "sample", "-m", str(make_model(folder / "generator")), "-n", "3", "--max-tokens", "12"],
            [{"task_id": f"t/{i}", "prompt": "a long prompt " * i, "odd": {"text": "é\ud800"}} for i in range(8)],
            slow=["--slow", "0.4"],
            keeps=False,
            changed=["--temperature", "0.5"],
            verb="sample",
        ),
    }


def reranker(folder: Path) -> Path:
    """A reranker with random weights, as `rrk train-reranker` leaves one."""
    from rrk.reranking.record import Record, write
    from rrk.reranking.render import Rendering
    from rrk.reranking.scorer import Scorer
    from tests.reranking import models

    scorer = Scorer(models.network("llama"), models.tokenizer(), Rendering())
    scorer.model.save_pretrained(folder)
    scorer.tokenizer.save_pretrained(folder)
    write(folder, Record(Rendering(), scorer.golden()))
    return folder


# A stage that loads torch takes seconds a run, and the suite runs each a few dozen times: those two are for `make test-all`.
SLOW = ("rerank-reward", "sample")
NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name in ("execute", "mine", "toy-row", "toy-problem", "rerank", *SLOW)
]


@pytest.fixture(scope="module")
def all_cases(tmp_path_factory) -> dict[str, Case]:
    made = cases(tmp_path_factory.mktemp("contract"))
    assert set(made) == {getattr(name, "values", (name,))[0] for name in NAMES}, "each case is run"
    return made


@pytest.fixture(params=NAMES)
def case(request, all_cases) -> Case:
    found = all_cases[request.param]
    found.verb = found.verb or ("toy" if found.name.startswith("toy") else found.name)
    return found


def run(case: Case, *args: str, input: bytes | None = None, cwd: Path, timeout: float = 120):
    stdin = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run(
        [*case.command, *args], cwd=cwd, env=environment(), capture_output=True, timeout=timeout, **stdin
    )


def encode(rows: list[dict]) -> bytes:
    return b"".join(jsonl.dumps(row) for row in rows)


def decode(data: bytes) -> list[dict]:
    return [json.loads(line) for line in data.splitlines()]


def stable(data: bytes) -> list[dict]:
    """Rows without what a clock wrote."""
    return [{k: v for k, v in row.items() if k not in ("time", "time_wall", "max_rss")} for row in decode(data)]


def reference(case: Case, cwd: Path) -> bytes:
    done = run(case, input=encode(case.rows), cwd=cwd)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_empty_input_gives_no_rows_and_no_error(case, tmp_path):
    done = run(case, input=b"", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"")


def test_blank_lines_are_skipped(case, tmp_path):
    spaced = encode(case.rows).replace(b"\n", b"\n\n  \n")
    done = run(case, input=spaced, cwd=tmp_path)
    assert done.returncode == 0
    assert stable(done.stdout) == stable(reference(case, tmp_path))


@pytest.mark.parametrize("line", [b"{not json", b"[1, 2]", b'"text"', b"\xff\xfe"])
def test_a_bad_line_names_file_and_line_exits_3_and_keeps_what_was_before(case, tmp_path, line):
    good = case.rows[:6]
    (tmp_path / "in.jsonl").write_bytes(encode(good) + line + b"\n" + encode(case.rows[6:]))
    done = run(case, "in.jsonl", cwd=tmp_path)
    assert done.returncode == 3
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith(f"rrk {case.verb}: in.jsonl:7: ")
    assert b"Traceback" not in done.stderr
    if case.keeps:
        # The problem that the bad line interrupts is not half-ranked, but those before it are written.
        assert len(decode(done.stdout)) >= (3 if case.by_problem else 6)


def test_a_row_that_lacks_its_fields_is_a_bad_row(case, tmp_path):
    done = run(case, input=encode(case.rows[:3]) + encode([case.bad]), cwd=tmp_path)
    assert done.returncode == 3
    assert "<stdin>:4: " in done.stderr.decode().splitlines()[-1]


def test_unknown_fields_pass_through_untouched_and_in_order(case, tmp_path):
    if not case.keeps:
        pytest.skip("makes rows of its own")
    for before, after in zip(case.rows, decode(reference(case, tmp_path)), strict=True):
        assert list(after)[: len(before)] == list(before)
        assert {key: after[key] for key in before} == before


def test_dash_is_standard_input_and_output(case, tmp_path):
    done = run(case, "-o", "-", "-", input=encode(case.rows), cwd=tmp_path)
    assert done.returncode == 0
    assert stable(done.stdout) == stable(reference(case, tmp_path))


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_compressed_files_in_and_out(case, tmp_path, suffix):
    raw = encode(case.rows)
    packed = gzip.compress(raw) if suffix == "gz" else zstandard.compress(raw)
    (tmp_path / f"in.jsonl.{suffix}").write_bytes(packed)
    done = run(case, f"in.jsonl.{suffix}", "-o", f"out.jsonl.{suffix}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    with jsonl.open_binary(str(tmp_path / f"out.jsonl.{suffix}")) as stream:
        assert stable(stream.read()) == stable(reference(case, tmp_path))
    assert not list(tmp_path.glob("*.part*"))


def test_a_damaged_compressed_file_is_one_clear_line(case, tmp_path):
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(encode(case.rows))[:-20])
    done = run(case, "in.jsonl.gz", cwd=tmp_path)
    assert done.returncode == 1
    assert "damaged" in done.stderr.decode().splitlines()[-1]


def test_a_missing_file_is_a_usage_error_before_any_work(case, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(encode(case.rows))
    done = run(case, "in.jsonl", "nowhere.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert "nowhere.jsonl: no such file" in done.stderr.decode()


def test_an_unknown_option_exits_2_with_one_line(case, tmp_path):
    done = run(case, "--no-such-option", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.decode().splitlines()) == 1


def test_a_row_leaves_before_the_input_ends(case, tmp_path):
    if not case.keeps:
        pytest.skip("makes rows of its own")
    first = case.rows[: 4 if case.by_problem else 1]
    child = subprocess.Popen(
        [*case.command, *case.jobs], cwd=tmp_path, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        child.stdin.write(encode(first))
        child.stdin.flush()
        line = child.stdout.readline()  # hangs here (and the test times out) if the stage waits for the end
        assert json.loads(line)["completion_id"] == 0
    finally:
        child.stdin.close()
        child.wait(60)
        child.stdout.close()


def test_a_closed_pipe_ends_quietly_with_141(case, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(encode(case.rows))
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as sink:
        done = subprocess.run(
            [*case.command, "in.jsonl"], cwd=tmp_path, env=environment(), stdout=sink, stderr=subprocess.PIPE
        )
    assert done.returncode == 141
    assert done.stderr == b""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_rows_and_resume_ends_as_if_nothing_had_happened(case, tmp_path, number, code):
    (tmp_path / "in.jsonl").write_bytes(encode(case.rows))
    command = [*case.command, *case.slow, "in.jsonl", "-o", "out.jsonl"]
    child = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE)
    journal = tmp_path / "out.jsonl.part.journal"
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 1):
        assert child.poll() is None, child.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(number)
    errors = child.communicate(timeout=60)[1].decode()
    assert child.returncode == code, errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out.jsonl").exists()
    refused = run(case, *case.slow, "in.jsonl", "-o", "out.jsonl", cwd=tmp_path)
    assert refused.returncode == 2, "starting over would lose rows"
    done = run(case, *case.slow, "in.jsonl", "-o", "out.jsonl", "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert stable((tmp_path / "out.jsonl").read_bytes()) == stable(reference(case, tmp_path))
    again = run(case, *case.slow, "in.jsonl", "-o", "out.jsonl", "--resume", cwd=tmp_path)
    assert again.returncode == 0
    assert "nothing to do" in again.stderr.decode()


def test_a_complete_file_is_neither_taken_for_another_nor_written_over(case, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(encode(case.rows))
    (tmp_path / "other.jsonl").write_bytes(encode([{**row, "more": 1} for row in case.rows]))
    out = tmp_path / "out.jsonl"
    assert run(case, "in.jsonl", "-o", "out.jsonl", cwd=tmp_path).returncode == 0
    before = out.read_bytes()
    refused = [
        [*case.changed, "in.jsonl", "--resume"],
        ["in.jsonl", "--resume", "--limit", "2"],
        ["other.jsonl", "--resume"],
        ["in.jsonl"],
        [*case.changed, "in.jsonl"],
    ]
    for options in refused:
        done = run(case, *options, "-o", "out.jsonl", cwd=tmp_path)
        assert done.returncode == 2, (options, done.stderr.decode())
        assert "--force" in done.stderr.decode()
    assert out.read_bytes() == before
    done = run(case, "in.jsonl", "-o", "out.jsonl", "--limit", "2", "--force", cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert stable(out.read_bytes()) == stable(before)[: len(decode(out.read_bytes()))] != stable(before)


def test_a_pipe_named_by_o_is_written_into_and_a_link_is_followed(case, tmp_path):
    expected = stable(reference(case, tmp_path))
    (tmp_path / "in.jsonl").write_bytes(encode(case.rows))
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "target.jsonl").write_text("old\n")
    (tmp_path / "link.jsonl").symlink_to("target.jsonl")
    with subprocess.Popen(["cat", "fifo"], cwd=tmp_path, stdout=subprocess.PIPE) as reader:
        assert run(case, "in.jsonl", "-o", "fifo", cwd=tmp_path).returncode == 0
        assert stable(reader.stdout.read()) == expected
    assert (tmp_path / "fifo").is_fifo()
    assert run(case, "in.jsonl", "-o", "link.jsonl", cwd=tmp_path).returncode == 0
    assert (tmp_path / "link.jsonl").is_symlink()
    assert stable((tmp_path / "target.jsonl").read_bytes()) == expected
    assert stable(run(case, "in.jsonl", "-o", "/dev/fd/1", cwd=tmp_path).stdout) == expected


def test_resume_after_a_cut_at_any_byte_gives_the_same_file(case, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(encode(case.rows))
    part, journal, out = (tmp_path / name for name in ("out.jsonl.part", "out.jsonl.part.journal", "out.jsonl"))
    # What a killed run leaves: a bad last line stops the stage after all good rows, with .part and journal in place.
    (tmp_path / "cut.jsonl").write_bytes(encode(case.rows) + b"{\n")
    assert run(case, "cut.jsonl", "-o", "out.jsonl", cwd=tmp_path).returncode == 3
    if not part.exists():
        pytest.fail("a bad last row cost the rows before it")
    whole, log = part.read_bytes(), journal.read_bytes()
    expected = reference(case, tmp_path)
    random.seed(1)
    for _ in range(4):
        part.write_bytes(whole[: random.randrange(len(whole))])
        journal.write_bytes(log[: random.randrange(log.index(b"\n") + 1, len(log) + 1)])
        done = run(case, "in.jsonl", "-o", "out.jsonl", "--resume", cwd=tmp_path)
        assert done.returncode == 0, done.stderr.decode()
        assert stable(out.read_bytes()) == stable(expected)
        out.unlink()


def test_resume_refuses_another_input_and_other_parameters(case, tmp_path):
    (tmp_path / "cut.jsonl").write_bytes(encode(case.rows) + b"{\n")
    (tmp_path / "other.jsonl").write_bytes(encode([{**row, "more": 1} for row in case.rows]))
    (tmp_path / "in.jsonl").write_bytes(encode(case.rows))
    assert run(case, "cut.jsonl", "-o", "out.jsonl", cwd=tmp_path).returncode == 3
    kept = (tmp_path / "out.jsonl.part").read_bytes()
    assert run(case, "other.jsonl", "-o", "out.jsonl", "--resume", cwd=tmp_path).returncode == 2
    assert run(case, "in.jsonl", "-o", "out.jsonl", "--resume", "--limit", "2", cwd=tmp_path).returncode == 2
    if case.changed:
        done = run(case, *case.changed, "in.jsonl", "-o", "out.jsonl", "--resume", cwd=tmp_path)
        assert done.returncode == 2
        assert "other parameters" in done.stderr.decode()
    assert (tmp_path / "out.jsonl.part").read_bytes() == kept, "a refusal must not touch what is there"


def test_order_is_kept_under_jobs(case, tmp_path):
    if not case.jobs:
        pytest.skip("has no --jobs")
    done = run(case, *case.jobs, input=encode(case.rows), cwd=tmp_path)
    assert stable(done.stdout) == stable(reference(case, tmp_path))


def test_shards_partition_the_output(case, tmp_path):
    whole = stable(reference(case, tmp_path))
    parts = []
    for index in (1, 2, 3):
        done = run(case, "--shard", f"{index}/3", input=encode(case.rows), cwd=tmp_path)
        assert done.returncode == 0
        parts += stable(done.stdout)
    key = lambda row: json.dumps(row, sort_keys=True)  # noqa: E731
    assert sorted(map(key, parts)) == sorted(map(key, whole))


def test_limit_comes_before_shard(case, tmp_path):
    first = stable(run(case, "--limit", "2", input=encode(case.rows), cwd=tmp_path).stdout)
    halves = [
        stable(run(case, "--limit", "2", "--shard", f"{i}/2", input=encode(case.rows), cwd=tmp_path).stdout)
        for i in (1, 2)
    ]
    assert halves[0] + halves[1] == first
    assert first == stable(reference(case, tmp_path))[: len(first)]


def test_quiet_says_nothing_and_json_summarises_for_machines(case, tmp_path):
    assert run(case, "-q", input=encode(case.rows), cwd=tmp_path).stderr == b""
    done = run(case, "--json", input=encode(case.rows), cwd=tmp_path)
    summary = json.loads(done.stderr.decode().splitlines()[-1])
    assert summary["rows"] == len(decode(done.stdout))


def test_a_full_disk_is_one_clear_line_and_loses_nothing(case, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(encode(case.rows))
    limited = ["bash", "-c", 'ulimit -f 1; exec "$@"', "bash", *case.command]
    big = [{**row, "weight": "x" * 700} for row in case.rows]
    (tmp_path / "big.jsonl").write_bytes(encode(big))
    done = subprocess.run(
        [*limited, "big.jsonl", "-o", "out.jsonl"], cwd=tmp_path, env=environment(), capture_output=True
    )
    if done.returncode == 0:
        pytest.skip("writes less than the limit")
    assert done.returncode == 1, done.stderr.decode()
    assert "make room" in done.stderr.decode()
    done = run(case, "big.jsonl", "-o", "out.jsonl", "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    expected = run(case, input=encode(big), cwd=tmp_path).stdout
    assert stable((tmp_path / "out.jsonl").read_bytes()) == stable(expected)


def test_help_has_examples_and_a_terminal_without_input_is_refused(case, tmp_path):
    if case.name.startswith("toy"):
        pytest.skip("nobody reads the toy's help")
    done = subprocess.run(rrk_command(case.verb, "--help"), capture_output=True, env=environment(), cwd=tmp_path)
    assert done.returncode == 0
    assert f"rrk {case.verb}" in done.stdout.decode().replace("Usage: ", "", 1)
