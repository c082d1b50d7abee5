"""Pictures of learned weights."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib
import numpy as np

from mixsweep.analysis.report.figures.mosaic import mosaic
from mixsweep.analysis.report.figures.shown import Figure
from mixsweep.analysis.report.figures.style import STYLE
from mixsweep.core.trainables.image.weights import kernel_pictures, token_pictures
from mixsweep.core.trainables.interface import WeightPictures

if TYPE_CHECKING:
    from torch import Tensor


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
    canvas = mosaic(found.pictures)
    limit = float(np.abs(found.pictures).max()) or 1.0
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(5.6, 5.0), layout="constrained")
        panel = figure.subplots()
        mapped = matplotlib.colormaps[colours].with_extremes(bad=gap)
        picture = panel.imshow(canvas, cmap=mapped, vmin=-limit, vmax=limit, interpolation="nearest")
        panel.set_axis_off()
        panel.set_title(found.title)
        figure.colorbar(picture, label=found.scale, shrink=0.8)
    return figure
