"""One family a study: the correction over all claims and answers that are reported together.

Holm's, unless claims are declared primary: those are corrected among themselves, and the others are tested only once
all of them are decided (serial gatekeeping: Dmitrienko, Tamhane and Bretz, "Multiple Testing Problems in Pharmaceutical
Statistics" (2009), chapter 5). Either way the probability of a false verdict in the whole study is at most α.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mixsweep.analysis.inference.statistics import ALPHA, holm


@dataclass(frozen=True)
class Corrected:
    """A claim's p-value after the correction, and the level that what it leaves undecided may still be tested at."""

    p_value: float
    level: float


def correct(p_values: Sequence[float], primary: Sequence[bool]) -> list[Corrected]:
    """Correct the p-values of a family.

    Args:
        p_values: one for each claim or answer; 1 for one that has not been tested yet.
        primary: which of them were declared primary before the run.
    """
    first = [i for i, chosen in enumerate(primary) if chosen]
    rest = [i for i, chosen in enumerate(primary) if not chosen]
    corrected = dict(zip(first, _holm([p_values[i] for i in first])))
    gate = max((one.p_value for one in corrected.values()), default=0.0)
    for i, one in zip(rest, _holm([p_values[i] for i in rest])):
        corrected[i] = Corrected(max(gate, one.p_value), one.level if gate <= ALPHA else 0.0)
    return [corrected[i] for i in range(len(p_values))]


def _holm(p_values: Sequence[float]) -> list[Corrected]:
    adjusted = holm(p_values)
    undecided = sum(p > ALPHA for p in adjusted)
    return [Corrected(p, ALPHA if p <= ALPHA else ALPHA / undecided) for p in adjusted]


def level_of(primary: Sequence[bool], own: bool) -> float:
    """The level that a claim of a family reaches at worst: α over the claims that share its correction."""
    count = sum(primary) if own and any(primary) else len(primary) - sum(primary)
    return ALPHA / max(1, count)


def is_decided(p_value: float) -> bool:
    """Whether a corrected p-value decides."""
    return not math.isnan(p_value) and p_value <= ALPHA
