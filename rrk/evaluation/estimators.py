"""Estimators over the n judged candidates of one problem: pass@k, best-of-k under a score, oracle.

    pass_at_k(n, c, k)                 # c of n pass: chance that k drawn without replacement hold a passing
    one best_of_k(scores, passed, k)       # ... that the best-scored one of k drawn passes
    best_of_k_curve(scores, passed)    # the same for k = 1..n
    oracle(passed), gap_closed(ranked, random, oracle)

All are exact expectations over the random draw, not simulations. A k above n has no unbiased estimate from n
samples: the answer is None, never 1 (the formula's own limit there would be a flattering 1).

Sources: pass@k, Chen et al. 2021, "Evaluating Large Language Models Trained on Code". Best-of-k: with the n
candidates sorted by score ascending, candidate i (1-based) is the best of a random k-subset with probability
C(i-1, k-1) / C(n, k). Candidates of equal score are exchangeable, so a tied group's total probability is
shared evenly among them: no order of the input can flatter or hurt a ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np


def pass_at_k(n: int, c: int, k: int) -> float | None:
    """Chance that at least one of k candidates, drawn from n of which c pass, passes; None where k > n."""
    if not 0 <= c <= n:
        raise ValueError(f"{c} passing of {n} candidates")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if k > n:
        return None
    if n - c < k:
        return 1.0
    # 1 - C(n-c, k) / C(n, k), as a product so that nothing overflows
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


@lru_cache(maxsize=4096)
def _subset_share(n: int, k: int) -> np.ndarray:
    """C(m, k) / C(n, k) for m = 0..n: the share of k-subsets that lie within the m lowest candidates."""
    share = np.zeros(n + 1)
    value = 1.0
    for m in range(n, k - 1, -1):
        share[m] = value
        value *= (m - k) / m
    share.setflags(write=False)
    return share


def _tied_groups(scores: Sequence[float], passed: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Upper rank (number of candidates at or below) and pass rate of each group of equal scores,
    ascending."""
    s = np.asarray(scores, dtype=float)
    p = np.asarray(passed, dtype=float)
    if s.shape != p.shape or s.ndim != 1:
        raise ValueError(f"{s.shape} scores for {p.shape} verdicts")
    if np.isnan(s).any():
        raise ValueError("a score is not a number (NaN): it cannot be ranked")
    _, group, counts = np.unique(s, return_inverse=True, return_counts=True)
    return np.cumsum(counts), np.bincount(group, weights=p) / counts


def best_of_k(scores: Sequence[float], passed: Sequence[bool], k: int) -> float | None:
    """Expected pass rate of the best-scored of k candidates drawn without replacement; None where k > n."""
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if k > len(passed):
        return None
    upper, rate = _tied_groups(scores, passed)
    return _expect(upper, rate, len(passed), k)


def _expect(upper: np.ndarray, rate: np.ndarray, n: int, k: int) -> float:
    return float(np.diff(_subset_share(n, k)[upper], prepend=0.0) @ rate)


def best_of_ks(scores: Sequence[float], passed: Sequence[bool], ks: Sequence[int]) -> np.ndarray:
    """best_of_k for several k, none above n: sorts once."""
    n = len(passed)
    if any(not 1 <= k <= n for k in ks):
        raise ValueError(f"k must lie between 1 and {n}: {list(ks)}")
    upper, rate = _tied_groups(scores, passed)
    lower = np.concatenate([[0], upper[:-1]])  # _subset_share(n, k)[0] is 0 for every k
    shares = np.stack([_subset_share(n, k) for k in ks]) if len(ks) else np.zeros((0, n + 1))
    return (shares[:, upper] - shares[:, lower]) @ rate


def best_of_k_curve(scores: Sequence[float], passed: Sequence[bool]) -> np.ndarray:
    """best_of_k for k = 1..n. It starts at the pass rate and ends at ranked pass@1; one that falls is
    the mark of an over-optimised reranker (the more it may choose from, the worse it chooses)."""
    return best_of_ks(scores, passed, range(1, len(passed) + 1))


def ranked_pass_at_1(scores: Sequence[float], passed: Sequence[bool]) -> float:
    """Pass rate of the top-scored candidate (of all those tied at the top)."""
    upper, rate = _tied_groups(scores, passed)
    if not len(upper):
        raise ValueError("no candidates")
    return float(rate[-1])


def oracle(passed: Sequence[bool]) -> float:
    """1 if any candidate passes: what a perfect ranking would reach."""
    return float(any(passed))


def gap_closed(ranked: float, random: float, oracle: float) -> float | None:
    """Share of the way from a random pick to the oracle; negative if worse than random, None if there is no
    way."""
    return (ranked - random) / (oracle - random) if oracle > random else None
