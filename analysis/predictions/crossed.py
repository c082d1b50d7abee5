"""Intervals for a mean over two crossed random factors: the seeds of a value, and the examples of one test set.

An interval over seeds says what other seeds would give on these very examples. For what the values would give on other
examples of the same kind, the examples are a sample too. Every seed is tested on every example, so a figure of seed s
and example i is a mean, an effect of s, one of i and a remainder: a two-way random model without repetition (Searle,
Casella, McCulloch, Variance Components, 1992, ch. 4). The variance of the mean is

    (MS_seeds + max(MS_examples - MS_remainder, 0)) / (S N)

and Satterthwaite's (Biometrics Bulletin 2, 1946) its degrees of freedom, as studies of several readers and cases have
it (Hillis, Statistics in Medicine 26, 2007; Gallas et al., Communications in Statistics 38, 2009). With three seeds
those degrees of freedom are rough, so the interval is never shorter than the one over seeds alone.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class CrossedMeans:
    """Means of G groups of examples, over S seeds and the N examples of each.

    Args:
        mean: [G].
        variance: of each mean over seeds and examples [G]; NaN where a group has too few of both.
        freedom: its degrees of freedom [G].
        seed_variance: of each mean over seeds alone, on these very examples [G]; NaN with one seed.
        seeds: S.
        examples: N of each group [G].
    """

    mean: np.ndarray
    variance: np.ndarray
    freedom: np.ndarray
    seed_variance: np.ndarray
    seeds: int
    examples: np.ndarray

    def half_widths(self) -> np.ndarray:
        """Half of each 95 % t-interval over seeds and examples, [G]."""
        return np.fmax(_t(self.freedom) * np.sqrt(self.variance), self.seed_half_widths())

    def seed_half_widths(self) -> np.ndarray:
        """Half of each 95 % t-interval over seeds alone, [G]; NaN with one seed."""
        return _t(np.full(len(self.mean), self.seeds - 1.0)) * np.sqrt(self.seed_variance)


def crossed_means(values_SN: np.ndarray, groups_N: np.ndarray | None = None) -> CrossedMeans:
    """Means over seeds and examples, and their variances.

    With one seed the variance is that over examples; with one example that over seeds.

    Args:
        values_SN: a figure of each seed and example: whether it was right, or a paired difference of two values.
        groups_N: the group of each example, 0 … G − 1, such as its class; None: all are one group.
    """
    seeds, count = values_SN.shape
    values = values_SN.astype(np.float64)
    groups = np.zeros(count, dtype=np.int64) if groups_N is None else groups_N
    number = int(groups.max(initial=0)) + 1

    def sums(weights: np.ndarray) -> np.ndarray:
        return np.bincount(groups, weights=weights, minlength=number)

    examples = np.bincount(groups, minlength=number).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        of_seed_SG = np.stack([sums(row) for row in values]) / examples
        mean = of_seed_SG.mean(0)
        of_example_N = values.mean(0)
        between_seeds = examples * np.square(of_seed_SG - mean).sum(0)
        between_examples = seeds * sums(np.square(of_example_N - mean[groups]))
        total = sums(np.square(values - mean[groups]).sum(0))
        left = np.maximum(total - between_seeds - between_examples, 0.0)
        variance, freedom = _variance(between_seeds, between_examples, left, seeds, examples)
        seed_variance = (
            between_seeds / examples / (seeds - 1) / seeds if seeds > 1 else np.full(number, np.nan)
        )
    return CrossedMeans(mean, variance, freedom, seed_variance, seeds, examples.astype(np.int64))


def share_interval(found: CrossedMeans) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the 95 % intervals of shares over seeds and examples, [G] each, within 0 … 1.

    Wilson's score interval, with the number of independent examples that would give the same variance (Korn,
    Graubard, Survey Methodology 24, 1998). Where all or none are right, that is the number of examples.
    """
    return wilson(found.mean, found.half_widths(), found.examples)


def wilson(share: np.ndarray, half_widths: np.ndarray, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of Wilson's score intervals of shares, with the half widths of their t-intervals, [G] each.

    Args:
        examples: the number of independent ones, where the half width is 0 or unknown.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = share * (1 - share)
        # The square of the quantile over the number of independent examples.
        ratio = np.where(half_widths > 0, np.square(half_widths) / spread, _t(np.inf) ** 2 / examples)
        half = np.sqrt(ratio * spread + np.square(ratio) / 4)
        ends = (share + ratio / 2 - half) / (1 + ratio), (share + ratio / 2 + half) / (1 + ratio)
    return np.clip(ends[0], 0.0, 1.0), np.clip(ends[1], 0.0, 1.0)


def _variance(
    between_seeds: np.ndarray,
    between_examples: np.ndarray,
    left: np.ndarray,
    seeds: int,
    examples: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The variance of each mean and its degrees of freedom, from sums of squares."""
    number = seeds * examples
    seed_square, example_square = between_seeds / max(seeds - 1, 1), between_examples / (examples - 1)
    if seeds == 1:
        return example_square / number, examples - 1
    rest_freedom = (seeds - 1) * (examples - 1)
    rest_square = left / rest_freedom
    several = examples > 1
    of_examples = np.where(several, np.maximum(example_square - rest_square, 0.0), 0.0)
    both = seed_square + of_examples
    parts = np.square(seed_square) / (seeds - 1)
    counted = np.square(example_square) / (examples - 1) + np.square(rest_square) / rest_freedom
    parts = parts + np.where(of_examples > 0, counted, 0.0)
    freedom = np.where(both > 0, np.square(both) / parts, seeds - 1.0)
    return both / number, freedom


def _t(freedom: np.ndarray | float) -> np.ndarray:
    return np.asarray(stats.t.ppf(0.5 + LEVEL / 2, freedom), dtype=np.float64)
