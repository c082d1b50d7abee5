"""A figure in two files and on the page."""

import base64
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from mixsweep.analysis.report.figures.style import save_figure, themed_svg


@dataclass(frozen=True)
class Picture:
    """A figure on the page and in two files.

    Args:
        name: of the files.
        caption: below it.
        alt: what it shows, with its numbers, for readers who do not see it.
        data_uri: its SVG, in the colours of the page.
        width: in inches.
    """

    name: str
    caption: str
    alt: str
    data_uri: str
    width: float


def picture(figure: Figure, name: str, caption: str, alt: str, out: Path) -> Picture:
    """Write a figure's files and return it for the page.

    Args:
        figure: it is laid out once, for both files.
        name: of its files, without their suffix.
        caption: below it.
        alt: what it shows, with its numbers.
        out: the report's folder.
    """
    _, svg = save_figure(figure, out / name)
    content = themed_svg(svg.read_text(encoding="utf-8"))
    uri = "data:image/svg+xml;base64," + base64.b64encode(content.encode()).decode()
    return Picture(name, caption, alt, uri, float(figure.get_figwidth()))
