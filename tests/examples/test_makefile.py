"""`make iterate` on a world small enough for a test: complete, incremental, and the same whatever interrupts it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, environment, rrk_command

CONFIG = """
[sample]
max_tokens = 40
[train-sft]
steps = 250
batch_size = 16
lr = 2e-3
bf16 = true
[train-reranker]
steps = 4
batch_size = 8
lr = 7e-4
pooling = "likelihood"
wise_ft = 0.5
[train-ppo]
updates = 2
prompts_per_update = 4
samples = 4
minibatch = 8
max_tokens = 40
probe_every = 1
probe_samples = 2
save_every = 1
"""
STAGES = (
    "world.py",
    "train-sft",
    "sample",
    "execute",
    "mine",
    "train-reranker",
    "train-ppo",
    "rerank",
    "train-fusion",
    "eval",
)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, warm) -> Path:
    """What `make iterate` needs of a checkout, and a small configuration."""
    if shutil.which("make") is None:
        pytest.skip("no make")
    pytest.importorskip("trl")
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copytree(ROOT / "examples", folder / "examples")
    (folder / "small.toml").write_text(CONFIG)
    # Stages that load a model need not import it; what is interrupted is the real thing.
    for name, command in (("rrk", warm()), ("cold", rrk_command())):
        (folder / name).write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


def command(run: str, *more: str, rounds: int = 0) -> list[str]:
    world = "WORLD_ARGS=--train 8 --dev 2 --test 4 --corpus 4800"
    return [
        "make", "iterate", f"ROUND={rounds}", "N=8", f"RUN={run}", "RRK=./rrk", f"PYTHON={sys.executable}",
        "CONFIG=small.toml", world, *more,
    ]  # fmt: skip


def make(checkout: Path, run: str, *more: str, rounds: int = 0) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(run, *more, rounds=rounds), cwd=checkout, env=environment(), capture_output=True, text=True, timeout=280
    )


@pytest.fixture(scope="module")
def first(checkout) -> subprocess.CompletedProcess:
    done = make(checkout, "whole")
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def artifacts(folder: Path) -> dict[str, str]:
    """A digest of each artifact: of rows without what a clock wrote, of weights as they are."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".jsonl" and "log" not in name:
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            clocks = ("time", "time_wall", "max_rss", "model")
            text = json.dumps([{k: v for k, v in row.items() if k not in clocks} for row in rows])
            found[name] = hashlib.sha256(text.encode()).hexdigest()
        elif path.suffix == ".safetensors":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def test_the_plan_is_readable_and_names_every_stage(checkout):
    done = make(checkout, "plan", "--dry-run", rounds=1)
    assert done.returncode == 0, done.stderr
    for stage in STAGES:
        assert stage in done.stdout
    # make passes TERM on to what it started: that must be rrk, and no shell that an assignment asks for.
    assert not [line for line in done.stdout.splitlines() if "train-" in line and re.match(r"\w+=", line)]
    assert not (checkout / "runs" / "plan").exists()


def ends_with_its_table(checkout: Path, done: subprocess.CompletedProcess, rounds: int, *labels: str) -> None:
    table = (checkout / "runs" / "whole" / f"table-{rounds}.txt").read_text()
    assert done.stdout.rstrip().endswith(table.rstrip())
    for label in labels:
        assert label in table


def test_it_ends_with_the_table(checkout, first):
    ends_with_its_table(
        checkout, first, 0, "held-out: round 0, reranker 0", "held-out: round 0, fused", "train: round 0"
    )


def test_a_second_call_says_that_nothing_is_to_be_done(checkout, first):
    assert "Nothing to be done for 'iterate'" in make(checkout, "whole").stdout


def test_a_changed_input_makes_again_what_depends_on_it_and_nothing_else(checkout, first):
    verdicts = checkout / "runs" / "whole" / "0" / "test-verdicts.jsonl"
    os.utime(verdicts)
    plan = make(checkout, "whole", "--dry-run").stdout
    assert "0/test-scored.jsonl" in plan
    assert "train-reranker" not in plan
    assert "rrk sample" not in plan


def test_later_rerankers_start_from_their_policy_or_from_the_last_one(checkout):
    for more, base in ((), "2/policy"), (("FROM=last",), "1/reranker"):
        plan = make(checkout, "from", "--dry-run", *more, rounds=2).stdout
        lines = [line for line in plan.splitlines() if "train-reranker" in line]
        assert f"--model runs/from/{base} " in lines[2]
        assert "--model runs/from/sft " in lines[0]
    wrong = make(checkout, "from", "--dry-run", "FROM=first")
    assert wrong.returncode == 2
    assert "choose policy or last" in wrong.stderr


def test_the_first_reranker_may_start_from_another_model(checkout):
    (checkout / "p.jsonl").touch()
    plan = make(
        checkout, "own", "--dry-run", "BASE=a/b", "TRAIN=p.jsonl", "TEST=p.jsonl", "RERANKER=some/encoder", rounds=1
    )
    first, second = [line for line in plan.stdout.splitlines() if "train-reranker" in line]
    assert "--model some/encoder" in first
    assert "--model runs/own/0/reranker" in second


def test_an_instruct_model_may_stay_as_it_is(checkout):
    (checkout / "p.jsonl").touch()
    plan = make(checkout, "own", "--dry-run", "BASE=a/b", "TRAIN=p.jsonl", "TEST=p.jsonl", "SFT=none", rounds=1).stdout
    assert "train-sft" not in plan
    assert "--model a/b -n" in plan
    (ppo,) = [line for line in plan.splitlines() if "train-ppo" in line]
    assert "--model a/b --reranker runs/own/0/reranker" in ppo


@pytest.mark.slow
def test_one_more_round_begins_where_the_last_one_ended(checkout, first):
    assert "train-sft" not in make(checkout, "whole", "--dry-run", rounds=1).stdout
    done = make(checkout, "whole", rounds=1)
    assert done.returncode == 0, done.stderr[-3000:]
    ends_with_its_table(
        checkout,
        done,
        1,
        "held-out: round 0",
        "held-out: round 1, reranker 0",
        "held-out: round 1, reranker 1",
        "held-out: round 1, rerankers 0 and 1",
        "train: round 1",
    )
    assert "Nothing to be done for 'iterate'" in make(checkout, "whole", rounds=1).stdout


def test_without_problems_a_model_of_ones_own_is_refused_with_the_remedy(checkout):
    done = make(checkout, "own", "BASE=somewhere")
    assert done.returncode == 2
    assert "TRAIN=" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_anywhere_and_called_again_it_ends_in_the_same_artifacts(checkout, first, number):
    assert make(checkout, "whole", rounds=1).returncode == 0
    run = f"cut-{number}"
    rng = random.Random(int(number))
    cuts = 0
    for _ in range(60):
        child = subprocess.Popen(
            command(run, "RRK=./cold", rounds=1), cwd=checkout, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            child.wait(rng.uniform(4, 15) if cuts < 10 else 280)
        except subprocess.TimeoutExpired:
            # Ctrl-C reaches the whole group of a terminal; TERM only make, which passes it on.
            os.killpg(child.pid, number) if number == signal.SIGINT else child.send_signal(number)
            child.wait(60)
            cuts += 1
        if child.returncode == 0:
            break
        time.sleep(0.2)
    assert child.returncode == 0
    assert cuts >= 3
    assert artifacts(checkout / "runs" / run) == artifacts(checkout / "runs" / "whole")
