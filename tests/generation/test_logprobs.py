"""Log-probabilities in pieces are those of all logits at once, and so are their gradients."""

import pytest
import torch

from rrk.generation import logprobs


def both(monkeypatch, dtype=torch.float64, bias=True, entropy=False, autocast=False):
    """(log p, entropy, gradients) at once and in pieces of 3 tokens."""
    found = []
    for piece in (1 << 24, 3 * 11):
        monkeypatch.setattr(logprobs, "PIECE", piece)
        torch.manual_seed(0)
        head = torch.nn.Linear(5, 11, bias=bias).to(dtype)
        hidden = torch.randn(10, 5, dtype=dtype, requires_grad=True)
        tokens = torch.randint(0, 11, (10,))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logp, spread = logprobs.read(hidden, head, tokens, 0.7, entropy)
        (logp * torch.arange(1, 11)).sum().backward()
        found.append((logp.detach(), spread, hidden.grad, head.weight.grad, head.bias.grad if bias else None))
    return found


@pytest.mark.parametrize("bias", [True, False])
def test_pieces_give_the_same_numbers_and_gradients(monkeypatch, bias):
    whole, pieces = both(monkeypatch, bias=bias, entropy=True)
    for a, b in zip(whole, pieces, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, atol=1e-12)
    assert not whole[1].requires_grad


def test_gradients_are_those_of_finite_differences(monkeypatch):
    monkeypatch.setattr(logprobs, "PIECE", 22)
    torch.manual_seed(1)
    head = torch.nn.Linear(4, 11).double()
    hidden = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(0, 11, (7,))

    def logp(hidden, weight, bias):
        return logprobs._Pieces.apply(hidden, weight, bias, tokens, 1.3, False)[0]

    assert torch.autograd.gradcheck(logp, (hidden, head.weight, head.bias))


def test_under_autocast_pieces_differ_by_rounding_only(monkeypatch):
    whole, pieces = both(monkeypatch, dtype=torch.float32, autocast=True)
    assert pieces[0].dtype == torch.float32
    assert torch.equal(whole[0], pieces[0])
    for a, b in zip(whole[2:], pieces[2:], strict=True):
        assert a.dtype == b.dtype
        assert torch.allclose(a, b, atol=0.05 * float(a.abs().max()))


def test_a_frozen_head_keeps_nothing_as_wide_as_the_vocabulary(monkeypatch):
    monkeypatch.setattr(logprobs, "PIECE", 100)
    head = torch.nn.Linear(4, 50).requires_grad_(False)
    hidden = torch.randn(20, 4, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        logprobs.read(hidden, head, torch.zeros(20, dtype=torch.long))
    assert kept
    assert all(shape[0] * shape[-1] < 20 * 50 for shape in kept if len(shape) > 1 and shape[0] == 20)


def test_a_token_of_probability_zero_does_not_spoil_the_entropy(monkeypatch):
    monkeypatch.setattr(logprobs, "PIECE", 1)
    head = torch.nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0], [1.0], [-torch.inf]]))
    _, spread = logprobs.read(torch.ones(2, 1), head, torch.zeros(2, dtype=torch.long), with_entropy=True)
    assert torch.allclose(spread, torch.full((2,), 2.0).log())
