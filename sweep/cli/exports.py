"""Commands that export a store: `report`, `mirror` (to Weights & Biases), `export` (to a table)."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixsweep.core.errors import UserError
from mixsweep.core.extras import require
from mixsweep.sweep.cli.arguments import (
    SourceNames,
    Store,
    SweepNames,
    UsageError,
    find_sources,
    find_sweep,
    out,
    shown,
)
from mixsweep.sweep.cli.completion import complete_sweep

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer()

_PANEL = "Looking at results"


@app.command(rich_help_panel=_PANEL)
def report(
    sweeps: SourceNames,
    store: Store = Path("runs"),
    to: Annotated[Path | None, typer.Option("--out", help="A folder; left out: the sweep's own.")] = None,
) -> None:
    """Figures, tables and one self-contained HTML page."""
    from mixsweep.analysis.exported.tables import check_what_is_told
    from mixsweep.analysis.report.report import write_report

    found = find_sources(sweeps, store)
    check_what_is_told(found)
    page = write_report(found, to)
    out.print(f"Report: {page}", markup=False, soft_wrap=True)


@app.command(rich_help_panel=_PANEL)
def mirror(
    sweeps: SweepNames,
    store: Store = Path("runs"),
    watch: Annotated[bool, typer.Option(help="Keep pushing what the sweep adds, until Ctrl-C.")] = False,
    offline: Annotated[bool, typer.Option(help="Write W&B runs into the store, for `wandb sync`.")] = False,
    artifacts: Annotated[
        bool,
        typer.Option(
            help="Also push the best trial's checkpoint, the report and kept files, as W&B artifacts."
        ),
    ] = False,
    project: Annotated[str, typer.Option(help="The W&B project.")] = "mixsweep",
    entity: Annotated[str | None, typer.Option(help="The W&B user or team; left out: your own.")] = None,
    beside: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Push trials to W&B, online or offline; run it again to add what is new."""
    require("wandb", what="sweep mirror")
    from mixsweep.core.store.store import SweepStore
    from mixsweep.sweep.cli.mirror_process import (
        MirrorOptions,
        mirror_sweeps,
        offline_folder,
        parent_is_gone,
        wants_offline,
    )

    if artifacts and watch:
        raise UsageError(
            "--artifacts: not with --watch, which would push a version at every pass; "
            "run it once the sweep has ended"
        )
    options = MirrorOptions(
        offline=wants_offline(offline), project=project, entity=entity, artifacts=artifacts
    )
    over, found = (lambda: False), []
    if beside:
        from mixsweep.sweep.cli.mirror_process import wait_for_sweep

        os.nice(10)  # trials take precedence
        over, found = parent_is_gone, [SweepStore(sweeps[0])]
        if not wait_for_sweep(found[0], over):
            return
    found = found or [find_sweep(name, store) for name in sweeps]

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        done = mirror_sweeps(found, options, say, watch, over)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except UserError as error:
        if not beside:
            raise
        say(f"{error}. The trials continue without a mirror.")
        return
    say(f"W&B: {done.runs} runs, {done.changed} of them pushed, {done.rows} epochs.")
    if artifacts:
        say(f"Artifacts: {done.artifacts}, {done.artifacts_changed} of them pushed.")
    for one in found if options.offline and not beside else ():
        if offline_folder(one).is_dir():
            say(f"To upload: wandb sync {offline_folder(one)}/offline-run-*")
    for problem in done.troubles[:1]:
        say(
            f"{len(done.troubles)} runs or artifacts were not pushed ({problem}); run the same command again."
        )
    raise typer.Exit(1 if done.troubles else 0)


@app.command(rich_help_panel=_PANEL)
def export(
    sweeps: Annotated[
        list[str],
        typer.Argument(
            metavar="SWEEP...",
            help="Names in the store, or folders; or a sweep file.",
            autocompletion=complete_sweep,
        ),
    ],
    to: Annotated[Path, typer.Option(help="The table's file: .parquet or .csv; or wandb-sweep.")],
    store: Store = Path("runs"),
    predictions: Annotated[
        bool, typer.Option("--predictions", help="A row per trial and example of the test set instead.")
    ] = False,
    project: Annotated[str, typer.Option(help="wandb-sweep: the W&B project.")] = "mixsweep",
) -> None:
    """One tidy table: a row per epoch record, with its trial's config. Or a sweep file for `wandb sweep`."""
    if str(to) == "wandb-sweep":
        require("wandb", what="--to wandb-sweep")
        from mixsweep.core.store.store import SweepStore
        from mixsweep.sweep.cli.wandb_sweeps import definition
        from mixsweep.sweep.planning.parse import find_sweep_file, load_spec
        from mixsweep.sweep.planning.plan import make_plan

        if len(sweeps) != 1:
            raise UsageError("--to wandb-sweep: one sweep at a time")
        stored = SweepStore(store / sweeps[0])
        file = stored.path / "sweep.toml" if stored.exists() else find_sweep_file(sweeps[0])
        print(definition(make_plan(load_spec(file)), str(file.absolute()), store.absolute(), project), end="")
        return
    if to.suffix not in (".parquet", ".csv"):
        raise UsageError(f"--to {to}: unknown kind of table; allowed: .parquet, .csv")
    if predictions:
        _check_no_table(sweeps)
        frame = _predictions([find_sweep(name, store).path for name in sweeps])
        if to.suffix == ".csv":
            frame.to_csv(to, index=False)
        else:
            frame.to_parquet(to, index=False)
        rows = len(frame)
    else:
        from mixsweep.analysis.export import export_table

        rows = export_table(find_sources(sweeps, store), to)
    out.print(f"{rows} rows in {to}", markup=False)


def _check_no_table(sweeps: Sequence[str]) -> None:
    from mixsweep.analysis.exported.tables import is_table

    for name in filter(is_table, sweeps):
        raise UsageError(f"{shown(name)}: a table holds no predictions; name the sweep")


def _predictions(sweeps: Sequence[Path]) -> "pd.DataFrame":
    """Return what the trials of sweeps predicted; a damaged file is told."""
    from mixsweep.analysis.predictions.loading import load_predictions

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        frame = load_predictions(*sweeps)
    for line in told:
        out.print(f"left out: {line.message}", markup=False, highlight=False, soft_wrap=True)
    return frame
