"""Drawing a token: the distribution is the one that a plain computation in float64 gives, whatever the vocabulary's size."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from rrk.errors import UsageError  # noqa: E402
from rrk.generation import picking  # noqa: E402
from rrk.generation.picking import Picker  # noqa: E402

SMALL, VOCABULARY = 2_000, 4_011  # less than the real bound, for speed; no whole number of blocks
DRAWS = 5_000


@pytest.fixture(autouse=True)
def _a_small_bound(monkeypatch):
    monkeypatch.setattr(picking, "SMALL", SMALL)


def shape(name, size=VOCABULARY):
    """Logits: skewed as a code model's, flat as the first token of a comment, or with a heap of equals at the edge."""
    order = torch.randperm(size, generator=torch.Generator().manual_seed(1))
    ranks = torch.arange(1, size + 1, dtype=torch.float32)[order]
    return {"skewed": -1.3 * ranks.log(), "flat": -0.1 * ranks.log(), "steps": -(ranks / 40).floor() / 2}[name] + 3


def plain(logits, temperature, top_p, top_k):
    """The distribution, by the definition: float64, sorted whole."""
    p = (logits.double() / temperature).softmax(-1)
    order = p.argsort(descending=True, stable=True)
    if top_k:
        p[order[top_k:]] = 0
        p /= p.sum()
    kept = order[: int((p[order].cumsum(-1) < top_p).sum()) + 1]
    cut = torch.zeros_like(p).index_put_((kept,), p[kept])
    return cut / cut.sum()


def test_this_vocabulary_is_not_taken_whole():
    assert VOCABULARY > picking.SMALL
    assert VOCABULARY % picking.BLOCK


def fits(tokens, want):
    """Chi-square over the 200 likeliest tokens and the rest in 50 bins; nothing from outside the nucleus."""
    counts = torch.bincount(tokens, minlength=len(want)).double()
    assert not counts[want == 0].any()
    order = want.argsort(descending=True)
    bins = torch.cat([torch.arange(200), 200 + torch.arange(len(want) - 200) % 50])
    seen, expected = (
        torch.zeros(250, dtype=torch.float64).index_add_(0, bins, x[order]) for x in (counts, want * len(tokens))
    )
    often = expected > 5
    chi = ((seen - expected)[often] ** 2 / expected[often]).sum()
    freedom = int(often.sum()) - 1
    assert freedom > 0
    assert chi < freedom + 4 * (2 * freedom) ** 0.5


def draws(logits, *how):
    """DRAWS tokens, at a fixed seed: one of twelve, whose chi-squares of five tokens were 4.9 in the mean (4 expected), 15.8 at most."""
    uniform = torch.rand(DRAWS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pick = Picker(*how)
    return torch.cat([pick(logits.expand(len(part), -1), part)[0] for part in uniform.split(500)])


@pytest.mark.parametrize("name", ["skewed", "flat", "steps"])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.8, 0.95), (0.8, 1.0)])
def test_draws_have_the_distribution_that_a_plain_computation_gives(name, temperature, top_p):
    fits(draws(shape(name), temperature, top_p), plain(shape(name), temperature, top_p, 0))


@pytest.mark.parametrize("name", ["skewed", "flat"])
@pytest.mark.parametrize("size", [VOCABULARY, 1_203])
@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, 5, 1.0), (0.8, 79, 0.9), (1.0, 599, 0.8)])
def test_top_k_is_a_softmax_over_the_k_likeliest_and_top_p_is_of_them(name, temperature, top_k, top_p, size):
    """Over a vocabulary that is taken whole, and one that is not; k beyond the TOP that the nucleus is looked for in, too."""
    logits = shape(name, size)
    kept = logits.topk(top_k)
    by_hand = (kept.values.double() / temperature).softmax(-1)
    want = plain(logits, temperature, top_p, top_k)
    if top_p == 1:
        torch.testing.assert_close(want[kept.indices], by_hand)
    assert 1 < int((want > 0).sum()) <= top_k
    fits(draws(logits, temperature, top_p, top_k), want)


@pytest.mark.parametrize("size", [VOCABULARY, 1_203])
@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_top_k_of_one_is_greedy_and_more_than_there_are_is_all(top_p, size):
    logits = torch.stack([shape("skewed", size), shape("flat", size), shape("skewed", size) * 3])
    for edge in (0.0, 0.3, 1 - 2**-53):
        uniform = torch.full((3,), edge, dtype=torch.float64)
        tokens, logprobs = Picker(1.5, top_p, 1)(logits, uniform)
        assert tokens.tolist() == logits.argmax(-1).tolist()
        torch.testing.assert_close(logprobs, Picker(0)(logits, None)[1])
        whole = Picker(1.5, top_p, 2 * VOCABULARY)(logits, uniform)[0]
        assert whole.tolist() == Picker(1.5, top_p)(logits, uniform)[0].tolist()


@pytest.mark.parametrize("name", ["skewed", "flat"])
@pytest.mark.parametrize("top_p", [1.0, 0.95])
def test_large_vocabularies_give_the_tokens_of_the_plain_way_for_the_same_numbers(name, top_p, monkeypatch):
    logits = shape(name).expand(400, -1) + torch.linspace(0, 1, 400).unsqueeze(-1)
    uniform = torch.rand(400, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    fast, fast_logprobs = Picker(0.8, top_p)(logits, uniform)
    monkeypatch.setattr(picking, "SMALL", VOCABULARY)
    slow, slow_logprobs = Picker(0.8, top_p)(logits, uniform)
    assert (fast == slow).float().mean() > 0.995  # the few by rounding
    same = fast == slow
    torch.testing.assert_close(fast_logprobs[same], slow_logprobs[same], atol=1e-5, rtol=0)


def test_only_rows_whose_likeliest_tokens_do_not_hold_the_nucleus_are_sorted(monkeypatch):
    sorted_rows = []
    real = Picker._whole
    monkeypatch.setattr(
        Picker, "_whole", lambda self, logits, u: sorted_rows.append(len(logits)) or real(self, logits, u)
    )
    logits = torch.stack([shape("skewed"), shape("flat"), shape("skewed")])
    Picker(0.8, 0.95)(logits, torch.full((3,), 0.5, dtype=torch.float64))
    assert sorted_rows == [1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_greedy_is_the_likeliest_token_and_extreme_numbers_stay_inside(dtype):
    logits = torch.stack([shape("skewed"), shape("flat"), shape("steps")]).to(dtype)
    tokens, logprobs = Picker(0)(logits, None)
    assert tokens.tolist() == logits.float().argmax(-1).tolist()
    want = logits.double().log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(logprobs.double(), want, atol=1e-5, rtol=0)
    for edge in (0.0, 1 - 2**-24, 1 - 2**-53):
        for top_p in (1.0, 0.95):
            tokens, logprobs = Picker(1.0, top_p)(logits, torch.full((3,), edge, dtype=torch.float64))
            assert bool((tokens < VOCABULARY).all())
            assert bool(logprobs.isfinite().all())


def test_what_is_no_temperature_or_probability_is_refused():
    for wrong in ((-1.0,), (1.0, 0.0), (1.0, 1.1), (1.0, 1.0, -1)):
        with pytest.raises(UsageError):
            Picker(*wrong)
