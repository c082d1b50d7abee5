"""The trials of a part as blocks of figures, and comparisons of two of its values with their evidence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mixsweep.analysis.frames import Part, plain, values_of
from mixsweep.analysis.inference import statistics
from mixsweep.analysis.inference.effects import Improvement, improvement
from mixsweep.analysis.inference.procedures.blocks import Blocks, Pairs
from mixsweep.analysis.inference.statistics import Interval, PairedDifference
from mixsweep.analysis.inference.wording import axis_words, listing, point_label, value_label
from mixsweep.core.scoring import scored_rows

# Of more points the probability of being best is not computed, nor are they compared for an answer.
MOST_COMPARED = 60
ENDED = ("completed", "stopped", "diverged", "failed")


@dataclass(frozen=True)
class Comparison:
    """Two values of an axis, or two points, compared over the seeds that both have."""

    a: str
    b: str
    difference: PairedDifference | None  # a − b over the seeds where neither diverged; None if there is none
    p_value: float  # two-sided, over all looks; 1 before the first
    outcome: int | None  # 1: a is better, −1: b is, 0: not decided, None: cannot be decided yet
    note: str = ""
    improvement: Improvement | None = None  # the probability that a is better on a new seed


@dataclass(frozen=True, eq=False)
class Compared:
    """The values of an axis, or the points of a part, with their figures as blocks."""

    blocks: Blocks
    keys: tuple[Any, ...]  # of the blocks' values: an axis's values, or points
    cells: tuple[str, ...]  # combinations of the other axes, in words
    sign: int  # of the figures: 1 where more is better, else −1

    def index(self, key: Any) -> int:
        """The position of a value."""
        return self.keys.index(key)


def compare_points(part: Part, frame: pd.DataFrame, trials: pd.DataFrame) -> Compared:
    """The points of a part, in the natural order of their values."""
    points = ordered_points(part, trials)
    rows = [(int(p), "", int(r)) for p, r in zip(trials["point"], trials["replica"])]
    figures = final_figures(part, part.metric, frame, trials)
    return _compared(part, points, rows, figures, trials, part.mode)


def compare_values(
    part: Part, axis: str, metric: str, mode: str, frame: pd.DataFrame, trials: pd.DataFrame
) -> Compared:
    """The values of an axis, over the combinations of the other axes."""
    others = part.others(axis, trials)
    columns = [trials[axis].map(plain), *(trials[other].map(plain) for other in others)]
    rows = [
        (key, listing(_named(others, cell)), int(r)) for key, *cell, r in zip(*columns, trials["replica"])
    ]
    figures = final_figures(part, metric, frame, trials)
    return _compared(part, values_of(trials, axis), rows, figures, trials, mode)


def _named(axes: Sequence[str], values: Sequence[Any]) -> list[str]:
    return [f"{axis_words(axis)} {value_label(axis, value)}" for axis, value in zip(axes, values)]


def _compared(
    part: Part,
    keys: Sequence[Any],
    rows: Sequence[tuple[Any, str, int]],
    figures: np.ndarray,
    trials: pd.DataFrame,
    mode: str,
) -> Compared:
    cells = tuple(dict.fromkeys(cell for _, cell, _ in rows))
    value_at = {key: n for n, key in enumerate(keys)}
    cell_at = {cell: n for n, cell in enumerate(cells)}
    at = tuple(np.array([[value_at[v], cell_at[c], r] for v, c, r in rows], dtype=int).reshape(-1, 3).T)
    seeds = int(trials["replica"].max()) + 1 if len(trials) else 0
    shape = (len(keys), len(cells), seeds)
    states = trials["state"].to_numpy(dtype=str)
    sign = 1 if mode == "max" else -1
    filled, planned = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
    pending, stopped = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=int)
    filled[at] = np.where(np.isneginf(figures), -np.inf, sign * figures)
    planned[at] = True
    pending[at] = ~np.isin(states, ENDED)
    at_epoch = trials["epochs_trained"].to_numpy(dtype=int)
    stopped[at] = np.where((states == "stopped") & np.isnan(figures), np.maximum(at_epoch, 1), 0)
    blocks = Blocks(filled, planned, pending, stopped, part.declared or seeds)
    return Compared(blocks, tuple(keys), cells, sign)


def final_figures(part: Part, metric: str, frame: pd.DataFrame, trials: pd.DataFrame) -> np.ndarray:
    """Each trial's figure [trials]: NaN where it has none, −inf where it diverged.

    Of a metric of records it is the one in the record that counts: the last one that has it, or, where the best record
    counts, the best one by the part's own metric; a test metric stands in the last record alone. A cost of a whole
    trial, such as its seconds an epoch, is that of any trial that was not broken off by a failure.
    """
    states = trials["state"].to_numpy(dtype=str)
    if metric in trials and metric not in part.trainable.result_metrics:
        costs: np.ndarray = trials[metric].to_numpy(dtype=float)
        return np.where(np.isin(states, ("completed", "stopped")), costs, np.nan)
    figures = np.full(len(trials), np.nan)
    if len(frame):
        codes, names = pd.factorize(frame["trial_id"])
        score = "last" if metric in part.trainable.test_metrics else part.score
        scored_by = part.metric if score == "best" and part.metric in frame else metric
        scores, epochs = frame[scored_by].to_numpy(dtype=float), frame["epoch"].to_numpy()
        counted = scored_rows(codes, epochs, scores, part.mode, score)
        found = dict(zip(names, frame[metric].to_numpy(dtype=float)[counted]))
        figures = np.array([found.get(name, math.nan) for name in trials["trial_id"]], dtype=float)
    figures = np.where((states == "completed") & np.isfinite(figures), figures, np.nan)
    return np.where(states == "diverged", -np.inf, figures)


def point_scores(part: Part, frame: pd.DataFrame, trials: pd.DataFrame) -> dict[int, Interval]:
    """Each point's mean final metric over the seeds that completed; `n` is their number, 0 where none did."""
    figures = pd.Series(final_figures(part, part.metric, frame, trials))
    by_point = figures.groupby(trials["point"].to_numpy())
    known = {int(str(point)): values[np.isfinite(values)].tolist() for point, values in by_point}
    return {point: statistics.t_interval(known[point]) for point in ordered_points(part, trials)}


def ordered_points(part: Part, trials: pd.DataFrame) -> list[int]:
    """The points of a part, in the natural order of their values, axis by axis."""
    ranks = {axis: {value: n for n, value in enumerate(values_of(trials, axis))} for axis in part.axes}
    first = trials.drop_duplicates("point")
    keys = {
        int(row["point"]): tuple(ranks[axis][plain(row[axis])] for axis in part.axes)
        for row in first.to_dict("records")
    }
    return sorted(keys, key=lambda point: (keys[point], point))


def point_labels(part: Part, trials: pd.DataFrame) -> dict[int, str]:
    """The label of each point: its values on the part's axes."""
    first = trials.drop_duplicates("point")
    return {
        int(row["point"]): point_label({axis: plain(row[axis]) for axis in part.axes}) or part.name
        for row in first.to_dict("records")
    }


def comparison(
    a: str, b: str, pairs: Pairs, row: int, sign: int, p_value: float, outcome: int | None, note: str = ""
) -> Comparison:
    """One of some pairs, in the metric's own direction."""
    differences = pairs.differences[row]
    finite = differences[np.isfinite(differences)]
    difference = (
        statistics.paired_difference((sign * finite).tolist(), [0.0] * len(finite)) if len(finite) else None
    )
    return Comparison(a, b, difference, p_value, outcome, note, improvement(differences))
