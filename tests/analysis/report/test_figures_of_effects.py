"""Figures of effects and of several axes, and the importance of axes, hold what they should."""

import math
from pathlib import Path

import numpy as np
import pytest

from mixsweep.analysis.frames import load, load_trials, parts
from mixsweep.analysis.inference.statistics import Interval
from mixsweep.analysis.report.figures import (
    draw_bands,
    draw_cost,
    draw_finals,
    draw_forest,
    draw_parallel,
    draw_sensitivity,
)
from mixsweep.analysis.report.figures.effects import Effect, Finals
from mixsweep.analysis.report.figures.importance import importance
from mixsweep.analysis.report.figures.spaces import MOST_COORDINATES
from tests.support.synthetic_store import SyntheticPart, patch_sizes, write_sweep

NONE = Interval(math.nan, math.nan, math.nan, 0)


def finals(*places: float) -> list[Finals]:
    return [
        Finals(
            f"{at:g}",
            Interval(0.8, 0.7, 0.9, 3),
            (0.75, 0.8, 0.85),
            cost=Interval(at, 0.9 * at, 1.1 * at, 3),
            at=at,
        )
        for at in places
    ]


def test_a_forest_has_a_row_a_difference_in_points_and_a_line_at_none() -> None:
    effects = [Effect("a − b", Interval(0.03, 0.01, 0.05, 3), 1), Effect("a − c", NONE, None, "c diverged")]
    (panel,) = draw_forest(effects, "valid_accuracy", "max").axes
    mean, ends, zero = panel.get_lines()
    assert mean.get_xdata() == pytest.approx([3.0])
    assert ends.get_xdata() == pytest.approx([1.0, 5.0])
    assert list(zero.get_xdata()) == [0.0, 0.0]
    assert [text.get_text() for text in panel.get_yticklabels()] == ["a − b", "a − c"]
    assert panel.texts[0].get_text() == " c diverged"
    assert panel.get_xlabel() == "difference in valid accuracy (points); right: better"


def test_a_long_note_does_not_squeeze_a_forest() -> None:
    effects = [
        Effect("a − b", Interval(0.03, 0.01, 0.05, 3), 1),
        Effect("a − c", NONE, None, "c diverged " * 20),
    ]
    figure = draw_forest(effects, "valid_accuracy", "max")
    figure.draw_without_rendering()
    (panel,) = figure.axes
    assert panel.get_position().width > 0.7
    assert len(panel.texts[0].get_text()) < 50


def test_final_values_are_dots_with_an_interval() -> None:
    (panel,) = draw_finals(finals(1, 2), "patch size", "valid_accuracy").axes
    dots, mean, ends = panel.get_lines()[:3]
    assert dots.get_xdata() == pytest.approx([0.75, 0.8, 0.85])
    assert mean.get_xdata() == pytest.approx([0.8])
    assert ends.get_xdata() == pytest.approx([0.7, 0.9])


@pytest.mark.parametrize(
    ("places", "scale"),
    [
        ((1e-5, 1e-4, 1e-3), "log"),
        ((2, 4, 8, 16), "log"),
        ((0.1, 0.4, 0.7, 1.0), "linear"),
        ((0, 1, 100), "linear"),
    ],
)
def test_an_axis_of_values_that_grow_by_factors_is_logarithmic(places: tuple[float, ...], scale: str) -> None:
    (panel,) = draw_sensitivity(finals(*places), "lr", "valid_accuracy").axes
    assert panel.get_xscale() == scale
    assert [text.get_text() for text in panel.get_xticklabels()] == [f"{at:g}" for at in places]


def test_cost_has_intervals_both_ways() -> None:
    (panel,) = draw_cost(finals(1.0, 3.0), "seconds", "valid_accuracy", "patch size").axes
    across, up = panel.containers[0].lines[2]
    assert across.get_segments()[0][:, 0] == pytest.approx([0.9, 1.1])
    assert up.get_segments()[0][:, 1] == pytest.approx([0.7, 0.9])


def test_bands_hold_half_and_nine_tenths_of_the_trials(tmp_path: Path) -> None:
    frame = load(patch_sizes(tmp_path / "sizes", epochs=3))
    panel = draw_bands(frame).axes[3]
    last = frame.loc[frame["epoch"] == 3, "valid_accuracy"]
    assert panel.get_lines()[0].get_ydata()[-1] == pytest.approx(last.median())
    wide = panel.collections[0].get_paths()[0].vertices[:, 1]
    assert wide.max() >= last.quantile(0.95)
    assert wide.max() < last.max()


def test_parallel_coordinates_of_very_many_trials_are_thinned_out(tmp_path: Path) -> None:
    space = {"lr": [round(1e-4 * 1.1**i, 9) for i in range(20)], "dropout": [i / 20 for i in range(19)]}
    part = SyntheticPart(name="s", base={"hidden": (8,)}, space=space, final={})
    trials = load_trials(write_sweep(tmp_path / "s", [part], seeds=1, epochs=1))
    panel = draw_parallel(trials, ("lr", "dropout"), "valid_accuracy", "max").axes[0]
    (lines,) = panel.collections
    drawn = lines.get_segments()
    assert MOST_COORDINATES / 2 < len(drawn) <= MOST_COORDINATES < len(trials)
    assert drawn[-1][-1, 1] == 1.0  # the best comes last, on top


def test_the_axis_that_moves_the_metric_is_important_and_the_other_is_not(tmp_path: Path) -> None:
    space = {"lr": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2], "dropout": [0.0, 0.1, 0.2, 0.3, 0.4]}
    final = {(lr, d): 0.3 + 0.1 * n for n, lr in enumerate(space["lr"]) for d in space["dropout"]}
    part = SyntheticPart(name="s", base={"hidden": (8,)}, space=space, final=final, noise=0.001)
    store = write_sweep(tmp_path / "s", [part], seeds=2, epochs=2)
    first, second = importance(parts(store)[0], load_trials(store))
    assert (first.axis, second.axis) == ("lr", "dropout")
    assert 0.99 < first.low <= first.share <= first.high <= 1.0
    assert 0.0 <= second.share < 0.05
    assert second.low <= second.share


def test_importance_is_that_of_an_analysis_of_variance(tmp_path: Path) -> None:
    part = SyntheticPart(
        name="s", space={"lr": [1e-3, 1e-2], "dropout": [0.0, 0.5]}, final={(1e-3, 0.0): 0.9}
    )
    store = write_sweep(tmp_path / "s", [part], seeds=3, epochs=2)
    trials = load_trials(store)
    found = {one.axis: one for one in importance(parts(store)[0], trials)}
    finals_ = trials["final_valid_accuracy"]
    whole = ((finals_ - finals_.mean()) ** 2).sum()
    within = sum(((own - own.mean()) ** 2).sum() for _, own in finals_.groupby(trials["lr"]))
    expected = (whole - within - within / (len(finals_) - 2)) / whole
    assert found["lr"].share == pytest.approx(expected)
    assert np.isnan(found["lr"].low)
