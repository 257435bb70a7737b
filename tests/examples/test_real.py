"""examples/real: the plan hangs together, and (slow, with a real model) a small run of it ends in the table."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, environment, rrk_command

LANGUAGES = "py js"
ROWS = [
    "SFT, greedy", "fused on MBPP", "judge", "reranker 1", "policy 1, one sample", "policy 1, greedy", "policy 1, reranker 1",
    "policy 1, fused", "large", "large, greedy", "large, 4 by examples",
]  # fmt: skip


@pytest.fixture
def checkout(tmp_path) -> Path:
    if shutil.which("make") is None:
        pytest.skip("no make")
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "rrk").write_text(f'#!/bin/sh\nexec {shlex.join(rrk_command())} "$@"\n')
    (tmp_path / "rrk").chmod(0o755)
    return tmp_path


def make(checkout: Path, *more: str, timeout: int = 60, threads: int = 1) -> subprocess.CompletedProcess:
    command = [
        "make",
        "-f",
        "examples/real/Makefile",
        "runs/real/compare.txt",
        f"LANGS={LANGUAGES}",
        "RRK=./rrk",
        *more,
    ]
    return subprocess.run(
        command,
        cwd=checkout,
        env=environment(OMP_NUM_THREADS=str(threads)),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_every_file_that_the_table_names_is_made_on_the_way(checkout):
    data = checkout / "runs" / "real" / "data"
    data.mkdir(parents=True)
    for name in ("train", "dev", "test", "sft", "base-samples", "test-py", "test-js"):
        (data / f"{name}.jsonl").write_text("")  # the loop's own make wants to see them, though nothing runs
    (data / "base").mkdir()
    plan = make(checkout, "--dry-run", "--always-make", "BASE=runs/real/data/base", "LARGE=models/large")
    assert plan.returncode == 0, plan.stderr
    text = plan.stdout.replace("\\\n", " ")
    made = set(re.findall(r"--output (\S+)", text)) | set(re.findall(r"> (\S+)", text))
    lines = [shlex.split(line) for line in text.splitlines() if re.search(r"^\./rrk .* (compare|eval --cost) ", line)]
    tables = [line for line in lines if "compare" in line]
    assert len(tables) == 2
    named = [dict(word.split("=", 1) for word in line if "=" in word) for line in lines]
    assert list(named[0]) == ROWS
    assert {path for one in named for path in one.values()} <= made
    assert "--language js" in text
    assert "test-js.jsonl" in re.search(r"cat (.*) > runs/real/data/test.jsonl", text)[1]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_small_run_on_a_real_model_ends_in_the_table(checkout):
    """RRK_REAL_MODEL: a folder with an instruct model; RRK_PROBLEMS: one with the benchmarks' files (examples/real)."""
    model, files = os.environ.get("RRK_REAL_MODEL"), os.environ.get("RRK_PROBLEMS")
    if not (model and files):
        pytest.skip("RRK_REAL_MODEL and RRK_PROBLEMS name no model and no benchmarks")
    more = ["LIMIT=8", "N=4", "TRAIN_N=4", "LARGE_N=2", "CONFIG=examples/real/trial.toml"]
    roles = [f"BASE={model}", f"LARGE={model}", f"FILES={files}"]
    done = make(checkout, *roles, *more, timeout=7200, threads=os.cpu_count() or 1)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((checkout / "runs/real/compare.json").read_text())
    large = Path(model).name
    rows = {row.replace("large", large).replace(", 4 by", ", 2 by") for row in ROWS}
    rows |= {"random", "oracle", "logprob-mean", "examples --ties logprob-mean"}
    assert rows <= found["methods"].keys()
    assert list(found["methods"]["judge"]["languages"]) == LANGUAGES.split()
    assert "FLOPs an answer" in (checkout / "runs/real/costs.txt").read_text()
    assert "policy 1, until its examples pass" in (checkout / "runs/real/costs.svg").read_text()
