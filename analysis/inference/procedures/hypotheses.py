"""The p-values of a claim: of what supports it, and of what contradicts it.

Support of several comparisons needs each of them: an intersection-union test (Berger, "Multiparameter hypothesis
testing and acceptance sampling", Technometrics 24 (1982)), one-sided at α/2 without a correction. Contradiction needs
one of them the other way, at the other α/2 with Holm's correction. `alike` is two one-sided tests (Schuirmann,
J. Pharmacokin. Biopharm. 15 (1987)). The p-values are two-sided ones: below α supports or contradicts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixsweep.analysis.inference.procedures.blocks import Blocks
from mixsweep.analysis.inference.procedures.looks import FIRST_SHARE, Looks, look, next_look, share
from mixsweep.analysis.inference.procedures.trend import least_seeds_of_trend, page
from mixsweep.analysis.inference.statistics import MIN_SEEDS

_ALIKE_SHARE = 0.75


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """What is claimed of the values of some blocks.

    Args:
        kind: `better` (each pair's first value), `alike` (each pair, within a margin) or `monotone`.
        pairs: of positions of values, the first claimed better; of a trend, each value and the one before it.
        margin: for `alike`, in the metric's units.
        pooled: the error is pooled over the blocks' values.
        choices: how many such claims could have been made of the data, for one written after them.
    """

    kind: str
    pairs: tuple[tuple[int, int], ...]
    margin: float = 0.0
    pooled: bool = False
    choices: int = 1


@dataclass(frozen=True)
class Evidence:
    """The always-valid two-sided p-values for and against a claim, and the looks behind them."""

    support: float
    against: float
    looks: Looks

    @property
    def p_value(self) -> float:
        """That of the claim: the smaller one."""
        return min(self.support, self.against)


def weigh(blocks: Blocks, hypothesis: Hypothesis, level: float) -> Evidence:
    """Test a claim at all looks so far.

    Args:
        level: the two-sided level that a claim has to reach, for the number of seeds that a test on ranks needs.
    """
    kinds = {"better": _better, "alike": _alike, "monotone": _monotone}
    choices = hypothesis.choices
    support, against, looks = kinds[hypothesis.kind](blocks, hypothesis, level / choices)
    return Evidence(min(1.0, choices * support), min(1.0, choices * against), looks)


def _better(blocks: Blocks, claimed: Hypothesis, level: float) -> tuple[float, float, Looks]:
    looks = look(blocks, claimed.pairs, level, claimed.pooled)
    return 2 * float(looks.greater.max()), 2 * len(claimed.pairs) * float(looks.less.min()), looks


def _alike(blocks: Blocks, claimed: Hypothesis, level: float) -> tuple[float, float, Looks]:
    """Three quarters of the error for support, since equivalence is what the claim is for, and one for the rest."""
    low = look(blocks, claimed.pairs, level, claimed.pooled, -claimed.margin)
    high = look(blocks, claimed.pairs, level, claimed.pooled, claimed.margin)
    within = np.maximum(low.greater, high.less) / _ALIKE_SHARE
    outside = np.minimum(low.less, high.greater) / (1 - _ALIKE_SHARE)
    # The looks say of each pair how sure it is within, or outside.
    looks = Looks(within, outside, low.first, np.maximum(low.decided_at, high.decided_at))
    return float(within.max()), len(claimed.pairs) * float(outside.min()), looks


def _monotone(blocks: Blocks, claimed: Hypothesis, level: float) -> tuple[float, float, Looks]:
    """Support needs the trend, and means without a step back; a step or trend the other way contradicts."""
    order = [claimed.pairs[0][1], *(a for a, _ in claimed.pairs)]
    steps = look(blocks, claimed.pairs, level, claimed.pooled)  # each value against the one before
    step_back = len(claimed.pairs) * float(steps.less.min())
    if blocks.stopped[order].any():
        return 1.0, 2 * step_back, steps
    figures = _seed_means(blocks, order)
    first = _first_trend_look(blocks, figures, level)
    up, down, at = _trend(figures, first, blocks.ready)
    by_steps = step_back < min(up / 2, down)
    decided_at = steps.decided_at if by_steps else np.full_like(steps.decided_at, at)
    looks = Looks(steps.greater, steps.less, np.maximum(steps.first, first), decided_at)
    return 2 * up, 2 * min(2 * down, 2 * step_back), looks


def _trend(figures: np.ndarray, first: int, ready: int) -> tuple[float, float, int]:
    """Page's test of figures [values, seeds] at all looks: rising with no step back, falling, and the clearest look."""
    up, down, at = 1.0, 1.0, 0
    seeds, number = first, 0
    while seeds <= ready:
        seen = figures[:, :seeds]
        whole = seen[:, ~np.isnan(seen).any(axis=0)]
        if whole.shape[1] >= MIN_SEEDS:
            rising, falling = page(whole)
            with np.errstate(invalid="ignore"):
                falls = np.diff(whole.mean(axis=1)) < 0
            rising = 1.0 if falls.any() else rising / share(number)
            falling /= share(number)
            if at == 0 or min(rising, falling) < min(up, down):
                at = seeds
            up, down = min(up, rising), min(down, falling)
        seeds, number = next_look(seeds), number + 1
    return up, down, at


def _first_trend_look(blocks: Blocks, figures: np.ndarray, level: float) -> int:
    """The number of seeds of the first look: the declared ones, or as many whole ones as can decide."""
    least = max(MIN_SEEDS, least_seeds_of_trend(len(figures), FIRST_SHARE * level))
    whole = (~np.isnan(figures).any(axis=0)).cumsum()
    missing = least - int(whole[-1] if len(whole) else 0)
    reached = blocks.seeds + missing if missing > 0 else int((whole >= least).argmax()) + 1
    return max(blocks.declared, reached)


def _seed_means(blocks: Blocks, order: Sequence[int]) -> np.ndarray:
    """The figures [values, seeds], averaged over combinations; −inf where one diverged, NaN where one is missing.

    Only the combinations that every value has are compared, so that no value is ahead by easier ones.
    """
    shared = blocks.planned[order].any(axis=2).all(axis=0)  # [cells]
    if not shared.any():
        return np.full((len(order), blocks.seeds), np.nan)
    means: np.ndarray = blocks.figures[order][:, shared].mean(axis=1)
    return means
