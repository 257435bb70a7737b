"""Threads: a small model gets one, a large one torch's own number, the user's number stands."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from rrk.generation import threads
from tests.conftest import ROOT, environment
from tests.generation.tiny import make_model


@pytest.fixture(autouse=True)
def _restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Sized(torch.nn.Module):
    device = torch.device("cpu")

    def __init__(self, size: int):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(size))


def test_a_small_model_gets_one_thread_and_a_large_one_what_torch_chose():
    torch.set_num_threads(2)
    assert threads.fit(Sized(threads.SMALL)) == 2
    assert threads.fit(Sized(1000)) == 1


@pytest.mark.parametrize(("given", "expected"), [("", 1), ("2", 2)])
def test_the_command_obeys_the_users_number_and_waits_without_spinning(tmp_path, given, expected):
    model = make_model(tmp_path / "model")
    (tmp_path / "p.jsonl").write_text('{"task_id": "t/0", "prompt": "def f():"}\n')
    script = (
        "import os, sys, torch; torch.set_num_threads(2)\n"
        "from rrk import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "finally: print(torch.get_num_threads(), os.environ['OMP_WAIT_POLICY'], file=sys.stderr)\n"
    )
    env = {**environment(OMP_NUM_THREADS=given), "PYTHONPATH": str(ROOT)}
    env.pop("MKL_NUM_THREADS", None)
    assert os.environ.get("OMP_WAIT_POLICY", "PASSIVE") == "PASSIVE"
    command = ["sample", "p.jsonl", "-m", str(model), "-n", "1", "--max-tokens", "2", "--fast", "-o", "out"]
    done = subprocess.run([sys.executable, "-c", script, *command], cwd=tmp_path, env=env, capture_output=True)
    assert done.stderr.decode().splitlines()[-1] == f"{expected} PASSIVE", done.stderr.decode()


def gradients() -> set[bytes]:
    """Of one and the same function, twenty times, on two threads."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    x, given = torch.randn(64, 512, requires_grad=True), torch.randn(2000, 512)
    rows = torch.randint(0, len(x), (len(given),))
    return {torch.autograd.grad(x[rows], x, given)[0].numpy().tobytes() for _ in range(20)}


def test_gradients_are_added_in_one_order_whichever_thread_is_first():
    before = torch.are_deterministic_algorithms_enabled()
    with threads.repeatable():
        assert len(gradients()) == 1
    assert torch.are_deterministic_algorithms_enabled() is before
