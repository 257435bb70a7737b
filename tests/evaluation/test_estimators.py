"""Estimators against enumeration of every subset: the exact answer, slowly."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from rrk.evaluation import estimators as est


def _by_subsets(scores, passed, k):
    """Expected pass rate of the best of each k-subset, ties shared evenly, by enumeration."""
    values = []
    for subset in itertools.combinations(range(len(passed)), k):
        best = max(scores[i] for i in subset)
        top = [passed[i] for i in subset if scores[i] == best]
        values.append(sum(top) / len(top))
    return sum(values) / len(values)


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_equals_the_share_of_subsets_with_a_passing_candidate(n):
    for c in range(n + 1):
        passed = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            share = np.mean([any(s) for s in itertools.combinations(passed, k)])
            assert est.pass_at_k(n, c, k) == pytest.approx(share, abs=1e-12)


def test_more_draws_than_candidates_has_no_answer():
    assert est.pass_at_k(5, 5, 6) is None
    assert est.pass_at_k(0, 0, 1) is None
    assert est.best_of_k([1.0, 2.0], [True, True], 3) is None


def test_pass_at_k_stays_exact_where_binomials_overflow():
    from fractions import Fraction
    from math import comb

    n, c, k = 2000, 3, 700
    assert est.pass_at_k(n, c, k) == pytest.approx(float(1 - Fraction(comb(n - c, k), comb(n, k))), abs=1e-12)
    curve = est.best_of_k_curve(range(n), [i == n - 1 for i in range(n)])
    assert curve[k - 1] == pytest.approx(k / n, abs=1e-12)


@pytest.mark.parametrize("arguments", [(3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_impossible_counts_are_refused(arguments):
    with pytest.raises(ValueError):
        est.pass_at_k(*arguments)


@pytest.mark.parametrize("seed", range(40))
def test_best_of_k_equals_enumeration_with_and_without_ties(seed):
    rng = random.Random(seed)
    n = rng.randint(1, 8)
    # few distinct scores: most draws have ties, some are all tied
    scores = [rng.choice([0.0, 1.0, 2.5, -3.0][: rng.randint(1, 4)]) for _ in range(n)]
    passed = [rng.random() < 0.5 for _ in range(n)]
    curve = est.best_of_k_curve(scores, passed)
    for k in range(1, n + 1):
        slow = _by_subsets(scores, passed, k)
        assert est.best_of_k(scores, passed, k) == pytest.approx(slow, abs=1e-12)
        assert curve[k - 1] == pytest.approx(slow, abs=1e-12)


def test_the_order_of_the_rows_changes_nothing_under_ties():
    scores, passed = [1.0, 1.0, 0.0, 1.0], [True, False, True, False]
    values = {
        tuple(np.round(est.best_of_k_curve([scores[i] for i in o], [passed[i] for i in o]), 12))
        for o in itertools.permutations(range(4))
    }
    assert len(values) == 1


def test_the_curve_starts_at_the_pass_rate_and_ends_at_the_top_candidate():
    scores, passed = [0.3, 0.1, 0.9, 0.2], [False, True, True, True]
    curve = est.best_of_k_curve(scores, passed)
    assert curve[0] == pytest.approx(0.75)
    assert curve[-1] == pytest.approx(1.0) == est.ranked_pass_at_1(scores, passed)
    assert est.ranked_pass_at_1([1, 1, 0], [True, False, True]) == 0.5


def test_a_perfect_score_reaches_pass_at_k_and_a_constant_one_stays_random():
    passed = [True, False, False, True, False, False]
    perfect = est.best_of_k_curve([float(p) for p in passed], passed)
    assert perfect == pytest.approx([est.pass_at_k(6, 2, k) for k in range(1, 7)])
    assert est.best_of_k_curve([0.0] * 6, passed) == pytest.approx([2 / 6] * 6)


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        est.best_of_k([1.0, float("nan")], [True, False], 1)


def test_infinite_scores_rank_like_others():
    assert est.ranked_pass_at_1([float("-inf"), float("inf")], [False, True]) == 1.0


def test_gap_closed():
    assert est.gap_closed(0.5, 0.25, 0.75) == pytest.approx(0.5)
    assert est.gap_closed(0.2, 0.25, 0.75) == pytest.approx(-0.1)
    assert est.gap_closed(0.5, 0.5, 0.5) is None
    assert est.oracle([False, True]) == 1.0
    assert est.oracle([False]) == 0.0
