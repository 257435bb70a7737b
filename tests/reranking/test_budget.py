"""A training step is cut into passes that fit the memory, and how it is cut changes nothing but rounding."""

from __future__ import annotations

import pytest
import torch

from rrk.generation import memory
from rrk.reranking import training
from rrk.reranking.pairs import cut
from rrk.reranking.training import TrainingOptions, train
from tests.reranking import models


def trained(base, out, monkeypatch, pack=True):
    """The trainer of a run of no consequence."""
    caught = []
    monkeypatch.setattr(training, "_finish", lambda trainer, *_: caught.append(trainer))
    if not pack:
        monkeypatch.setattr(training.network, "can_pack", lambda *_: False)
    train(models.pairs(), base, out, TrainingOptions(steps=1, batch_size=6, lr=1e-9))
    return caught[0]


@pytest.mark.parametrize("pack", [True, False])
def test_loss_and_gradients_are_the_same_for_every_budget(tmp_path, monkeypatch, pack):
    trainer = trained(models.save(tmp_path / "base", "qwen2"), tmp_path / "out", monkeypatch, pack)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(5)])
    counts, found = [], []
    for budget in (10**9, batch["attention_mask"].numel() // 2, 1):
        trainer.budget = memory.Budget(tokens=budget)
        counts.append(len(cut(batch, budget)))
        trainer.model.zero_grad()
        loss = trainer.training_step(trainer.model, dict(batch))
        found.append((loss, [p.grad.clone() for p in trainer.model.parameters() if p.grad is not None]))
    assert counts[0] == 1
    assert 1 < counts[1] < counts[2] == 5
    for loss, gradients in found[1:]:
        assert torch.allclose(loss, found[0][0], rtol=1e-5)
        for one, other in zip(gradients, found[0][1], strict=True):
            assert torch.allclose(one, other, atol=1e-6, rtol=1e-4)


def test_a_step_that_does_not_fit_is_made_again_with_half_the_tokens(tmp_path, monkeypatch):
    trainer = trained(models.save(tmp_path / "base", "qwen2"), tmp_path / "out", monkeypatch)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    trainer.model.zero_grad()
    whole = trainer.training_step(trainer.model, dict(batch))
    right, failed = training.network.read_packed, []

    def short(model, packed, pooling):
        if not failed:
            failed.append(packed.ids.numel())
            raise torch.OutOfMemoryError("out of memory")
        return right(model, packed, pooling)

    monkeypatch.setattr(training.network, "read_packed", short)
    trainer.budget = memory.Budget()
    again = trainer.training_step(trainer.model, dict(batch))
    assert failed
    assert trainer.budget.tokens < batch["attention_mask"].numel()
    assert torch.allclose(whole, again, rtol=1e-5)


def test_a_small_model_is_not_cut_and_half_a_billion_parameters_are(monkeypatch):
    """16 groups of some 450 tokens on a machine of 24 GB."""
    from types import SimpleNamespace

    import transformers as t

    monkeypatch.setattr(memory, "free", lambda device: 20 << 30)
    qwen = t.Qwen2Config(hidden_size=896, num_hidden_layers=24, intermediate_size=4864, num_attention_heads=14)
    shape = SimpleNamespace(config=qwen, device=None, parameters=list, is_activation_checkpointing=False)
    assert 500 < memory.tokens(shape, 450) < 4000
    shape.is_activation_checkpointing = True
    assert memory.tokens(shape, 450) > 16 * 450
    assert memory.tokens(models.network("qwen2"), 450) > 16 * 450
    assert memory.free(torch.device("cpu")) > 0


def test_one_row_that_does_not_fit_switches_gradient_checkpointing_on(monkeypatch):
    model, notes, failed = models.network("qwen2"), [], []

    def step(tokens):
        if not memory.is_checkpointing(model):
            failed.append(tokens)
            raise torch.OutOfMemoryError("out of memory")
        return tokens

    budget = memory.Budget(notes.append, most=40)
    assert budget.run(model, [30, 9, 2, 1], step, lambda: None) == 30
    assert failed == [40, 30]
    assert "gradient checkpointing" in notes[-1]
    monkeypatch.setattr(memory, "free", lambda device: 1 << 16)
    again = models.network("qwen2")
    memory.Budget(notes.append).fit(again, 30)
    assert memory.is_checkpointing(again)


def test_a_cpu_whose_memory_others_have_taken_since_gets_smaller_passes(monkeypatch):
    model, notes = models.network("qwen2"), []
    budget = memory.Budget(notes.append, most=400)
    monkeypatch.setattr(memory, "peak", lambda device: 10 << 30)
    monkeypatch.setattr(memory, "resident", lambda: 2 << 30)
    monkeypatch.setattr(memory, "free", lambda device: 9 << 30)
    assert [budget.fit(model, 30), budget.fit(model, 30)] == [400, 400]
    monkeypatch.setattr(memory, "free", lambda device: 4 << 30)
    assert budget.fit(model, 30) == 200
    assert notes == ["4.3 GB of memory are left: going on with 200 tokens a pass"]
    monkeypatch.setattr(memory, "free", lambda device: 1 << 20)
    assert [budget.fit(model, 30), budget.fit(model, 30)] == [30, 30]
    assert len(notes) == 2


def test_what_a_process_holds_is_told():
    before = memory.resident()
    held = torch.ones(64 << 20, dtype=torch.uint8)
    assert memory.resident() - before > (32 << 20)
    assert before < memory.peak(held.device)


def test_an_error_that_is_not_for_want_of_memory_is_told():
    def step(tokens):
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        memory.Budget(tokens=9).run(models.network("qwen2"), [3], step, lambda: None)
