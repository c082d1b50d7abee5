"""The command line: `sweep` and `python -m mixsweep`."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from mixsweep.cluster.places import Place, find_place
from mixsweep.cluster.ray_cluster.head_monitor import HeadGoneError
from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import UserError
from mixsweep.core.extras import require
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.cli import exports
from mixsweep.sweep.cli.arguments import (  # fmt: skip
    Data,
    File,
    Json,
    PlaceName,
    Set,
    Store,
    SweepName,
    TrialName,
    UsageError,
    WhereStore,
    all_sweeps,
    as_words,
    check_store,
    elsewhere,
    find_sweep,
    find_trial,
    out,
)
from mixsweep.sweep.planning.parse import PRESETS, load_spec, preset_names
from mixsweep.sweep.planning.plan import Plan, make_plan, pick

app = typer.Typer(
    help="Plan a sweep, run it anywhere, and report what it shows.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def presets(as_json: Json = False) -> None:
    """The shipped sweep files, each with its question."""
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
    out.print(f"\nTheir files are in {PRESETS}; copy one to change it.", markup=False, soft_wrap=True)


@app.command()
def plan(
    file: File,
    store: Store = Path("runs"),
    place: PlaceName = "local",
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Trials, duplicates, what is done already, and what the rest will cost; runs nothing."""
    from mixsweep.sweep.cli.render_plan import describe_plan, plan_mapping

    where = find_place(place)
    check_store(store)
    made = _plan(file, settings, store)
    if as_json:
        out.print_json(json.dumps(plan_mapping(made, store, where)))
    else:
        describe_plan(made, store, where, out)


@app.command()
def run(
    file: File,
    place: PlaceName = "local",
    store: Store = Path("runs"),
    data: Data = None,
    settings: Set = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Run so many of the trials that are left.")] = None,
    trial: Annotated[str | None, typer.Option(help="Run only this trial (its id, or how it begins).")] = None,
    retry_failed: Annotated[bool, typer.Option(help="Try failed trials again, whatever failed.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="slurm, ray: submit and return; it goes on by itself.")
    ] = False,
    overfit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="debug: train on N batches only, beside the sweep.")
    ] = None,
    profile: Annotated[bool, typer.Option(help="debug: write a torch profiler trace of 20 steps.")] = False,
    mirror: Annotated[
        bool, typer.Option(help="Push the trials to W&B beside it, as `sweep mirror`.")
    ] = False,
) -> None:
    """Run what the plan says is left; the same command again resumes."""
    where = find_place(place)
    if where.ray:
        from mixsweep.cluster.ray_cluster.connection import prepare

        prepare(where.ray)  # before anything imports Ray
        if where.ray.store and not where.ray.takes_jobs and store == Path("runs"):
            store = Path(where.ray.store)
    check_store(store)
    made = _plan(file, settings, store)
    chosen = [pick(made.trials, trial)] if trial else None
    if overfit or profile:
        from mixsweep.sweep.cli.diagnostics import overfit_trial, profile_trial

        if where.kind != "debug":
            raise UsageError("--overfit and --profile look at one process: add --place debug")
        require("train", what=f"place {where.name}")
        if not made.trials:
            raise UsageError(f"{made.spec.name}: its search has chosen no trial yet")
        config = chosen[0] if chosen else made.trials[0]
        if overfit:
            overfit_trial(config, overfit, made, where, data, out)
        else:
            profile_trial(config, made, store, where, data, out)
        return
    if where.ray and where.ray.takes_jobs:
        from mixsweep.sweep.backends.ray.job import run_as_job

        if store != Path("runs"):
            raise UsageError(f"--store {store}: place {where.name} has its own, on the cluster")
        options = as_words(limit=limit, trial=chosen[0].trial_id if chosen else None, data=data)
        flags = ["--retry-failed"] * retry_failed + ["--mirror"] * mirror
        raise typer.Exit(run_as_job(made.spec, where, [*options, *flags], detach))
    raise typer.Exit(_run(made, where, store, data, limit, chosen, retry_failed, detach, mirror))


def _plan(file: str, settings: list[str] | None, root: Path) -> Plan:
    """The plan of a sweep file; of an adaptive one with what its store has."""
    from mixsweep.sweep.search.suggestions import with_known

    made = make_plan(load_spec(file, settings or ()))
    return with_known(made, SweepStore(root / made.spec.name))


def _run(
    made: Plan,
    where: Place,
    root: Path,
    data: Path | None,
    limit: int | None,
    chosen: list[TrialConfig] | None,
    retry_failed: bool,
    detach: bool,
    mirror: bool = False,
) -> int:
    """Run a plan with a view of it; return the exit code."""
    from mixsweep.sweep.cli.live_view import RunView, counts_line
    from mixsweep.sweep.run import run_plan
    from mixsweep.sweep.status import StatusReader

    debug, batch = where.kind == "debug", where.kind == "slurm"
    store = SweepStore(root / made.spec.name)
    again = "run the same command again to resume"
    with RunView(store, out) as view, _mirrored(store, view.say) if mirror else nullcontext():
        try:
            outcome = run_plan(
                made,
                place=where,
                store_root=root,
                data_dir=data,
                limit=limit,
                only=chosen,
                retry_failed=retry_failed,
                raise_errors=debug,
                detach=detach,
                say=view.say,
                on_record=view.record if debug else lambda record: None,
                on_end=view.end_of_trial,
                on_tick=view.tick,
                on_interrupt=lambda: view.say(
                    f"\nStopping after the running epochs; {again}. Ctrl-C once more stops now."
                ),
            )
        except KeyboardInterrupt:
            alone = (
                f"Its jobs go on. The same command follows them again, `sweep stop {store.name}` ends them."
            )
            view.say(alone if batch else f"Stopped; {again}.")
            return 130
    out.print(counts_line(StatusReader(store).read()))
    for info in outcome.unrecorded[:1]:
        out.print(f"not even recorded: {info.attempts[-1].message}", markup=False)
    if outcome.detached:
        out.print(f"Its jobs go on by themselves: sweep status {store.name} --store {root}", markup=False)
    elif outcome.interrupted:
        out.print(f"Stopped at a safe point; {again}.")
    elif outcome.exit_code == 0:
        out.print(f"Next: sweep report {made.spec.name} --store {root}", markup=False, soft_wrap=True)
    return outcome.exit_code


@app.command()
def status(
    sweep: Annotated[str | None, typer.Argument(metavar="[SWEEP]", help="Left out: all sweeps.")] = None,
    store: Store = Path("runs"),
    watch: Annotated[bool, typer.Option(help="Draw it again until Ctrl-C.")] = False,
    place: WhereStore = None,
    as_json: Json = False,
) -> None:
    """States, progress, best so far, time left, failures by kind."""
    elsewhere(place, "status", *([sweep] if sweep else []), *["--watch"] * watch, *["--json"] * as_json)
    from mixsweep.sweep.cli.live_view import (
        costs_table,
        curves_table,
        live_picture,
        summary,
        trials_table,
        worth_a_row,
    )
    from mixsweep.sweep.status import StatusReader

    found = [find_sweep(sweep, store)] if sweep else all_sweeps(store)
    readers = [StatusReader(one) for one in found]
    if as_json:
        told = [reader.read().to_mapping() for reader in readers]
        print(json.dumps(told[0] if sweep else told))  # indented, ten thousand trials take seconds
        return
    if watch:
        from rich.console import Group
        from rich.live import Live

        try:
            with Live(console=out, auto_refresh=False) as live:
                while True:
                    live.update(Group(*(live_picture(reader.read()) for reader in readers)), refresh=True)
                    time.sleep(1)
        except KeyboardInterrupt:
            return
    for one, reader in zip(found, readers):
        standing = reader.read()
        for line in summary(standing):
            out.print(line)
        if queued := _queue_line(one):
            out.print(queued, markup=False)
        if sweep:
            out.print()
            out.print(curves_table(standing))
            out.print()
            rows = worth_a_row(standing)
            out.print(trials_table(rows, standing.metric, with_cost=True))
            if len(rows) < len(standing.trials):
                out.print(f"{len(rows)} of {len(standing.trials)} trials; all with --json", style="dim")
            if standing.costs:
                out.print()
                out.print(costs_table(standing))
            for trial in rows:
                if trial.message:
                    out.print(f"{trial.trial_id}: {trial.message}", markup=False, style="red")


@app.command()
def logs(
    trial: TrialName,
    store: Store = Path("runs"),
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as it grows.")] = False,
    place: WhereStore = None,
) -> None:
    """A trial's log; with --place also a sweep's, as its job writes it."""
    if place and (where := find_place(place)).ray and where.ray.takes_jobs:
        from mixsweep.sweep.backends.ray.job import log_of, write_out

        try:
            if log_of(where, trial, follow, write_out):
                return
        except KeyboardInterrupt:
            return
    elsewhere(place, "logs", trial, *["-f"] * follow)
    folder = find_trial(trial, store)
    position = 0
    try:
        while True:
            if folder.log_path.exists():
                with open(folder.log_path, encoding="utf-8") as file:
                    file.seek(position)
                    sys.stdout.write(file.read())
                    sys.stdout.flush()
                    position = file.tell()
            info = folder.info()
            if not follow or (info is not None and info.ended):
                return
            time.sleep(0.5)
    except KeyboardInterrupt:
        return


@app.command()
def show(
    trial: TrialName, store: Store = Path("runs"), place: WhereStore = None, as_json: Json = False
) -> None:
    """A trial's config, provenance, attempts and last records."""
    elsewhere(place, "show", trial, *["--json"] * as_json)
    from mixsweep.sweep.cli.render_trial import describe_trial, trial_mapping

    folder = find_trial(trial, store)
    if as_json:
        out.print_json(json.dumps(trial_mapping(folder)))
    else:
        describe_trial(folder, out)


@app.command()
def stop(sweep: SweepName, store: Store = Path("runs"), place: WhereStore = None) -> None:
    """Stop what runs of a sweep at the next safe point; the same `sweep run` resumes it."""
    elsewhere(place, "stop", sweep)
    found = find_sweep(sweep, store)
    found.request_stop()
    running = [f.trial_id for f in found.trials() if (info := f.info()) and info.state == "running"]
    out.print(f"{found.name}: asked {len(running)} running trials to stop after their epoch.", markup=False)
    if (found.path / "jobs").is_dir():
        from mixsweep.sweep.backends.slurm.driver import cancel_waiting

        out.print(f"{cancel_waiting(found)} tasks that wait in the queue are cancelled.", markup=False)


@app.command()
def doctor(
    place: PlaceName = "local",
    store: Store = Path("runs"),
    data: Data = None,
    job: Annotated[bool, typer.Option(help="slurm: look around on a node, too, by a small job.")] = True,
    wait: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="For that job, at most.")] = 300,
    as_json: Json = False,
) -> None:
    """Check a place before you spend an allocation on it."""
    from mixsweep.cluster.doctor.checks import examine
    from mixsweep.sweep.run import find_data

    where = find_place(place)
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: the job and its files go first
        signal.signal(number, signal.default_int_handler)
    styles = {"ok": "green", "warning": "yellow", "failed": "bold red"}
    checks = []
    with (Console(stderr=True) if as_json else out).status("looking around") as live:
        images = find_data(data, where)
        for check in examine(where, store, images, with_job=job, wait_seconds=wait, say=live.update):
            checks.append(check)
            if not as_json:
                line = Text.assemble(
                    (f"{check.state:<9}", styles[check.state]), (f"{check.name:<15}", "bold")
                )
                out.print(line.append("; ".join(filter(None, (check.found, check.advice)))), soft_wrap=True)
    if as_json:
        out.print_json(json.dumps([vars(check) for check in checks]))
    raise typer.Exit(int(any(check.state == "failed" for check in checks)))


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def agent(
    context: typer.Context,
    file: File,
    store: Store = Path("runs"),
    place: PlaceName = "debug",
    data: Data = None,
) -> None:
    """Run one trial as `wandb agent` asks for it: `sweep agent FILE --lr=0.1 --seed=42`."""
    require("wandb", what="sweep agent")
    from mixsweep.analysis.wandb_mirror.sinks import MirrorError, TransientError
    from mixsweep.sweep.cli.wandb_sweeps import show_in_wandb, trial_for

    made = make_plan(load_spec(file))
    config = trial_for(made, context.args)
    code = _run(made, find_place(place), store, data, None, [config], False, False)
    try:
        show_in_wandb(SweepStore(store / made.spec.name), config, made)
    except (MirrorError, TransientError) as error:
        out.print(f"{error}. The trial is in the store; `sweep mirror` shows it.", markup=False)
    raise typer.Exit(code)


def _mirrored(store: SweepStore, say: Callable[[str], None]) -> AbstractContextManager[None]:
    require("wandb", what="--mirror")
    from mixsweep.sweep.cli.mirror_process import MirrorOptions, mirror_beside, wants_offline

    return mirror_beside(store, MirrorOptions(offline=wants_offline(False)), say)


def _queue_line(store: SweepStore) -> str:
    """What a scheduler's queue holds of a sweep, '' where it holds nothing or cannot be asked from here."""
    if not (store.path / "jobs").is_dir():
        return ""
    from mixsweep.cluster.slurm.client import SlurmError
    from mixsweep.sweep.backends.slurm.driver import queue_counts

    try:
        counts = queue_counts(store)
    except SlurmError:
        return ""
    return "queue: " + ", ".join(f"{count} {state}" for state, count in counts.items()) if counts else ""


app.add_typer(exports.app)


def main() -> None:
    """Run the command line; what a user got wrong is one line and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"sweep: {' '.join(str(error).splitlines())}", file=sys.stderr)
        if isinstance(error, HeadGoneError):
            sys.stdout.flush()
            os._exit(2)  # Ray's threads would hold the process, and end it in many words
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        words = (error.filename, error.strerror or str(error))  # a write to a full disk names no file
        print(f"sweep: {': '.join(str(word) for word in words if word)}", file=sys.stderr)
        sys.exit(2)
