"""Commands that only read the store: `status`, `logs`, `show`. They work while the sweep runs."""

import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixsweep.cluster.places import find_place
from mixsweep.sweep.cli.arguments import (
    Json,
    Store,
    TrialName,
    WhereStore,
    all_sweeps,
    elsewhere,
    find_sweep,
    find_trial,
    out,
)
from mixsweep.sweep.cli.completion import complete_sweep

if TYPE_CHECKING:
    from mixsweep.core.store.store import SweepStore
    from mixsweep.sweep.status import SweepStatus
    from mixsweep.sweep.status_reader import StatusReader

app = typer.Typer()

_PANEL = "Looking at results"


@app.command(rich_help_panel=_PANEL)
def status(
    sweep: Annotated[
        str | None,
        typer.Argument(metavar="[SWEEP]", help="Left out: all sweeps.", autocompletion=complete_sweep),
    ] = None,
    store: Store = Path("runs"),
    watch: Annotated[bool, typer.Option(help="Refresh every second until Ctrl-C.")] = False,
    place: WhereStore = None,
    as_json: Json = False,
) -> None:
    """States, progress, best so far, time left, failures by kind."""
    elsewhere(
        place, "status", *([sweep] if sweep is not None else []), *["--watch"] * watch, *["--json"] * as_json
    )
    from mixsweep.sweep.cli.views.live_view import summary
    from mixsweep.sweep.status_reader import StatusReader

    found = [find_sweep(sweep, store)] if sweep is not None else all_sweeps(store)
    readers = [StatusReader(one) for one in found]
    if as_json:
        mappings = [reader.read().to_mapping() for reader in readers]
        print(json.dumps(mappings[0] if sweep else mappings))  # indented, 10,000 trials take seconds
        return
    if watch:
        _watch(readers)
        return
    if not found:
        out.print(f"no sweeps in {store} yet; `sweep run FILE` creates one", markup=False)
    for one, reader in zip(found, readers):
        sweep_status = reader.read()
        for line in summary(sweep_status):
            out.print(line)
        if queued := _queue_line(one):
            out.print(queued, markup=False)
        if sweep:
            _print_trials(sweep_status)


def _watch(readers: "list[StatusReader]") -> None:
    from rich.console import Group
    from rich.live import Live

    from mixsweep.sweep.cli.views.live_view import live_picture

    try:
        with Live(console=out, auto_refresh=False) as live:
            while True:
                live.update(Group(*(live_picture(reader.read()) for reader in readers)), refresh=True)
                time.sleep(1)
    except KeyboardInterrupt:
        return


def _print_trials(sweep_status: "SweepStatus") -> None:
    from mixsweep.sweep.cli.views.live_view import costs_table, curves_table, trials_table, trials_to_list

    out.print()
    out.print(curves_table(sweep_status))
    out.print()
    rows = trials_to_list(sweep_status)
    out.print(trials_table(rows, sweep_status.metric, with_cost=True))
    if len(rows) < len(sweep_status.trials):
        out.print(f"{len(rows)} of {len(sweep_status.trials)} trials; all with --json", style="dim")
    if sweep_status.costs:
        out.print()
        out.print(costs_table(sweep_status))
    for trial in rows:
        if trial.message:
            out.print(f"{trial.trial_id}: {trial.message}", markup=False, style="red")


@app.command(rich_help_panel=_PANEL)
def logs(
    trial: TrialName,
    store: Store = Path("runs"),
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Print new lines until it ends.")] = False,
    place: WhereStore = None,
) -> None:
    """A trial's log; with --place also a sweep's, as its job writes it."""
    if place and (where := find_place(place)).ray and where.ray.takes_jobs:
        from mixsweep.sweep.backends.ray.job import write_job_log, write_out

        try:
            if write_job_log(where, trial, follow, write_out):
                return
        except KeyboardInterrupt:
            return
    elsewhere(place, "logs", trial, *["-f"] * follow)
    folder = find_trial(trial, store)
    positions: dict[Path, int] = {}
    try:
        while True:
            for path in folder.logs():
                with suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as file:
                    file.seek(positions.get(path, 0))
                    sys.stdout.write(file.read())
                    sys.stdout.flush()
                    positions[path] = file.tell()
            info = folder.info()
            if not follow or (info is not None and info.ended):
                return
            time.sleep(0.5)
    except KeyboardInterrupt:
        return


@app.command(rich_help_panel=_PANEL)
def show(
    trial: TrialName, store: Store = Path("runs"), place: WhereStore = None, as_json: Json = False
) -> None:
    """A trial's config, provenance, attempts and last records."""
    elsewhere(place, "show", trial, *["--json"] * as_json)
    from mixsweep.sweep.cli.views.render_trial import describe_trial, trial_mapping

    folder = find_trial(trial, store)
    if as_json:
        out.print_json(json.dumps(trial_mapping(folder)))
    else:
        describe_trial(folder, out)


def _queue_line(store: "SweepStore") -> str:
    """Return a sweep's jobs in the scheduler's queue on one line; '' if none are found or SLURM is absent."""
    if not (store.path / "jobs").is_dir():
        return ""
    from mixsweep.cluster.slurm.client import SlurmError
    from mixsweep.sweep.backends.slurm.driver import queue_counts

    try:
        counts = queue_counts(store)
    except SlurmError:
        return ""
    return "queue: " + ", ".join(f"{count} {state}" for state, count in counts.items()) if counts else ""
