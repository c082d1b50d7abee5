"""Pictures of learned weights, as arrays; analysis.report.figures draws them."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

TOKEN_UNITS = "blocks.0.tokens.0.weight"


def first_kernels(state_dict: Mapping[str, "Tensor"]) -> np.ndarray | None:
    """The kernels of the first convolution over colours, as grey pictures.

    The layer's weights are standardised together (mean 0, standard deviation 1), so that kernels are
    comparable, then averaged over the three colours.

    Args:
        state_dict: a model's; its first weight of shape [kernels, 3, height, width] is taken.

    Returns:
        [kernels, height, width], or None where no convolution takes colours in pictures larger than a pixel.
    """
    for weight in state_dict.values():
        if weight.ndim == 4 and weight.shape[1] == 3 and weight.shape[2] > 1:
            values = weight.detach().double().cpu().numpy()
            spread = values.std()
            standardised = (values - values.mean()) / (spread if spread > 0 else 1.0)
            return standardised.mean(axis=1)
    return None


def token_units(state_dict: Mapping[str, "Tensor"]) -> np.ndarray | None:
    """The first linear layer of the first block's token-mixing MLP, each unit a picture over the patches.

    Returns:
        [units, side, side] with side = √patches, or None where the model has no such layer.

    Raises:
        ValueError: the patches do not form a square.
    """
    weight = state_dict.get(TOKEN_UNITS)
    if weight is None:
        return None
    units, patches = weight.shape
    side = math.isqrt(patches)
    if side * side != patches:
        raise ValueError(f"{TOKEN_UNITS} has {patches} patches, which form no square")
    return weight.detach().double().cpu().numpy().reshape(units, side, side)


def mosaic(pictures: np.ndarray, columns: int | None = None, gap: int = 1) -> np.ndarray:
    """Pictures [n, height, width] side by side, row after row, with NaN between them and where none is left.

    Args:
        columns: pictures a row; left out: as near to a square as leaves no gap, if that is near at all.

    Returns:
        [rows · (height + gap) + gap, columns · (width + gap) + gap].
    """
    count, height, width = pictures.shape
    columns = columns or _columns(count)
    rows = math.ceil(count / columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap), np.nan)
    for index, picture in enumerate(pictures):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = picture
    return canvas


def _columns(count: int) -> int:
    """Columns of a mosaic without empty places, up to twice as wide as high; else those of a square."""
    square = math.ceil(math.sqrt(count))
    return next((n for n in range(square, math.isqrt(2 * count) + 1) if count % n == 0), square)
