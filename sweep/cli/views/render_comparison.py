"""The output of `sweep compare`."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixsweep.analysis.comparing.results import SweepComparison
from mixsweep.analysis.comparing.wording import (
    CHANGED,
    IDENTICAL,
    UNCHANGED,
    UNDECIDED,
    TextTable,
    head_lines,
    trial_table,
    value_table,
)

_STYLES = {IDENTICAL: "bold green", UNCHANGED: "bold green", CHANGED: "bold yellow", UNDECIDED: "bold"}


def print_comparison(found: SweepComparison, out: Console) -> None:
    """Print a comparison, its verdict last."""
    for line in head_lines(found):
        out.print(Text(line), soft_wrap=True)
    for table in (trial_table(found), value_table(found)):
        if table.rows:
            out.print()
            out.print(Text(table.title, "bold"), soft_wrap=True)
            out.print(_drawn(table))
        if table.note:
            out.print(Text(table.note, "dim"), soft_wrap=True)
    out.print()
    out.print(Text(found.verdict, _STYLES[found.kind]), soft_wrap=True)


def _drawn(table: TextTable) -> Table:
    drawn = Table(box=None, pad_edge=False, header_style="dim")
    for number, name in enumerate(table.header):
        drawn.add_column(name, overflow="fold", no_wrap=number == 0)
    for row in table.rows:
        drawn.add_row(*map(Text, row))
    return drawn
