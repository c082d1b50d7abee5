"""The table of campaigns in docs/reliability.md."""

from dataclasses import dataclass
from pathlib import Path

COMMAND = ".venv/bin/python -m tests.faults"
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
_END = "<!-- rows end -->"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A campaign: how many faults of a kind at a place, what was lost, and the command that repeats it."""

    kind: str
    place: str
    faults: int
    lost: int
    minutes: float
    command: str
    trials: int = 0
    epochs: int = 0


def add_row(page: Path, row: Row) -> None:
    """Add a campaign to the page's table."""
    text = page.read_text(encoding="utf-8")
    cells = [
        row.kind,
        row.place,
        f"{row.faults:,}",
        f"{row.trials:,}" if row.trials else "",
        f"{row.epochs:,}" if row.epochs else "",
        str(row.lost or "nothing"),
        f"{row.minutes:.0f}",
        f"`{row.command}`",
    ]
    line = "| " + " | ".join(cells) + " |\n"
    page.write_text(text.replace(_END, line + _END), encoding="utf-8")
