"""Train-time augmentation of a whole batch at once, on the images' device.

Crop, resize, padding and flip are linear and separable: each is one small matrix along the rows and one along
the columns, looked up in a table by the image's box, so that an augmented image is `Wy @ image @ Wxᵀ`.

Shapes: B batch, C channels, H height, W width, S side of an image.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

SIDE = 32
PADDING = 4  # flip_crop, pixels
SCALE = (0.8, 1.0)  # flip_resized_crop: area of the crop, as a fraction of the image's
RATIO = (0.9, 1.1)  # flip_resized_crop: width over height of the crop
_TRIES = 10
_BATCHES_AT_ONCE = 16


@dataclass(frozen=True)
class Boxes:
    """A crop for each image, in whole pixels, int64 [B], and whether it is mirrored, bool [B].

    `top` and `left` are negative where the crop begins in the padding.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor


@dataclass(frozen=True)
class Crops:
    """For each image its two matrices in the table of crops, along the rows and the columns: int64 [B]."""

    rows: Tensor
    columns: Tensor


def draw_crops(
    kind: str, batches: int, count: int, generator: torch.Generator, device: torch.device
) -> Iterator[Crops | None]:
    """Draw crops for `batches` batches of `count` images, on the device; None for kind `none`.

    All are drawn on the CPU, so that they are the same everywhere, and for several batches at once: a draw and
    a copy for each batch would take a tenth of a small model's time.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind == "none":
        yield from [None] * batches
        return
    for first in range(0, batches, _BATCHES_AT_ONCE):
        boxes = sample(kind, min(_BATCHES_AT_ONCE, batches - first), count, generator)
        crops = to_crops(boxes, device)
        yield from map(Crops, crops.rows.split(count), crops.columns.split(count))


def prepare(
    images_BCHW: Tensor, mean: Sequence[float], std: Sequence[float], crops: Crops | None = None
) -> Tensor:
    """Augment (if there are crops) and normalise uint8 images [B, 3, 32, 32] into float32 of that shape.

    Args:
        mean, std: of the pixels of each channel, as fractions of 255.
    """
    scale_C11, shift_C11 = _normalisation(tuple(mean), tuple(std), images_BCHW.device)
    if crops is None:
        return images_BCHW.mul(scale_C11).add_(shift_C11)
    return apply(images_BCHW, crops).mul_(scale_C11).add_(shift_C11)


def sample(kind: str, batches: int, count: int, generator: torch.Generator) -> Boxes:
    """Draw the boxes of `batches` batches of `count` images, one after the other, on the CPU.

    The boxes are the same as from separate draws for each batch.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind == "flip_crop":
        uniform_3B = _uniform(3, batches, count, generator)
        top, left = (uniform_3B[:2] * (2 * PADDING + 1)).long() - PADDING
        side = torch.full_like(top, SIDE)
        return Boxes(top, left, side, side, uniform_3B[2] < 0.5)
    if kind == "flip_resized_crop":
        return _resized(_uniform(2 * _TRIES + 3, batches, count, generator))
    raise ValueError(f"augment = {kind!r} is not known; allowed: none, flip_crop, flip_resized_crop")


def to_crops(boxes: Boxes, device: torch.device) -> Crops:
    """The matrices of these boxes."""
    rows = _row_of_table(boxes.top, boxes.height, 0)
    columns = _row_of_table(boxes.left, boxes.width, boxes.flip)
    return Crops(rows.to(device), columns.to(device))


def apply(images_BCHW: Tensor, crops: Crops) -> Tensor:
    """Crop the images, resize the crops bilinearly to the full side, and flip those marked so.

    Takes uint8 or float images [B, C, 32, 32], grey levels; returns float32 of the same shape and range.
    """
    B, C, H, W = images_BCHW.shape
    table = _table(images_BCHW.device)
    Wx_BWS = table.index_select(0, crops.columns).mT
    Wy_BSH = table.index_select(0, crops.rows)
    x_BCHS = torch.bmm(images_BCHW.float().reshape(B, C * H, W), Wx_BWS).view(B, C, H, W)
    return torch.matmul(Wy_BSH[:, None], x_BCHS)


def _uniform(draws: int, batches: int, count: int, generator: torch.Generator) -> Tensor:
    """Numbers in [0, 1), float64 [draws, batches · count]: a fixed number of draws per image."""
    uniform = torch.rand(batches, draws, count, generator=generator, dtype=torch.float64)
    return uniform.transpose(0, 1).reshape(draws, batches * count)


def _resized(uniform: Tensor) -> Boxes:
    """As torchvision's RandomResizedCrop.get_params: up to ten tries, else the whole (square) image."""
    area_TB = SIDE**2 * (SCALE[0] + (SCALE[1] - SCALE[0]) * uniform[:_TRIES])
    low, high = (math.log(r) for r in RATIO)
    ratio_TB = torch.exp(low + (high - low) * uniform[_TRIES : 2 * _TRIES])
    width_TB = torch.sqrt(area_TB * ratio_TB).round().long()
    height_TB = torch.sqrt(area_TB / ratio_TB).round().long()
    fits_TB = (width_TB <= SIDE) & (height_TB <= SIDE)
    first_1B = fits_TB.int().argmax(0, keepdim=True)
    fits_B = fits_TB.any(0)
    width = torch.where(fits_B, width_TB.gather(0, first_1B)[0], SIDE)
    height = torch.where(fits_B, height_TB.gather(0, first_1B)[0], SIDE)
    top = (uniform[-3] * (SIDE - height + 1)).long()
    left = (uniform[-2] * (SIDE - width + 1)).long()
    return Boxes(top, left, height, width, uniform[-1] < 0.5)


# Smallest and largest side of a crop, and how far it may begin outside the image.
_MIN_SIZE = round(math.sqrt(SIDE**2 * SCALE[0] * RATIO[0]))
_SIZES = SIDE - _MIN_SIZE + 1
_STARTS = PADDING + max(PADDING, SIDE - _MIN_SIZE) + 1


def _row_of_table(start: Tensor, size: Tensor, flip: Tensor | int) -> Tensor:
    return ((size - _MIN_SIZE) * _STARTS + start + PADDING) * 2 + flip


@cache
def _table(device: torch.device) -> Tensor:
    """The matrices [S, S] of every crop along one axis, of float32, in the order of _row_of_table."""
    matrices = [
        matrix
        for size in range(_MIN_SIZE, SIDE + 1)
        for start in range(-PADDING, _STARTS - PADDING)
        for matrix in (_crop_matrix(start, size), _crop_matrix(start, size).flip(0))
    ]
    return torch.stack(matrices).float().to(device)


def _crop_matrix(start: int, size: int) -> Tensor:
    """Bilinear weights [S, S] that make S pixels of the `size` from `start` on; zeros beyond the image."""
    # Centres of the target pixels, in pixels of the crop; past its outer centres the crop's edge is repeated.
    centre = ((torch.arange(SIDE, dtype=torch.float64) + 0.5) * size / SIDE - 0.5).clamp(0, size - 1)
    distance = (centre[:, None] - torch.arange(size)).abs()
    weights = torch.zeros(SIDE, size + SIDE + 2 * PADDING, dtype=torch.float64)
    weights[:, start + PADDING : start + PADDING + size] = (1 - distance).clamp(min=0)
    return weights[:, PADDING : PADDING + SIDE]


@cache
def _normalisation(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Scale and shift [C, 1, 1] with `pixel · scale + shift = (pixel / 255 − mean) / std`."""
    mean_C11 = torch.tensor(mean, dtype=torch.float64).view(-1, 1, 1)
    std_C11 = torch.tensor(std, dtype=torch.float64).view(-1, 1, 1)
    return (1 / (255 * std_C11)).float().to(device), (-mean_C11 / std_C11).float().to(device)
