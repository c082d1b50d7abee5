"""The command line: `sweep` and `python -m sweep`."""

import glob
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from cluster.places import Place, find_place
from core.config import TrialConfig, UserError, did_you_mean
from core.store import SweepStore, TrialFolder
from sweep.plan import Plan, make_plan, pick
from sweep.spec import PRESETS, find_sweep_file, load_spec, preset_names

app = typer.Typer(
    help="Plan a sweep, run it anywhere, and report what it shows.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console(highlight=False, soft_wrap=False)

File = Annotated[str, typer.Argument(metavar="FILE", help="A sweep file's path, or a preset's name.")]
SweepName = Annotated[
    str, typer.Argument(metavar="SWEEP", help="A sweep's name in the store, or its folder.")
]
TrialName = Annotated[
    str, typer.Argument(metavar="TRIAL", help="A trial's id, or how it begins; SWEEP/ID if several have it.")
]
Store = Annotated[Path, typer.Option(help="The folder of sweeps.")]
Data = Annotated[Path | None, typer.Option(help="Where the images lie; else SWEEP_DATA, else the place's.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Put over the file: base.epochs=2.")
]
PlaceName = Annotated[str, typer.Option(help="Where to run: debug, local, or one of places.toml.")]
WhereStore = Annotated[
    str | None, typer.Option("--place", help="A Ray place that takes jobs: its store is on the cluster.")
]
Json = Annotated[bool, typer.Option("--json", help="For machines.")]


class UsageError(UserError):
    """Something that was asked for does not exist."""


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
    from sweep.plan_view import describe_plan, plan_mapping

    where = find_place(place)
    _check_store(store)
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
        from cluster.attach import prepare

        prepare(where.ray)  # before anything imports Ray
        if where.ray.store and not where.ray.takes_jobs and store == Path("runs"):
            store = Path(where.ray.store)
    _check_store(store)
    made = _plan(file, settings, store)
    chosen = [pick(made.trials, trial)] if trial else None
    if overfit or profile:
        from sweep.debug import overfit_trial, profile_trial

        if where.kind != "debug":
            raise UsageError("--overfit and --profile look at one process: add --place debug")
        if not made.trials:
            raise UsageError(f"{made.spec.name}: its search has chosen no trial yet")
        config = chosen[0] if chosen else made.trials[0]
        if overfit:
            overfit_trial(config, overfit, made, where, data, out)
        else:
            profile_trial(config, made, store, where, data, out)
        return
    if where.ray and where.ray.takes_jobs:
        from sweep.ray_jobs import run_as_job

        if store != Path("runs"):
            raise UsageError(f"--store {store}: place {where.name} has its own, on the cluster")
        words = _words(limit=limit, trial=chosen[0].trial_id if chosen else None, data=data)
        flags = ["--retry-failed"] * retry_failed + ["--mirror"] * mirror
        raise typer.Exit(run_as_job(made.spec, where, [*words, *flags], detach))
    raise typer.Exit(_run(made, where, store, data, limit, chosen, retry_failed, detach, mirror))


def _plan(file: str, settings: list[str] | None, root: Path) -> Plan:
    """The plan of a sweep file; of an adaptive one with what its store has."""
    from sweep.adaptive import with_known

    made = make_plan(load_spec(file, settings or ()))
    return with_known(made, SweepStore(root / made.spec.name))


def _elsewhere(place: str | None, *words: str) -> None:
    """Where a place keeps the store out of reach, ask there and exit with what that says."""
    where = find_place(place) if place else None
    if where is not None and where.ray and where.ray.takes_jobs:
        from sweep.ray_jobs import ask, write_out

        with suppress(KeyboardInterrupt):
            raise typer.Exit(ask(where, words, write_out))
        raise typer.Exit(130)


def _words(**options: object) -> list[str]:
    """Options that are given, as words of a command line."""
    return [
        word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))
    ]


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
    from sweep.launch import run_plan
    from sweep.status import StatusReader
    from sweep.view import RunView, counts_line

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
    _elsewhere(place, "status", *([sweep] if sweep else []), *["--watch"] * watch, *["--json"] * as_json)
    from sweep.status import StatusReader
    from sweep.view import curves_table, live_picture, summary, trials_table

    found = [_find_sweep(sweep, store)] if sweep else _all_sweeps(store)
    readers = [StatusReader(one) for one in found]
    if as_json:
        rows = [reader.read().to_mapping() for reader in readers]
        print(json.dumps(rows[0] if sweep else rows, indent=2))  # rich takes seconds over ten thousand
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
            out.print(trials_table(standing.trials, standing.metric))
            for trial in standing.trials:
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
        from sweep.ray_jobs import log_of, write_out

        try:
            if log_of(where, trial, follow, write_out):
                return
        except KeyboardInterrupt:
            return
    _elsewhere(place, "logs", trial, *["-f"] * follow)
    folder = _find_trial(trial, store)
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
    _elsewhere(place, "show", trial, *["--json"] * as_json)
    from sweep.show import describe_trial, trial_mapping

    folder = _find_trial(trial, store)
    if as_json:
        out.print_json(json.dumps(trial_mapping(folder)))
    else:
        describe_trial(folder, out)


@app.command()
def stop(sweep: SweepName, store: Store = Path("runs"), place: WhereStore = None) -> None:
    """Stop what runs of a sweep at the next safe point; the same `sweep run` resumes it."""
    _elsewhere(place, "stop", sweep)
    found = _find_sweep(sweep, store)
    found.request_stop()
    running = [f.trial_id for f in found.trials() if (info := f.info()) and info.state == "running"]
    out.print(f"{found.name}: asked {len(running)} running trials to stop after their epoch.", markup=False)
    if (found.path / "jobs").is_dir():
        from sweep.batch import cancel_waiting

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
    from cluster.doctor import examine
    from sweep.launch import find_data

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


@app.command()
def report(
    sweeps: Annotated[list[str], typer.Argument(metavar="SWEEP...", help="Names in the store, or folders.")],
    store: Store = Path("runs"),
    to: Annotated[Path | None, typer.Option("--out", help="A folder; left out: the sweep's own.")] = None,
) -> None:
    """Figures, tables and one self-contained HTML page."""
    from analysis.report import write_report

    page = write_report([_find_sweep(name, store).path for name in sweeps], to)
    out.print(f"Report: {page}", markup=False, soft_wrap=True)


@app.command()
def mirror(
    sweeps: Annotated[list[str], typer.Argument(metavar="SWEEP...", help="Names in the store, or folders.")],
    store: Store = Path("runs"),
    watch: Annotated[bool, typer.Option(help="Go on as the sweep grows, until Ctrl-C.")] = False,
    offline: Annotated[bool, typer.Option(help="Write runs into the store, for `wandb sync`.")] = False,
    project: Annotated[str, typer.Option(help="The W&B project.")] = "mixsweep",
    entity: Annotated[str | None, typer.Option(help="The W&B user or team; left out: your own.")] = None,
    beside: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Push trials to W&B, online or offline; again adds only what is new."""
    from sweep.mirroring import MirrorOptions, mirror_sweeps, offline_folder, parent_is_gone, wants_offline

    options = MirrorOptions(offline=wants_offline(offline), project=project, entity=entity)
    over, found = (lambda: False), []
    if beside:
        from sweep.mirroring import wait_for_sweep

        os.nice(10)  # trials first
        over, found = parent_is_gone, [SweepStore(sweeps[0])]
        if not wait_for_sweep(found[0], over):
            return
    found = found or [_find_sweep(name, store) for name in sweeps]

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        done = mirror_sweeps(found, options, say, watch, over)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except UserError as error:
        if not beside:
            raise
        say(f"{error}. The trials go on without a mirror.")
        return
    say(f"W&B: {done.runs} runs, {done.changed} of them pushed, {done.rows} epochs.")
    for one in found if options.offline and not beside else ():
        say(f"To upload: wandb sync {offline_folder(one)}/offline-run-*")
    for trouble in done.troubles[:1]:
        say(f"{len(done.troubles)} runs did not get through ({trouble}); run the same command again.")
    raise typer.Exit(1 if done.troubles else 0)


@app.command()
def export(
    sweeps: Annotated[
        list[str], typer.Argument(metavar="SWEEP...", help="Names in the store, or folders; or a sweep file.")
    ],
    to: Annotated[Path, typer.Option(help="The table's file: .parquet or .csv; or wandb-sweep.")],
    store: Store = Path("runs"),
    project: Annotated[str, typer.Option(help="wandb-sweep: the W&B project.")] = "mixsweep",
) -> None:
    """One tidy table: a row an epoch record, with its trial's config. Or a sweep file for `wandb sweep`."""
    from analysis.frames import load

    if str(to) == "wandb-sweep":
        from sweep.wandb_sweeps import definition

        if len(sweeps) != 1:
            raise UsageError("--to wandb-sweep: one sweep at a time")
        stored = SweepStore(store / sweeps[0])
        file = stored.path / "sweep.toml" if stored.exists() else find_sweep_file(sweeps[0])
        print(definition(make_plan(load_spec(file)), str(file.absolute()), store.absolute(), project), end="")
        return
    if to.suffix not in (".parquet", ".csv"):
        raise UsageError(f"--to {to}: unknown kind of table; allowed: .parquet, .csv")
    frame = load(*(_find_sweep(name, store).path for name in sweeps))
    if to.suffix == ".csv":
        frame.to_csv(to, index=False)
    else:
        frame.to_parquet(to, index=False)
    out.print(f"{len(frame)} rows in {to}", markup=False)


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def agent(
    context: typer.Context,
    file: File,
    store: Store = Path("runs"),
    place: PlaceName = "debug",
    data: Data = None,
) -> None:
    """Run one trial as `wandb agent` asks for it: `sweep agent FILE --lr=0.1 --seed=42`."""
    from analysis.wandb_target import MirrorError, TroubleError
    from sweep.wandb_sweeps import show_in_wandb, trial_for

    made = make_plan(load_spec(file))
    config = trial_for(made, context.args)
    code = _run(made, find_place(place), store, data, None, [config], False, False)
    try:
        show_in_wandb(SweepStore(store / made.spec.name), config, made)
    except (MirrorError, TroubleError) as error:
        out.print(f"{error}. The trial is in the store; `sweep mirror` shows it.", markup=False)
    raise typer.Exit(code)


def _mirrored(store: SweepStore, say: Callable[[str], None]) -> AbstractContextManager[None]:
    from sweep.mirroring import MirrorOptions, mirror_beside, wants_offline

    return mirror_beside(store, MirrorOptions(offline=wants_offline(False)), say)


def _queue_line(store: SweepStore) -> str:
    """What a scheduler's queue holds of a sweep, '' where it holds nothing or cannot be asked from here."""
    if not (store.path / "jobs").is_dir():
        return ""
    from cluster.slurm import SlurmError
    from sweep.batch import queue_counts

    try:
        counts = queue_counts(store)
    except SlurmError:
        return ""
    return "queue: " + ", ".join(f"{count} {state}" for state, count in counts.items()) if counts else ""


def _check_store(root: Path) -> None:
    """Make sure that the store's path does not lead through a file."""
    for path in (root, *root.parents):
        if path.exists():
            if not path.is_dir():
                raise UsageError(f"--store {root}: {path} is not a folder")
            return


def _find_sweep(name: str, root: Path) -> SweepStore:
    for path in (root / name, Path(name)):
        store = SweepStore(path)
        if store.exists():
            return store
    known = [one.name for one in _all_sweeps(root)]
    hint = did_you_mean(name, known) if known else "; there are none yet"
    raise UsageError(f"{name}: no such sweep in {root}{hint}")


def _all_sweeps(root: Path) -> list[SweepStore]:
    return [SweepStore(path.parent) for path in sorted(root.glob("*/sweep.toml"))]


def _find_trial(name: str, root: Path) -> TrialFolder:
    sweep, _, prefix = name.rpartition("/")
    found = sorted(
        path for path in root.glob(f"{glob.escape(sweep) or '*'}/trials/{prefix}*") if path.is_dir()
    )
    if not found:
        raise UsageError(f"{name}: no such trial in {root}; `sweep status SWEEP` lists them")
    if len({path.name for path in found}) > 1:
        raise UsageError(f"{name}: {len(found)} trials begin so; write more of the id")
    if len(found) > 1:
        names = ", ".join(f"{path.parent.parent.name}/{path.name}" for path in found)
        raise UsageError(f"{name}: the same trial is in several sweeps; name one: {names}")
    return TrialFolder(found[0])


def main() -> None:
    """Run the command line; what a user got wrong is one line and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"sweep: {' '.join(str(error).splitlines())}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        words = (error.filename, error.strerror or str(error))  # a write to a full disk names no file
        print(f"sweep: {': '.join(str(word) for word in words if word)}", file=sys.stderr)
        sys.exit(2)
