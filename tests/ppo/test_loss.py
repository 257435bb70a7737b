"""The equations of rrk/ppo/loss.py against slow float64 loops written from the papers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
loss = pytest.importorskip("rrk.ppo.loss")
logprobs = pytest.importorskip("rrk.generation.logprobs")

SEEDS = st.integers(0, 10_000)


def world(seed):
    """Rows of different lengths, one of them empty, padding filled with junk that must never matter."""
    g = torch.Generator().manual_seed(seed)
    rows, width = int(torch.randint(2, 6, (), generator=g)), int(torch.randint(1, 8, (), generator=g))
    lengths = torch.randint(0, width + 1, (rows,), generator=g)
    lengths[0] = 0
    mask = torch.arange(width) < lengths[:, None]
    draw = lambda: torch.randn(rows, width, generator=g, dtype=torch.float64).masked_fill(~mask, 1e6)  # noqa: E731
    return mask, lengths.tolist(), draw, g


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.floats(0.5, 1), st.floats(0, 1))
def test_gae_is_the_discounted_sum_of_td_errors(seed, gamma, lam):
    mask, lengths, draw, _ = world(seed)
    r, v = draw(), draw()
    advantages, returns = loss.gae(r, v, mask, gamma, lam)
    for i, n in enumerate(lengths):
        td = [r[i, t] + gamma * (v[i, t + 1] if t + 1 < n else 0) - v[i, t] for t in range(n)]
        for t in range(mask.shape[1]):
            want = sum((gamma * lam) ** (k - t) * td[k] for k in range(t, n))
            assert advantages[i, t].item() == pytest.approx(float(want), abs=1e-9)
            if t < n:
                assert returns[i, t].item() == pytest.approx(float(want + v[i, t]), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.booleans())
def test_whitening_uses_only_real_tokens(seed, shift):
    mask, lengths, draw, _ = world(seed)
    x = draw()
    flat = [x[i, t].item() for i, n in enumerate(lengths) for t in range(n)]
    got = loss.whiten(x, mask, shift)
    mean = sum(flat) / max(len(flat), 1)
    var = sum((f - mean) ** 2 for f in flat) / max(len(flat), 1)
    want = [(f - mean) / math.sqrt(var + 1e-8) + (0 if shift else mean) for f in flat]
    assert got[mask].tolist() == pytest.approx(want)
    assert (got[~mask] == 0).all()


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_policy_and_value_losses_are_the_clipped_sums(seed):
    mask, lengths, draw, _ = world(seed)
    new, old, adv, ret = draw(), draw(), draw(), draw()
    got, clipped = loss.policy_loss(new, old, adv, mask, 0.2)
    value = loss.value_loss(new, old, ret, mask, 0.2)
    want = count = want_value = 0.0
    for i, n in enumerate(lengths):
        for t in range(n):
            ratio, a = math.exp(new[i, t] - old[i, t]), adv[i, t].item()
            plain, cut = ratio * a, min(max(ratio, 0.8), 1.2) * a
            want -= min(plain, cut)
            count += cut < plain
            v, o, r = new[i, t].item(), old[i, t].item(), ret[i, t].item()
            want_value += 0.5 * max((v - r) ** 2, (min(max(v, o - 0.2), o + 0.2) - r) ** 2)
    assert got.item() == pytest.approx(want)
    assert clipped.item() == count
    assert value.item() == pytest.approx(want_value)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.3, 2))
def test_logprobs_and_entropy_equal_a_loop_over_the_vocabulary(seed, temperature):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 7, generator=g, dtype=torch.float64) * 5
    tokens = torch.randint(0, 7, (3,), generator=g)
    for i in range(3):
        weights = [math.exp(z / temperature) for z in logits[i].tolist()]
        p = [w / sum(weights) for w in weights]
        assert logprobs.token_logprobs(logits, tokens, temperature)[i].item() == pytest.approx(math.log(p[tokens[i]]))
        assert logprobs.entropy(logits, temperature)[i].item() == pytest.approx(-sum(q * math.log(q) for q in p))


def test_k1_and_k3_both_average_to_the_exact_divergence():
    g = torch.Generator().manual_seed(0)
    p, q = (torch.randn(5, generator=g, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    exact = (p.exp() * (p - q)).sum()
    for name in ("k1", "k3"):
        assert (p.exp() * loss.kl_estimate(p, q, name)).sum().item() == pytest.approx(exact.item())
    assert (loss.kl_estimate(p, q, "k3") >= 0).all()
    assert (loss.kl_estimate(p, q, "k1") < 0).any()
    with pytest.raises(ValueError, match="k9"):
        loss.kl_estimate(p, q, "k9")


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_the_score_stands_on_the_last_real_token_and_kl_on_all(seed):
    mask, lengths, draw, g = world(seed)
    kl, scores = draw(), torch.randn(len(lengths), generator=g, dtype=torch.float64)
    got = loss.token_rewards(scores, kl, mask, 0.1)
    for i, n in enumerate(lengths):
        for t in range(mask.shape[1]):
            want = (-0.1 * kl[i, t].item() if t < n else 0) + (scores[i].item() if t == n - 1 else 0)
            assert got[i, t].item() == pytest.approx(want)


def test_leave_one_out_baseline_is_the_mean_of_the_others():
    rewards = torch.tensor([1.0, 2, 6, 0, 0, 3])
    assert loss.rloo(rewards, 3).tolist() == pytest.approx([-3, -1.5, 4.5, -1.5, -1.5, 3])
    with pytest.raises(ValueError, match="at least 2"):
        loss.rloo(rewards, 1)


def test_gradients_equal_finite_differences():
    mask, _, draw, _ = world(3)
    old, adv, ret = (draw().masked_fill(~mask, 0.0) for _ in range(3))
    # Away from the kinks of min and clip, which have no derivative.
    new = (old + 0.05 * torch.sign(adv)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss.policy_loss(x, old, adv, mask)[0], (new,))
    assert torch.autograd.gradcheck(lambda x: loss.value_loss(x, old, ret, mask), (new,))


def test_adaptive_beta_follows_the_target_and_is_capped():
    controller = loss.KlController(0.1, target=6.0, horizon=1000)
    controller.update(60.0, 100)
    assert controller.beta == pytest.approx(0.1 * 1.02)
    controller.update(0.0, 100)
    assert controller.beta == pytest.approx(0.1 * 1.02 * 0.98)
    fixed = loss.KlController(0.1)
    fixed.update(60.0, 100)
    assert fixed.beta == 0.1


def test_explained_variance_is_one_for_a_perfect_critic_and_zero_for_a_constant():
    returns, mask = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[True, True, False]])
    assert loss.explained_variance(returns, returns, mask) == 1
    assert loss.explained_variance(torch.full_like(returns, 5), returns, mask) == pytest.approx(0)
