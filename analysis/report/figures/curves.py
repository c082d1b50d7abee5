"""Learning curves: of each value of a field, of the best trial, and of very many trials as bands."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mixsweep.analysis.frames import value_codes, values_of
from mixsweep.analysis.inference.wording import axis_words, figure_text, metric_words, value_label
from mixsweep.analysis.report.figures.shown import Figure
from mixsweep.analysis.report.figures.style import (
    DASHES,
    MARKERS,
    MOST_LINES,
    PALETTE,
    SOFT,
    STYLE,
    as_percent,
    log_if_wide,
    safe,
)
from mixsweep.core.trainables.interface import CurvePanel, Trainable
from mixsweep.core.trainables.kinds import find_trainable

# A loss axis is cut if some value's losses exceed those of the median value by more than this factor.
_ROBUST_RATIO = 4.0
_BANDS = ((0.05, 0.95, 0.15), (0.25, 0.75, 0.3))  # quantiles, and how opaque


@dataclass(frozen=True)
class _Line:
    """One value's mean over its trials per epoch, with minimum and maximum."""

    label: str
    epochs: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    diverged: bool


def draw_curves(
    frame: pd.DataFrame,
    axis: str | None,
    values: Sequence[Any] | None = None,
    title: str = "",
    trainable: Trainable | None = None,
) -> Figure:
    """Draw learning curves: a line per value, with a band from the minimum to the maximum over its trials.

    Args:
        frame: epoch records of one part, from `analysis.frames`.
        axis: the field with one line per value; None: one line over all trials.
        values: which values to draw; left out: all, the first eight at most.
        title: above the panels.
        trainable: the kind of the trials; left out: the built-in image trainer.

    The mean at an epoch is over the trials that reached it. A line that ends in a large cross diverged.
    """
    values = values_of(frame, axis)[:MOST_LINES] if axis and values is None else list(values or [None])
    codes = value_codes(frame[axis], values) if axis else np.zeros(len(frame), dtype=np.int64)
    labels = _labels(frame, axis, values, codes)
    with matplotlib.rc_context(STYLE):
        kinds = (trainable or find_trainable()).panels
        figure, panels = _panels(kinds)
        for row, kind in zip(panels, kinds):
            drawn = [_lines(frame, codes, labels, metric) for metric in kind.metrics.values()]
            for panel, metric, lines in zip(row, kind.metrics.values(), drawn):
                for index, line in enumerate(lines):
                    _draw_line(panel, line, index)
                panel.set_title(metric_words(metric))
            if not kind.is_fraction:
                _fit_losses(row, drawn)
        if axis:
            handles, names = panels[0][0].get_legend_handles_labels()
            figure.legend(
                handles, names, title=safe(axis_words(axis)), loc="outside right upper", handlelength=3.6
            )
        if title:
            figure.suptitle(safe(title), fontsize=11)
    return figure


def draw_bands(frame: pd.DataFrame, best: str = "", trainable: Trainable | None = None) -> Figure:
    """Draw the curves of very many trials as bands of their quantiles, with the median and the best trial.

    Args:
        frame: epoch records of one part, from `analysis.frames`.
        best: the id of the trial to draw by itself; '' for none.
        trainable: as for draw_curves.
    """
    with matplotlib.rc_context(STYLE):
        kinds = (trainable or find_trainable()).panels
        figure, panels = _panels(kinds)
        for row, kind in zip(panels, kinds):
            limits: list[float] = []
            for panel, metric in zip(row, kind.metrics.values()):
                finite = frame[np.isfinite(frame[metric].to_numpy(dtype=float, na_value=math.nan))]
                found = finite.groupby("epoch")[metric].quantile([0.05, 0.25, 0.5, 0.75, 0.95]).unstack()
                epochs = found.index.to_numpy()
                for low, high, alpha in _BANDS:
                    panel.fill_between(
                        epochs,
                        found[low],
                        found[high],
                        color=PALETTE[0],
                        alpha=alpha,
                        linewidth=0,
                        label=f"{round(100 * (high - low))} % of the trials",
                    )
                panel.plot(epochs, found[0.5], color=PALETTE[0], label="median")
                own = finite[finite["trial_id"] == best]
                panel.plot(
                    own["epoch"], own[metric], color=PALETTE[1], linestyle=DASHES[1], label="best trial"
                )
                panel.set_title(metric_words(metric))
                limits += [found.min(axis=None), found.max(axis=None)] if len(found) else []
            if limits and not kind.is_fraction:
                log_if_wide(row[0], "y", min(limits), max(limits))
        handles, names = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right upper", handlelength=2.6)
    return figure


def draw_best(
    frame: pd.DataFrame, trial_id: str, title: str = "", trainable: Trainable | None = None
) -> Figure:
    """Draw one trial's learning curves, with its test figures in the title.

    Args:
        trainable: as for draw_curves.

    Raises:
        ValueError: the trial has no record in the frame.
    """
    epochs = frame[frame["trial_id"] == trial_id].drop_duplicates("epoch").sort_values("epoch")
    if epochs.empty:
        raise ValueError(f"trial {trial_id} has no records")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.1), layout="constrained")
        trainable = trainable or find_trainable()
        panels = figure.subplots(1, len(trainable.panels), sharex=True, squeeze=False)[0]
        for panel, kind in zip(panels, trainable.panels):
            lines = []
            for index, (label, metric) in enumerate(kind.metrics.items()):
                values = epochs[metric].to_numpy(dtype=float, na_value=math.nan)
                lines.append(_Line(label, epochs["epoch"].to_numpy(), values, values, values, False))
                _draw_line(panel, lines[-1], index)
            panel.set_xlabel("epoch")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.set_ylabel(kind.axis_label)
            if kind.is_fraction:
                as_percent(panel.yaxis)
            else:
                log_if_wide(panel, "y", *_extent(lines))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", handlelength=3.6)
        tests = {name: epochs[name].iloc[-1] for name in trainable.reported_tests}
        tested = ", ".join(f"{metric_words(name)} {figure_text(name, test)}" for name, test in tests.items())
        if all(map(pd.isna, tests.values())):
            tested = f"not tested at epoch {epochs['epoch'].iloc[-1]}"
        figure.suptitle(safe(f"{title or trial_id}: {tested}"), fontsize=11)
    return figure


def _panels(kinds: Sequence[CurvePanel]) -> tuple[Figure, Any]:
    """A figure with a row of panels for each axis, which the panels of a row share."""
    columns = max(len(kind.metrics) for kind in kinds)
    figure = Figure(figsize=(7.6, 2.7 * len(kinds)), layout="constrained")
    panels = figure.subplots(len(kinds), columns, sharex=True, sharey="row", squeeze=False)
    for row, kind in zip(panels, kinds):
        row[0].set_ylabel(kind.axis_label)
        if kind.is_fraction:
            as_percent(row[0].yaxis)
        for unused in row[len(kind.metrics) :]:
            unused.set_visible(False)
    for panel in panels[-1]:
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, panels


def _labels(
    frame: pd.DataFrame, axis: str | None, values: Sequence[Any], codes: np.ndarray
) -> list[tuple[str, bool]]:
    """The label of each value, with how many of its trials diverged, and whether all did."""
    first = ~frame["trial_id"].duplicated().to_numpy()
    diverged = (frame["state"] == "diverged").to_numpy()
    labels = []
    for code, value in enumerate(values):
        trials = int(np.sum(first & (codes == code)))
        bad = int(np.sum(first & diverged & (codes == code)))
        label = "all trials" if axis is None else value_label(axis, value)
        if not trials:
            label += " (none yet)"
        elif bad:
            label += " (diverged)" if bad == trials else f" ({bad} of {trials} diverged)"
        labels.append((label, bad == trials > 0))
    return labels


def _lines(
    frame: pd.DataFrame, codes: np.ndarray, labels: Sequence[tuple[str, bool]], metric: str
) -> list[_Line]:
    values = frame[metric].to_numpy(dtype=float, na_value=math.nan)
    kept = np.isfinite(values) & (codes >= 0)
    table = pd.DataFrame({"code": codes, "epoch": frame["epoch"].to_numpy(), "value": values})[kept]
    found = table.groupby(["code", "epoch"])["value"].agg(["mean", "min", "max"]).reset_index()
    lines = []
    for code, (label, diverged) in enumerate(labels):
        own = found[found["code"] == code]
        epochs, mean, low, high = (own[name].to_numpy() for name in ("epoch", "mean", "min", "max"))
        lines.append(_Line(label, epochs, mean, low, high, diverged))
    return lines


def _draw_line(panel: Axes, line: _Line, index: int) -> None:
    style = index % MOST_LINES
    colour = PALETTE[style]
    panel.plot(
        line.epochs,
        line.mean,
        color=colour,
        linestyle=DASHES[style],
        marker=MARKERS[style],
        markersize=4,
        markevery=max(1, math.ceil(len(line.epochs) / 8)),
        label=safe(line.label),
    )
    panel.fill_between(line.epochs, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
    if line.diverged and len(line.epochs):
        panel.plot(line.epochs[-1], line.mean[-1], marker="x", markersize=9, color=colour, linestyle="none")


def _extent(lines: Sequence[_Line]) -> tuple[float, float]:
    """The least and the greatest number of some lines; NaN where there is none."""
    numbers = np.concatenate([np.concatenate([line.low, line.high]) for line in lines])
    finite = numbers[np.isfinite(numbers)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (math.nan, math.nan)


def _fit_losses(row: Sequence[Axes], drawn: Sequence[Sequence[_Line]]) -> None:
    """Fit the shared axis to the losses: logarithmic where they are far apart, cut where one value explodes.

    A cut is noted, so that one exploding value does not flatten all others.
    """
    peaks = [float(np.max(line.high)) for lines in drawn for line in lines if len(line.high)]
    if not peaks:
        return
    limit = _ROBUST_RATIO * float(np.quantile(peaks, 0.5, method="lower"))
    if max(peaks) <= limit or limit <= 0:
        log_if_wide(row[0], "y", *_extent([line for lines in drawn for line in lines]))
        return
    shown = [line for lines in drawn for line in lines if len(line.high) and np.max(line.high) <= limit]
    least, greatest = _extent(shown)
    margin = 0.05 * (greatest - least)
    row[0].set_ylim(least - margin, greatest + 3 * margin)
    for panel, lines in zip(row, drawn):
        beyond = [line for line in lines if len(line.high) and np.max(line.high) > limit]
        words = "\n".join(f"{line.label.split(' (')[0]} reaches {np.max(line.high):.3g}" for line in beyond)
        if words:
            where: dict[str, Any] = {
                "xy": (0.98, 0.98),
                "xycoords": "axes fraction",
                "ha": "right",
                "va": "top",
                "multialignment": "right",
            }
            panel.annotate(safe(f"axis cut:\n{words}"), fontsize=7.5, color=SOFT, **where)
