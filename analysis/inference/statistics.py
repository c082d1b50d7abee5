"""Intervals and tests for differences between values, from few seeds.

Replicas are paired: replicas with the same number have the same seed, hence the same initial weights, data order
and augmentation, at every value. Sources:

- t-interval and paired t-test: Student, "The probable error of a mean", Biometrika 6 (1908);
- sign-flip permutation test: Fisher, "The Design of Experiments" (1935), section 21;
- several comparisons: Holm, "A simple sequentially rejective multiple test procedure",
  Scand. J. Statist. 6 (1979);
- bootstrap over seeds: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993);
- why a mean of few seeds needs an interval at all: Bouthillier et al., "Accounting for variance in machine
  learning benchmarks", MLSys (2021).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
ALPHA = 0.05
MIN_SEEDS = 3  # with two, the t-test has one degree of freedom
# All 2^12 sign flips are counted; beyond that, RESAMPLES random ones are.
EXACT_FLIPS = 12
# All n^n resamples of n seeds are counted up to here (5^5 = 3,125); beyond that, RESAMPLES random ones are.
EXACT_BOOTSTRAP = 5
RESAMPLES = 10_000

SUPPORTED, NOT_SUPPORTED, CONTRADICTED = "supported", "not supported", "contradicted"
UNDECIDED = "undecided"


@dataclass(frozen=True)
class Interval:
    """A mean over n values with its 95 % interval; `low` and `high` are NaN if n < 2 or there is no interval."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a − b over n paired seeds, with the two-sided p-values of two tests of "no difference"."""

    interval: Interval
    p_value: float  # paired t-test; NaN for n = 1
    p_flip: float  # sign-flip permutation test; at least 2 / 2^n

    @property
    def n(self) -> int:
        return self.interval.n

    @property
    def deviation(self) -> float:
        """The standard deviation of a paired difference; NaN without an interval."""
        if self.n < 2:
            return math.nan
        critical = float(stats.t.ppf((1 + CONFIDENCE) / 2, self.n - 1))
        return self.interval.half * math.sqrt(self.n) / critical


def t_interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % t-interval of values [n]; no interval for n = 1, no mean for n = 0."""
    n = len(values)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(np.mean(values))
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> PairedDifference:
    """Compare a [n] with b [n], paired by seed.

    Differences that are all equal and not 0 have no spread for an interval (this happens with a small valid set):
    they get no interval, and the permutation test's p-value.

    Raises:
        ValueError: the two are of different length, or empty.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"paired values are needed: got {len(a)} and {len(b)}")
    differences = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    interval = t_interval(differences.tolist())
    p_flip = sign_flip_p(differences.tolist())
    n = len(differences)
    if n == 1:
        return PairedDifference(interval, math.nan, p_flip)
    error = float(np.std(differences, ddof=1)) / math.sqrt(n)
    # Equal differences leave rounding errors, far below a metric's resolution.
    if error <= 1e-12 * max(1.0, float(np.abs(differences).max())):
        if abs(interval.mean) <= 1e-12:
            return PairedDifference(Interval(0.0, 0.0, 0.0, n), 1.0, p_flip)
        return PairedDifference(Interval(interval.mean, math.nan, math.nan, n), p_flip, p_flip)
    p_value = 2 * float(stats.t.sf(abs(interval.mean) / error, n - 1))
    return PairedDifference(interval, p_value, p_flip)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of the sign-flip test that differences [n] have no preferred sign.

    Exact up to n = 12. Its smallest value is 2 / 2^n: 0.25 for three seeds, so that it cannot reach 0.05 below
    six seeds, and claims are decided by the t-test instead.
    """
    values = np.asarray(differences, dtype=float)
    n = len(values)
    observed = abs(values.sum())
    tolerance = 1e-12 * max(1.0, float(np.abs(values).sum()))
    if n <= EXACT_FLIPS:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
        return float(np.mean(np.abs(signs @ values) >= observed - tolerance))
    signs = np.random.default_rng(0).choice((-1.0, 1.0), size=(RESAMPLES, n))
    extreme = int(np.sum(np.abs(signs @ values) >= observed - tolerance))
    return (extreme + 1) / (RESAMPLES + 1)  # the observed signs are one of the resamples


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given; NaN stays NaN and counts as no comparison."""
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(p), math.nan)
    order = [int(i) for i in np.argsort(p) if not math.isnan(p[i])]
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * float(p[index])))
        adjusted[index] = running
    return [float(value) for value in adjusted]


def probability_of_best(scores: np.ndarray, mode: str) -> np.ndarray:
    """The share of bootstrap resamples of the seeds in which each point has the best mean.

    Args:
        scores: [points, seeds], paired by column; not finite where a trial diverged, which is the worst.
        mode: `max` or `min`.

    Returns:
        [points], summing to 1; ties share. With three seeds there are 27 resamples: a hint, not a test.
    """
    values = np.where(np.isfinite(scores), scores if mode == "max" else -scores, np.nan)
    if np.isnan(values).all():
        return np.full(len(values), 1 / len(values))
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    values = np.where(np.isnan(values), low - 1000 * (high - low + 1), values)
    n = values.shape[1]
    if n <= EXACT_BOOTSTRAP:
        drawn = np.array(list(itertools.product(range(n), repeat=n)))
    else:
        drawn = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    weights = (drawn[:, :, None] == np.arange(n)).mean(axis=1)  # [resamples, seeds]
    means = values @ weights.T  # [points, resamples]
    best = np.isclose(means, means.max(axis=0), rtol=0, atol=1e-12)
    return (best / best.sum(axis=0)).mean(axis=1)
