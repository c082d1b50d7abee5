"""The command that compares two sweeps: `compare`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixsweep.sweep.cli.arguments import Json, Store, UsageError, find_sources, out
from mixsweep.sweep.cli.completion import complete_sweep

if TYPE_CHECKING:  # slow imports, which completion and `--help` do without
    from mixsweep.analysis.comparing.sides import Side
    from mixsweep.core.store.store import SweepStore

app = typer.Typer()

_ONE_SIDE = (
    "A sweep's name in the store, its folder, or an exported table; "
    "NAME@CODE: its trials that this code has trained."
)


@app.command(rich_help_panel="Looking at results")
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=_ONE_SIDE, autocompletion=complete_sweep)],
    b: Annotated[str, typer.Argument(metavar="B", help="The other side.", autocompletion=complete_sweep)],
    store: Store = Path("runs"),
    metric: Annotated[
        str, typer.Option(help="What to compare; left out: the metric that A is judged by.")
    ] = "",
    margin: Annotated[
        float | None,
        typer.Option(
            help="A difference in the metric that counts as none; left out: one point of an accuracy, half the "
            "standard deviation between A's seeds of others."
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.md", help="Write it as Markdown, too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Two sweeps, trial by trial and value by value: what has changed?"""
    if to is not None and to.suffix != ".md":
        raise UsageError(f"--out {to}: unknown kind of file; allowed: .md")
    from mixsweep.analysis.comparing.compare import compare_sides
    from mixsweep.sweep.cli.views.render_comparison import print_comparison

    found = compare_sides(_side(a, store), _side(b, store), metric, margin)
    if to is not None:
        to.write_text(found.to_markdown(), encoding="utf-8")
    if as_json:
        print(json.dumps(found.to_mapping()))
    else:
        print_comparison(found, out)
    raise typer.Exit(0 if found.is_complete else 1)


def _side(name: str, root: Path) -> "Side":
    """A sweep, or with `@CODE` those of its trials that one version of the code has trained."""
    from mixsweep.analysis.comparing.sides import read_side

    try:
        return read_side(_one(name, root), name)
    except UsageError:
        sweep, at, code = name.rpartition("@")
        if not at or not sweep or not code:
            raise
    return read_side(_one(sweep, root), name, code)


def _one(name: str, root: Path) -> "SweepStore":
    found = find_sources([name], root)
    if len(found) > 1:
        names = " and ".join(one.name for one in found)
        raise UsageError(f"{name}: has the sweeps {names}; choose one: {name}/{found[0].name}")
    return found[0]
