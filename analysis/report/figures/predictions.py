"""Figures of predictions on a test set: accuracy per class, confusion, and confidence against accuracy."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from mixsweep.analysis.predictions.measures import Reliability, Share
from mixsweep.analysis.report.figures.style import (
    EMPTY,
    INK,
    ON_DARK,
    PALETTE,
    SOFT,
    STYLE,
    safe,
)

MOST_CLASSES = 20  # of which each has a row of its own
_MOST_NUMBERS = 12  # classes of a confusion matrix with numbers in its cells
_PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.6g}")


def draw_classes(table: pd.DataFrame, overall: Share) -> Figure:
    """Draw the accuracy of each class with its interval.

    Args:
        table: from class_accuracy, the rows to draw, the first on top.
        overall: a line behind them.
    """
    places = np.arange(len(table))[::-1]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 1.1 + 0.27 * len(table)), layout="constrained")
        panel = figure.subplots()
        panel.axvline(overall.mean, color=SOFT, linewidth=1, linestyle=(0, (5, 2)))
        panel.hlines(places, table["low"], table["high"], color=PALETTE[0], linewidth=2)
        panel.plot(table["accuracy"], places, "o", color=PALETTE[0], markersize=5)
        panel.set_yticks(places, [safe(_short(name)) for name in table["class"]])
        panel.set_ylim(-0.6, len(table) - 0.4)
        panel.grid(visible=False, axis="y")
        panel.set_xlabel("right (%); dashed: all classes")
        panel.xaxis.set_major_formatter(_PERCENT)
        panel.set_xlim(right=min(1.01, panel.get_xlim()[1]))
    return figure


def draw_confusion(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix: of the examples of each class (row), the share predicted as each class (column).

    Args:
        counts: from confusion, [K, K].
        classes: their names [K].
    """
    number = len(classes)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = counts / counts.sum(1, keepdims=True)
    size = min(max(2.2 + 0.42 * number, 4.0), 7.0)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(size + 0.9, size), layout="constrained")
        panel = figure.subplots()
        # Over the page's own colour, so that no white box is left in the dark.
        ends = [to_rgba(PALETTE[0], alpha) for alpha in (0.0, 1.0)]
        colours = LinearSegmentedColormap.from_list("shares", ends).with_extremes(bad=EMPTY)
        picture = panel.imshow(100 * shares, cmap=colours, vmin=0, vmax=100)
        if number <= _MOST_NUMBERS:
            _write_shares(panel, shares)
        if number <= MOST_CLASSES:
            names = [safe(_short(name)) for name in classes]
            panel.set_xticks(range(number), names, rotation=90 if max(map(len, names)) > 3 else 0)
            panel.set_yticks(range(number), names)
        panel.set_xlabel("predicted class")
        panel.set_ylabel("true class")
        figure.colorbar(picture, label="% of the true class", shrink=0.8)
    return figure


def draw_reliability(found: Reliability) -> Figure:
    """Draw the share of right predictions against their confidence, and how often each confidence is given."""
    known = found.share > 0
    sure, right = found.confidence[known], found.accuracy[known]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 4.8), layout="constrained")
        panel, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
        panel.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (5, 2)))
        panel.vlines(sure, found.low[known], found.high[known], color=PALETTE[0], linewidth=1.2, alpha=0.6)
        panel.plot(sure, right, "o-", color=PALETTE[0], markersize=4.5)
        panel.set_ylabel("right (%)")
        panel.set_ylim(-0.02, 1.02)
        panel.set_xlim(0, 1)
        middle = (found.edges[1:] + found.edges[:-1]) / 2
        width = 0.92 * (found.edges[1] - found.edges[0])
        below.bar(middle, found.share, width=width, color=PALETTE[5])
        below.set_ylabel("given (%)")
        below.set_xlabel("confidence of the predicted class (%)")
        for axis in (panel.yaxis, below.yaxis, below.xaxis):
            axis.set_major_formatter(_PERCENT)
    return figure


def _write_shares(panel: Axes, shares: np.ndarray) -> None:
    for (row, column), share in np.ndenumerate(shares):
        if not np.isnan(share):
            text = "·" if share < 0.005 else f"{100 * share:.0f}"
            colour = ON_DARK if share > 0.6 else INK
            panel.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"
