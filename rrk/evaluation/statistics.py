"""Uncertainty: bootstrap over base problems, and paired comparison of two systems.

    table = Table.build(values, strata=languages, clusters=base_problems)
    table.mean(), table.interval()                      # the average over strata, with a 95 % interval
    compare(a, b, strata, clusters)                     # paired difference, interval, p-values
    resample([ranked, random, oracle], strata, clusters)   # several values under the same draws: ratios, differences

The unit that is drawn again is the *base problem*: HumanEval_0 in eight languages is one problem seen eight
times, and drawing the eight apart would give intervals that are too narrow. All languages of a drawn base
problem come along. A mean is taken within each stratum (language) and then over the strata, as the paper
averages.

The comparison reports two p-values, both two-sided: `p` from the paired bootstrap (how often the resampled
difference reaches zero or beyond) and `p_sign_flip` from the sign-flip test (the difference of each base
problem keeps or turns its sign at random, exact for few problems), which makes fewer assumptions with few
problems. They should agree.

How often the 95 % intervals hold the truth, simulated (tests/evaluation/test_coverage.py; 2,000 benchmarks of 20 candidates a problem):
164 problems: pass@1 .945 (BCa .951), ranked pass@1 .945 (.947), a paired difference .936 (.935). 20 problems: .926 (.941),
.934 (.957) and .915 (.916): with so few problems read a difference's interval as one of 91 %.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

REPEATS = 10_000
_EXACT_UP_TO = 12  # 2^12 sign patterns are cheaper than the random draws
_CHUNK = 2_000_000  # entries of a block of resampling weights: bounds memory for large benchmarks


@dataclass(frozen=True)
class Table:
    """Sums and counts of one value by cluster (row) and stratum (column); every resample is a weighting of
    rows."""

    sums: np.ndarray
    counts: np.ndarray
    strata: tuple[Hashable, ...]

    @classmethod
    def build(
        cls,
        values: Sequence[float] | np.ndarray,
        strata: Sequence[Hashable] | None = None,
        clusters: Sequence[Hashable] | None = None,
    ) -> Table:
        v = np.asarray(values, dtype=float)
        stratum_of = list(strata) if strata is not None else [None] * len(v)
        cluster_of = list(clusters) if clusters is not None else list(range(len(v)))
        if not len(v) == len(stratum_of) == len(cluster_of):
            raise ValueError("values, strata and clusters differ in length")
        names = tuple(dict.fromkeys(stratum_of))
        column = {s: i for i, s in enumerate(names)}
        line = {c: i for i, c in enumerate(dict.fromkeys(cluster_of))}
        sums = np.zeros((len(line), len(names)))
        counts = np.zeros_like(sums)
        at = [line[c] for c in cluster_of], [column[s] for s in stratum_of]
        np.add.at(sums, at, v)
        np.add.at(counts, at, 1.0)
        return cls(sums, counts, names)

    def mean(self) -> float | None:
        """The mean within each stratum, averaged over the strata."""
        if not self.sums.size:
            return None
        return float(self._means().mean())

    def means(self) -> dict[Hashable, float]:
        """The mean within each stratum, in the order in which they come."""
        return dict(zip(self.strata, self._means().tolist(), strict=True))

    def _means(self) -> np.ndarray:
        return self.sums.sum(0) / self.counts.sum(0)

    def resampled(self, repeats: int = REPEATS, seed: int = 0) -> np.ndarray:
        """The mean of each of `repeats` resamples of the clusters with replacement."""
        n = len(self.sums)
        if n == 0:
            return np.zeros(0)
        rng = np.random.default_rng(seed)
        out = []
        step = max(1, min(repeats, _CHUNK // n))
        for start in range(0, repeats, step):
            weights = _draw(rng, min(step, repeats - start), n)
            counts = weights @ self.counts
            with np.errstate(invalid="ignore", divide="ignore"):
                means = np.where(counts > 0, weights @ self.sums / counts, np.nan)
            # a resample may miss a rare stratum whole: it is averaged over those it has
            out.append(np.nanmean(means, axis=1))
        return np.concatenate(out)

    def interval(self, level: float = 0.95, repeats: int = REPEATS, seed: int = 0) -> tuple[float, float] | None:
        """Percentile bootstrap interval; None with fewer than two clusters, where nothing can be said."""
        if len(self.sums) < 2:
            return None
        tail = (1.0 - level) / 2
        low, high = np.quantile(self.resampled(repeats, seed), [tail, 1.0 - tail])
        return float(low), float(high)


def _draw(rng: np.random.Generator, repeats: int, n: int) -> np.ndarray:
    """How often each of n clusters comes in each resample of n with replacement: (repeats, n)."""
    drawn = rng.integers(0, n, size=(repeats, n)) + n * np.arange(repeats)[:, None]
    return np.bincount(drawn.ravel(), minlength=repeats * n).reshape(repeats, n).astype(float)


@dataclass(frozen=True)
class Resampled:
    """Means of V values over the strata, and the same means in each resample; `draws` is (repeats, V), or (0, V) with
    fewer than two clusters, where nothing can be said about their spread."""

    means: np.ndarray
    draws: np.ndarray
    without: np.ndarray = field(
        default_factory=lambda: np.zeros((0, 0))
    )  # (clusters, V): the means without each cluster

    def interval(self, at: int, level: float = 0.95) -> tuple[float, float] | None:
        return quantiles(self.draws[:, at], level)

    def bca(self, at: int, level: float = 0.95) -> tuple[float, float] | None:
        return bca(float(self.means[at]), self.draws[:, at], self.without[:, at], level) if len(self.draws) else None


def bca(mean: float, draws: np.ndarray, without: np.ndarray, level: float = 0.95) -> tuple[float, float] | None:
    """The bias-corrected and accelerated interval (Efron 1987, equations 4.1 and 6.6 by the jackknife over clusters), which
    follows a skewed distribution where percentiles lag behind; None where nothing is known. `without`: see Resampled."""
    known, jack = draws[np.isfinite(draws)], without[np.isfinite(without)]
    if not len(known) or not len(jack):
        return None
    if known.min() == known.max():
        return float(known[0]), float(known[0])
    normal = NormalDist()
    # Draws that equal the mean count half, whatever their last bits.
    below = float((np.sum(known < mean - 1e-12) + np.sum(known <= mean + 1e-12)) / (2 * len(known)))
    if not 0 < below < 1:
        return quantiles(draws, level)
    bias = normal.inv_cdf(below)
    apart = jack.mean() - jack
    scale = float((apart**2).sum()) ** 1.5
    acceleration = float((apart**3).sum()) / (6 * scale) if scale else 0.0
    found = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = bias + normal.inv_cdf(tail)
        found.append(normal.cdf(bias + z / (1 - acceleration * z)))
    low, high = np.quantile(known, found)
    return float(low), float(high)


def quantiles(draws: np.ndarray, level: float = 0.95) -> tuple[float, float] | None:
    """The central `level` of the draws that are numbers; None without any."""
    known = draws[np.isfinite(draws)]
    if not len(known):
        return None
    tail = (1.0 - level) / 2
    low, high = np.quantile(known, [tail, 1.0 - tail])
    return float(low), float(high)


def resample(
    values: Sequence[Sequence[float]] | np.ndarray,
    strata: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | None = None,
    *,
    repeats: int = REPEATS,
    seed: int = 0,
) -> Resampled:
    """Bootstrap V values of the same N observations (V, N) under one set of draws, so that a difference or a ratio of
    two of them has an interval too. Equal to Table.resampled on each with the same seed."""
    v = np.asarray(values, dtype=float)
    tables = [Table.build(line, strata, clusters) for line in v]
    means = np.array([np.nan if (mean := table.mean()) is None else mean for table in tables])
    n = len(tables[0].sums) if tables else 0
    if n < 2:
        return Resampled(means, np.zeros((0, len(v))))
    sums = np.stack([table.sums for table in tables], axis=2)  # clusters, strata, V
    seen = tables[0].counts
    rng = np.random.default_rng(seed)
    out = []
    step = max(1, min(repeats, _CHUNK // n))
    for start in range(0, repeats, step):
        weights = _draw(rng, min(step, repeats - start), n)
        total = np.zeros((len(weights), len(v)))
        present = np.zeros(len(weights))
        for s in range(seen.shape[1]):
            counts = weights @ seen[:, s]
            here = counts > 0
            total[here] += (weights[here] @ sums[:, s]) / counts[here, None]
            present += here
        out.append(total / present[:, None])
    left = seen.sum(0) - seen
    with np.errstate(invalid="ignore", divide="ignore"):
        without = np.where(left[:, :, None] > 0, (sums.sum(0) - sums) / left[:, :, None], np.nan)
    return Resampled(means, np.concatenate(out), np.nanmean(without, axis=1))


def bootstrap(
    values: Sequence[float] | np.ndarray,
    strata: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    repeats: int = REPEATS,
    seed: int = 0,
) -> dict[str, Any]:
    """{'mean', 'low', 'high'}: the mean over strata and its interval over clusters (low/high None if
    undefined)."""
    table = Table.build(values, strata, clusters)
    interval = table.interval(level, repeats, seed)
    low, high = interval if interval else (None, None)
    return {"mean": table.mean(), "low": low, "high": high}


def compare(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    strata: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    repeats: int = REPEATS,
    seed: int = 0,
) -> dict[str, Any]:
    """Is b better than a on the same problems? a[i] and b[i] are the two systems' values on problem i."""
    if len(a) != len(b):
        raise ValueError(f"a paired comparison needs the same problems: {len(a)} and {len(b)}")
    table = Table.build(np.asarray(b, dtype=float) - np.asarray(a, dtype=float), strata, clusters)
    difference = table.mean()
    interval = table.interval(level, repeats, seed)
    if difference is None or interval is None:
        return {
            "difference": difference,
            "low": None,
            "high": None,
            "p": None,
            "p_sign_flip": None,
            "pairs": len(a),
            "clusters": len(table.sums),
        }
    draws = table.resampled(repeats, seed)
    # +1: the observed sample is itself one draw, so p is never an impossible 0
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return {
        "difference": difference,
        "low": interval[0],
        "high": interval[1],
        "p": min(1.0, 2 * (beyond + 1) / (repeats + 1)),
        "p_sign_flip": _sign_flip(table, repeats, seed),
        "pairs": len(a),
        "clusters": len(table.sums),
    }


def _sign_flip(table: Table, repeats: int, seed: int) -> float:
    """Two-sided p of the mean difference when each cluster's differences could as well have the other
    sign."""
    # the mean over strata is linear in the clusters' sums: one number a cluster says all
    parts = (table.sums / table.counts.sum(0)).mean(1)
    parts = parts[np.abs(parts) > 1e-12]  # a cluster without difference has no sign to flip
    observed = abs(float(parts.sum()))
    n = len(parts)
    if n <= _EXACT_UP_TO:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ parts) >= observed - 1e-12).mean())
    rng = np.random.default_rng(seed)
    hits = 0
    step = max(1, min(repeats, _CHUNK // n))
    for start in range(0, repeats, step):
        signs = rng.integers(0, 2, size=(min(step, repeats - start), n)) * 2.0 - 1.0
        hits += int((np.abs(signs @ parts) >= observed - 1e-12).sum())
    return (hits + 1) / (repeats + 1)
