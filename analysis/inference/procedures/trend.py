"""Page's test for a trend over ordered values, seeds as blocks.

Page, "Ordered hypotheses for multiple treatments: a significance test for linear ranks", J. Am. Stat. Assoc. 58 (1963).
"""

import itertools
import math
from functools import lru_cache

import numpy as np
from scipy.special import ndtr
from scipy.stats import rankdata

EXACT_VALUES = 7  # up to which all orders of a block are counted
EXACT_BLOCKS = 30


def page(figures: np.ndarray) -> tuple[float, float]:
    """The one-sided p-values of a rising and of a falling trend of figures [values, seeds], −inf among them.

    Exact for up to 7 values and 30 seeds, ties included; a normal approximation beyond.
    """
    values, seeds = figures.shape
    ranks = np.rint(2 * rankdata(figures, axis=0)).astype(int)  # doubled, so that ties have whole ones
    weights = np.arange(1, values + 1)
    observed = int((weights @ ranks).sum())
    if values <= EXACT_VALUES and seeds <= EXACT_BLOCKS:
        counts = np.ones(1)
        low = 0
        for seed in range(seeds):
            least, own = _orders(tuple(sorted(int(rank) for rank in ranks[:, seed])))
            counts, low = np.convolve(counts, own), low + least
        at = observed - low
        return float(min(1.0, counts[at:].sum())), float(min(1.0, counts[: at + 1].sum()))
    mean = (
        (values + 1) * values * (values + 1) / 2
    )  # of a block: the sum of weights times the mean doubled rank
    deviation = math.sqrt(float((weights.var() * ranks.var(axis=0)).sum()) * values**2 / (values - 1))
    if not deviation:
        return 1.0, 1.0
    z = (observed - seeds * mean) / deviation
    return float(ndtr(-z)), float(ndtr(z))


def least_seeds_of_trend(values: int, level: float) -> int:
    """The least number of seeds with which the test of some values can reach a two-sided level."""
    return math.ceil(math.log(2 / level) / math.lgamma(values + 1) - 1e-9)


@lru_cache(maxsize=4096)
def _orders(ranks: tuple[int, ...]) -> tuple[int, np.ndarray]:
    """The least weighted sum over all orders of a block's ranks, and the probability of each one from there on."""
    orders = np.array(list(itertools.permutations(ranks)))
    sums = orders @ np.arange(1, len(ranks) + 1)
    least = int(sums.min())
    return least, np.bincount(sums - least) / len(sums)
