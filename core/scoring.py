"""Which record of a trial counts: its last one with the metric, or its best. The only answer to that question."""

import numpy as np

SCORES = ("last", "best")


def scored_rows(
    trials: np.ndarray, epochs: np.ndarray, values: np.ndarray, mode: str, score: str
) -> np.ndarray:
    """Return the positions of the records that count, one a trial, in the order of the trials' numbers.

    Under `last` it is the last one that has the metric, under `best` the one with the best finite value, the earliest
    of equal ones. Where no record of a trial is like that, it is the last one.

    Args:
        trials: the number of each record's trial [n].
        epochs: of each record [n].
        values: the metric of each record [n], NaN where it has none.
        mode: `max` or `min`.
        score: one of SCORES.
    """
    if score == "best":
        known = np.isfinite(values)
        rank = np.where(known, values if mode == "max" else -values, 0.0)
        order = np.lexsort((np.where(known, -epochs, epochs), rank, known, trials))
    else:
        order = np.lexsort((epochs, ~np.isnan(values), trials))
    if not len(order):
        return order
    return order[np.append(trials[order][1:] != trials[order][:-1], True)]


def scored_row(epochs: np.ndarray, values: np.ndarray, mode: str, score: str) -> int:
    """Return the position of the record of one trial that counts; of no records there is none.

    Raises:
        IndexError: there are no records.
    """
    return int(scored_rows(np.zeros(len(epochs), dtype=np.int64), epochs, values, mode, score)[0])


def scored_so_far(values: np.ndarray, mode: str, score: str) -> np.ndarray:
    """Return for each record of one trial [n], by epoch, the position of the one that counts up to there."""
    positions = np.arange(len(values))
    if score == "best":
        rank = np.where(np.isfinite(values), values if mode == "max" else -values, -np.inf)
        before = np.maximum.accumulate(np.append(-np.inf, rank))[:-1]
        counts = rank > before
    else:
        counts = ~np.isnan(values)
    counted = np.maximum.accumulate(np.where(counts, positions, -1))
    return np.where(counted >= 0, counted, positions)
