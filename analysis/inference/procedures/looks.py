"""When a verdict may be given, so that looking often makes no false ones.

Two values are compared once the declared number of seeds has ended, and again each time that number has grown by half.
The first look has 80 % of the error probability; later looks share the other 20 %, 1 / (j (j + 1)) of it for the j-th,
which sums to all of it however many there are. A look at fewer seeds than the test can decide with is none, so the
first look is then the first one that can decide. Looks are fixed by the plan and by what diverged or failed, not by the
figures. Bonferroni's correction over looks is the simplest always-valid one; Howard et al., "Time-uniform,
nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49 (2021), have sharper ones for many seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixsweep.analysis.inference.procedures.blocks import Blocks
from mixsweep.analysis.inference.procedures.pair_tests import (
    guarded,
    least_seeds_by_ranks,
    one_sided,
    pooled_error,
)
from mixsweep.analysis.inference.statistics import MIN_SEEDS

FIRST_SHARE = 0.8


@dataclass(frozen=True, eq=False)
class Looks:
    """The always-valid p-values of pairs of values, [pairs] each, over all looks so far.

    Args:
        greater: of "a is better than b"; 1 before the first look.
        less: of the reverse.
        first: the number of seeds of each pair's first look.
        decided_at: the number of seeds of the look with the smallest p-value, 0 before the first.
    """

    greater: np.ndarray
    less: np.ndarray
    first: np.ndarray
    decided_at: np.ndarray


def share(number: int) -> float:
    """The share of the error probability that a look has; 0 is the first."""
    return FIRST_SHARE if number == 0 else (1 - FIRST_SHARE) / (number * (number + 1))


def next_look(seeds: int) -> int:
    """The number of seeds of the look after one."""
    return math.ceil(1.5 * seeds)


def look_after(first: int, seeds: int) -> tuple[int, int]:
    """The first look with more than some seeds: its number of seeds, and its own number."""
    at, number = first, 0
    while at <= seeds:
        at, number = next_look(at), number + 1
    return at, number


def first_looks(blocks: Blocks, pairs: Sequence[tuple[int, int]], level: float) -> np.ndarray:
    """The number of seeds of each pair's first look [pairs].

    Args:
        level: the two-sided level that the test on ranks has to reach.
    """
    compared = blocks.pairs(pairs)
    declared = max(blocks.declared, MIN_SEEDS)
    ranked = compared.ranked[:, :declared].any(axis=1)
    least = np.where(ranked, least_seeds_by_ranks(FIRST_SHARE * level), MIN_SEEDS)
    known = (~np.isnan(compared.differences)).cumsum(axis=1)  # a failed trial may leave too few pairs
    enough = known >= least[:, None]
    reached = np.where(enough.any(axis=1), enough.argmax(axis=1) + 1, 0)
    missing = least - (known[:, -1] if known.size else 0)
    reached = np.where(reached > 0, reached, blocks.seeds + missing)
    return np.maximum(declared, np.maximum(reached, least))


def look(
    blocks: Blocks, pairs: Sequence[tuple[int, int]], level: float, pooled: bool = False, shift: float = 0.0
) -> Looks:
    """Test pairs of values at each of their looks.

    Args:
        pairs: of indices into the blocks' values; the first is claimed better.
        level: as for `first_looks`.
        pooled: use the error pooled over all values of the blocks.
        shift: test for a difference of more than this.
    """
    compared = blocks.pairs(pairs)
    a, b = (np.array(side, dtype=int) for side in zip(*pairs))
    first = first_looks(blocks, pairs, level)
    greater, less = np.ones(len(pairs)), np.ones(len(pairs))
    decided_at = np.zeros(len(pairs), dtype=int)
    seeds = first.copy()
    number = 0
    while (seeds <= blocks.ready).any():
        for n in sorted({int(n) for n in seeds if n <= blocks.ready}):
            now = seeds == n
            chosen = compared.first(n).rows(now)
            pool = pooled_error(blocks, n) if pooled else None
            error = None if pool is None else guarded(pool, a[now], b[now], chosen)
            found = [p / share(number) for p in one_sided(chosen, error, shift)]
            smaller = np.minimum(*found) < np.minimum(greater[now], less[now])
            decided_at[now] = np.where(smaller | (decided_at[now] == 0), n, decided_at[now])
            greater[now] = np.minimum(greater[now], found[0])
            less[now] = np.minimum(less[now], found[1])
        seeds = np.array([next_look(int(n)) for n in seeds])
        number += 1
    return Looks(greater, less, first, decided_at)
