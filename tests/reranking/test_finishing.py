"""A run that has trained leaves a folder that can be used: whatever fails after the last step loses nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

from rrk.errors import RrkError, UsageError
from rrk.generation import runs
from rrk.reranking import finishing, record, training
from rrk.reranking.finishing import Agreement
from rrk.reranking.scorer import Scorer
from rrk.reranking.training import TrainingOptions, train
from tests.reranking import models
from tests.reranking.test_training import dev, weights, write

OPTIONS = TrainingOptions(steps=4, batch_size=4, lr=3e-3, save_every=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return models.save(tmp_path_factory.mktemp("base") / "qwen2", "qwen2", pad_is_eos=True)


@pytest.fixture
def broken(base, tmp_path, monkeypatch):
    """A folder whose weights are saved and whose last minute failed."""
    with monkeypatch.context() as patch:
        patch.setattr(finishing.record, "write", lambda *_: (_ for _ in ()).throw(RrkError("no record")))
        with pytest.raises(RrkError, match="no record"):
            train(models.pairs(), base, tmp_path / "rr", OPTIONS, dev=dev())
    return tmp_path / "rr"


def test_the_last_minute_is_made_up_for_by_resume_without_training_again(base, tmp_path, broken):
    """The record and the figures of a run that was not disturbed, from the weights that are there."""
    train(models.pairs(), base, tmp_path / "whole", OPTIONS, dev=dev())
    with pytest.raises(UsageError, match="--resume"):
        train(models.pairs(), base, broken, OPTIONS, dev=dev())
    before = weights(broken)
    steps, notes = [], []
    result = train(
        models.pairs(), base, broken, OPTIONS, dev=dev(), resume=True,
        on_step=lambda step, *_: steps.append(step), note=notes.append,
    )  # fmt: skip
    assert steps == []
    assert any("what was left to do" in note for note in notes)
    assert result.figures["steps"] == 4
    assert result.figures["dev_auc"] is not None
    after, whole = weights(broken), weights(tmp_path / "whole")
    assert all(torch.equal(before[name], after[name]) and torch.equal(whole[name], after[name]) for name in whole)
    assert record.read(broken) == record.read(tmp_path / "whole")
    assert not (broken / runs.RUN).exists()


def test_weights_alone_are_enough_even_without_checkpoints(base, broken):
    shutil.rmtree(broken / runs.CHECKPOINTS)
    result = train(models.pairs(), base, broken, OPTIONS, dev=dev(), resume=True)
    assert result.figures["steps"] is None
    assert Scorer.load(broken).calibration is not None


def test_weights_from_before_the_run_are_not_taken_for_its_result(base, tmp_path):
    """An older model in the folder: the stopped run goes on from its checkpoint."""
    out = tmp_path / "rr"
    train(models.pairs(), base, out, OPTIONS)
    (out / record.NAME).unlink()
    seen = []
    train(models.pairs(), base, out, OPTIONS, should_stop=lambda: len(seen) >= 2, on_step=lambda s, *_: seen.append(s))
    seen.clear()
    train(models.pairs(), base, out, OPTIONS, resume=True, on_step=lambda s, *_: seen.append(s))
    assert seen == [3, 4]


def test_rerank_refuses_a_folder_without_its_record_and_names_the_remedy(base, broken, tmp_path, rrk):
    """Guessing how it was trained gave scores that mean nothing; a checkpoint inside is refused as well."""
    rows = write(tmp_path / "rows.jsonl", models.candidates())
    for folder in (broken, max((broken / runs.CHECKPOINTS).iterdir())):
        done = rrk("rerank", rows, "-m", str(folder))
        assert done.returncode == 1
        (line,) = done.stderr.decode().splitlines()
        assert "--resume" in line
    assert Scorer.load(models.save(tmp_path / "foreign", "qwen2", labels=1)), "others' classifiers are still taken"


def test_a_finished_folder_that_lost_its_record_gets_it_back(base, tmp_path, rrk):
    pairs = write(tmp_path / "p.jsonl", models.pairs())
    command = ["train-reranker", pairs, "-m", str(base), "-o", "rr", "--steps", "2"]
    assert rrk(*command).returncode == 0
    was = record.read(tmp_path / "rr")
    (tmp_path / "rr" / record.NAME).unlink()
    refused = rrk(*command)
    assert (refused.returncode, b"--resume" in refused.stderr) == (2, True)
    done = rrk(*command, "--resume")
    assert done.returncode == 0, done.stderr.decode()
    assert record.read(tmp_path / "rr") == was


def test_other_scores_than_those_trained_are_a_note_and_no_error(base, tmp_path, monkeypatch):
    whole = finishing.save

    def other(model, *rest):
        with torch.no_grad():
            model.score.weight.mul_(3.0)
        whole(model, *rest)

    monkeypatch.setattr(finishing, "save", other)
    notes = []
    result = train(models.pairs(), base, tmp_path / "rr", replace(OPTIONS, pooling="last"), note=notes.append)
    assert any("differ by up to" in note for note in notes)
    assert result.figures["as_trained"]["same_order"] == 1.0
    assert record.read(tmp_path / "rr") is not None


def test_bf16_rounding_is_judged_by_the_spread_of_scores():
    scored = torch.tensor([0.0, 4.0, -4.0, 8.0])
    assert Agreement.of(scored + 0.5, scored, [2, 2]).note(exact=False) is None
    assert Agreement.of(scored + 0.5, scored, [2, 2]).note(exact=True) is not None
    assert Agreement.of(scored.flip(0), scored, [2, 2]).note(exact=False) is not None
    assert Agreement.of(scored.flip(0), scored, [2, 2]).same_order == 0.0


def test_a_reading_that_training_would_not_share_is_refused_before_the_first_step(base, tmp_path, monkeypatch):
    right = training.network.read_packed
    monkeypatch.setattr(training.network, "read_packed", lambda *a: right(*a) + 0.1)
    monkeypatch.setattr(training.network, "can_pack", lambda *_: True)
    steps = []
    with pytest.raises(RrkError, match="otherwise in a batch for training than alone"):
        train(models.pairs(), base, tmp_path / "rr", OPTIONS, on_step=lambda step, *_: steps.append(step))
    assert steps == []
    assert not (tmp_path / "rr" / runs.RUN).exists()


def test_scores_that_are_no_numbers_are_an_error_and_the_weights_stay(base, tmp_path):
    with pytest.raises(RrkError, match=r"diverged.*weights are kept"):
        train(models.pairs(), base, tmp_path / "rr", TrainingOptions(steps=2, batch_size=4, lr=1e38))
    assert weights(tmp_path / "rr")
    assert record.read(tmp_path / "rr") is None
