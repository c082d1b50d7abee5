"""A figure that a notebook shows by itself, with any backend and without pyplot."""

import io
from typing import Any

from matplotlib import figure

_DPI = 100  # of a notebook's cell


class Figure(figure.Figure):
    """Matplotlib's figure, which is a picture where it is the value of a notebook's cell."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        options: dict[str, Any] = {"bbox_inches": "tight"} if self.get_layout_engine() is None else {}
        self.savefig(content, format="png", dpi=_DPI, **options)
        return content.getvalue()
