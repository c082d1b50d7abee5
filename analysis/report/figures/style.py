"""What all figures share: colours, dash patterns, markers, and how a figure becomes files.

Every line has its own colour (Okabe and Ito's palette, safe for colour-blind readers), dash pattern and
marker, so that it can be distinguished in grey print too.
"""

import io
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from mixsweep.core.store.files import write_bytes

PAPER, INK, SOFT, GRID, EMPTY = "#ffffff", "#1c2024", "#5c6570", "#dddddd", "#eeeeee"
ON_LIGHT, ON_DARK = "#010101", "#fefefe"  # text on a coloured cell, the same in a light and a dark page

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", INK, "#7F7F7F")
DASHES: tuple[Any, ...] = (
    "solid",
    (0, (5, 2)),
    (0, (1, 1.3)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (9, 3)),
    (0, (2, 4)),
    (0, (8, 2, 3, 2)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
MOST_LINES = len(PALETTE)

# A page's colours in dark mode, by those of the files.
DARK = {
    INK: "#e6e9ec",
    SOFT: "#a3adb8",
    GRID: "#343b43",
    EMPTY: "#2b3036",
    "#0072b2": "#4fa8de",
    "#d55e00": "#f0813a",
    "#009e73": "#2fc397",
    "#cc79a7": "#e09cc2",
    "#e69f00": "#f0b53c",
    "#56b4e9": "#8fd0f5",
    "#7f7f7f": "#a6a6a6",
}

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": INK,
    "axes.titlesize": 9.5,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "mixsweep",
}

# An axis is logarithmic where its greatest number is at least so many times its least one.
LOG_RATIO = 20.0


def save_figure(figure: Figure, stem: Path | str) -> list[Path]:
    """Write `stem.png` (150 dots an inch) and `stem.svg`; the same figure gives the same bytes."""
    paths = []
    with matplotlib.rc_context(STYLE):
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            content = io.BytesIO()
            figure.savefig(content, format=suffix[1:], dpi=150, facecolor=PAPER, metadata=metadata)
            path = Path(f"{stem}{suffix}")
            write_bytes(path, content.getvalue())
            figure.set_layout_engine("none")  # laid out once: same in both files, half the time
            paths.append(path)
    return paths


def themed_svg(svg: str) -> str:
    """A figure's SVG for a page: without a background, and in the dark mode's colours where the page is dark."""
    svg = svg.replace(f": {PAPER}", ": none")
    for number, light in enumerate(DARK):
        svg = svg.replace(f": {light}", f": var(--c{number})")
    light_rules, dark_rules = (
        "".join(f"--c{number}:{colour};" for number, colour in enumerate(colours))
        for colours in (DARK.keys(), DARK.values())
    )
    rules = f":root{{{light_rules}}}@media (prefers-color-scheme: dark){{:root{{{dark_rules}}}}}"
    return svg.replace("<defs>", f"<style>{rules}</style>\n <defs>", 1)


def is_fraction(metric: str) -> bool:
    """Whether a metric is shown in percent."""
    return "accuracy" in metric


def as_percent(axis: Axis, decimals: int | None = None) -> None:
    """Label an axis of fractions in percent, without a sign at each tick."""
    axis.set_major_formatter(PercentFormatter(1.0, decimals=decimals, symbol=""))


def log_if_wide(panel: Axes, which: str, low: float, high: float, ratio: float = LOG_RATIO) -> bool:
    """Make an axis logarithmic, with plain numbers at its ticks, where its numbers are positive and far apart.

    Args:
        which: `x` or `y`.
        low, high: the least and the greatest number on it.
    """
    if not (low > 0 and high / low >= ratio):
        return False
    axis: Axis = getattr(panel, f"{which}axis")
    getattr(panel, f"set_{which}scale")("log")
    subs = (1.0,) if high / low >= 300 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain_number(value)))
    axis.set_minor_formatter(NullFormatter())
    return True


def _plain_number(value: float) -> str:
    """`200`, `0.05`, `1e-4`."""
    if 1e-3 < value < 1e5:
        return f"{value:g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def safe(text: str) -> str:
    """Text that matplotlib shows unchanged: `$` does not start a formula, nor a leading `_` hide a legend entry."""
    escaped = text.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped
