"""Several processes of one training run: the step of one process, one voice, one writer, and a stop that all of them take."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time

import pytest

from rrk import manifest
from rrk.errors import UsageError
from rrk.generation import processes
from tests.conftest import environment, launched, told

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from tests.reranking import models  # noqa: E402


@pytest.mark.parametrize(
    ("world", "batch", "micro", "expected"),
    [(1, 32, None, (32, 1)), (1, 32, 8, (8, 4)), (2, 32, None, (16, 1)), (4, 32, 4, (4, 2))],
)
def test_a_step_is_the_batch_however_many_share_it(monkeypatch, world, batch, micro, expected):
    monkeypatch.setattr(processes, "count", lambda: world)
    assert processes.split(batch, micro) == expected


@pytest.mark.parametrize(
    ("batch", "micro", "said"), [(9, None, "9 cannot be shared among 2"), (12, 4, "6 in each of 2")]
)
def test_a_batch_that_does_not_divide_is_refused(monkeypatch, batch, micro, said):
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(UsageError, match=said):
        processes.split(batch, micro)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with a base, pairs (two comparisons a group, so that means of processes are the mean of all) and solutions."""
    folder = tmp_path_factory.mktemp("given")
    models.save(folder / "base", "qwen2")
    for name, rows in {
        "pairs": models.pairs(),
        "dev": models.candidates(),
        "solutions": [{**row, "passed": True} for row in models.candidates(problems=12)],
    }.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


COMMANDS = {
    "reranker": ["train-reranker", "pairs.jsonl", "--dev", "dev.jsonl", "--group", "2", "--eval-every", "4"],
    "head": ["train-reranker", "pairs.jsonl", "--pooling", "last", "--group", "2", "--save-every", "4"],
    "sft": ["train-sft", "solutions.jsonl", "--unverified", "--save-every", "4"],
}


def start(warm, given, out, stage, *more, count=1) -> list[subprocess.Popen]:
    command = warm(
        *COMMANDS[stage], "-m", "base", "-o", out, "--batch-size", "4", "--lr", "1e-3", "--schedule", "constant", *more
    )
    return [
        subprocess.Popen(
            command, cwd=given, env=environment(**own), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for own in (launched(count) if count > 1 else [{}])
    ]


def finish(children, code=0) -> list[str]:
    told_by = [child.communicate(timeout=120)[1] for child in children]
    for child, errors in zip(children, told_by, strict=True):
        assert child.returncode == code, errors
    return told_by


def weights(folder) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    "stage", ["reranker", *(pytest.param(name, marks=pytest.mark.slow) for name in ("head", "sft"))]
)
def test_two_processes_end_in_the_weights_of_one(given, tmp_path, warm, stage):
    one, two = tmp_path / "one", tmp_path / "two"
    alone = start(warm, given, one, stage, "--steps", "8")
    errors = finish(start(warm, given, two, stage, "--steps", "8", count=2))
    finish(alone)
    spoken = [[line for line in told(e) if line.startswith("rrk")] for e in errors]  # gloo says that it is connected
    # A new head is told once, and then the summary.
    assert [len(lines) for lines in spoken] == [2 if stage == "head" else 1, 0], "the first process speaks"
    before, after = weights(one), weights(two)
    base = weights(given / "base")
    for name, tensor in before.items():
        assert torch.allclose(tensor, after[name], atol=2e-5), name
    assert any(not torch.allclose(base[name], before[name], atol=1e-4) for name in base if name in before)
    figures = [manifest.read(folder)["figures"] for folder in (one, two)]
    assert figures[0].keys() == figures[1].keys()
    if stage == "reranker":
        assert figures[1]["dev_auc"] == pytest.approx(figures[0]["dev_auc"], abs=0.02)


@pytest.mark.slow
def test_term_to_one_process_saves_and_ends_both(given, tmp_path, warm):
    out = tmp_path / "out"
    children = start(warm, given, out, "sft", "--steps", "4000", count=2)
    deadline = time.monotonic() + 120
    while not list(out.glob("checkpoints/checkpoint-*/trainer_state.json")):
        assert all(child.poll() is None for child in children)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    random.choice(children).send_signal(signal.SIGTERM)
    errors = finish(children, 143)
    assert "--resume" in errors[0]
    assert not (out / "rrk.json").exists()
    assert list(out.glob("checkpoints/checkpoint-*/trainer_state.json"))
