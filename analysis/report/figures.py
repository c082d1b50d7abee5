"""The figures of a study, drawn without any global state: curves, best trials, heat maps, weights.

Every line has its own colour (Okabe and Ito's palette, safe for colour-blind readers), dash pattern and
marker, so that it can be distinguished in grey print too.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mixsweep.analysis.frames import plain, values_of
from mixsweep.analysis.inference.wording import axis_words, figure_text, metric_words, unit_of, value_label
from mixsweep.analysis.report.mosaic import mosaic
from mixsweep.core.store.files import write_bytes
from mixsweep.core.trainables.image.weights import kernel_pictures, token_pictures
from mixsweep.core.trainables.interface import Trainable, WeightPictures
from mixsweep.core.trainables.kinds import find_trainable

if TYPE_CHECKING:
    from torch import Tensor

if TYPE_CHECKING:
    from torch import Tensor

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
DASHES: tuple[Any, ...] = (
    "solid",
    (0, (5, 2)),
    (0, (1, 1.3)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (9, 3)),
    (0, (2, 4)),
    (0, (8, 2, 3, 2)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
MOST_LINES = len(PALETTE)

_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "mixsweep",
}
# A loss axis is cut if some value's losses exceed those of the median value by more than this factor.
_ROBUST_RATIO = 4.0


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
    with matplotlib.rc_context(_STYLE):
        kinds = (trainable or find_trainable()).panels
        columns = max(len(kind.metrics) for kind in kinds)
        figure = Figure(figsize=(7.6, 2.7 * len(kinds)), layout="constrained")
        panels = figure.subplots(len(kinds), columns, sharex=True, sharey="row", squeeze=False)
        for row, kind in zip(panels, kinds):
            metrics = tuple(kind.metrics.values())
            drawn = [[_line(frame, axis, value, metric) for value in values] for metric in metrics]
            for panel, metric, lines in zip(row, metrics, drawn):
                for index, line in enumerate(lines):
                    _draw_line(panel, line, index)
                panel.set_title(metric_words(metric))
            row[0].set_ylabel(kind.axis_label)
            if kind.is_fraction:
                row[0].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
            else:
                _cut_losses(row, drawn)
        for panel in panels[-1]:
            panel.set_xlabel("epoch")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axis:
            handles, labels = panels[0][0].get_legend_handles_labels()
            figure.legend(
                handles, labels, title=_safe(axis_words(axis)), loc="outside right upper", handlelength=3.6
            )
        if title:
            figure.suptitle(_safe(title), fontsize=11)
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
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.6, 3.1), layout="constrained")
        trainable = trainable or find_trainable()
        panels = figure.subplots(1, len(trainable.panels), sharex=True, squeeze=False)[0]
        for panel, kind in zip(panels, trainable.panels):
            for index, (label, metric) in enumerate(kind.metrics.items()):
                values = epochs[metric].to_numpy()
                line = _Line(label, epochs["epoch"].to_numpy(), values, values, values, False)
                _draw_line(panel, line, index)
            panel.set_xlabel("epoch")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.set_ylabel(kind.axis_label)
            if kind.is_fraction:
                panel.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", handlelength=3.6)
        tests = {name: epochs[name].iloc[-1] for name in trainable.reported_tests}
        tested = ", ".join(f"{metric_words(name)} {figure_text(name, test)}" for name, test in tests.items())
        if all(map(pd.isna, tests.values())):
            tested = f"not tested at epoch {epochs['epoch'].iloc[-1]}"
        figure.suptitle(_safe(f"{title or trial_id}: {tested}"), fontsize=11)
    return figure


def draw_heat(trials: pd.DataFrame, axes: tuple[str, str], metric: str, word: str = "final") -> Figure:
    """Draw the final metric over two axes: the mean over the completed trials of each pair of values.

    Args:
        trials: one row per trial of one part, from `analysis.load_trials`.
        axes: the fields of the rows and of the columns.
        metric: a metric that has a `final_` column.
        word: how its figures are called.
    """
    rows, columns = (values_of(trials, axis) for axis in axes)
    grid = np.full((len(rows), len(columns)), np.nan)
    counts = np.zeros(grid.shape, dtype=int)
    keys = [trials[axis].map(plain) for axis in axes]
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            cell = trials[(keys[0] == row) & (keys[1] == column)]
            finals = cell[f"final_{metric}"].dropna()
            counts[i, j] = len(finals)
            grid[i, j] = finals.mean() if len(finals) else np.nan
    scale = 100.0 if "accuracy" in metric else 1.0
    with matplotlib.rc_context(_STYLE | {"axes.grid": False}):
        size = (2.6 + 0.75 * len(columns), 1.5 + 0.55 * len(rows))
        figure = Figure(figsize=size, layout="constrained")
        panel = figure.subplots()
        colours = matplotlib.colormaps["cividis"].with_extremes(bad="#eeeeee")
        picture = panel.imshow(scale * grid, cmap=colours, aspect="auto")
        for (i, j), value in np.ndenumerate(grid):
            text = f"{scale * value:.1f}" if scale == 100 else f"{value:.3g}"
            dark = counts[i, j] and float(np.asarray(picture.norm(scale * value))) < 0.55
            panel.text(
                j,
                i,
                text if counts[i, j] else "–",
                ha="center",
                va="center",
                color="white" if dark else "black",
            )
        for axis, axis_values, along in zip(axes, (rows, columns), (panel.yaxis, panel.xaxis)):
            along.set_ticks(range(len(axis_values)), [_safe(value_label(axis, v)) for v in axis_values])
            along.set_label_text(_safe(axis_words(axis)))
        unit = "%" if scale == 100 else unit_of(metric)
        label = f"{word} {metric_words(metric)}"
        figure.colorbar(picture, label=f"{label} ({unit})" if unit else label)
    return figure


def draw_kernels(state_dict: Mapping[str, "Tensor"]) -> Figure:
    """Draw the first convolution's kernels side by side: standardised, colours averaged to grey.

    Raises:
        ValueError: the model has no convolution over colours.
    """
    kernels = kernel_pictures(state_dict)
    if kernels is None:
        raise ValueError("no convolution over three colours in this model")
    return draw_weights(kernels)


def draw_token_units(state_dict: Mapping[str, "Tensor"]) -> Figure:
    """Draw the units of the first token-mixing layer, each a picture over the patches, colours centred at 0.

    Raises:
        ValueError: the model has no token mixing, or its patches do not form a square.
    """
    units = token_pictures(state_dict)
    if units is None:
        raise ValueError("no token-mixing layer in this model")
    return draw_weights(units)


def draw_weights(found: WeightPictures) -> Figure:
    """Draw pictures of learned weights side by side."""
    # The gap's colour differs from the map's middle and ends, so that a picture's edge is visible.
    colours, gap = ("RdBu_r", "#333333") if found.signed else ("gray", "#c3d9ee")
    return _draw_mosaic(found.pictures, colours, gap, found.scale, found.title)


def save_figure(figure: Figure, stem: Path | str) -> list[Path]:
    """Write `stem.png` (150 dots an inch) and `stem.svg`; the same figure gives the same bytes."""
    paths = []
    with matplotlib.rc_context(_STYLE):
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            content = io.BytesIO()
            figure.savefig(content, format=suffix[1:], dpi=150, facecolor="white", metadata=metadata)
            path = Path(f"{stem}{suffix}")
            write_bytes(path, content.getvalue())
            figure.set_layout_engine("none")  # laid out once: same in both files, half the time
            paths.append(path)
    return paths


def _line(frame: pd.DataFrame, axis: str | None, value: Any, metric: str) -> _Line:
    mine = frame if axis is None else frame[frame[axis].map(plain).map(lambda v: v == value)]
    finite = mine[np.isfinite(mine[metric].to_numpy(dtype=float, na_value=math.nan))]
    by_epoch = finite.groupby("epoch")[metric]
    states = mine.drop_duplicates("trial_id")["state"]
    diverged = int((states == "diverged").sum())
    label = "all trials" if axis is None else value_label(axis, value)
    if states.empty:
        label += " (none yet)"
    elif diverged:
        label += " (diverged)" if diverged == len(states) else f" ({diverged} of {len(states)} diverged)"
    mean = by_epoch.mean()
    return _Line(
        label,
        mean.index.to_numpy(),
        mean.to_numpy(),
        by_epoch.min().to_numpy(),
        by_epoch.max().to_numpy(),
        diverged == len(states) > 0,
    )


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
        label=_safe(line.label),
    )
    panel.fill_between(line.epochs, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
    if line.diverged and len(line.epochs):
        panel.plot(line.epochs[-1], line.mean[-1], marker="x", markersize=9, color=colour, linestyle="none")


def _cut_losses(row: Sequence[Axes], drawn: Sequence[Sequence[_Line]]) -> None:
    """Cut the shared axis, with a note, so that one exploding value does not flatten all others."""
    peaks = [float(np.max(line.high)) for lines in drawn for line in lines if len(line.high)]
    if not peaks:
        return
    limit = _ROBUST_RATIO * float(np.quantile(peaks, 0.5, method="lower"))
    if max(peaks) <= limit:
        row[0].set_ylim(bottom=0)
        return
    row[0].set_ylim(0, 1.15 * max(peak for peak in peaks if peak <= limit))
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
            panel.annotate(_safe(f"axis cut:\n{words}"), fontsize=7.5, color="#444444", **where)


def _draw_mosaic(pictures: np.ndarray, colour_map: str, gap: str, label: str, title: str) -> Figure:
    canvas = mosaic(pictures)
    limit = float(np.abs(pictures).max()) or 1.0
    with matplotlib.rc_context(_STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(5.6, 5.0), layout="constrained")
        panel = figure.subplots()
        colours = matplotlib.colormaps[colour_map].with_extremes(bad=gap)
        picture = panel.imshow(canvas, cmap=colours, vmin=-limit, vmax=limit, interpolation="nearest")
        panel.set_axis_off()
        panel.set_title(title)
        figure.colorbar(picture, label=label, shrink=0.8)
    return figure


def _safe(text: str) -> str:
    """Text that matplotlib shows unchanged: `$` does not start a formula, nor a leading `_` hide a legend entry."""
    escaped = text.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped
