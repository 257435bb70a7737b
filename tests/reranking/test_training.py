"""Training a reranker: the loss is Bradley-Terry's, nothing leaks into dev, a stopped run ends in the same weights."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import time

import pytest
import torch

from rrk import manifest
from rrk.errors import RowError, UsageError
from rrk.evaluation import card
from rrk.reranking import pairs as data
from rrk.reranking import record
from rrk.reranking.render import Renderer, Rendering
from rrk.reranking.scorer import Scorer, question
from rrk.reranking.training import Dev, TrainingOptions, train
from tests.conftest import environment, rrk_command, told
from tests.reranking import models

FAST = {"steps": 12, "batch_size": 6, "lr": 3e-3, "eval_every": 4, "save_every": 4}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    for name in ("qwen2", "gpt2", "bert"):
        models.save(folder / name, name, **({} if name == "bert" else {"pad_is_eos": True}))
    return folder


def dev() -> Dev:
    rows = models.candidates()
    problems = [[row for row in rows if row["task_id"] == task] for task in dict.fromkeys(r["task_id"] for r in rows)]
    import numpy as np

    return Dev(problems, card.auc, lambda s, p: card.platt(np.array(s), np.array(p)))


def weights(folder) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def renderer() -> Renderer:
    return Renderer(models.tokenizer(), Rendering(), encoder=False)


def pair(chosen: str, rejected: str, **more) -> dict:
    return {"task_id": "t", "language": "py", "prompt": "p", "chosen": chosen, "rejected": rejected, **more}


def test_a_program_in_several_pairs_is_in_its_group_once_and_all_right_ones_meet_all_wrong_ones():
    own = [pair("a", "x"), pair("b", "x"), pair("a", "y"), pair("b", "y")]
    (group,) = data.groups(own, renderer(), size=4, cross=False)
    assert len(group["ids"]) == 4
    assert len(group["chosen"]) == 4
    first, second = data.groups(own, renderer(), size=2, cross=True)
    for group in (first, second):
        assert len(group["ids"]) == 4, "programs that differ are put together, so that crossing adds comparisons"
        assert len(set(zip(group["chosen"], group["rejected"], strict=True))) == 4


def test_a_program_on_both_sides_is_compared_only_as_its_pairs_say():
    (group,) = data.groups([pair("a", "b"), pair("b", "c"), pair("d", "e")], renderer(), size=3, cross=True)
    mixed = next(i for i in range(len(group["ids"])) if i in group["chosen"] and i in group["rejected"])
    pairs = list(zip(group["chosen"], group["rejected"], strict=True))
    assert len([p for p in pairs if mixed in p]) == 2, "once chosen, once rejected, as given"
    assert len(set(pairs)) == 6, "b > c, a > b, d > e; and a and d against c and e"


def test_margins_are_kept_and_not_crossed():
    (group,) = data.groups([pair("a", "x", margin=0.5), pair("b", "y", margin=2.0)], renderer(), size=2, cross=True)
    assert sorted(group["margin"]) == [0.5, 2.0]
    assert len(group["chosen"]) == 2


def test_the_loss_is_bradley_terrys_with_margin_and_centring(base, tmp_path, monkeypatch):
    """TRL's loss on our collated batch equals a slow loop in float64 over texts scored one at a time."""
    from rrk.reranking import training

    caught = {}
    monkeypatch.setattr(training, "_finish", lambda trainer, scorer, *_: caught.update(trainer=trainer, scorer=scorer))
    own = [pair("a", "x", margin=0.5), pair("b", "yyyy", margin=1.0), pair("a", "zz", margin=0.0)]
    options = TrainingOptions(steps=1, batch_size=2, group=3, lr=1e-9, center=0.25, pooling="last")
    train(own, base / "qwen2", tmp_path / "out", options)
    trainer, scorer = caught["trainer"], caught["scorer"]
    batch = trainer.data_collator([trainer.train_dataset[0]])
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, dict(batch)).item()
    score = lambda text: scorer.score("p", [text])[0]  # noqa: E731
    slow = 0.0
    for one in own:
        good, bad = score(one["chosen"]), score(one["rejected"])
        slow += math.log1p(math.exp(-(good - bad - one["margin"]))) / 3 + 0.25 * (good + bad) ** 2 / 3
    assert loss == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("qwen2", {}),
        ("gpt2", {"template": "plain", "language_tag": True, "cross": False}),
        ("bert", {}),
        ("bert", {"pooling": "mean"}),
        ("qwen2", {"micro_batch": 3, "schedule": "constant", "gradient_checkpointing": True}),
        ("qwen2", {"bf16": True}),
    ],
)
def test_what_was_trained_is_what_is_scored_and_it_has_learned(base, tmp_path, name, more, monkeypatch):
    monkeypatch.setattr("rrk.generation.dtypes.multiplies_bfloat16", lambda: True)
    options = TrainingOptions(**{**FAST, "steps": 40, **more})
    result = train(models.pairs(), base / name, tmp_path / "out", options, dev=dev())
    assert result.figures["accuracy"] > 0.9
    scorer = Scorer.load(tmp_path / "out")
    right = 0
    for one in models.pairs():
        good, bad = scorer.score(one["prompt"], [one["chosen"], one["rejected"]], "py")
        right += good > bad
    assert right >= 0.9 * len(models.pairs())
    again = scorer.score_many([question(p) for p in dev().problems])
    assert again == [pytest.approx(row, abs=1e-5) for row in result.dev_scores]
    assert scorer.calibration is not None
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_lora_trains_merged_or_as_an_adapter_with_the_same_scores(base, tmp_path):
    options = {**FAST, "lora_r": 4, "lr": 1e-2, "steps": 30}
    train(models.pairs(), base / "qwen2", tmp_path / "merged", TrainingOptions(**options))
    train(models.pairs(), base / "qwen2", tmp_path / "adapter", TrainingOptions(**options, keep_adapter=True))
    assert (tmp_path / "adapter" / "adapter_config.json").exists()
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    merged, adapter = Scorer.load(tmp_path / "merged"), Scorer.load(tmp_path / "adapter")
    texts = ["    return x + 3\n", "    return x - 3\n"]
    good, bad = merged.score("def f3(x):\n", texts, "py")
    assert adapter.score("def f3(x):\n", texts, "py") == pytest.approx([good, bad], abs=1e-4)
    assert good > bad


@pytest.mark.parametrize("more", [{}, {"lora_r": 4}, {"dev": True}])
def test_a_stopped_run_resumed_ends_in_the_same_bytes(base, tmp_path, more):
    more = dict(more)
    held_out = dev() if more.pop("dev", False) else None
    options = TrainingOptions(**FAST, **more)
    train(models.pairs(), base / "qwen2", tmp_path / "whole", options, dev=held_out)
    seen = []
    stopped = train(
        models.pairs(), base / "qwen2", tmp_path / "cut", options, dev=held_out,
        should_stop=lambda: len(seen) >= 6, on_step=lambda step, *_: seen.append(step),
    )  # fmt: skip
    assert stopped is None
    assert seen[-1] == 6
    with pytest.raises(UsageError, match="--resume"):
        train(models.pairs(), base / "qwen2", tmp_path / "cut", options, dev=held_out)
    with pytest.raises(UsageError, match="other parameters"):
        train(models.pairs(), base / "qwen2", tmp_path / "cut", TrainingOptions(**{**FAST, "lr": 1.0}), resume=True)
    seen.clear()
    train(
        models.pairs(), base / "qwen2", tmp_path / "cut", options, dev=held_out, resume=True,
        on_step=lambda step, *_: seen.append(step if torch.are_deterministic_algorithms_enabled() else None),
    )  # fmt: skip
    assert seen[0] == 7, "it went on, not again from the start"
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert record.read(tmp_path / "whole") == record.read(tmp_path / "cut")


def test_the_checkpoint_with_the_best_dev_auc_is_kept_and_patience_ends_the_run(base, tmp_path, monkeypatch):
    curve = iter([0.6, 0.9, 0.7, 0.8])
    monkeypatch.setattr(Dev, "mean_auc", lambda self, scores: next(curve) if any(map(any, scores)) else 0.5)
    options = TrainingOptions(**{**FAST, "steps": 400, "eval_every": 2, "patience": 2})
    with pytest.raises(StopIteration):  # the fifth look is at the kept model: the run ended after the fourth
        train(models.pairs(), base / "qwen2", tmp_path / "out", options, dev=dev())
    kept = weights(tmp_path / "out")
    best = weights(tmp_path / "out" / "checkpoints" / "checkpoint-4")
    assert all(torch.equal(kept[name], best[name]) for name in kept)


def test_dev_and_training_share_no_base_problem():
    own = [{**one, "task_id": f"HumanEval_{i % 10}_name"} for i, one in enumerate(models.pairs())]
    kept, problems = data.split(own, None, 0.3, seed=1)
    names = {row["task_id"] for problem in problems for row in problem}
    assert names
    assert not names & {one["task_id"] for one in kept}
    assert all({row["passed"] for row in problem} == {True, False} for problem in problems)
    notes = []
    rows = [{**row, "task_id": "HumanEval/3"} for row in models.candidates()] + models.candidates()
    kept, problems = data.split(own, rows, 0.0, seed=1, note=notes.append)
    assert len(kept) == len(own)
    assert {row["task_id"] for problem in problems for row in problem} == {f"t/{i}" for i in range(100, 104)}
    assert "1 dev problems are also trained on" in notes[0]
    with pytest.raises(UsageError):
        data.split(own, rows[:12], 0.0, seed=1)
    with pytest.raises(RowError, match="rrk execute"):
        data.split(own, [{"task_id": "x", "completion": "y"}], 0.0, seed=1)


def test_hard_negatives_are_counted_below_the_median_positive_before_and_after(base, tmp_path):
    train(models.pairs(), base / "qwen2", tmp_path / "out", TrainingOptions(**{**FAST, "steps": 40}))
    found = data.check_pairs(models.pairs(), tmp_path / "out")
    assert found["hard_negatives"] == 24
    assert found["below_before"] == 0
    assert found["below_median_positive"] >= 22


def write(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_command_writes_a_whole_folder_with_figures_and_says_when_there_is_nothing_to_do(base, tmp_path, rrk):
    pairs, held_out = write(tmp_path / "p.jsonl", models.pairs()), write(tmp_path / "d.jsonl", models.candidates())
    command = ["train-reranker", pairs, "-m", str(base / "qwen2"), "-o", "rr", "--dev", held_out, "--steps", "30"]
    command += ["--lr", "3e-3", "--check", pairs]
    done = rrk(*command, cold=True)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b""
    (summary,) = told(done.stderr)  # no library chatter, and nothing was drawn anew
    assert "30 steps" in summary
    assert "tokens/s" in summary
    figures = manifest.read(tmp_path / "rr")["figures"]
    assert {"loss", "accuracy", "dev_auc", "kept_step", "card", "check", "programs", "prompt_cut"} <= figures.keys()
    assert figures["tokens_per_second"] > 0
    assert 50e6 < figures["peak_memory"] < 50e9, "bytes"
    assert figures["card"]["auc"] == pytest.approx(figures["dev_auc"])
    assert figures["check"]["hard_negatives"] == 24
    again = rrk(*command)
    assert again.returncode == 0
    assert b"nothing to do" in again.stderr
    other = rrk(*command, "--seed", "1")
    assert other.returncode == 2
    assert b"other parameters" in other.stderr


def test_term_saves_exits_143_and_resume_finishes(base, tmp_path, rrk, warm):
    pairs = write(tmp_path / "p.jsonl", models.pairs())
    command = ["train-reranker", pairs, "-m", str(base / "qwen2"), "-o", "rr", "--steps", "3000", "--save-every", "5"]
    child = subprocess.Popen(warm(*command), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 90
    while not list((tmp_path / "rr").glob("checkpoints/checkpoint-*/trainer_state.json")):
        assert child.poll() is None, child.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGTERM)
    errors = child.communicate(timeout=60)[1].decode()
    assert child.returncode == 143, errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "rr" / "rrk.json").exists()
    refused = rrk(*command)
    assert refused.returncode == 2


def test_a_run_of_one_step_has_a_loss_and_a_full_disk_is_one_line(base, tmp_path, rrk):
    pairs = write(tmp_path / "p.jsonl", models.pairs())
    command = ["train-reranker", pairs, "-m", str(base / "qwen2"), "--steps", "1", "-o"]
    done = rrk(*command, "rr")
    assert done.returncode == 0, done.stderr.decode()
    assert b"nan" not in done.stderr
    figures = manifest.read(tmp_path / "rr")["figures"]
    assert math.isfinite(figures["loss"])
    assert math.isfinite(figures["accuracy"])
    limited = ["bash", "-c", 'ulimit -f 20; exec "$@"', "bash", *rrk_command(*command, "other")]
    done = subprocess.run(limited, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1
    assert "make room" in done.stderr.splitlines()[-1]
    assert "internal error" not in done.stderr
    there = rrk(*command, "p.jsonl")
    assert (there.returncode, b"is a file" in there.stderr) == (2, True)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"task_id": "a", "prompt": "p", "chosen": "x"}, "no field 'rejected'"),
        ({"task_id": "a", "chosen": "x", "rejected": "y"}, "no field 'prompt'"),
        ({"task_id": "a", "prompt": "p", "chosen": "x", "rejected": "y", "margin": "z"}, "field 'margin' must be"),
        # These were reported as divergence, after the training.
        (
            {"task_id": "a", "prompt": "p", "chosen": "x", "rejected": "y", "margin": math.nan},
            "field 'margin' is not a number",
        ),
        ({"task_id": "a", "prompt": "p", "chosen": "x", "rejected": "y", "margin": math.inf}, "field 'margin' must be"),
    ],
)
def test_a_bad_pair_names_file_and_line(base, tmp_path, rrk, row, said):
    pairs = write(tmp_path / "p.jsonl", [*models.pairs()[:2], row])
    done = rrk("train-reranker", pairs, "-m", str(base / "qwen2"), "-o", "rr")
    assert done.returncode == 3
    assert f"p.jsonl:3: {said}" in done.stderr.decode()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--dev", "p.jsonl", "--dev-share", "0.1"], "give one of them"),
        (["--batch-size", "7", "--micro-batch", "2"], "not a multiple"),
        (["--template", "chat"], "no chat template"),
        (["--pooling", "mean"], "does not fit a decoder"),
        (["--keep-adapter"], "needs --lora-r"),
        (["--schedule", "wave"], "choose linear"),
    ],
)
def test_options_that_contradict_are_refused_with_one_line(base, tmp_path, rrk, args, said):
    write(tmp_path / "p.jsonl", models.pairs())
    done = rrk("train-reranker", "p.jsonl", "-m", str(base / "qwen2"), "-o", "rr", "--steps", "1", *args)
    assert done.returncode == 2, done.stderr.decode()
    assert said in done.stderr.decode()
    assert len(done.stderr.decode().splitlines()) == 1
    assert not (tmp_path / "rr" / "rrk_run.json").exists(), "a refused run must not ask for --resume"


def test_a_cpu_without_bfloat16_trains_in_float32(base, tmp_path, monkeypatch):
    monkeypatch.setattr("rrk.generation.dtypes.multiplies_bfloat16", lambda: False)
    for name, asked in (("asked", True), ("plain", False)):
        train(models.pairs(), base / "qwen2", tmp_path / name, TrainingOptions(**{**FAST, "steps": 2, "bf16": asked}))
    found, wanted = weights(tmp_path / "asked"), weights(tmp_path / "plain")
    assert all(torch.equal(found[name], weight) for name, weight in wanted.items())
