"""Train-time augmentation of a whole batch at once, on the images' device.

Crop, resize, padding and flip are linear and separable: each is one small matrix along the rows and one along
the columns, looked up in a table by the image's box, so that an augmented image is `Wy @ image @ Wxᵀ`.

Shapes: B batch, C channels, H height, W width, S height or width.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

PADDING = 4  # flip_crop, pixels
SCALE = (0.8, 1.0)  # flip_resized_crop: area of the crop, as a fraction of the image's
RATIO = (0.9, 1.1)  # flip_resized_crop: width over height of the crop
_TRIES = 10
_BATCHES_AT_ONCE = 16
_LARGEST_TABLE = 64  # pixels of a side: the matrices of larger images are computed when they are needed


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
    kind: str,
    batches: int,
    count: int,
    generator: torch.Generator,
    device: torch.device,
    size: tuple[int, int] = (32, 32),
) -> Iterator[Crops | None]:
    """Draw crops for `batches` batches of `count` images, on the device; None for kind `none`.

    Args:
        size: height and width of an image.

    All are drawn on the CPU, so that they are the same everywhere, and for several batches at once: a draw and
    a copy for each batch would take a tenth of a small model's time.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind == "none":
        yield from [None] * batches
        return
    for first in range(0, batches, _BATCHES_AT_ONCE):
        boxes = sample(kind, min(_BATCHES_AT_ONCE, batches - first), count, generator, size)
        crops = to_crops(boxes, device, size)
        yield from map(Crops, crops.rows.split(count), crops.columns.split(count))


def prepare(
    images_BCHW: Tensor, mean: Sequence[float], std: Sequence[float], crops: Crops | None = None
) -> Tensor:
    """Augment (if there are crops) and normalise images [B, C, H, W], 0 … 255, into float32 of that shape.

    Args:
        mean, std: of the pixels of each channel, as fractions of 255.
    """
    scale_C11, shift_C11 = _normalisation(tuple(mean), tuple(std), images_BCHW.device)
    if crops is None:
        return images_BCHW.mul(scale_C11).add_(shift_C11)
    return apply(images_BCHW, crops).mul_(scale_C11).add_(shift_C11)


def sample(
    kind: str, batches: int, count: int, generator: torch.Generator, size: tuple[int, int] = (32, 32)
) -> Boxes:
    """Draw the boxes of `batches` batches of `count` images, one after the other, on the CPU.

    The boxes are the same as from separate draws for each batch.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind == "flip_crop":
        uniform_3B = _uniform(3, batches, count, generator)
        top, left = (uniform_3B[:2] * (2 * PADDING + 1)).long() - PADDING
        height, width = (torch.full_like(top, side) for side in size)
        return Boxes(top, left, height, width, uniform_3B[2] < 0.5)
    if kind == "flip_resized_crop":
        return _resized(_uniform(2 * _TRIES + 3, batches, count, generator), *size)
    raise ValueError(f"augment = {kind!r} is not known; allowed: none, flip_crop, flip_resized_crop")


def to_crops(boxes: Boxes, device: torch.device, size: tuple[int, int] = (32, 32)) -> Crops:
    """The matrices of these boxes."""
    axes = _axes(*size)
    rows = axes[0].number(boxes.top, boxes.height, 0)
    columns = axes[1].number(boxes.left, boxes.width, boxes.flip)
    return Crops(rows.to(device), columns.to(device))


def apply(images_BCHW: Tensor, crops: Crops) -> Tensor:
    """Crop the images, resize the crops bilinearly to the full size, and flip those marked so.

    Takes uint8 or float images [B, C, H, W], grey levels; returns float32 of the same shape and range.
    """
    B, C, H, W = images_BCHW.shape
    rows, columns = _axes(H, W)
    Wx_BWS = columns.matrices(crops.columns).mT
    Wy_BSH = rows.matrices(crops.rows)
    x_BCHS = torch.bmm(images_BCHW.float().reshape(B, C * H, W), Wx_BWS).view(B, C, H, W)
    return torch.matmul(Wy_BSH[:, None], x_BCHS)


def _uniform(draws: int, batches: int, count: int, generator: torch.Generator) -> Tensor:
    """Numbers in [0, 1), float64 [draws, batches · count]: a fixed number of draws per image."""
    uniform = torch.rand(batches, draws, count, generator=generator, dtype=torch.float64)
    return uniform.transpose(0, 1).reshape(draws, batches * count)


def _resized(uniform: Tensor, full_height: int, full_width: int) -> Boxes:
    """As torchvision's RandomResizedCrop.get_params: up to ten tries, else the largest box of an allowed ratio."""
    area_TB = full_height * full_width * (SCALE[0] + (SCALE[1] - SCALE[0]) * uniform[:_TRIES])
    low, high = (math.log(r) for r in RATIO)
    ratio_TB = torch.exp(low + (high - low) * uniform[_TRIES : 2 * _TRIES])
    width_TB = torch.sqrt(area_TB * ratio_TB).round().long()
    height_TB = torch.sqrt(area_TB / ratio_TB).round().long()
    fits_TB = (width_TB <= full_width) & (height_TB <= full_height)
    first_1B = fits_TB.int().argmax(0, keepdim=True)
    fits_B = fits_TB.any(0)
    largest_height = min(full_height, round(full_width / RATIO[0]))
    largest_width = min(full_width, round(full_height * RATIO[1]))
    width = torch.where(fits_B, width_TB.gather(0, first_1B)[0], largest_width)
    height = torch.where(fits_B, height_TB.gather(0, first_1B)[0], largest_height)
    top = torch.where(fits_B, uniform[-3], 0.5) * (full_height - height + 1)
    left = torch.where(fits_B, uniform[-2], 0.5) * (full_width - width + 1)
    return Boxes(top.long(), left.long(), height, width, uniform[-1] < 0.5)


@dataclass(frozen=True)
class _Axis:
    """The crops along one axis, and their matrices [S, S].

    Args:
        side: S, pixels.
        least: the smallest crop, pixels.
    """

    side: int
    least: int

    @property
    def _starts(self) -> int:
        """How many pixels a crop may begin at: from PADDING before the image on."""
        return PADDING + max(PADDING, self.side - self.least) + 1

    def number(self, start: Tensor, size: Tensor, flip: Tensor | int) -> Tensor:
        """The number of each crop, int64 [B]."""
        return ((size - self.least) * self._starts + start + PADDING) * 2 + flip

    def matrices(self, numbers_B: Tensor) -> Tensor:
        """The matrices [B, S, S] of these crops, float32."""
        if self.side <= _LARGEST_TABLE:
            return _table(self, numbers_B.device).index_select(0, numbers_B)
        return self.compute(numbers_B)

    def compute(self, numbers_B: Tensor) -> Tensor:
        """The matrices, computed: bilinear weights that make S pixels of a crop; zeros beyond the image."""
        flip = numbers_B % 2 == 1
        start_B11 = (numbers_B // 2 % self._starts - PADDING).view(-1, 1, 1)
        size_B11 = (numbers_B // 2 // self._starts + self.least).view(-1, 1, 1)
        pixel_S = torch.arange(self.side, device=numbers_B.device, dtype=torch.float64)
        target_BS1 = torch.where(flip[:, None, None], self.side - 1 - pixel_S[:, None], pixel_S[:, None])
        # Centres of the target pixels, in pixels of the crop; past its outer centres the crop's edge is repeated.
        centre_BS1 = ((target_BS1 + 0.5) * size_B11 / self.side - 0.5).clamp(min=0).minimum(size_B11 - 1)
        in_crop_B1S = pixel_S - start_B11
        weights_BSS = (1 - (centre_BS1 - in_crop_B1S).abs()).clamp(min=0)
        return weights_BSS.float()


def _axes(height: int, width: int) -> tuple[_Axis, _Axis]:
    """The axes of images of this size, along the rows and along the columns."""
    if height != width:
        return _Axis(height, 1), _Axis(width, 1)
    axis = _Axis(height, round(math.sqrt(height**2 * SCALE[0] * RATIO[0])))
    return axis, axis


@cache
def _table(axis: _Axis, device: torch.device) -> Tensor:
    """The matrices of every crop along an axis, in the order of their numbers."""
    count = (axis.side - axis.least + 1) * axis._starts * 2
    return torch.cat([axis.compute(numbers) for numbers in torch.arange(count).split(256)]).to(device)


@cache
def _normalisation(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Scale and shift [C, 1, 1] with `pixel · scale + shift = (pixel / 255 − mean) / std`."""
    mean_C11 = torch.tensor(mean, dtype=torch.float64).view(-1, 1, 1)
    std_C11 = torch.tensor(std, dtype=torch.float64).view(-1, 1, 1)
    return (1 / (255 * std_C11)).float().to(device), (-mean_C11 / std_C11).float().to(device)
