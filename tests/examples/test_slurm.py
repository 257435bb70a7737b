"""examples/slurm, with a stand-in for sbatch: arrays over --shard, merged, are the run without shards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rrk import jsonl
from tests.conftest import ROOT, environment, rrk_command
from tests.generation.tiny import make_model

# Runs what it is given at once, a task after another; --dependency is what ran before. Prints a job's number.
SBATCH = """#!/usr/bin/env bash
set -euo pipefail
from=1 to=1 log=slurm.log
while [[ $1 = --* ]]; do
  case $1 in
    --array=*) range=${1#--array=}; from=${range%-*} to=${range#*-} ;;
    --dependency=*:) echo "empty dependency" >&2; exit 2 ;;
    --output=*) log=${1#--output=} ;;
  esac
  shift
done
for ((i = from; i <= to; i++)); do
  SLURM_ARRAY_TASK_ID=$i bash "$@" > "${log/\\%a/$i}" 2>&1 || { cat "${log/\\%a/$i}" >&2; exit 1; }
done
echo $RANDOM
"""
SLURM = ROOT / "examples" / "slurm"


@pytest.fixture
def slurm(tmp_path):
    """Run a script of examples/slurm, or sbatch, in a fresh folder."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(SBATCH)
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    more = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "RRK": " ".join(rrk_command()), "PYTHON": sys.executable}

    def run(*args: str, **env: str) -> subprocess.CompletedProcess:
        command = ["bash", str(SLURM / args[0]), *args[1:]] if args[0].endswith(".sh") else list(args)
        variables = environment(**more, RRK_SLURM=str(SLURM), **env)
        return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=240)

    return run


def measured(path: Path) -> list[dict]:
    """Rows without what is measured and differs from run to run."""
    return [
        {k: v for k, v in row.items() if k not in ("time", "time_wall", "max_rss")} for row in jsonl.read([str(path)])
    ]


def test_an_array_over_rows_merges_to_the_unsharded_file(slurm, rrk, tmp_path):
    """Seven rows in three shards, one of which was there already; one row that cannot be judged stops nobody."""
    problem = {"task_id": "t/0", "prompt": "def f(x):\n", "tests": "assert f(1) == 2"}
    rows = [{"task_id": "t/0", "completion_id": n, "completion": f"    return x + {n % 3}\n"} for n in range(7)]
    rows[2]["language"] = "cobol"
    problems = [problem, {**problem, "language": "cobol"}]
    jsonl.write(tmp_path / "p.jsonl", problems)
    jsonl.write(tmp_path / "c.jsonl", [{"language": "py", **row} for row in rows])
    assert rrk("execute", "c.jsonl", "-p", "p.jsonl", "-o", "whole.jsonl").returncode == 4
    stage = [str(SLURM / "stage.sbatch"), "3", "v", "execute", "c.jsonl", "-p", "p.jsonl"]
    for array in ("2-2", "1-3"):
        done = slurm("sbatch", "--parsable", f"--array={array}", *stage)
        assert done.returncode == 0, done.stderr
    assert slurm("sbatch", str(SLURM / "merge.sbatch"), "3", "v").returncode == 0
    assert measured(tmp_path / "v.jsonl") == measured(tmp_path / "whole.jsonl")
    (tmp_path / "v.1-of-3.jsonl").write_bytes((tmp_path / "v.2-of-3.jsonl").read_bytes().splitlines(True)[0])
    short = slurm("sbatch", str(SLURM / "merge.sbatch"), "3", "v")
    assert short.returncode == 1


@pytest.mark.slow
def test_the_loop_by_shards_is_the_pipe(slurm, rrk, tmp_path):
    """sample, execute, rerank and mine over two shards; a problem without pairs is no hole in the merged file."""
    model = str(make_model(tmp_path / "generator"))
    # A completion stays in the comment, and passes, unless it has a line's end in it.
    tests = [f"assert x == {n % 3}" for n in range(5)]
    rows = [{"task_id": f"t/{n}", "prompt": f"x = {n}\n#", "tests": test} for n, test in enumerate(tests)]
    jsonl.write(tmp_path / "p.jsonl", rows)
    done = slurm("loop.sh", "p.jsonl", model, "ngram", "out", "2", N="6", SAMPLE="--max-tokens 30 --exact")
    assert done.returncode == 0, done.stderr
    assert rrk("sample", "p.jsonl", "-m", model, "-n", "6", "--max-tokens", "30", "--exact", "-o", "s").returncode == 0
    assert rrk("execute", "s", "-p", "p.jsonl", "-o", "v").returncode == 0
    assert rrk("rerank", "v", "--method", "ngram", "-o", "r").returncode == 0
    assert rrk("mine", "r", "--hard", "-o", "m").returncode == 0
    assert measured(tmp_path / "out" / "scored.jsonl") == measured(tmp_path / "r")
    assert len(measured(tmp_path / "r")) == 30
    assert 0 < len({row["task_id"] for row in jsonl.read([str(tmp_path / "m")])}) < 5
    assert (tmp_path / "out" / "pairs.jsonl").read_bytes() == (tmp_path / "m").read_bytes()


def test_merge_by_problem_keeps_the_order_of_the_input_and_notices_a_missing_shard(tmp_path):
    """Groups of any size, none among them."""
    source = [{"task_id": f"t/{n}"} for n in range(7)]
    made = [{"task_id": f"t/{n}", "pair": k} for n in range(7) for k in range((n * 5) % 3)]
    jsonl.write(tmp_path / "in", source)
    paths = [str(tmp_path / f"{i}") for i in range(3)]
    for i, path in enumerate(paths):
        jsonl.write(path, [row for row in made if int(row["task_id"][2:]) % 3 == i])
    merge = [sys.executable, str(SLURM / "merge.py"), "--by", str(tmp_path / "in")]
    done = subprocess.run([*merge, *paths], env=environment(), capture_output=True)
    assert done.stdout == b"".join(map(jsonl.dumps, made))
    swapped = subprocess.run([*merge, paths[1], paths[0], paths[2]], env=environment(), capture_output=True)
    assert swapped.returncode == 1
    assert b"give all shards, in their order" in swapped.stderr
