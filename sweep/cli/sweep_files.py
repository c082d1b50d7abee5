"""Commands on sweep files: write one, list the shipped ones, plan one, describe them to an editor."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from mixsweep.cluster.places import find_place
from mixsweep.sweep.cli.arguments import Data, File, Json, PlaceName, Set, Store, check_store, out, plan_of
from mixsweep.sweep.cli.completion import complete_preset

app = typer.Typer()

_PANEL = "Sweep files"


@app.command(rich_help_panel=_PANEL)
def init(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="The sweep's name; left out: my-sweep, or the preset's."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="PRESET",
            help="Copy a preset, with its comments.",
            autocompletion=complete_preset,
        ),
    ] = None,
    trainable: Annotated[
        bool,
        typer.Option("--trainable", help="Write a trainable of one's own beside it, which runs as it is."),
    ] = False,
) -> None:
    """Write NAME.toml, a commented sweep file to start from."""
    from mixsweep.sweep.cli.starter import write_starter

    paths = write_starter(name, preset, trainable)
    wrote = " and ".join(map(str, paths))
    out.print(f"Wrote {wrote}. Next: sweep plan {shlex.quote(str(paths[0]))}", markup=False, soft_wrap=True)


@app.command(rich_help_panel=_PANEL)
def presets(as_json: Json = False) -> None:
    """The shipped sweep files, each with its question."""
    from mixsweep.sweep.planning.parse import load_spec
    from mixsweep.sweep.planning.plan import make_plan
    from mixsweep.sweep.presets.catalog import PRESETS, preset_names

    specs = [load_spec(name) for name in preset_names()]
    if as_json:
        rows = [
            {
                "name": s.name,
                "question": s.question,
                "reaches": s.reaches,
                "cost": s.cost,
                "file": str(s.path),
            }
            for s in specs
        ]
        out.print_json(json.dumps(rows))
        return
    for spec in specs:
        out.print(Text(spec.name, "bold"), Text(f"({len(make_plan(spec).trials)} trials)", "dim"))
        for line in (spec.question, spec.reaches, spec.cost):
            if line:
                out.print(f"  {line}", markup=False)
    words = f"\nTo change one, copy it: sweep init NAME --from PRESET. The files are in {PRESETS}."
    out.print(words, markup=False, soft_wrap=True)


@app.command(rich_help_panel=_PANEL)
def plan(
    file: File,
    store: Store = Path("runs"),
    place: PlaceName = "local",
    settings: Set = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Time a few steps here of kinds of trials that the store does not know yet."
        ),
    ] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Trials, duplicates, what is done already, and what the rest will cost; runs nothing but a few steps, if asked."""
    from mixsweep.core.store.store import SweepStore
    from mixsweep.sweep.cli.views.render_plan import describe_plan, plan_mapping
    from mixsweep.sweep.origin import check_origin

    where = find_place(place)
    check_store(store)
    made = plan_of(file, settings, store)
    if (kept := SweepStore(store / made.spec.name)).exists():
        check_origin(made, kept)
    measured = None
    if measure:
        from mixsweep.sweep.planning.forecast import measure_plan
        from mixsweep.sweep.run import find_data

        measured = measure_plan(made, store, find_data(data, where))
    if as_json:
        out.print_json(json.dumps(plan_mapping(made, store, where, measured)))
    else:
        describe_plan(made, store, where, out, measured)


@app.command(rich_help_panel=_PANEL)
def schema(
    places: Annotated[bool, typer.Option("--places", help="The schema of places.toml.")] = False,
) -> None:
    """Print the JSON Schema of sweep files, for editors.

    Write it beside your sweep files (sweep schema > sweep.schema.json) and begin each of them with the line
    `#:schema ./sweep.schema.json`: editors with Even Better TOML or taplo then complete and check the keys.
    """
    from mixsweep.sweep.planning.json_schema import places_schema, sweep_file_schema

    print(json.dumps(places_schema() if places else sweep_file_schema(), indent=2, ensure_ascii=False))
