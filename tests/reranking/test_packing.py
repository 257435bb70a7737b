"""Programs of one problem in one row: the scores and gradients of separate rows."""

from __future__ import annotations

import pytest
import torch

from rrk.generation import packing
from rrk.generation.packing import pack
from rrk.reranking import network, record
from rrk.reranking.training import TrainingOptions, train
from tests.reranking import models

GROUPS = [
    [[5, 6, 7, 8, 1], [5, 6, 7, 9, 10, 1], [5, 6, 11, 1]],
    [[12, 13, 14, 15, 16, 17, 1], [12, 13, 14, 15, 1]],
    [[3, 1], [4, 1], [3, 1]],  # nothing shared
]


def separately(model) -> torch.Tensor:
    return network.read_scores(model, network.collate([p for g in GROUPS for p in g], 0, "cpu"), "last")


@pytest.mark.parametrize("name", ["qwen2", "llama", "gpt2"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_scores_and_gradients_are_those_of_separate_rows(name, attention):
    model = models.network(name, attn_implementation=attention).eval()
    weight = torch.linspace(-1, 2, sum(map(len, GROUPS)))
    found = {}
    for way, read in {
        "packed": lambda: network.read_packed(model, pack(GROUPS, 0)),
        "alone": lambda: separately(model),
    }.items():
        model.zero_grad()
        scores = read()
        (scores * weight).sum().backward()
        found[way] = (scores.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert torch.allclose(found["packed"][0], found["alone"][0], atol=1e-5)
    assert found["packed"][1].keys() == found["alone"][1].keys()
    for key, gradient in found["alone"][1].items():
        assert torch.allclose(found["packed"][1][key], gradient, atol=1e-5), key
    assert found["alone"][0].std() > 0.01, "a test that cannot fail"


def test_the_prompt_is_there_once():
    packed = pack(GROUPS, 0)
    assert packed.ids[0, :7].tolist() == [5, 6, 7, 8, 1, 7, 9]
    assert packed.positions[0, :10].tolist() == [0, 1, 2, 3, 4, 2, 3, 4, 5, 2]
    assert packed.segments[0, :10].tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2, 3]


def test_a_program_sees_the_prompt_and_itself():
    mask = packing.attention_mask(pack([[[5, 6, 7], [5, 6, 8]]], 0).segments, additive=False)[0, 0]
    assert mask.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]


def test_some_rows_are_no_wider_than_they_need_and_keep_the_programs_order():
    some = pack(GROUPS, 0).rows(torch.tensor([2, 1]))
    assert some.ids.shape == (2, 8)
    assert some.row.tolist() == [1, 1, 0, 0, 0]
    assert some.ids[some.row, some.column].tolist() == [1] * 5


def test_where_the_logits_would_differ_it_is_not_done(monkeypatch):
    model = models.network("qwen2")
    assert network.can_pack(model, GROUPS, 0)
    assert not network.can_pack(models.network("bert"), GROUPS, 0)
    right = packing.attention_mask
    monkeypatch.setattr(packing, "attention_mask", lambda segments, additive: right(segments * 0, additive))
    assert not network.can_pack(model, GROUPS, 0)


def test_texts_longer_than_a_sliding_window_are_read_alone(tmp_path):
    model, groups = models.network("mistral"), [[[5, 6, 7], [5, 6, 8]]]
    assert network.can_pack(model, groups, 0, longest=16)
    assert not network.can_pack(model, groups, 0, longest=17), "a packed row's mask knows no window"
    base = models.save(tmp_path / "base", "mistral")
    result = train(models.pairs(), base, tmp_path / "out", TrainingOptions(steps=20, batch_size=4, lr=3e-3))
    assert result.figures["as_trained"]["largest_difference"] < 1e-4
    assert result.figures["accuracy"] > 0.8
    assert record.read(tmp_path / "out").rendering.pooling == "likelihood"
