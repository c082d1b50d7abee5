"""Pictures of the learned weights of the built-in image trainer's models: convolution kernels, token-mixing units."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mixsweep.core.trainables.interface import WeightPictures

if TYPE_CHECKING:
    from torch import Tensor

_MOST_CHANNELS = 4  # of an image; a convolution over more is not over an image's

TOKEN_UNITS = "blocks.0.tokens.0.weight"


def first_kernels(state_dict: Mapping[str, "Tensor"]) -> np.ndarray | None:
    """The kernels of the first convolution over the images' channels, as grey pictures.

    The layer's weights are standardised together (mean 0, standard deviation 1), so that kernels are
    comparable, then averaged over the channels.

    Args:
        state_dict: a model's; its first weight of shape [kernels, channels, height, width] is taken, if it is of at
            most four channels.

    Returns:
        [kernels, height, width], or None if the model has no convolution over channels larger than one pixel.
    """
    kernels = [weight for weight in state_dict.values() if weight.ndim == 4]
    channels = kernels[0].shape[1] if kernels else 0
    for weight in kernels if channels <= _MOST_CHANNELS else ():
        if weight.shape[1] == channels and weight.shape[2] > 1:
            values = weight.detach().double().cpu().numpy()
            spread = values.std()
            standardised = (values - values.mean()) / (spread if spread > 0 else 1.0)
            return standardised.mean(axis=1)
    return None


def token_units(state_dict: Mapping[str, "Tensor"]) -> np.ndarray | None:
    """The first linear layer of the first block's token-mixing MLP, each unit a picture over the patches.

    Returns:
        [units, side, side] with side = √patches, or None if the model has no such layer.

    Raises:
        ValueError: the patches do not form a square.
    """
    weight = state_dict.get(TOKEN_UNITS)
    if weight is None:
        return None
    units, patches = weight.shape
    side = math.isqrt(patches)
    if side * side != patches:
        raise ValueError(f"{TOKEN_UNITS} has {patches} patches, which do not form a square")
    return weight.detach().double().cpu().numpy().reshape(units, side, side)


def kernel_pictures(state_dict: Mapping[str, "Tensor"]) -> WeightPictures | None:
    """The first convolution's kernels as a report shows them; None as for first_kernels."""
    kernels = first_kernels(state_dict)
    if kernels is None:
        return None
    return WeightPictures(
        name="kernels",
        title=f"{len(kernels)} kernels of the first convolution",
        caption="the kernels of the first convolution, weights standardised together, colour channels averaged "
        "to grey.",
        scale="standardised weight, mean over colours",
        signed=False,
        pictures=kernels,
    )


def token_pictures(state_dict: Mapping[str, "Tensor"]) -> WeightPictures | None:
    """The units of the first token-mixing layer as a report shows them; None as for token_units.

    None also where the patches form no square: a state does not tell the shape of its images.
    """
    try:
        units = token_units(state_dict)
    except ValueError:
        return None
    if units is None:
        return None
    side = units.shape[1]
    return WeightPictures(
        name="token-units",
        title=f"{len(units)} units of the first token-mixing layer over {side}×{side} patches",
        caption="the first linear layer of the token-mixing MLP of the first block, each unit a picture over the "
        "image's patches; colours are centred at 0.",
        scale="weight",
        signed=True,
        pictures=units,
    )
