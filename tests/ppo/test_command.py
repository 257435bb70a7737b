"""`rrk train-ppo` as it is typed: what it leaves behind, and what TERM does to it."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import signal
import time
from dataclasses import fields

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from transformers import AutoTokenizer, LlamaForSequenceClassification  # noqa: E402

from rrk.commands.train_ppo import train_ppo as command  # noqa: E402
from rrk.ppo.options import PpoOptions  # noqa: E402
from tests.generation.test_reports import curve  # noqa: E402
from tests.ppo.world import PROBLEMS, finish, make_model, start_command  # noqa: E402

SMALL = {"updates": 8, "prompts-per-update": 4, "samples": 4, "minibatch": 8, "max-tokens": 6, "save-every": 100}
FLAGS = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))] + ["--quiet"]


def test_every_choice_of_the_trainer_is_an_option_with_the_same_default():
    offered = inspect.signature(command).parameters
    for field in fields(PpoOptions):
        assert offered[field.name].default == field.default, field.name


@pytest.fixture
def given(tmp_path):
    """Arguments up to the folder: problems, an SFT model and a reranker of random weights."""
    torch.set_num_threads(1)
    sft = make_model(tmp_path / "sft")
    reranker = LlamaForSequenceClassification.from_pretrained(sft, num_labels=1)
    reranker.config.pad_token_id = 0
    reranker.save_pretrained(tmp_path / "reranker")
    AutoTokenizer.from_pretrained(sft).save_pretrained(tmp_path / "reranker")
    problems = tmp_path / "problems.jsonl"
    problems.write_text(
        "".join(json.dumps({"task_id": p.task_id, "language": "py", "prompt": p.prompt}) + "\n" for p in PROBLEMS)
    )
    return ["train-ppo", str(problems), "-m", str(sft), "--reranker", str(tmp_path / "reranker"), *FLAGS]


def log(folder):
    return [
        {k: v for k, v in json.loads(line).items() if k not in ("seconds", "peak_memory")}
        for line in (folder / "log.jsonl").read_text().splitlines()
    ]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_it_saves_and_resumed_it_equals_a_run_that_never_was(given, tmp_path, number, code):
    whole = start_command([*given, "-o", str(tmp_path / "whole")], tmp_path / "whole.txt")
    watched = [*given, *(["--report-to", "tensorboard"] if importlib.util.find_spec("tensorboard") else [])]
    child = start_command([*watched, "-o", str(tmp_path / "cut")], tmp_path / "cut.txt")
    deadline = time.monotonic() + 100
    while not (tmp_path / "cut" / "log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, number)
    child.join(60)
    assert child.exitcode == code, (tmp_path / "cut.txt").read_text()
    assert "with --resume goes on" in (tmp_path / "cut.txt").read_text()
    assert not (tmp_path / "cut" / "rrk.json").exists()
    assert len(list((tmp_path / "cut").glob("state-*"))) == 1
    again = start_command([*given, "-o", str(tmp_path / "cut")], tmp_path / "again.txt")
    again.join(60)
    assert again.exitcode == 2
    assert "--resume" in (tmp_path / "again.txt").read_text()
    finish(whole, start_command([*watched, "-o", str(tmp_path / "cut"), "--resume"], tmp_path / "resumed.txt"))
    assert log(tmp_path / "cut") == log(tmp_path / "whole")
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("cut", "whole"))
    assert one == two
    record = json.loads((tmp_path / "cut" / "rrk.json").read_text())
    assert record["command"] == "train-ppo"
    assert record["figures"]["kept_update"] == 8
    assert not (tmp_path / "whole" / "tensorboard").exists(), "nobody asked for it"
    if watched != given:
        assert curve(tmp_path / "cut" / "tensorboard", "score") == [*range(1, 9)]
