"""Compare two values seed by seed: the outcome of each trial, and the differences.

A diverged trial is a result, a trial stopped by a rule is compared at the epoch where it was stopped, and an
unfinished trial is not compared.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mixsweep.analysis.frames import Part, plain, values_of
from mixsweep.analysis.inference import statistics
from mixsweep.analysis.inference.statistics import Interval, PairedDifference
from mixsweep.analysis.inference.wording import listing, point_label
from mixsweep.core.scoring import scored_so_far

FINISHED = ("completed", "stopped", "diverged")


@dataclass(frozen=True)
class Outcome:
    """One trial in a comparison: the metric by epoch, in the record that counts there, and how the trial ended."""

    state: str
    epochs: int
    values: Mapping[int, float]


@dataclass(frozen=True)
class Comparison:
    """Two values of an axis, or two points, compared over the seeds that both have."""

    a: str
    b: str
    difference: PairedDifference | None  # a − b; None if no seed has both
    p_holm: float
    outcome: int | None  # 1: a is better, −1: b is, 0: not distinguishable, None: too few seeds
    note: str = ""


# Outcomes of one value or point: by combination of the other axes, then by replica.
Cells = dict[tuple[Any, ...], dict[int, Outcome]]


def point_cells(part: Part, frame: pd.DataFrame, trials: pd.DataFrame) -> dict[int, Cells]:
    """The outcomes of each point by replica, with points in natural order of their values."""
    outcomes = _outcomes(part, part.metric, frame, trials)
    cells: dict[int, Cells] = {point: {(): {}} for point in ordered_points(part, trials)}
    for point, replica, trial_id in zip(trials["point"], trials["replica"], trials["trial_id"]):
        cells[int(point)][()][int(replica)] = outcomes[trial_id]
    return cells


def point_scores(part: Part, frame: pd.DataFrame, trials: pd.DataFrame) -> dict[int, Interval]:
    """Each point's mean final metric; a diverged trial counts as the part's worst figure.

    A point whose trials have all diverged, or that has no completed trial, has no score (n = 0).
    """
    cells = point_cells(part, frame, trials)
    worst = worst_final(cells, part.mode)
    scores = {}
    for point, by_replica in cells.items():
        outcomes = by_replica[()].values()
        completed = any(o.state == "completed" for o in outcomes)
        values = [_final(o, worst) for o in outcomes if o.state in ("completed", "diverged")]
        known = [v for v in values if not math.isnan(v)]
        scores[point] = statistics.t_interval(known if completed else [])
    return scores


def ordered_points(part: Part, trials: pd.DataFrame) -> list[int]:
    """The points of a part, in the natural order of their values, axis by axis."""
    ranks = {axis: values_of(trials, axis) for axis in part.axes}
    first = trials.drop_duplicates("point")
    keys = {
        int(row["point"]): tuple(ranks[axis].index(plain(row[axis])) for axis in part.axes)
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


def value_cells(
    part: Part, axis: str, metric: str, frame: pd.DataFrame, trials: pd.DataFrame
) -> dict[Any, Cells]:
    """The outcomes of the trials of each value of an axis, over all other fields."""
    outcomes = _outcomes(part, metric, frame, trials)
    others = part.others(axis, trials)
    cells: dict[Any, Cells] = {}
    for row in trials.to_dict("records"):
        cell = tuple(plain(row[other]) for other in others)
        by_cell = cells.setdefault(plain(row[axis]), {})
        by_cell.setdefault(cell, {})[int(row["replica"])] = outcomes[row["trial_id"]]
    return cells


def compare(a: str, b: str, cells_a: Cells, cells_b: Cells, mode: str, worst: float) -> Comparison:
    """Compare two sides seed by seed, over the combinations of the other axes that both have."""
    common = [cell for cell in cells_a if cell in cells_b]
    left = [cells_a[cell] for cell in common]
    right = [cells_b[cell] for cell in common]
    diverged_a, count_a = _diverged(left)
    diverged_b, count_b = _diverged(right)
    notes = [
        f"{name} diverged in {d} of {count} trials"
        for name, d, count in ((a, diverged_a, count_a), (b, diverged_b, count_b))
        if d
    ]
    replicas = sorted(set.intersection(*(set(c) for c in [*left, *right]))) if common else []
    if count_a and count_b and (diverged_a == count_a) != (diverged_b == count_b):
        # All trials of one side have diverged: this decides without a difference of means.
        n = len([r for r in replicas if all(c[r].state in FINISHED for c in [*left, *right])])
        decided = (1 if diverged_b == count_b else -1) if n >= statistics.MIN_SEEDS else None
        return Comparison(a, b, None, math.nan, decided, "; ".join(notes))
    if count_a and diverged_a == count_a and diverged_b == count_b:
        return Comparison(a, b, None, math.nan, 0, "; ".join(notes))
    notes = [f"{note}, counted as the worst figure of the part" for note in notes]
    differences, stopped_at = [], set()
    for replica in replicas:
        pairs = [(x[replica], y[replica]) for x, y in zip(left, right)]
        found = [_pair(x, y, worst) for x, y in pairs]
        if any(math.isnan(value) for value, _ in found):
            continue
        differences.append(float(np.mean([value for value, _ in found])))
        stopped_at |= {epoch for _, epoch in found if epoch}
    if stopped_at:
        names = [
            n
            for n, side in ((a, left), (b, right))
            if any(o.state == "stopped" for c in side for o in c.values())
        ]
        epochs = listing(str(epoch) for epoch in sorted(stopped_at))
        notes.append(f"{listing(names)} stopped early: compared at epoch {epochs}, not at the end")
    if not differences:
        return Comparison(a, b, None, math.nan, None, "; ".join(notes))
    difference = statistics.paired_difference(differences, [0.0] * len(differences))
    return Comparison(a, b, difference, math.nan, None, "; ".join(notes))


def compare_with_best(
    best: int, points: Mapping[int, Cells], labels: Mapping[int, str], mode: str
) -> dict[int, Comparison]:
    """Compare the best point with each of the others.

    The best is chosen by the same figures, so Holm's correction is over all pairs of points, which include
    the comparisons of any point that could have been the best.
    """
    worst = worst_final(points, mode)
    others = [point for point in points if point != best]

    def pair(a: int, b: int) -> Comparison:
        return compare(labels[a], labels[b], points[a], points[b], mode, worst)

    compared = [pair(best, other) for other in others]
    if any(c.difference and not math.isnan(c.difference.p_value) for c in compared):
        compared += [pair(a, b) for a, b in itertools.combinations(others, 2)]
    return dict(zip(others, correct(compared, mode)))


def correct(compared: Sequence[Comparison], mode: str) -> list[Comparison]:
    """The comparisons with Holm's p-values over all of them, and the resulting outcomes."""
    adjusted = statistics.holm([c.difference.p_value if c.difference else math.nan for c in compared])
    return [
        c
        if c.difference is None
        else Comparison(c.a, c.b, c.difference, p, statistics.outcome(c.difference, p, mode), c.note)
        for c, p in zip(compared, adjusted)
    ]


def worst_final(cells: Mapping[Any, Cells], mode: str) -> float:
    """The worst final figure of any trial, used as the figure of a diverged trial."""
    finals = [
        _final(o, math.nan)
        for side in cells.values()
        for by_replica in side.values()
        for o in by_replica.values()
        if o.state in ("completed", "stopped")
    ]
    finite = [value for value in finals if math.isfinite(value)]
    return (min if mode == "max" else max)(finite) if finite else math.nan


def _pair(x: Outcome, y: Outcome, worst: float) -> tuple[float, int]:
    """x − y and the epoch where they are compared, 0 for the end; NaN if one has no figure yet."""
    if x.state not in FINISHED or y.state not in FINISHED:
        return math.nan, 0
    if "stopped" not in (x.state, y.state) or "diverged" in (x.state, y.state):
        return _final(x, worst) - _final(y, worst), 0
    epoch = min(x.epochs, y.epochs)
    return x.values.get(epoch, math.nan) - y.values.get(epoch, math.nan), epoch


def _final(outcome: Outcome, worst: float) -> float:
    return worst if outcome.state == "diverged" else outcome.values.get(outcome.epochs, math.nan)


def _diverged(cells: Sequence[Mapping[int, Outcome]]) -> tuple[int, int]:
    states = [outcome.state for by_replica in cells for outcome in by_replica.values()]
    return states.count("diverged"), len(states)


def _outcomes(part: Part, metric: str, frame: pd.DataFrame, trials: pd.DataFrame) -> dict[str, Outcome]:
    """Every trial's outcome on a metric of records, or on a figure of whole trials such as `parameters`.

    Where the best record counts, it is the best by the part's own metric, whatever is compared.
    """
    by_trial: dict[str, dict[int, float]] = {}
    whole_trial = metric in trials
    if not whole_trial:
        for trial_id, epoch, value in zip(frame["trial_id"], frame["epoch"], frame[metric]):
            by_trial.setdefault(trial_id, {})[int(epoch)] = float(value)
        scored_by = part.metric if part.score == "best" and part.metric in frame else metric
        if part.score == "best" or frame[metric].isna().any():
            by_trial = _counted(part, scored_by, frame, by_trial)
    outcomes = {}
    for row in trials.to_dict("records"):
        epochs = int(row["epochs_trained"])
        values = {epochs: float(row[metric])} if whole_trial else by_trial.get(row["trial_id"], {})
        outcomes[row["trial_id"]] = Outcome(row["state"], epochs, values)
    return outcomes


def _counted(
    part: Part, scored_by: str, frame: pd.DataFrame, by_trial: Mapping[str, Mapping[int, float]]
) -> dict[str, dict[int, float]]:
    """The values by trial and epoch, where each epoch has that of the record which counts up to there."""
    found = {}
    for trial_id, records in frame.sort_values("epoch").groupby("trial_id"):
        epochs, scores = records["epoch"].to_numpy(), records[scored_by].to_numpy(dtype=float)
        counted = epochs[scored_so_far(scores, part.mode, part.score)]
        values = by_trial[str(trial_id)]
        found[str(trial_id)] = {int(epoch): values[int(at)] for epoch, at in zip(epochs, counted)}
    return found
