"""The figures of each value of a part, as its figures draw them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mixsweep.analysis.frames import figure_column, plain, value_codes, values_of
from mixsweep.analysis.inference.comparisons import ordered_points
from mixsweep.analysis.inference.ranges import possible_range, within
from mixsweep.analysis.inference.statistics import t_interval
from mixsweep.analysis.inference.wording import axis_words, value_label
from mixsweep.analysis.report.answers import Answer
from mixsweep.analysis.report.figures.effects import Effect, Finals
from mixsweep.analysis.report.study import Section
from mixsweep.analysis.report.tables import interval_of

MOST_ROWS = 30  # of a figure with a row a value
MOST_PLACES = 24  # of a figure along an axis; more values are put together in as many groups


@dataclass(frozen=True)
class Forest:
    """The differences of a forest plot.

    Args:
        metric: that they are in.
        mode: of the metric: max or min.
        effects: from the first row down.
    """

    metric: str
    mode: str
    effects: tuple[Effect, ...]


@dataclass(frozen=True)
class AlongAxis:
    """The final figures along a numeric axis.

    Args:
        finals: in ascending order of their places.
        combinations: how many the other axes have.
        shared: how many of them have a figure at every value, which all values are averaged over; 0: the values have
            different ones.
        left_out: trials that no mean counts, since their seed lacks a shared combination.
    """

    finals: tuple[Finals, ...]
    combinations: int
    shared: int
    left_out: int


def point_finals(section: Section, results: pd.DataFrame, cost: str = "") -> list[Finals]:
    """The final figures of each point that has any, in natural order.

    Args:
        section: the part.
        results: its ablation table.
        cost: the column of trials that is its cost; '' for none.
    """
    part, trials = section.part, section.trials
    final = f"final_{part.metric}"
    columns = ["point", "state", final, *([cost] if cost else [])]
    of_point = dict(iter(trials[columns].groupby("point")))
    found = []
    for point, row in zip(ordered_points(part, trials), results.to_dict("records")):
        mine = of_point[point]
        figures = tuple(mine[final].dropna().tolist())
        diverged = int((mine["state"] == "diverged").sum())
        if figures or diverged:
            spent = t_interval(mine[cost].dropna().tolist()) if cost else t_interval([])
            spent = within(spent, (0.0, math.inf))
            interval = interval_of(row, "final")
            label = " · ".join(value_label(axis, plain(row[axis])) for axis in part.axes) or part.name
            found.append(Finals(label, interval, figures, diverged, spent))
    return found


def axes_title(section: Section) -> str:
    """What the labels of points are: the fields that they are values of."""
    return " · ".join(axis_words(axis) for axis in section.part.axes)


def best_of(finals: Sequence[Finals], mode: str, count: int = MOST_ROWS) -> list[Finals]:
    """The best few of some values, in the order given."""
    sign = 1 if mode == "max" else -1
    ranked = sorted(finals, key=lambda value: -sign * value.interval.mean if value.interval.n else math.inf)
    kept = set(map(id, ranked[:count]))
    return [value for value in finals if id(value) in kept]


def axis_finals(section: Section, axis: str) -> AlongAxis:
    """The final figures along a numeric axis, over all other axes: seed by seed, then over the seeds.

    All values are averaged over the same combinations of the other axes, those with a figure at each of them, and a
    seed of a value counts where it has all of these. An axis of very many values is cut into groups of about as many
    trials, each at its median.
    """
    part, trials = section.part, section.trials
    final = f"final_{part.metric}"
    cells = _cells(trials, part.others(axis, trials))
    known = trials[final].notna().to_numpy()
    trials = trials[known]
    values = [value for value in values_of(trials, axis) if value is not None]
    codes = value_codes(trials[axis], values)
    if len(values) > MOST_PLACES:
        edges = np.quantile(codes, np.linspace(0, 1, MOST_PLACES + 1)[1:-1])
        codes = np.searchsorted(edges, codes, side="right")
    table = pd.DataFrame(
        {
            "code": codes,
            "cell": cells[known],
            "at": pd.to_numeric(trials[axis]).to_numpy(dtype=float),
            "replica": trials["replica"].to_numpy(),
            "final": trials[final].to_numpy(dtype=float),
        }
    )
    is_shared, is_averaged = _comparable(table)
    shared = int(table.loc[is_shared, "cell"].nunique())
    table["is_averaged"] = is_averaged
    table = table[is_shared] if shared else table
    bounds = possible_range(part.trainable, part.metric)
    found = []
    for _, mine in table.groupby("code"):
        averaged = mine[mine["is_averaged"]]
        of_seed = averaged.groupby("replica")["final"].mean().tolist()
        interval = within(t_interval(of_seed), bounds)
        at = float(mine["at"].median())
        dots = tuple(mine["final"].tolist())
        found.append(Finals(value_label(axis, at), interval, dots, at=at))
    return AlongAxis(
        finals=tuple(sorted(found, key=lambda value: value.at)),
        combinations=len(np.unique(cells)),
        shared=shared,
        left_out=int((~table["is_averaged"]).sum()),
    )


def _cells(trials: pd.DataFrame, axes: Sequence[str]) -> np.ndarray:
    """The number of each trial's combination of values [trials]."""
    if not axes:
        return np.zeros(len(trials), dtype=int)
    codes = np.stack([value_codes(trials[axis], values_of(trials, axis)) for axis in axes])
    numbers: np.ndarray = np.unique(codes, axis=1, return_inverse=True)[1].ravel()
    return numbers


def _comparable(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Whether each trial's combination is known at every value [trials], and whether its mean counts it [trials].

    Where some value has no seed with all shared combinations none is shared, and all trials count.
    """
    code, cell, replica = (pd.factorize(table[name])[0] for name in ("code", "cell", "replica"))
    has = np.zeros((code.max() + 1, cell.max() + 1, replica.max() + 1), dtype=bool)
    has[code, cell, replica] = True
    shared: np.ndarray = np.all(np.any(has, axis=2), axis=0)  # [cells]
    complete: np.ndarray = np.all(has[:, shared], axis=1)  # [values, seeds]
    if not shared.any() or not np.any(complete, axis=1).all():
        return np.zeros(len(table), dtype=bool), np.ones(len(table), dtype=bool)
    return shared[cell], shared[cell] & complete[code, replica]


def is_numeric(section: Section, axis: str) -> bool:
    """Whether an axis has three or more numbers as values."""
    values = values_of(section.trials, axis)
    return len(values) > 2 and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )


def cost_column(section: Section) -> str:
    """The column of trials with their cost: the seconds of a record, else the device time; '' if none is known."""
    trainable, trials = section.part.trainable, section.trials
    for name in (*trainable.second_metrics[:1], figure_column(trainable, "device_seconds")):
        if name in trials and trials[name].notna().any() and float(trials[name].max()) > 0:
            return name
    return ""


def claim_forests(section: Section, answer: Answer) -> list[Forest]:
    """The paired differences that the claims rest on, a forest a metric and mode; each pair of values once.

    Labels name the field that they are values of where the claims compare several.
    """
    told = [
        (str(claim["compare"]), verdict)
        for claim, verdict in zip(section.part.claims, answer.verdicts)
        if verdict.comparisons
    ]
    is_named = len({axis for axis, _ in told}) > 1
    found: dict[tuple[str, str], dict[tuple[str, str], Effect]] = {}
    for axis, verdict in told:
        effects = found.setdefault((verdict.metric, verdict.mode), {})
        for one in verdict.comparisons:
            pair = f"{one.a} − {one.b}"
            label = f"{axis_words(axis)} {pair}" if is_named else pair
            interval = one.difference.interval if one.difference else t_interval([])
            effects.setdefault((axis, pair), Effect(label, interval, one.outcome, one.note))
    return [Forest(metric, mode, tuple(effects.values())) for (metric, mode), effects in found.items()]
