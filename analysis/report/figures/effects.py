"""What a value does: differences, final values, sensitivity along an axis, and accuracy against cost."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from mixsweep.analysis.inference.statistics import Interval
from mixsweep.analysis.inference.wording import axis_words, metric_words, unit_of
from mixsweep.analysis.report.figures.shown import Figure
from mixsweep.analysis.report.figures.style import (
    DASHES,
    MARKERS,
    MOST_LINES,
    PALETTE,
    SOFT,
    STYLE,
    as_percent,
    is_fraction,
    log_if_wide,
    safe,
)

_WIDTH = 5.0  # inches
_ROW = 0.28
_NOTE = 44  # letters
_UNKNOWN = Interval(math.nan, math.nan, math.nan, 0)
_OUTCOME_COLOURS = {1: PALETTE[2], -1: PALETTE[1], 0: SOFT, None: PALETTE[7]}
_LOG_ALONG = 8.0  # from this ratio of its ends on, an axis of values is logarithmic
_MOST_TICKS = 8
MOST_DOTS = 600  # trials drawn one by one


@dataclass(frozen=True)
class Effect:
    """A paired difference of a forest plot.

    Args:
        label: which two values.
        interval: of the difference, in the metric's unit.
        outcome: as of a Comparison: 1, -1, 0, or None where nothing is decided.
        note: shown where there is no difference to draw.
    """

    label: str
    interval: Interval
    outcome: int | None
    note: str = ""


@dataclass(frozen=True)
class Finals:
    """The final figures of one value.

    Args:
        label: the value.
        interval: over its seeds, within the metric's range.
        trials: the figure of each completed trial.
        diverged: how many of its trials diverged.
        cost: over its seeds, in the unit of the cost's axis.
        at: where a numeric axis has it.
    """

    label: str
    interval: Interval
    trials: tuple[float, ...] = ()
    diverged: int = 0
    cost: Interval = _UNKNOWN
    at: float = math.nan


def draw_forest(effects: Sequence[Effect], metric: str, mode: str) -> Figure:
    """Draw paired differences with their 95 % intervals, one a row, and a line at no difference.

    Args:
        effects: from the first row down.
        metric: that the differences are in.
        mode: of the metric: which side of the line is better.
    """
    scale, unit = (100.0, "points") if is_fraction(metric) else (1.0, unit_of(metric))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, 1.0 + _ROW * len(effects)), layout="constrained")
        panel = figure.subplots()
        for row, effect in enumerate(effects):
            colour = _OUTCOME_COLOURS[effect.outcome]
            interval = effect.interval
            if not interval.n or math.isnan(interval.mean):
                words = textwrap.shorten(effect.note or "no difference to draw", _NOTE, placeholder=" …")
                shown = panel.text(0.0, row, f" {safe(words)}", va="center", color=SOFT, fontsize=7.5)
                shown.set_in_layout(False)  # a long note does not squeeze the axis
                continue
            _draw_interval(panel, scale, interval, row, colour, MARKERS[1] if effect.outcome else MARKERS[0])
        panel.axvline(0.0, color=SOFT, linewidth=1.0)
        _rows(panel, [effect.label for effect in effects])
        better = "right" if mode == "max" else "left"
        panel.set_xlabel(
            f"difference in {metric_words(metric)}{f' ({unit})' if unit else ''}; {better}: better"
        )
    return figure


def draw_finals(finals: Sequence[Finals], axis_name: str, metric: str, word: str = "final") -> Figure:
    """Draw each value's trials as dots, with their mean and its interval.

    Args:
        finals: from the first row down.
        axis_name: what the rows are.
        metric: that the figures are in.
        word: how the figures are called.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, 1.0 + _ROW * len(finals)), layout="constrained")
        panel = figure.subplots()
        for row, value in enumerate(finals):
            panel.plot(
                value.trials,
                [row] * len(value.trials),
                linestyle="none",
                marker="o",
                markersize=4,
                color=PALETTE[5],
                markeredgecolor=PALETTE[0],
                markeredgewidth=0.6,
            )
            if value.interval.n:
                _draw_interval(panel, 1.0, value.interval, row, PALETTE[0], "|")
            if value.diverged:
                words = f"{value.diverged} diverged"
                panel.annotate(
                    words,
                    (1.0, row),
                    xycoords=("axes fraction", "data"),
                    ha="right",
                    va="center",
                    fontsize=7.5,
                    color=PALETTE[1],
                )
        _rows(panel, [value.label for value in finals], axis_name)
        _metric_axis(panel, "x", metric, word)
    return figure


def draw_sensitivity(finals: Sequence[Finals], axis: str, metric: str, word: str = "final") -> Figure:
    """Draw the metric along a numeric axis: the mean of each value with its interval, and its trials as dots.

    The axis is logarithmic where its values are positive and far apart.

    Args:
        finals: with `at`, in ascending order.
        axis: the field.
        metric: that the figures are in.
        word: how the figures are called.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, 3.1), layout="constrained")
        panel = figure.subplots()
        dots = [(value.at, figure_) for value in finals for figure_ in value.trials]
        step = max(1, math.ceil(len(dots) / MOST_DOTS))
        panel.plot(
            [x for x, _ in dots[::step]],
            [y for _, y in dots[::step]],
            linestyle="none",
            marker="o",
            markersize=3,
            alpha=0.5,
            color=PALETTE[5],
        )
        shown = [value for value in finals if value.interval.n]
        at = [value.at for value in shown]
        panel.plot(at, [value.interval.mean for value in shown], color=PALETTE[0], marker="o", markersize=4)
        known = [value for value in shown if not math.isnan(value.interval.low)]
        panel.fill_between(
            [value.at for value in known],
            [value.interval.low for value in known],
            [value.interval.high for value in known],
            color=PALETTE[0],
            alpha=0.18,
            linewidth=0,
        )
        places = [value.at for value in finals]
        if _grows_by_factors(places):
            log_if_wide(panel, "x", min(places), max(places), _LOG_ALONG)
        if len(places) <= _MOST_TICKS:
            panel.set_xticks(places, [value.label for value in finals])
            panel.minorticks_off()
        panel.set_xlabel(safe(axis_words(axis)))
        _metric_axis(panel, "y", metric, word)
    return figure


def draw_cost(
    finals: Sequence[Finals], cost_words: str, metric: str, axis_name: str, word: str = "final"
) -> Figure:
    """Draw each value's metric against its cost, with the intervals of both.

    Args:
        finals: with `cost`; beyond the first eight they look alike.
        cost_words: the label of the cost's axis.
        metric: that the figures are in.
        axis_name: what the values are.
        word: how the figures are called.
    """
    few = len(finals) <= MOST_LINES
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, 3.1), layout="constrained")
        panel = figure.subplots()
        groups = [[value] for value in finals] if few else [list(finals)]
        for style, values in enumerate(groups):
            panel.errorbar(
                [value.cost.mean for value in values],
                [value.interval.mean for value in values],
                xerr=_errors([value.cost for value in values]),
                yerr=_errors([value.interval for value in values]),
                marker=MARKERS[style],
                markersize=6 if few else 3,
                linestyle="none",
                color=PALETTE[style],
                elinewidth=1.0 if few else 0.4,
                capsize=2 if few else 0,
                alpha=1.0 if few else 0.5,
                label=safe(values[0].label),
            )
        costs = [value.cost.mean for value in finals]
        log_if_wide(panel, "x", min(costs), max(costs), 5.0)
        panel.set_xlabel(cost_words)
        _metric_axis(panel, "y", metric, word)
        if few:
            handles, labels = panel.get_legend_handles_labels()
            figure.legend(handles, labels, title=safe(axis_name), loc="outside right upper")
    return figure


def _grows_by_factors(places: Sequence[float]) -> bool:
    """Whether ascending numbers are spaced more evenly by their ratios than by their differences."""
    if len(places) < 3 or min(places) <= 0:
        return False
    steps = [np.diff(np.log(places)), np.diff(places)]
    return bool(np.std(steps[0]) / np.mean(steps[0]) < np.std(steps[1]) / np.mean(steps[1]))


def _draw_interval(panel: Axes, scale: float, interval: Interval, row: int, colour: str, marker: str) -> None:
    panel.plot(scale * interval.mean, row, marker=marker, markersize=7 if marker == "|" else 5, color=colour)
    if not math.isnan(interval.low):
        ends = [scale * interval.low, scale * interval.high]
        panel.plot(ends, [row, row], color=colour, linewidth=1.6, linestyle=DASHES[0])


def _errors(intervals: Sequence[Interval]) -> np.ndarray:
    """The lengths of intervals to both sides of their means [2, n], NaN where there is none."""
    return np.array(
        [[one.mean - one.low for one in intervals], [one.high - one.mean for one in intervals]]
    ).clip(min=0)


def _rows(panel: Axes, labels: Sequence[str], title: str = "") -> None:
    panel.set_yticks(range(len(labels)), [safe(label) for label in labels])
    panel.set_ylim(len(labels) - 0.5, -0.5)
    panel.grid(axis="y", visible=False)
    if title:
        panel.set_ylabel(safe(title))


def _metric_axis(panel: Axes, which: str, metric: str, word: str) -> None:
    fraction = is_fraction(metric)
    unit = "%" if fraction else unit_of(metric)
    label = f"{word} {metric_words(metric)}{f' ({unit})' if unit else ''}"
    getattr(panel, f"set_{which}label")(safe(label))
    if fraction:
        as_percent(getattr(panel, f"{which}axis"))
