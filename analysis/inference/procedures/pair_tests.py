"""One-sided tests of paired differences, for many pairs at once.

- no trial diverged: Student's paired t-test;
- a trial diverged: the exact sign-flip test on signed ranks (Wilcoxon, "Individual comparisons by ranking methods",
  Biometrics Bulletin 1 (1945)), a divergence as the largest difference, both diverged as none;
- declared before the run: the t-test with an error pooled over values, seeds as blocks (Fisher, "The Design of
  Experiments" (1935)), guarded against unequal variances.

The guard: Cochran's test (Annals of Eugenics 11 (1941)) for a value with a larger variance, at 10 %, makes pairs use
the larger of the pooled variance and their own, with their own degrees of freedom. What it misses is bounded by adding
0.12 (k − 1) √(pooled · own) to the pooled variance of k values. Both constants are chosen by simulation, so that
standard deviations in ratios up to 3 give false verdicts in at most 5 % (docs/explanation/statistics.md).
"""

import itertools
from functools import lru_cache

import numpy as np
from scipy.special import stdtr
from scipy.stats import rankdata

from mixsweep.analysis.inference.procedures.blocks import Blocks, Pairs, PooledError
from mixsweep.analysis.inference.statistics import MIN_SEEDS

EXACT_RANKS = 14  # seeds up to which all sign flips are counted
_FLIPS = 20_000
_GUARD_LEVEL = 0.10
_GUARD_SHARE = 0.12
_GUARD_DRAWS = 2_000_000  # normal variates behind a critical value
_ROUNDING = 1e-12  # equal differences leave rounding errors, far below a metric's resolution


def one_sided(
    pairs: Pairs, error: "Error | None" = None, shift: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The p-values of "a is better than b by more than `shift`" and of the reverse, [pairs] each.

    A pair that cannot be tested has 1: fewer than three seeds with a difference, or a trial that a rule stopped.

    Args:
        error: the pooled error of each pair; left out: its own.
    """
    greater, less = np.ones(len(pairs.counts)), np.ones(len(pairs.counts))
    usable = (pairs.counts >= MIN_SEEDS) & ~pairs.is_stopped
    by_t = usable & ~pairs.by_ranks
    differences = pairs.differences - shift
    if by_t.any():
        greater[by_t], less[by_t] = _by_t(differences[by_t], None if error is None else error.of(by_t))
    for row in np.flatnonzero(usable & pairs.by_ranks):
        values = differences[row]
        greater[row], less[row] = by_ranks(values[~np.isnan(values)])
    return greater, less


class Error:
    """The variance of a pair's figures and its degrees of freedom, [pairs] each; NaN: the pair's own."""

    def __init__(self, variance: np.ndarray, freedom: np.ndarray):
        self.variance, self.freedom = variance, freedom

    def of(self, chosen: np.ndarray) -> "Error":
        """That of some of the pairs."""
        return Error(self.variance[chosen], self.freedom[chosen])


def _by_t(differences: np.ndarray, error: Error | None) -> tuple[np.ndarray, np.ndarray]:
    """The t-tests of differences [pairs, seeds], NaN where there is none."""
    known = ~np.isnan(differences)
    n = known.sum(axis=1)
    mean = np.where(known, differences, 0.0).sum(axis=1) / n
    squares = np.where(known, (differences - mean[:, None]) ** 2, 0.0).sum(axis=1)
    variance, freedom = squares / (n - 1), (n - 1).astype(float)
    if error is not None:
        pooled = ~np.isnan(error.variance)
        variance = np.where(pooled, 2 * error.variance, variance)
        freedom = np.where(pooled, error.freedom, freedom)
    deviation = np.sqrt(variance / n)
    scale = np.maximum(1.0, np.abs(np.where(known, differences, 0.0)).max(axis=1))
    constant = deviation <= _ROUNDING * scale
    t = mean / np.where(constant, 1.0, deviation)
    greater, less = stdtr(freedom, -t), stdtr(freedom, t)
    # Equal differences have no spread to test against: all signs agree, or nothing differs.
    agree = np.where(np.abs(mean) > _ROUNDING * scale, 0.5**n, 1.0)
    greater = np.where(constant, np.where(mean >= 0, agree, 1.0), greater)
    return greater, np.where(constant, np.where(mean <= 0, agree, 1.0), less)


def by_ranks(differences: np.ndarray) -> tuple[float, float]:
    """The exact one-sided p-values of differences [seeds], ±inf among them, by their signed ranks."""
    values = differences[differences != 0]
    if not len(values):
        return 1.0, 1.0
    scores = np.sign(values) * rankdata(np.abs(values))
    sums = _flips(len(values)) @ np.abs(scores)
    observed = scores.sum()
    greater = float(np.mean(sums >= observed - 1e-9))
    less = float(np.mean(sums <= observed + 1e-9))
    if len(values) > EXACT_RANKS:  # the observed signs are one of the flips
        greater, less = ((_FLIPS * p + 1) / (_FLIPS + 1) for p in (greater, less))
    return greater, less


@lru_cache(maxsize=32)
def _flips(n: int) -> np.ndarray:
    """Signs [flips, n]: all of them, or many at random."""
    if n <= EXACT_RANKS:
        return np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
    return np.random.default_rng(0).choice((-1.0, 1.0), size=(_FLIPS, n))


def least_seeds_by_ranks(level: float) -> int:
    """The least number of seeds with which the test on ranks can reach a two-sided level."""
    return int(np.ceil(1 - np.log2(level) - 1e-9))


def pooled_error(blocks: Blocks, seeds: int) -> PooledError | None:
    """The error over all values that completed their first seeds; None for fewer than three values or two seeds.

    Combinations of other axes are averaged within a seed.
    """
    figures = blocks.figures[:, :, :seeds]
    with np.errstate(invalid="ignore"):
        means = np.where(blocks.planned[:, :, :seeds], figures, 0.0).sum(axis=1)
        means /= np.maximum(blocks.planned[:, :, :seeds].sum(axis=1), 1)
    whole = np.isfinite(means).all(axis=1)
    same_cells = (blocks.planned[:, :, :seeds] == blocks.planned[:1, :, :seeds]).all()
    count = int(whole.sum())
    if count < 3 or seeds < 2 or not same_cells:
        return None
    x = means[whole]
    residuals = x - x.mean(axis=1, keepdims=True) - x.mean(axis=0, keepdims=True) + x.mean()
    squares = (residuals**2).sum(axis=1)
    freedom = (count - 1) * (seeds - 1)
    total = float(squares.sum())
    unequal = total > 0 and float(squares.max()) / total > _critical_share(count, seeds)
    return PooledError(whole, total / freedom, freedom, unequal)


def guarded(pooled: PooledError, a: np.ndarray, b: np.ndarray, pairs: Pairs) -> Error:
    """The error of each pair of values a [pairs], b [pairs]: pooled, with its guard, where both are in the pool."""
    n = pairs.differences.shape[1]
    inside = pooled.values[a] & pooled.values[b]
    complete = np.where(inside[:, None], pairs.differences, 0.0)
    own = complete.var(axis=1, ddof=1) / 2
    values = int(pooled.values.sum())
    if pooled.unequal:
        variance, freedom = np.maximum(own, pooled.variance), n - 1
    else:
        variance = pooled.variance + _GUARD_SHARE * (values - 1) * np.sqrt(pooled.variance * own)
        freedom = pooled.freedom
    return Error(np.where(inside, variance, np.nan), np.where(inside, float(freedom), np.nan))


@lru_cache(maxsize=256)
def _critical_share(values: int, seeds: int) -> float:
    """The largest value's share of the residuals' squares that equal variances exceed in 10 % of cases."""
    draws = max(2_000, min(20_000, _GUARD_DRAWS // (values * seeds)))
    x = np.random.default_rng(0).normal(size=(draws, values, seeds))
    x -= x.mean(axis=2, keepdims=True)
    x -= x.mean(axis=1, keepdims=True)
    squares = (x**2).sum(axis=2)
    return float(np.quantile(squares.max(axis=1) / squares.sum(axis=1), 1 - _GUARD_LEVEL))
