"""Fixtures that all tests share: the rrk program as a user runs it, and the shared data where it is present."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.warm import Warm

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("RRK_SHARED", ROOT.parent / "shared"))


def rrk_command(*args: str) -> list[str]:
    """`rrk ARGS` by the interpreter that runs the tests."""
    return [sys.executable, "-m", "rrk", *map(str, args)]


# A shell's background job ignores Ctrl-C, and so would every child that a test sends one to.
signal.signal(signal.SIGINT, signal.default_int_handler)


def environment(**more: str) -> dict[str, str]:
    """The environment of a child: this checkout's rrk, no network, few threads."""
    # `make test` must not tell a make of ours how to behave.
    return {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))} | {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PAGER": "cat",
        **more,
    }


def launched(count: int) -> list[dict[str, str]]:
    """What a launcher sets for each of so many processes."""
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(random.randint(20000, 60000)), "ACCELERATE_USE_CPU": "true"}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def told(stderr: bytes | str) -> list[str]:
    """Lines on standard error but those of progress, which a run of over 30 s on a busy machine writes."""
    text = stderr if isinstance(stderr, str) else stderr.decode()
    return [line for line in text.splitlines() if not re.search(r"\d/s\b", line)]


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    """`warm(*ARGS)` is rrk_command(*ARGS) without four seconds of imports (tests/warm.py)."""
    server = Warm(tmp_path_factory.mktemp("warm"), ROOT, environment(OMP_WAIT_POLICY="PASSIVE"))
    yield lambda *args, module="rrk": server.command(module, *args)
    server.close()


@pytest.fixture
def rrk(tmp_path, warm):
    """Run `rrk ARGS` in a fresh folder; returns the finished process with bytes in stdout and stderr.

    What loads a model is forked from an interpreter that has imported torch, unless it is to have one of its own (`cold`).
    """

    def run(
        *args: str,
        input: bytes | None = None,
        cwd: Path = tmp_path,
        timeout: float = 120,
        cold: bool = False,
        **env: str,
    ):
        stdin = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
        loads = "-m" in args and args[0] in ("sample", "rerank", "train-sft", "train-reranker", "train-ppo")
        command = warm(*args) if loads and not (cold or env) else rrk_command(*args)
        return subprocess.run(command, cwd=cwd, env=environment(**env), capture_output=True, timeout=timeout, **stdin)

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data (real problems and candidates); the test is skipped where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no shared data at {SHARED} (set RRK_SHARED)")
    return SHARED
