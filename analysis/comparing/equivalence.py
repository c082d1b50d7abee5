"""Equivalence: whether a paired difference lies within a margin, and how many seeds it takes to say so.

Two one-sided t-tests, each at 5 %: Schuirmann, "A comparison of the two one-sided tests procedure and the power
approach for assessing the equivalence of average bioavailability", J. Pharmacokin. Biopharm. 15 (1987).
"""

import math
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
from scipy.special import stdtr, stdtrit  # Student's t, without the overhead of scipy.stats

from mixsweep.analysis.inference.statistics import ALPHA, CONFIDENCE, MIN_SEEDS, PairedDifference

POWER = 0.8
MOST_SEEDS = 1000


def equivalence_p(difference: PairedDifference, margin: float) -> float:
    """The p-value of the two one-sided tests that a mean difference lies within ±margin; NaN below three seeds."""
    n, mean = difference.n, difference.interval.mean
    if n < MIN_SEEDS or math.isnan(margin):
        return math.nan
    error = standard_error(difference)
    if error == 0:
        return 0.0 if abs(mean) < margin else 1.0
    return float(stdtr(n - 1, (abs(mean) - margin) / error))


def standard_error(difference: PairedDifference) -> float:
    """The standard error of a mean difference; 0 where all differences are equal, NaN for one seed."""
    if difference.n < 2:
        return math.nan
    half = difference.interval.half
    return 0.0 if math.isnan(half) else half / float(stdtrit(difference.n - 1, (1 + CONFIDENCE) / 2))


def seeds_needed(difference: PairedDifference, margin: float) -> int | None:
    """The number of seeds that decides a comparison in 80 % of cases.

    The smaller one of two: for equivalence if nothing has changed, and for a change if it is as large as it looks.

    Returns:
        At most MOST_SEEDS; None if one seed says nothing of the spread.
    """
    if difference.n < 2:
        return None
    spread = standard_error(difference) * math.sqrt(difference.n)
    n, one_sided, two_sided = _critical_values()
    error = spread / np.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        within = 2 * stdtr(n - 1, margin / error - one_sided) - 1
        found = stdtr(n - 1, abs(difference.interval.mean) / error - two_sided)
    enough = n[(within >= POWER) | (found >= POWER)]
    return int(enough[0]) if len(enough) else MOST_SEEDS


@cache
def _critical_values() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of seeds, and the t that a one-sided and a two-sided test at 5 % take with each."""
    n = np.arange(MIN_SEEDS, MOST_SEEDS + 1)
    return n, stdtrit(n - 1, 1 - ALPHA), stdtrit(n - 1, (1 + CONFIDENCE) / 2)


def seed_spread(values: Iterable[Sequence[float]]) -> float:
    """The standard deviation between seeds, pooled over points; NaN if no point has two.

    Args:
        values: of each point, the figures of its seeds.
    """
    found = [np.asarray(one, dtype=float) for one in values if len(one) > 1]
    freedom = sum(len(one) - 1 for one in found)
    squares = sum(float(np.sum((one - one.mean()) ** 2)) for one in found)
    return math.sqrt(squares / freedom) if freedom else math.nan
