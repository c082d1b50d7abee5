"""The figures of a comparison as arrays: values by combinations of the other axes by seeds.

What a trial counts as, everywhere: a completed trial as its figure; a diverged one as a result worse than every
figure, of which only the rank is used; a failed or missing one is left out with the trial that it is paired with;
a trial that a rule stopped has no final figure, so that its pair decides nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Blocks:
    """The trials of some values of an axis.

    Args:
        figures: [values, cells, seeds], larger is better; −inf: diverged; NaN: no final figure.
        planned: [values, cells, seeds], whether the plan has the trial.
        pending: [values, cells, seeds], whether it has not ended.
        stopped: [values, cells, seeds], the epoch where a rule stopped it, else 0.
        declared: the number of seeds when the first trial started.
    """

    figures: np.ndarray
    planned: np.ndarray
    pending: np.ndarray
    stopped: np.ndarray
    declared: int

    @property
    def seeds(self) -> int:
        """The number of planned seeds."""
        return int(self.figures.shape[2])

    @cached_property
    def ready(self) -> int:
        """The number of first seeds whose trials have all ended."""
        waiting: np.ndarray = np.any(self.pending, axis=(0, 1))
        return int(waiting.argmax()) if waiting.any() else len(waiting)

    def take(self, values: Sequence[int]) -> "Blocks":
        """Some of the values, in this order."""
        chosen = list(values)
        return Blocks(
            self.figures[chosen],
            self.planned[chosen],
            self.pending[chosen],
            self.stopped[chosen],
            self.declared,
        )

    @cached_property
    def _known(self) -> "dict[tuple[tuple[int, int], ...], Pairs]":
        return {}

    def pairs(self, pairs: Sequence[tuple[int, int]]) -> "Pairs":
        """The paired differences a − b of pairs of values."""
        key = tuple(pairs)
        if key not in self._known:
            self._known[key] = self._compare(key)
        return self._known[key]

    def _compare(self, pairs: Sequence[tuple[int, int]]) -> "Pairs":
        a, b = (np.array(side, dtype=int) for side in zip(*pairs))
        common = (self.planned[a] & self.planned[b]).any(axis=2, keepdims=True)  # [pairs, cells, 1]
        x, y = self.figures[a], self.figures[b]
        diverged_x, diverged_y = common & np.isneginf(x), common & np.isneginf(y)
        finite = common & np.isfinite(x) & np.isfinite(y)
        net = diverged_y.sum(axis=1) - diverged_x.sum(axis=1)  # [pairs, seeds]
        with np.errstate(invalid="ignore"):
            total = np.where(finite, x - y, 0.0).sum(axis=1)
        mean = total / np.maximum(finite.sum(axis=1), 1)
        differences = np.where(net > 0, np.inf, np.where(net < 0, -np.inf, mean))
        unknown = (common & (np.isnan(x) | np.isnan(y))).any(axis=1) | ~common.any(axis=(1, 2))[:, None]
        stopped = np.where(common, np.maximum(self.stopped[a], self.stopped[b]), 0).max(axis=1)
        return Pairs(
            differences=np.where(unknown, np.nan, differences),
            ranked=(diverged_x | diverged_y).any(axis=1) & ~unknown,
            stopped=stopped,
        )


@dataclass(frozen=True, eq=False)
class Pairs:
    """Paired differences [pairs, seeds]; ±inf where one side alone diverged, NaN where one has no figure.

    Args:
        ranked: [pairs, seeds], whether a trial of the pair diverged, so that only ranks can be compared.
        stopped: [pairs, seeds], the epoch where a rule stopped a trial of the pair, else 0.
    """

    differences: np.ndarray
    ranked: np.ndarray
    stopped: np.ndarray

    def first(self, seeds: int) -> "Pairs":
        """The same over the first seeds."""
        return Pairs(self.differences[:, :seeds], self.ranked[:, :seeds], self.stopped[:, :seeds])

    def rows(self, chosen: np.ndarray) -> "Pairs":
        """Some of the pairs."""
        return Pairs(self.differences[chosen], self.ranked[chosen], self.stopped[chosen])

    @cached_property
    def counts(self) -> np.ndarray:
        """The number of seeds with a difference, of each pair [pairs]."""
        counted: np.ndarray = np.sum(~np.isnan(self.differences), axis=1)
        return counted

    @cached_property
    def by_ranks(self) -> np.ndarray:
        """Whether each pair has to be compared by ranks [pairs]."""
        ranks: np.ndarray = np.any(self.ranked, axis=1)
        return ranks

    @cached_property
    def is_stopped(self) -> np.ndarray:
        """Whether a rule stopped a trial of each pair [pairs]."""
        ended: np.ndarray = np.any(self.stopped > 0, axis=1)
        return ended


@dataclass(frozen=True, eq=False)
class PooledError:
    """The variance of one value's figures about value and seed means, pooled over values.

    Args:
        values: [values], whether a value is in the pool.
        variance: the mean square of the residuals of the two-way layout without interaction.
        freedom: its degrees of freedom.
        unequal: whether a liberal test says that the values' variances differ.
    """

    values: np.ndarray
    variance: float
    freedom: int
    unequal: bool


def all_pairs(left: Sequence[int], right: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Each of some values with each of others, not with itself."""
    return tuple((a, b) for a in left for b in right if a != b)
