"""Figures hold what they should, can be read in grey, and come out the same byte for byte."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from mixsweep.analysis.frames import load, load_trials
from mixsweep.analysis.report.figures import (
    DASHES,
    MARKERS,
    MOST_LINES,
    PALETTE,
    draw_best,
    draw_curves,
    draw_heat,
    draw_kernels,
    draw_token_units,
    save_figure,
)
from mixsweep.analysis.report.figures.mosaic import mosaic
from mixsweep.core.models.build import build_model
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.core.trainables.image.weights import first_kernels, token_units
from tests.support.synthetic_store import SyntheticPart, learning_rates, patch_sizes, write_sweep


def labelled(panel):
    return [line for line in panel.get_lines() if not line.get_label().startswith("_")]


@pytest.fixture
def rates(tmp_path):
    return load(learning_rates(tmp_path / "learning-rates"))


def test_curves_have_four_panels_with_a_line_for_each_value(rates):
    figure = draw_curves(rates, "lr")
    assert [p.get_title() for p in figure.axes] == [
        "train loss",
        "valid loss",
        "train accuracy",
        "valid accuracy",
    ]
    for panel in figure.axes:
        assert len(labelled(panel)) == 5


def test_the_legend_names_the_values_in_their_natural_order(rates):
    (legend,) = draw_curves(rates, "lr").legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["1e-5", "1e-4", "1e-3", "1e-2", "1e-1 (diverged)"]
    assert legend.get_title().get_text() == "learning rate"


def test_axes_say_their_units(rates):
    panels = draw_curves(rates, "lr").axes
    assert panels[0].get_ylabel() == "loss (nats)"
    assert panels[2].get_ylabel() == "accuracy (%)"
    assert {panel.get_xlabel() for panel in panels[2:]} == {"epoch"}


def test_lines_are_told_apart_without_colour(rates):
    lines = labelled(draw_curves(rates, "lr").axes[0])
    assert len({str(line.get_linestyle()) + str(line._dash_pattern) for line in lines}) == len(lines)
    assert len({line.get_marker() for line in lines}) == len(lines)
    assert len(set(map(str, DASHES))) == len(set(MARKERS)) == len(set(PALETTE)) == MOST_LINES


def test_a_line_is_the_mean_over_seeds_and_the_band_their_extent(rates):
    line = labelled(draw_curves(rates, "lr").axes[3])[2]
    mine = rates[rates["lr"] == 1e-3].pivot(index="epoch", columns="replica", values="valid_accuracy")
    assert line.get_ydata() == pytest.approx(mine.mean(axis=1).to_numpy())
    band = draw_curves(rates, "lr").axes[3].collections[2].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(mine.to_numpy().max())


def test_an_exploding_loss_does_not_flatten_the_others(rates):
    panel = draw_curves(rates, "lr").axes[1]
    assert panel.get_ylim()[1] < 5
    assert [text.get_text() for text in panel.texts] == ["axis cut:\n1e-1 reaches 83.8"]


def test_no_axis_is_cut_where_nothing_explodes(tmp_path):
    figure = draw_curves(load(patch_sizes(tmp_path / "patch-sizes")), "patch_size")
    assert not any(panel.texts for panel in figure.axes)


def test_a_figure_of_a_running_sweep_is_drawn_with_what_is_there(tmp_path):
    states = {0.0: ["interrupted", "completed", "waiting"], 0.5: ["waiting"] * 3}
    part = SyntheticPart(name="d", space={"dropout": [0.0, 0.5]}, final={0.0: 0.6, 0.5: 0.7}, states=states)
    frame = load(write_sweep(tmp_path / "d", [part]))
    lines = labelled(draw_curves(frame, "dropout").axes[0])
    assert [len(line.get_xdata()) for line in lines] == [12]


def test_a_value_without_records_keeps_its_place_in_the_legend(rates):
    (legend,) = draw_curves(rates[rates["lr"] != 1e-4], "lr", [1e-5, 1e-4, 1e-3]).legends
    assert [text.get_text() for text in legend.get_texts()] == ["1e-5", "1e-4 (none yet)", "1e-3"]


def test_the_best_trial_shows_its_test_accuracy(rates):
    trial_id = rates.loc[rates["valid_accuracy"].idxmax(), "trial_id"]
    tested = rates.loc[rates["trial_id"] == trial_id, "test_accuracy"].dropna().item()
    figure = draw_best(rates, trial_id, "Best")
    assert figure.get_suptitle() == f"Best: test accuracy {100 * tested:.1f} %"
    assert [line.get_label() for line in labelled(figure.axes[0])] == ["train", "valid"]
    cut = draw_best(rates[rates["epoch"] <= 5], trial_id, "Best")
    assert cut.get_suptitle() == "Best: not tested at epoch 5"
    with pytest.raises(ValueError, match="no records"):
        draw_best(rates, "0" * 12)


def test_a_heat_map_holds_the_mean_of_each_pair_of_values(tmp_path):
    space = {"lr": [1e-3, 1e-2], "dropout": [0.0, 0.3, 0.6]}
    part = SyntheticPart(
        name="grid",
        space=space,
        final={(1e-3, 0.3): 0.8},
        states={(1e-2, 0.6): ["diverged"] * 3},
    )
    trials = load_trials(write_sweep(tmp_path / "grid", [part]))
    panel = draw_heat(trials, ("lr", "dropout"), "valid_accuracy").axes[0]
    grid = panel.images[0].get_array()
    cell = trials[(trials["lr"] == 1e-3) & (trials["dropout"] == 0.3)]
    assert grid.shape == (2, 3)
    assert grid[0, 1] == pytest.approx(100 * cell["final_valid_accuracy"].mean())
    assert [text.get_text() for text in panel.texts][-1] == "–"


def test_kernels_are_standardised_and_grey():
    state = build_model(ImageConfig(model="resnet18"), 10).state_dict()
    kernels = first_kernels(state)
    weight = next(w for w in state.values() if w.ndim == 4).double().numpy()
    assert kernels.shape == (64, 3, 3)
    assert kernels[5, 1, 2] == pytest.approx(((weight - weight.mean()) / weight.std())[5, :, 1, 2].mean())
    canvas = draw_kernels(state).axes[0].images[0].get_array()
    assert canvas.shape == (8 * 4 + 1, 8 * 4 + 1)


def test_token_units_are_pictures_over_the_patches():
    state = build_model(ImageConfig(model="mixer", embed_dim=32, blocks=1), 10).state_dict()
    units = token_units(state)
    assert units.shape == (16, 8, 8)
    assert units[3, 1, 2] == pytest.approx(float(state["blocks.0.tokens.0.weight"][3, 8 + 2]))
    picture = draw_token_units(state).axes[0].images[0]
    assert picture.norm.vmin == -picture.norm.vmax


def test_models_without_such_weights_are_refused():
    state = {"0.weight": torch.zeros(4, 3072)}
    with pytest.raises(ValueError, match="no convolution"):
        draw_kernels(state)
    with pytest.raises(ValueError, match="no token-mixing"):
        draw_token_units(state)
    with pytest.raises(ValueError, match="do not form a square"):
        token_units({"blocks.0.tokens.0.weight": torch.zeros(4, 12)})


def test_a_mosaic_keeps_every_picture_whole():
    pictures = np.arange(5 * 2 * 3).reshape(5, 2, 3).astype(float)
    canvas = mosaic(pictures)
    assert canvas.shape == (2 * 3 + 1, 3 * 4 + 1)
    assert np.array_equal(canvas[4:6, 5:8], pictures[4])
    assert np.isnan(canvas).sum() == canvas.size - pictures.size


def test_files_are_the_same_byte_for_byte(rates, tmp_path):
    first = save_figure(draw_curves(rates, "lr"), tmp_path / "first")
    second = save_figure(draw_curves(rates, "lr"), tmp_path / "second")
    assert [path.suffix for path in first] == [".png", ".svg"]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_signs_that_mean_something_to_matplotlib_are_shown_as_they_are(rates, tmp_path):
    figure = draw_best(rates, rates["trial_id"].iloc[0], "costs $5_{x} and $6")
    save_figure(figure, tmp_path / "dollars")
    assert isinstance(figure, Figure)
    assert figure.get_suptitle().startswith(r"costs \$5_{x} and \$6")
