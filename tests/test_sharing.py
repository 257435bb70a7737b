"""examples/paper/accelerate-fsdp.yaml on two processes: the weights of one process, whole in the folder, and resumable."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from safetensors.torch import load_file  # noqa: E402

from tests.conftest import ROOT, environment, launched  # noqa: E402
from tests.test_processes import COMMANDS, given  # noqa: E402, F401

PLAIN = {"sft": COMMANDS["sft"], "reranker": ["train-reranker", "pairs.jsonl", "--group", "2", "--save-every", "4"]}


def settings() -> dict[str, str]:
    """What `accelerate launch` makes of the file's fsdp_config."""
    lines = (ROOT / "examples" / "paper" / "accelerate-fsdp.yaml").read_text().splitlines()
    found = dict(line.strip().split(": ") for line in lines if line.startswith("  fsdp_"))
    assert found["fsdp_version"] == "2"
    return {"ACCELERATE_USE_FSDP": "true", **{name.upper(): value for name, value in found.items()}}


def start(warm, folder, out, stage, *more, shared=True) -> list[subprocess.Popen]:
    args = [
        *PLAIN[stage],
        "-m",
        "base",
        "-o",
        out,
        "--batch-size",
        "4",
        "--lr",
        "1e-3",
        "--schedule",
        "constant",
        *more,
    ]
    command = warm(*args, module="tests.fsdp_on_cpu" if shared else "rrk")
    return [
        subprocess.Popen(
            command,
            cwd=folder,
            env=environment(**own, **settings()) if shared else environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in (launched(2) if shared else [{}])
    ]


def finish(children, code=0) -> list[str]:
    said = [child.communicate(timeout=200)[1] for child in children]
    for child, errors in zip(children, said, strict=True):
        assert child.returncode == code, errors
    return said


def difference(one, other) -> float:
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("stage", ["sft", pytest.param("reranker", marks=pytest.mark.slow)])
def test_shared_out_weights_learn_what_whole_ones_do(given, warm, stage):  # noqa: F811
    """The folder holds whole weights, those of a run of one process but for the last bits."""
    finish(start(warm, given, f"{stage}-one", stage, "--steps", "6", shared=False))
    finish(start(warm, given, f"{stage}-two", stage, "--steps", "6"))
    assert (given / f"{stage}-two" / "rrk.json").exists()
    assert difference(given / f"{stage}-one", given / f"{stage}-two") < 1e-5
    if stage == "sft":
        assert difference(given / "base", given / "sft-two") > 1e-3


@pytest.mark.slow
def test_a_stopped_run_of_shared_weights_goes_on(given, warm):  # noqa: F811
    """TERM to one process saves a checkpoint of all parts; --resume ends in the bytes of a run that was not stopped."""
    finish(start(warm, given, "through", "sft", "--steps", "40"))
    children = start(warm, given, "stopped", "sft", "--steps", "40")
    while not list((given / "stopped").glob("checkpoints/checkpoint-*/trainer_state.json")):
        assert all(child.poll() is None for child in children)
        time.sleep(0.05)
    children[1].send_signal(signal.SIGTERM)
    finish(children, code=143)
    finish(start(warm, given, "stopped", "sft", "--steps", "40", "--resume"))
    assert difference(given / "through", given / "stopped") == 0


def test_what_needs_whole_weights_is_refused_in_one_line(given, warm):  # noqa: F811
    said = finish(start(warm, given, "lora", "sft", "--steps", "2", "--lora-r", "4"), code=2)
    assert "--lora-r needs whole weights in every process" in said[0]
