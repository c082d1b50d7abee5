"""What a benchmark prints: two contestants timed in turn, as a ratio, and figures that stand alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The same work done by us and by others, n times in turn.

    `ours_seconds` and `theirs_seconds` are as many, and of the same index where measured in the same round.
    `images` is the work of one measurement, 0 where it is not counted in images. `target` is the ratio to
    reach, None where none is set.
    """

    part: str
    ours: str
    theirs: str
    ours_seconds: tuple[float, ...]
    theirs_seconds: tuple[float, ...]
    images: int = 0
    target: float | None = None

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times faster ours is, in each round."""
        return tuple(b / a for a, b in zip(self.ours_seconds, self.theirs_seconds, strict=True))

    @property
    def ratio(self) -> float:
        """The median over the rounds."""
        return median(self.ratios)

    def to_mapping(self) -> dict[str, Any]:
        return vars(self) | {"ratios": self.ratios, "ratio": self.ratio}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A quantity measured n times, with its unit."""

    part: str
    what: str
    values: tuple[float, ...]
    unit: str

    def to_mapping(self) -> dict[str, Any]:
        return vars(self) | {"median": median(self.values)}


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """A row a comparison: medians, the ratio with its range, the target, n."""
    table = Table("", "ours", "against")
    for name in ("ours", "theirs", "ratio", "range", "target", "n"):
        table.add_column(name, justify="right")
    for row in comparisons:
        target = "" if row.target is None else f"≥ {row.target:g}"
        table.add_row(
            row.part, row.ours, row.theirs, _speed(row, row.ours_seconds), _speed(row, row.theirs_seconds),
            f"{row.ratio:.2f}", spread(row.ratios), target, str(len(row.ratios)),
        )  # fmt: skip
    return table


def figure_table(figures: Sequence[Figure]) -> Table:
    """A row a figure: its median with its range, n."""
    table = Table("", "what")
    for name in ("median", "range", "n"):
        table.add_column(name, justify="right")
    for row in figures:
        middle = f"{median(row.values):.4g} {row.unit}"
        table.add_row(row.part, row.what, middle, spread(row.values), str(len(row.values)))
    return table


def spread(values: Sequence[float]) -> str:
    """`1.20–1.35`, or nothing for a single value."""
    return f"{min(values):.4g}–{max(values):.4g}" if len(values) > 1 else ""


def _speed(row: Comparison, seconds: Sequence[float]) -> str:
    middle = median(seconds)
    return f"{row.images / middle:.0f} images/s" if row.images else f"{middle:.1f} s"
