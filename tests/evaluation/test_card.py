"""The report card against slow definitions over all pairs."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from rrk.evaluation import card as c


def _draw(seed):
    rng = random.Random(seed)
    n = rng.randint(2, 9)
    return [rng.choice([0, 1, 2, 3.5]) for _ in range(n)], [rng.random() < 0.5 for _ in range(n)]


@pytest.mark.parametrize("seed", range(30))
def test_auc_counts_pairs_with_ties_half(seed):
    scores, passed = _draw(seed)
    pairs = [
        (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
        for i in range(len(scores))
        for j in range(len(scores))
        if passed[i] and not passed[j]
    ]
    expected = sum(pairs) / len(pairs) if pairs else None
    assert c.auc(scores, passed) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("seed", range(30))
def test_kendall_is_tau_b_over_all_pairs(seed):
    scores, passed = _draw(seed)
    con = dis = tied_s = tied_p = 0
    for i, j in itertools.combinations(range(len(scores)), 2):
        s, p = np.sign(scores[i] - scores[j]), np.sign(int(passed[i]) - int(passed[j]))
        con += s * p > 0
        dis += s * p < 0
        tied_s += s == 0
        tied_p += p == 0
    total = len(scores) * (len(scores) - 1) / 2
    below = math.sqrt((total - tied_s) * (total - tied_p))
    got = c.kendall(scores, passed)
    assert got == (pytest.approx((con - dis) / below) if below else None)


def test_a_flawless_and_a_reversed_score():
    assert c.auc([1, 2, 3], [False, False, True]) == 1.0
    assert c.auc([3, 2, 1], [False, False, True]) == 0.0
    assert c.spearman([1, 2, 3], [10, 20, 25]) == pytest.approx(1.0)
    assert c.spearman([1, 1, 1], [1, 2, 3]) is None


def test_platt_finds_the_true_slope_and_stays_finite_when_separable():
    rng = np.random.default_rng(0)
    scores = rng.normal(3, 2, 20_000)
    passed = rng.random(20_000) < c.sigmoid(-1.5 + 0.8 * scores)
    a, b = c.platt(scores, passed)
    assert (a, b) == (pytest.approx(-1.5, abs=0.1), pytest.approx(0.8, abs=0.05))
    a, b = c.platt(np.array([1.0, 2, 3, 4]), np.array([False, False, True, True]))
    assert np.isfinite([a, b]).all()
    assert b > 0


def test_calibration_error_of_honest_and_of_boasting_probabilities():
    rng = np.random.default_rng(0)
    p = rng.random(50_000)
    assert c.expected_calibration_error(p, rng.random(50_000) < p) < 0.02
    assert c.expected_calibration_error(np.full(1000, 0.9), np.arange(1000) % 2 == 0) == pytest.approx(0.4)


def test_a_candidate_is_never_calibrated_on_its_own_problem():
    """With labels that follow the problem alone, an in-sample fit would look informed; the cross-fit must
    not."""
    scores = np.repeat(np.arange(10.0), 2)
    clusters = [f"p{i}" for i in range(10) for _ in range(2)]
    base = np.arange(20) % 2 == 0
    flipped = base.copy()
    flipped[:2] = ~flipped[:2]
    own = c.cross_fitted(scores, base, clusters)[:2]
    assert own == pytest.approx(c.cross_fitted(scores, flipped, clusters)[:2])


def test_risk_falls_with_coverage_for_a_score_that_knows():
    table, aurc = c.risk_coverage([4, 3, 2, 1], [1, 1, 0, 0])
    at = {row["coverage"]: row["accuracy"] for row in table}
    assert at[1.0] == 0.5
    assert at[0.5] == 1.0
    assert aurc == pytest.approx(1 - np.mean([1, 1, 2 / 3, 0.5]))


def test_equal_confidences_are_averaged_over_their_orders():
    table, _ = c.risk_coverage([1, 1, 1, 1], [1, 0, 0, 0])
    assert all(row["accuracy"] == pytest.approx(0.25) for row in table)


def test_the_card_speaks_per_language_and_survives_infinite_scores():
    rows = [
        c.Scored("a", "py", [2.0, 1.0], [True, False], [10, 20]),
        c.Scored("a", "cpp", [1.0, 2.0], [True, False], [10, 20]),
    ]
    got = c.report_card(rows)
    assert got["languages"]["py"]["auc"] == 1.0
    assert got["languages"]["cpp"]["auc"] == 0.0
    assert got["auc"] == 0.5
    assert got["length_score"] == pytest.approx(0.0)
    assert {"ece", "brier", "brier_constant"} <= set(got["calibration"])
    assert "calibration" not in c.report_card([c.Scored("a", "py", [float("inf"), 0.0], [True, False])])
    assert c.report_card([]) == {}
