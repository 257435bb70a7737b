"""Intervals and p-values: against enumeration where small, against known coverage where large."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rrk.evaluation.statistics import Table, bootstrap, compare


def test_the_mean_is_over_strata_of_means_within_them():
    got = bootstrap([1, 1, 1, 0], ["py", "py", "py", "cpp"], ["a", "b", "c", "a"])
    assert got["mean"] == pytest.approx(0.5)


def test_resampled_means_follow_the_enumerated_distribution():
    """Three clusters have 27 ordered resamples; the drawn distribution must be theirs."""
    values = np.array([0.0, 0.25, 1.0])
    exact = np.array([np.mean(values[list(p)]) for p in itertools.product(range(3), repeat=3)])
    drawn = Table.build(values).resampled(40_000, seed=3)
    for point in np.unique(exact):
        assert np.mean(np.isclose(drawn, point)) == pytest.approx(np.mean(np.isclose(exact, point)), abs=0.01)


def test_languages_of_one_base_problem_move_together():
    """Eight copies of each problem carry no more information than one: the interval must not shrink."""
    rng = np.random.default_rng(0)
    one = (rng.random(60) < 0.4).astype(float)
    names = [f"HumanEval/{i}" for i in range(60)]
    alone = bootstrap(one, ["py"] * 60, names)
    languages = [f"l{j}" for j in range(8) for _ in range(60)]
    together = bootstrap(np.tile(one, 8), languages, names * 8)
    naive = bootstrap(np.tile(one, 8), languages)
    width = lambda r: r["high"] - r["low"]  # noqa: E731
    assert width(together) == pytest.approx(width(alone), rel=0.05)
    assert width(naive) < 0.5 * width(alone)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(300):
        sample = (rng.random(100) < 0.3).astype(float)
        got = bootstrap(sample, repeats=800, seed=trial)
        hits += got["low"] <= 0.3 <= got["high"]
    assert 0.90 <= hits / 300 <= 0.985


def test_a_rare_stratum_missing_from_a_resample_does_not_break_the_average():
    got = bootstrap([1.0] * 9 + [0.0], ["py"] * 9 + ["rare"], range(10))
    assert np.isfinite([got["low"], got["high"]]).all()


def test_one_problem_has_no_interval():
    assert bootstrap([1.0]) == {"mean": 1.0, "low": None, "high": None}
    assert bootstrap([]) == {"mean": None, "low": None, "high": None}
    assert compare([0.0], [1.0])["p"] is None


def test_sign_flip_p_equals_enumeration():
    rng = np.random.default_rng(5)
    a, b = rng.random(9), rng.random(9)
    d = b - a
    exact = np.mean([abs(np.dot(s, d)) >= abs(d.sum()) - 1e-12 for s in itertools.product([1, -1], repeat=9)])
    assert compare(a, b)["p_sign_flip"] == pytest.approx(exact)


def test_drawn_sign_flips_agree_with_the_exact_ones():
    from rrk.evaluation import statistics

    rng = np.random.default_rng(6)
    table = Table.build(rng.normal(0.25, 1, size=12))
    exact = statistics._sign_flip(table, 1, 0)
    old, statistics._EXACT_UP_TO = statistics._EXACT_UP_TO, 0
    try:
        drawn = statistics._sign_flip(table, 40_000, 0)
    finally:
        statistics._EXACT_UP_TO = old
    assert drawn == pytest.approx(exact, abs=0.01)


def test_equal_systems_are_not_told_apart_and_different_ones_are():
    rng = np.random.default_rng(2)
    a = rng.random(150)
    same = compare(a, a)
    assert same["difference"] == 0
    assert same["p"] == 1.0 == same["p_sign_flip"]
    better = compare(a, np.minimum(a + 0.05 + 0.1 * rng.random(150), 1.5))
    assert better["difference"] > 0
    assert better["low"] > 0
    assert better["p"] < 0.001
    assert better["p_sign_flip"] < 0.001


def test_under_the_null_p_is_small_about_as_often_as_it_should():
    rng = np.random.default_rng(7)
    small = {"p": 0, "p_sign_flip": 0}
    for trial in range(300):
        a, b = (rng.random(60) < 0.5).astype(float), (rng.random(60) < 0.5).astype(float)
        got = compare(a, b, repeats=600, seed=trial)
        for name in small:
            small[name] += got[name] < 0.05
    assert all(0.015 <= n / 300 <= 0.10 for n in small.values()), small


def test_pairs_must_match():
    with pytest.raises(ValueError, match="same problems"):
        compare([1.0], [1.0, 0.0])
