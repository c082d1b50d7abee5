"""How large an effect is, and how many seeds would show it.

Probability of improvement: Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice",
NeurIPS (2021); its interval is Clopper and Pearson's, Biometrika 26 (1934), over paired seeds.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import betaincinv, stdtrit

from mixsweep.analysis.inference.procedures.looks import look_after, share
from mixsweep.analysis.inference.statistics import CONFIDENCE

TARGET_POWER = 0.8
_MOST_SEEDS = 200


@dataclass(frozen=True)
class Improvement:
    """The probability that one value is better than another on a new seed, with its 95 % interval, over n seeds."""

    probability: float
    low: float
    high: float
    n: int


def improvement(differences: np.ndarray) -> Improvement | None:
    """The share of seeds where a difference [seeds] is favourable, ties as half; ±inf are divergences, NaN missing."""
    known = differences[~np.isnan(differences)]
    n = len(known)
    if not n:
        return None
    wins = float((known > 0).sum() + 0.5 * (known == 0).sum())
    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if wins == 0 else float(betaincinv(wins, n - wins + 1, tail))
    high = 1.0 if wins == n else float(betaincinv(wins + 1, n - wins, 1 - tail))
    return Improvement(wins / n, low, high, n)


def power(effect: float, deviation: float, seeds: int, level: float, freedom: float | None = None) -> float:
    """The probability that a paired t-test shows an effect, one-sided.

    Args:
        effect: the mean difference; deviation: the standard deviation of a paired difference.
        level: of the one-sided test.
        freedom: degrees of freedom; left out: seeds − 1.
    """
    freedom = seeds - 1 if freedom is None else freedom
    critical = float(stdtrit(freedom, 1 - level))
    return float(stats.nct.sf(critical, freedom, effect * math.sqrt(seeds) / deviation))


def more_seeds(
    effect: float, deviation: float, seeds: int, first: int, level: float, values: int = 2
) -> int | None:
    """How many more seeds than `seeds` would show an effect with a power of 80 %, at the next looks.

    None where no effect is seen, or more than 200 seeds would be needed.

    Args:
        effect: the mean difference; deviation: the standard deviation of a paired difference.
        first: the number of seeds of the first look.
        level: of the one-sided test, before it is shared over looks.
        values: the number of values that the error is pooled over; 2: it is the pair's own.
    """
    if not (effect > 0 and deviation > 0):
        return None
    at = seeds
    while True:
        at, number = look_after(first, at)
        if at > _MOST_SEEDS:
            return None
        if power(effect, deviation, at, level * share(number), (values - 1) * (at - 1)) >= TARGET_POWER:
            return at - seeds
