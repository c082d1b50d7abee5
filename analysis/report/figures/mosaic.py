"""Small pictures side by side, as one array."""

import math

import numpy as np


def mosaic(pictures: np.ndarray, columns: int | None = None, gap: int = 1) -> np.ndarray:
    """Pictures [n, height, width] side by side, row after row, with NaN between them and in empty cells.

    Args:
        columns: pictures per row; left out: near to a square, without empty cells if possible.

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
    """Columns of a mosaic without empty cells, up to twice as wide as high; else those of a square."""
    square = math.ceil(math.sqrt(count))
    return next((n for n in range(square, math.isqrt(2 * count) + 1) if count % n == 0), square)
