"""The decisions on all claims and answers of a study, from blocks of figures alone.

What a report says rests on `decide`; the simulations of docs/explanation/statistics.md call it as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixsweep.analysis.inference.procedures.blocks import Blocks
from mixsweep.analysis.inference.procedures.family import Corrected, correct, is_decided, level_of
from mixsweep.analysis.inference.procedures.hypotheses import Evidence, Hypothesis, weigh
from mixsweep.analysis.inference.procedures.looks import Looks, look
from mixsweep.analysis.inference.statistics import CONTRADICTED, NOT_SUPPORTED, SUPPORTED, UNDECIDED


@dataclass(frozen=True, kw_only=True)
class Case:
    """A claim on some blocks, or, without a hypothesis, the question which of their values is best."""

    blocks: Blocks
    hypothesis: Hypothesis | None = None
    primary: bool = False
    pooled: bool = False  # of an answer: its error is pooled over all values


@dataclass(frozen=True)
class Decision:
    """What is decided of a case.

    Args:
        kind: supported, contradicted, not supported or undecided; of an answer: whether its leader is the best.
        p_value: two-sided, corrected for looks and for the family.
        level: what the claims left undecided may be tested at.
    """

    kind: str
    p_value: float
    level: float
    evidence: Evidence | None = None
    leader: "Leader | None" = None


@dataclass(frozen=True)
class Leader:
    """The value that leads the others in paired evidence, and what is shown of each of them.

    Args:
        value: its position in the blocks.
        others: the positions of the values that it is compared with.
        p_values: two-sided, always valid, of the leader against each other value.
        lower: the other values that are shown to be worse than the leader.
        looks: the looks at each other value.
    """

    value: int
    others: tuple[int, ...]
    p_values: np.ndarray
    lower: tuple[int, ...]
    looks: Looks | None


def decide(cases: Sequence[Case]) -> list[Decision]:
    """Decide on all claims and answers that are reported together, at most 5 % of them all falsely."""
    primary = [case.primary for case in cases]
    levels = [level_of(primary, case.primary) for case in cases]
    found = [_weigh(case, level) for case, level in zip(cases, levels)]
    corrected = correct([p for p, _, _ in found], primary)
    return [
        _answered(case, leader, one) if leader is not None else _decided(case, evidence, one)
        for case, (_, evidence, leader), one in zip(cases, found, corrected)
    ]


def _weigh(case: Case, level: float) -> tuple[float, Evidence | None, Leader | None]:
    if case.hypothesis is None:
        leader = _lead(case.blocks, case.pooled, level)
        one_sided = leader.looks.greater.max() if leader.looks is not None else 1.0
        return min(1.0, 2 * float(one_sided)), None, leader
    evidence = weigh(case.blocks, case.hypothesis, level)
    return evidence.p_value, evidence, None


def _decided(case: Case, evidence: Evidence | None, corrected: Corrected) -> Decision:
    assert evidence is not None
    if is_decided(corrected.p_value):
        kind = SUPPORTED if evidence.support <= evidence.against else CONTRADICTED
    else:
        can = corrected.level > 0 and _can_decide(case.blocks, evidence.looks, case)
        kind = NOT_SUPPORTED if can else UNDECIDED
    return Decision(kind, corrected.p_value, corrected.level, evidence)


def _can_decide(blocks: Blocks, looks: Looks, case: Case) -> bool:
    """Whether every comparison has been looked at."""
    assert case.hypothesis is not None
    stopped = blocks.pairs(case.hypothesis.pairs).is_stopped
    return bool((looks.first <= blocks.ready).all() and not stopped.any())


def _answered(case: Case, leader: Leader, corrected: Corrected) -> Decision:
    if leader.looks is None:
        return Decision(UNDECIDED, 1.0, corrected.level, leader=leader)
    if is_decided(corrected.p_value):
        shown = Leader(leader.value, leader.others, leader.p_values, leader.others, leader.looks)
        return Decision(SUPPORTED, corrected.p_value, corrected.level, leader=shown)
    lower = _lower(leader, len(case.blocks.figures), corrected.level)
    shown = Leader(leader.value, leader.others, leader.p_values, lower, leader.looks)
    compared = case.blocks.pairs([(leader.value, other) for other in leader.others])
    can = (leader.looks.first <= case.blocks.ready) & ~compared.is_stopped
    return Decision(
        NOT_SUPPORTED if can.all() else UNDECIDED, corrected.p_value, corrected.level, leader=shown
    )


def _lower(leader: Leader, values: int, level: float) -> tuple[int, ...]:
    """The values shown to be worse than the leader.

    Holm's correction over all pairs of values, since the leader was chosen by the same figures.
    """
    assert leader.looks is not None
    pairs = values * (values - 1) // 2
    shown = []
    for rank, at in enumerate(np.argsort(leader.p_values, kind="stable")):
        if leader.p_values[at] * (pairs - rank) > level:
            break
        if leader.looks.greater[at] < leader.looks.less[at]:
            shown.append(leader.others[at])
    return tuple(other for other in leader.others if other in shown)


def _lead(blocks: Blocks, pooled: bool, level: float) -> Leader:
    best = lead(blocks)
    others = tuple(v for v in range(len(blocks.figures)) if v != best)
    if best < 0 or not others:
        return Leader(best, others, np.ones(len(others)), (), None)
    looks = look(blocks, [(best, other) for other in others], level, pooled)
    p_values = np.minimum(1.0, 2 * np.minimum(looks.greater, looks.less))
    return Leader(best, others, p_values, (), looks)


def lead(blocks: Blocks) -> int:
    """The value that leads in paired evidence, −1 if no trial completed; survivors of a rule lead only each other.

    A value takes the lead from another where their seeds in common favour it: first by which diverged more often, then
    by the mean difference.
    """
    completed = np.isfinite(blocks.figures).any(axis=(1, 2))
    if not completed.any():
        return -1
    stopped = (blocks.stopped > 0).sum(axis=(1, 2))
    able = np.flatnonzero(completed & (stopped == stopped[completed].min()))
    figures = blocks.figures[able].reshape(len(able), -1)
    finite = np.where(np.isfinite(figures), figures, np.nan)
    order = np.lexsort((-np.nanmean(finite, axis=1), np.isneginf(figures).sum(axis=1)))
    best, seen = int(able[order[0]]), {int(able[order[0]])}
    while len(able) > 1:
        others = [int(v) for v in able if v != best]
        score, mean = _favour(blocks.pairs([(other, best) for other in others]).differences)
        at = int(np.lexsort((mean, score))[-1])
        if (score[at], mean[at]) <= (0, 0) or others[at] in seen:
            break
        best = others[at]
        seen.add(best)
    return best


def _favour(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By how many divergences, and by what mean difference, each pair [pairs, seeds] favours its first value."""
    net = np.isposinf(differences).sum(axis=1) - np.isneginf(differences).sum(axis=1)
    finite = np.isfinite(differences)
    mean = np.where(finite, differences, 0.0).sum(axis=1) / np.maximum(finite.sum(axis=1), 1)
    return net, mean
