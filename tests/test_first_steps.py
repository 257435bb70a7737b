"""The first ten minutes: packages that are missing, names that are mistyped, servers that are not there, make's words."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rrk import model_names
from rrk.errors import UsageError
from tests.conftest import ROOT, environment

ROW = {"task_id": "t/0", "prompt": "def f():\n", "completion": "    return 1\n", "passed": True}
PAIR = {"task_id": "t/0", "prompt": "def f():\n", "chosen": "    return 1\n", "rejected": "    return 2\n"}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    (tmp_path / "pairs.jsonl").write_text(json.dumps(PAIR) + "\n")
    for name in ("runs/reranker", "runs/sft"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    "args",
    [
        ["sample", "rows.jsonl", "-m", "runs/sft"],
        ["rerank", "rows.jsonl", "-m", "runs/reranker"],
        ["train-sft", "rows.jsonl", "-m", "runs/sft", "-o", "out"],
        ["train-reranker", "pairs.jsonl", "-m", "runs/sft", "-o", "out"],
        ["train-ppo", "rows.jsonl", "-m", "runs/sft", "--reranker", "runs/reranker", "-o", "out"],
    ],
    ids=lambda args: args[0],
)
def test_without_torch_one_line_says_what_to_install(rrk, files, args):
    (files / "missing").mkdir()
    (files / "missing" / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    )
    done = rrk(*args, PYTHONPATH=f"{files / 'missing'}:{ROOT}")
    said = done.stderr.decode().splitlines()
    assert (done.returncode, len(said)) == (1, 1), said
    assert "needs torch: pip install" in said[0]
    assert "[train]" in said[0]


@pytest.mark.parametrize(
    "args",
    [
        ["rerank", "rows.jsonl", "-m", "runs/rerankr"],
        ["rerank", "rows.jsonl", "--method", "fused", "-m", "runs/rerankr"],
        ["sample", "rows.jsonl", "-m", "runs/rerankr"],
        ["train-sft", "rows.jsonl", "-m", "runs/rerankr", "-o", "out"],
        ["train-reranker", "pairs.jsonl", "-m", "runs/rerankr", "-o", "out"],
        ["train-ppo", "rows.jsonl", "-m", "runs/sft", "--reranker", "runs/rerankr", "-o", "out"],
    ],
    ids=lambda args: args[0],
)
def test_a_mistyped_folder_is_answered_before_anything_is_loaded(rrk, files, args):
    # Of the hub it would be asked for a minute.
    done = rrk(*args)
    said = done.stderr.decode().splitlines()
    assert (done.returncode, len(said)) == (2, 1), said
    assert "no such folder; did you mean runs/reranker?" in said[0]


def test_names_on_the_hub_and_folders_are_let_pass_and_paths_are_not(files, monkeypatch):
    monkeypatch.chdir(files)
    monkeypatch.setattr(model_names, "_out_of_reach", lambda name: "")
    for name in ("gpt2", "Qwen/Qwen2.5-Coder-0.5B", "runs/sft", str(files / "runs"), "./runs/sft"):
        model_names.check(name)
    for name in ("./x", "/nowhere/x", "a/b/c", "runs/x", "sft/", "~/x"):
        with pytest.raises(UsageError, match="no such folder"):
            model_names.check(name)
    monkeypatch.chdir(files / "runs")
    with pytest.raises(UsageError, match="did you mean reranker"):
        model_names.check("rerancker")


def test_a_name_for_a_hub_out_of_reach_is_answered_in_seconds(rrk, files):
    began = time.monotonic()
    done = rrk("sample", "rows.jsonl", "-m", "o/nothing", HF_HUB_OFFLINE="0", HF_ENDPOINT="http://127.0.0.1:9")
    assert time.monotonic() - began < 20
    assert done.returncode == 2
    assert "the hub cannot be reached" in done.stderr.decode()


def test_a_server_that_is_not_there_ends_the_run_in_seconds(rrk, files):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    began = time.monotonic()
    done = rrk("sample", "rows.jsonl", "-m", "x", "--engine", "openai", "--base-url", url, timeout=60)
    assert time.monotonic() - began < 20
    assert done.returncode == 1
    assert "is the server running" in done.stderr.decode().splitlines()[-1]


@pytest.fixture
def checkout(tmp_path) -> Path:
    if shutil.which("make") is None:
        pytest.skip("no make")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


def run(checkout: Path, *command: str, **more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command,
        cwd=checkout,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )


def test_make_help_tells_the_variables_and_a_table_of_no_run_is_refused_at_once(checkout):
    told = run(checkout, "make", "help").stdout
    for name in ("ROUND", "BASE", "TRAIN_N", "RERANKER", "make test"):
        assert name in told
    (checkout / "runs" / "mine").mkdir(parents=True)
    done = run(checkout, "make", "table", "RUN=nope")
    assert done.returncode != 0
    assert "no table in runs/nope" in done.stderr
    assert "mine" in done.stderr
    (checkout / "runs" / "mine" / "table-1.txt").write_text("the table\n")
    assert run(checkout, "make", "table", "RUN=mine").stdout == "the table\n"


def test_the_loop_of_pipes_finds_the_venv_that_make_made_or_says_what_to_do(checkout):
    bare = ":".join(d for d in os.environ["PATH"].split(":") if not Path(d, "rrk").exists())
    done = run(checkout, "bash", "examples/loop.sh", PATH=bare)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["loop.sh: no rrk here: 'make setup' makes .venv, or set RRK"]
    tools = checkout / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name, does in (("rrk", 'echo "$@" >&2; exit 9'), ("python", 'echo "python $1"')):
        (tools / name).write_text(f"#!/bin/sh\n{does}\n")
        (tools / name).chmod(0o755)
    done = run(checkout, "bash", "examples/loop.sh", PATH=bare)
    assert done.stdout == "python examples/tiny/world.py\n"
    assert "train-sft runs/loop/data/sft.jsonl" in done.stderr


def test_every_package_that_is_asked_for_is_pinned_once_and_the_pin_will_do():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = declared["project"]["optional-dependencies"]
    always = [declared["project"]["dependencies"], declared["build-system"]["requires"]]
    wanted = [Requirement(text) for texts in (*always, *extras.values()) for text in texts]
    assert {extra for one in wanted if one.name == "rrk" for extra in one.extras} <= set(extras)
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    assert len(pins) == len(lines)
    for one in wanted:
        if one.name != "rrk":
            assert one.specifier.contains(pins[canonicalize_name(one.name)]), one


def test_make_says_how_rrk_gets_on_the_path(checkout):
    done = run(checkout, "make", "--dry-run", "setup")
    assert "activate" in done.stdout


def test_a_key_is_taken_from_the_environment_and_not_from_the_command_line(rrk, files):
    # What stands on a command line is read by everybody through ps.
    assert b"OPENAI_API_KEY" in rrk("sample", "--help").stdout
    assert b"--api-key" not in rrk("sample", "--help").stdout
    done = rrk("sample", "rows.jsonl", "-m", "x", "--engine", "openai", "--api-key", "secret")
    assert done.returncode == 2
