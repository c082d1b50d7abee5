"""The records of paired trials side by side: whether they are equal bit for bit, and the figures that count."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mixsweep.analysis.comparing.pairing import Pair
from mixsweep.analysis.comparing.sides import Side
from mixsweep.analysis.exported.guess import SOURCE
from mixsweep.core.records import COMMON_COLUMNS, Metric
from mixsweep.core.scoring import scored_rows
from mixsweep.core.store.arrow import dictionary_codes, numbers, rows_at
from mixsweep.core.store.trial.info import ENDED
from mixsweep.core.trainables.definition import SECONDS, TEST

_NEVER = np.iinfo(np.int64).max
_NOT_COMPARED = {*COMMON_COLUMNS, SECONDS} - {"step"}


@dataclass(frozen=True)
class Trajectories:
    """The records of n pairs.

    Args:
        common: epochs that both have recorded [n].
        first_difference: the first epoch at which they differ [n], 0 where they do not.
        columns: how many pairs differ in each column of records, of those that do.
        final_a, final_b: the metric in the record that counts [n], NaN where there is none.
        last_a, last_b: the last recorded epochs [n].
    """

    common: np.ndarray
    first_difference: np.ndarray
    columns: dict[str, int]
    final_a: np.ndarray
    final_b: np.ndarray
    last_a: np.ndarray
    last_b: np.ndarray


@dataclass(frozen=True)
class _Records:
    """Records of one side's paired trials, by pair and epoch."""

    table: pa.Table
    pair: np.ndarray
    epoch: np.ndarray

    def values(self, column: str) -> np.ndarray:
        """A column as numbers, NaN for nulls."""
        return np.asarray(self.table[column].to_numpy(), dtype=float)

    def last(self, pairs: int) -> np.ndarray:
        """The last epoch of each pair, 0 where it has no records."""
        found = np.zeros(pairs, dtype=np.int64)
        np.maximum.at(found, self.pair, self.epoch)
        return found


def trajectories(
    a: Side, b: Side, pairs: Sequence[Pair], metric: str, records_a: pa.Table, records_b: pa.Table
) -> Trajectories:
    """Compare the records of all pairs.

    Two records of one trial, by its identity, are compared up to the last epoch that both sides have; the figures are
    those at that epoch, otherwise those at each trial's own end. Compared are all columns that both sides have, without
    the times and those that a side declares to be not reproducible, and always the metric.
    """
    left = _of_pairs(records_a, [(pair.a.trial_id, pair.a.budget) for pair in pairs])
    right = _of_pairs(records_b, [(pair.b.trial_id, pair.b.budget) for pair in pairs])
    last_a, last_b = left.last(len(pairs)), right.last(len(pairs))
    shorter = np.minimum(last_a, last_b)
    first, columns = _differences(a, b, metric, left, right, last_a == last_b)
    ended = np.array([_has_ended(pair) and pair.a.budget == pair.b.budget for pair in pairs], dtype=bool)
    ends_apart = ended & (last_a != last_b)
    first = np.where(ends_apart, np.minimum(first, shorter + 1), first)
    one_trial = np.array([pair.is_one_trial for pair in pairs], dtype=bool)
    limit = np.where(one_trial, shorter, _NEVER)
    score, mode = a.objective.score, mode_of(a, metric)
    return Trajectories(
        common=_common(left, right, len(pairs)),
        first_difference=np.where(first == _NEVER, 0, first),
        columns=columns,
        final_a=_finals(left, metric, mode, score, limit),
        final_b=_finals(right, metric, mode, score, limit),
        last_a=last_a,
        last_b=last_b,
    )


def mode_of(side: Side, metric: str) -> str:
    """`max` or `min`: which values of a metric are better."""
    return side.objective.mode if metric == side.objective.metric else side.trainable.better(metric)


def _has_ended(pair: Pair) -> bool:
    states = (pair.a.state, pair.b.state)
    return all(state in ENDED and state != "failed" for state in states)


def _of_pairs(table: pa.Table, trials: Sequence[tuple[str, int]]) -> _Records:
    """The records of trials, each with its budget, in the order of trials and epochs."""
    of = {trial_id: number for number, (trial_id, _) in enumerate(trials)}
    budgets = np.array([budget for _, budget in trials], dtype=np.int64)
    pair = dictionary_codes(table["trial_id"], of, -1)
    epoch = numbers(table["epoch"]).astype(np.int64)
    order = np.lexsort((epoch, pair))
    order = order[pair[order] >= 0]
    order = order[epoch[order] <= budgets[pair[order]]]
    return _Records(rows_at(table, order), pair[order], epoch[order])


def _keys(side: _Records) -> np.ndarray:
    return side.pair * 2**32 + side.epoch


def _common(left: _Records, right: _Records, pairs: int) -> np.ndarray:
    shared = np.intersect1d(_keys(left), _keys(right), assume_unique=True) // 2**32
    return np.bincount(shared, minlength=pairs)


def _differences(
    a: Side, b: Side, metric: str, left: _Records, right: _Records, same_length: np.ndarray
) -> tuple[np.ndarray, dict[str, int]]:
    """The first epoch of each pair that differs, and the number of pairs that differ in each column."""
    pairs = len(same_length)
    first = np.full(pairs, _NEVER)
    _, at_a, at_b = np.intersect1d(_keys(left), _keys(right), assume_unique=True, return_indices=True)
    pair, epoch = left.pair[at_a], left.epoch[at_a]
    declared = _declared(a, b)
    columns = {}
    for name in _compared_columns(declared, metric, left, right):
        apart = _differ(left.values(name)[at_a], right.values(name)[at_b])
        if _is_test(name, declared):
            apart &= same_length[pair]
        np.minimum.at(first, pair[apart], epoch[apart])
        if apart.any():
            columns[name] = len(np.unique(pair[apart]))
    for one, last in ((left, right.last(pairs)), (right, left.last(pairs))):
        other = right if one is left else left
        alone = ~np.isin(_keys(one), _keys(other), assume_unique=True) & (one.epoch <= last[one.pair])
        np.minimum.at(first, one.pair[alone], one.epoch[alone])  # a gap in the other's records
    return first, columns


def _declared(a: Side, b: Side) -> dict[str, list[Metric]]:
    """What the sides declare of each metric; a table without facts only says what the other side does not."""
    found: dict[str, list[Metric]] = defaultdict(list)
    for side in sorted((a, b), key=_is_guess):
        for metric in side.trainable.metrics:
            if not (_is_guess(side) and metric.name in found):
                found[metric.name].append(metric)
    return dict(found)


def _is_guess(side: Side) -> bool:
    """Whether what a side declares is made of the rows of a table alone."""
    definition = side.trainable.definition
    return definition is not None and definition.source == SOURCE


def _compared_columns(
    declared: dict[str, list[Metric]], metric: str, left: _Records, right: _Records
) -> Iterator[str]:
    for name in left.table.column_names:
        is_reproducible = all(known.is_reproducible for known in declared.get(name, ()))
        is_compared = is_reproducible and name not in _NOT_COMPARED
        if name in right.table.column_names and (is_compared or name == metric):
            yield name


def _is_test(name: str, declared: dict[str, list[Metric]]) -> bool:
    """Whether only the last record of a trial has this column."""
    known = declared.get(name)
    return name.startswith(TEST) if known is None else any(metric.is_test for metric in known)


def _differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two columns differ in a bit; NaN and a missing value are one."""
    bits = np.ascontiguousarray(a).view(np.int64) != np.ascontiguousarray(b).view(np.int64)
    different: np.ndarray = bits & ~(np.isnan(a) & np.isnan(b))
    return different


def _finals(side: _Records, metric: str, mode: str, score: str, limit: np.ndarray) -> np.ndarray:
    """The metric of each pair in the record that counts, of those up to a limit."""
    found = np.full(len(limit), np.nan)
    kept = side.epoch <= limit[side.pair]
    pair, epoch, values = side.pair[kept], side.epoch[kept], side.values(metric)[kept]
    at = scored_rows(pair, epoch, values, mode, score)
    found[pair[at]] = values[at]
    return found
