"""Several axes at once: heat maps, parallel coordinates, and the importance of each axis."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize

from mixsweep.analysis.frames import plain, value_codes, values_of
from mixsweep.analysis.inference.wording import axis_words, metric_words, unit_of, value_label
from mixsweep.analysis.report.figures.importance import Importance
from mixsweep.analysis.report.figures.shown import Figure
from mixsweep.analysis.report.figures.style import (
    EMPTY,
    ON_DARK,
    ON_LIGHT,
    PALETTE,
    SOFT,
    STYLE,
    is_fraction,
    safe,
)

_MOST_TICKS = 20
_MOST_WRITTEN = 150  # cells of a heat map with their number in it
_LARGEST = 9.0  # inches
MOST_COORDINATES = 300  # lines of a plot of parallel coordinates


def draw_heat(trials: pd.DataFrame, axes: tuple[str, str], metric: str, word: str = "final") -> Figure:
    """Draw the final metric over two axes: the mean over the completed trials of each pair of values.

    Args:
        trials: one row per trial of one part, from `analysis.load_trials`.
        axes: the fields of the rows and of the columns.
        metric: a metric that has a `final_` column.
        word: how its figures are called.
    """
    rows, columns = (values_of(trials, axis) for axis in axes)
    shape = len(rows), len(columns)
    finals = trials[f"final_{metric}"].to_numpy(dtype=float, na_value=math.nan)
    cells = value_codes(trials[axes[0]], rows) * len(columns) + value_codes(trials[axes[1]], columns)
    known = np.isfinite(finals)
    counts = np.bincount(cells[known], minlength=math.prod(shape)).reshape(shape)
    sums = np.bincount(cells[known], weights=finals[known], minlength=math.prod(shape)).reshape(shape)
    scale = 100.0 if is_fraction(metric) else 1.0
    grid = scale * np.divide(sums, counts, out=np.full(shape, math.nan), where=counts > 0)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        size = (min(_LARGEST, 2.6 + 0.75 * len(columns)), min(_LARGEST, 1.5 + 0.55 * len(rows)))
        figure = Figure(figsize=size, layout="constrained")
        panel = figure.subplots()
        colours = matplotlib.colormaps["cividis"].with_extremes(bad=EMPTY)
        picture = panel.imshow(grid, cmap=colours, aspect="auto", interpolation="nearest")
        panel.set_facecolor(EMPTY)
        for (i, j), value in np.ndenumerate(grid) if grid.size <= _MOST_WRITTEN else ():
            text = f"{value:.1f}" if scale == 100 else f"{value:.3g}"
            light = counts[i, j] and float(np.asarray(picture.norm(value))) >= 0.55
            colour = ON_LIGHT if light else ON_DARK if counts[i, j] else SOFT
            panel.text(j, i, text if counts[i, j] else "–", ha="center", va="center", color=colour)
        for axis, axis_values, along in zip(axes, (rows, columns), (panel.yaxis, panel.xaxis)):
            step = math.ceil(len(axis_values) / _MOST_TICKS)
            labels = [safe(value_label(axis, v)) for v in axis_values[::step]]
            along.set_ticks(range(0, len(axis_values), step), labels)
            along.set_label_text(safe(axis_words(axis)))
        if len(columns) > 8:
            panel.tick_params(axis="x", labelrotation=60)
        unit = "%" if scale == 100 else unit_of(metric)
        label = f"{word} {metric_words(metric)}"
        figure.colorbar(picture, label=f"{label} ({unit})" if unit else label)
    return figure


def draw_parallel(
    trials: pd.DataFrame, axes: Sequence[str], metric: str, mode: str, word: str = "final"
) -> Figure:
    """Draw each trial as a line over all axes, coloured by the metric; of very many the best and an even choice.

    Args:
        trials: completed trials of one part, from `analysis.load_trials`.
        axes: the fields, from left to right; the metric comes last.
        metric: a metric that has a `final_` column.
        mode: of the metric.
        word: how its figures are called.
    """
    final = f"final_{metric}"
    ordered = trials.dropna(subset=[final]).sort_values([final, "trial_id"], ascending=[mode == "min", True])
    best = max(1, min(MOST_COORDINATES // 10, math.ceil(len(ordered) / 10)))
    step = max(1, math.ceil((len(ordered) - best) / (MOST_COORDINATES - best)))
    shown = pd.concat([ordered.iloc[best::step].iloc[::-1], ordered.iloc[:best].iloc[::-1]])
    finals = shown[final].to_numpy(dtype=float)
    scale = 100.0 if is_fraction(metric) else 1.0
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(5.6, min(_LARGEST, 1.5 * (len(axes) + 1))), 3.6), layout="constrained")
        panel = figure.subplots()
        heights = np.stack(
            [*(_heights(trials, shown, axis, panel, x) for x, axis in enumerate(axes)), _scaled(finals)],
            axis=1,
        )
        lines = [np.column_stack([np.arange(len(axes) + 1), row]) for row in heights]
        widths = np.r_[np.full(len(shown) - best, 0.5), np.full(best, 1.4)]
        norm = Normalize(scale * float(finals.min()), scale * float(finals.max()))
        drawn = LineCollection(lines, cmap="cividis", norm=norm, linewidths=widths, alpha=0.75)
        drawn.set_array(scale * finals)
        panel.add_collection(drawn)
        panel.set_xlim(-0.1, len(axes) + 0.1)
        panel.set_ylim(-0.04, 1.04)
        words = [*map(axis_words, axes), f"{word} {metric_words(metric)}"]
        panel.set_xticks(range(len(axes) + 1), [safe(word.replace(" ", "\n", 1)) for word in words])
        panel.set_yticks([])
        panel.grid(visible=False)
        panel.spines["left"].set_visible(False)
        for x in range(len(axes) + 1):
            panel.axvline(x, color=SOFT, linewidth=0.8)
        unit = "%" if scale == 100 else unit_of(metric)
        figure.colorbar(drawn, label=f"{metric_words(metric)}{f' ({unit})' if unit else ''}")
    return figure


def draw_importance(found: Sequence[Importance], metric: str, word: str = "final") -> Figure:
    """Draw the share of the metric's variance that each axis explains by itself, with its interval.

    Args:
        found: the most important first.
        metric: whose variance it is.
        word: how its figures are called.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 1.0 + 0.3 * len(found)), layout="constrained")
        panel = figure.subplots()
        for row, one in enumerate(found):
            panel.barh(row, one.share, height=0.6, color=PALETTE[5])
            if not math.isnan(one.low):
                panel.plot([one.low, one.high], [row, row], color=PALETTE[0], linewidth=1.6)
        panel.set_yticks(range(len(found)), [safe(axis_words(one.axis)) for one in found])
        panel.set_ylim(len(found) - 0.5, -0.5)
        panel.set_xlim(0, 1)
        panel.grid(axis="y", visible=False)
        panel.set_xlabel(safe(f"share of the variance of {word} {metric_words(metric)}"))
    return figure


def _heights(trials: pd.DataFrame, shown: pd.DataFrame, axis: str, panel: Any, x: int) -> np.ndarray:
    """The height of each shown trial on one axis, in [0, 1], with labels at its ends or at each of few values."""
    values = values_of(trials, axis)
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if not numeric or len(values) <= 6:
        heights = value_codes(shown[axis], values) / max(1, len(values) - 1)
        step = math.ceil(len(values) / 8)
        labels = [(n / max(1, len(values) - 1), values[n]) for n in range(0, len(values), step)]
    else:
        ends = float(values[0]), float(values[-1])
        log = ends[0] > 0 and ends[1] / ends[0] >= 9
        change = np.log if log else np.asarray
        numbers = np.array([float(plain(v)) for v in shown[axis]])
        heights = (change(numbers) - change(ends[0])) / (change(ends[1]) - change(ends[0]))
        labels = [(0.0, values[0]), (1.0, values[-1])]
    for height, value in labels:
        panel.annotate(
            safe(value_label(axis, value)), (x, height), xytext=(3, 0), textcoords="offset points", fontsize=7
        )
    return np.asarray(heights, dtype=float)


def _scaled(numbers: np.ndarray) -> np.ndarray:
    low, high = float(numbers.min()), float(numbers.max())
    return (numbers - low) / (high - low) if high > low else np.full(len(numbers), 0.5)
