"""Commands that run trials: `run`, `stop`, `doctor` (checks a place) and `agent` (for W&B)."""

import json
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from mixsweep.cluster.places import Place, find_place
from mixsweep.core.extras import require
from mixsweep.sweep.cli.arguments import (
    Data,
    File,
    Json,
    PlaceName,
    Set,
    Store,
    SweepName,
    UsageError,
    WhereStore,
    check_store,
    duration_of,
    elsewhere,
    find_sweep,
    out,
    plan_of,
)
from mixsweep.sweep.cli.completion import complete_place, complete_trial

if TYPE_CHECKING:
    from mixsweep.core.store.store import SweepStore
    from mixsweep.sweep.backends.base import RunOptions
    from mixsweep.sweep.planning.plan import Plan

app = typer.Typer()

_PANEL = "Running"


@app.command(rich_help_panel=_PANEL)
def run(
    file: File,
    place: PlaceName = "local",
    store: Store = Path("runs"),
    data: Data = None,
    settings: Set = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Run at most this many of the trials left.")
    ] = None,
    trial: Annotated[
        str | None,
        typer.Option(
            help="Run only this trial: its id, or the first characters of it.", autocompletion=complete_trial
        ),
    ] = None,
    fresh: Annotated[
        str | None,
        typer.Option(
            metavar="TRIAL",
            help="Start this trial from scratch: its records, checkpoints and kept files are removed.",
            autocompletion=complete_trial,
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option(help="Retry failed trials, whatever the kind of failure.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="slurm, ray: submit and return; the jobs keep running.")
    ] = False,
    overfit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="debug: train on N batches only; stores nothing.")
    ] = None,
    profile: Annotated[bool, typer.Option(help="debug: write a torch profiler trace of 20 steps.")] = False,
    mirror: Annotated[
        bool, typer.Option(help="Push the trials to W&B while they run, as `sweep mirror` does.")
    ] = False,
    more_evidence: Annotated[
        bool,
        typer.Option("--more-evidence", help="Then add seeds for undecided claims, until they are decided."),
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="--more-evidence: device time that all added seeds may take: 90m, 4h."
        ),
    ] = None,
) -> None:
    """Run what the plan says is left; the same command again resumes."""
    from mixsweep.sweep.backends.base import RunOptions
    from mixsweep.sweep.planning.plan import pick

    where = find_place(place)
    if where.ray:
        from mixsweep.cluster.ray_cluster.connection import set_ray_environment

        set_ray_environment(where.ray)  # before anything imports Ray
        if where.ray.store and not where.ray.takes_jobs and store == Path("runs"):
            store = Path(where.ray.store)
    check_store(store)
    made = plan_of(file, settings, store)
    chosen = (pick(made.trials, trial),) if trial is not None else None
    if overfit or profile:
        from mixsweep.sweep.cli.diagnostics import overfit_trial, profile_trial

        if where.kind != "debug":
            raise UsageError("--overfit and --profile train in this process: add --place debug")
        require("train", what=f"place {where.name}")
        if not made.trials:
            raise UsageError(f"{made.spec.name}: its search has chosen no trial yet; run it first")
        config = chosen[0] if chosen else made.trials[0]
        if overfit:
            overfit_trial(config, overfit, made, where, data, out)
        else:
            profile_trial(config, made, store, where, data, out)
        return
    if where.ray and where.ray.takes_jobs and store != Path("runs"):
        raise UsageError(f"--store {store}: place {where.name} has its own; leave out --store")
    options = RunOptions(
        store_root=store,
        data_dir=data,
        limit=limit,
        only=chosen,
        fresh=pick(made.trials, fresh, "--fresh") if fresh is not None else None,
        retry_failed=retry_failed,
        raise_errors=where.kind == "debug",
        detach=detach,
        mirror=mirror,
        more_evidence=more_evidence,
        budget=_budget(budget, more_evidence),
    )
    if not more_evidence or (where.ray and where.ray.takes_jobs):  # a job adds the seeds where the store is
        raise typer.Exit(_run(made, where, options))
    raise typer.Exit(_run_until_decided(made, lambda: plan_of(file, settings, store), where, options))


def _budget(text: str | None, more_evidence: bool) -> float | None:
    if text is None:
        return None
    if not more_evidence:
        raise UsageError("--budget: of the seeds that --more-evidence adds; give both")
    return duration_of(text, "--budget")


def _run_until_decided(
    made: "Plan", plan_again: "Callable[[], Plan]", where: Place, options: "RunOptions"
) -> int:
    """Run a plan, then the seeds that its undecided claims need, round by round; return the exit code."""
    from mixsweep.core.store.store import SweepStore
    from mixsweep.sweep.more_evidence import add_seeds
    from mixsweep.sweep.search.extra_seeds import why_no_more_seeds

    for word, given in (
        ("--detach", options.detach),
        ("--limit", options.limit is not None),
        ("--trial", options.only is not None),
    ):
        if given:
            raise UsageError(f"--more-evidence runs the sweep to its end; leave out {word}")
    if why := why_no_more_seeds(made.spec):
        raise UsageError(f"--more-evidence: {made.spec.name}: {why}")
    while (code := _run(made, where, options)) in (0, 1):
        made = plan_again()
        step = add_seeds(made, SweepStore(options.store_root / made.spec.name), options.budget)
        out.print(step.text, markup=False, soft_wrap=True)
        if not step.added:
            break
        options = replace(options, fresh=None)
        made = plan_again()
    return code


def _run(made: "Plan", where: Place, options: "RunOptions") -> int:
    """Run a plan and show its progress; return the exit code."""
    from mixsweep.core.store.store import SweepStore
    from mixsweep.sweep.backends.base import Callbacks
    from mixsweep.sweep.cli.views.live_view import RunView, counts_line
    from mixsweep.sweep.run import run_plan
    from mixsweep.sweep.status_reader import StatusReader

    if where.ray and where.ray.takes_jobs:
        plain = Callbacks(say=lambda line: out.print(line, markup=False, soft_wrap=True))
        return run_plan(made, place=where, options=options, callbacks=plain).exit_code
    root = options.store_root
    store = SweepStore(root / made.spec.name)
    again = "run the same command again to resume"
    with RunView(store, out) as view, _mirrored(store, view.say) if options.mirror else nullcontext():
        callbacks = Callbacks(
            say=view.say,
            on_record=view.record if where.kind == "debug" else lambda record: None,
            on_end=view.end_of_trial,
            on_tick=view.tick,
            on_interrupt=lambda: view.say(
                f"\nStopping after the running epochs; {again}. Press Ctrl-C again to stop now."
            ),
        )
        try:
            outcome = run_plan(made, place=where, options=options, callbacks=callbacks)
        except KeyboardInterrupt:
            jobs = (
                "The jobs keep running. Run the same command to follow them again, "
                f"or `sweep stop {store.name}` to end them."
            )
            view.say(jobs if where.kind == "slurm" else f"Stopped; {again}.")
            return 130
    out.print(counts_line(StatusReader(store).read()))
    for info in outcome.unrecorded[:1]:
        out.print(f"could not be recorded: {info.attempts[-1].message}", markup=False)
    if outcome.detached:
        words = f"The jobs keep running; follow them with: sweep status {store.name} --store {root} --watch"
        out.print(words, markup=False, soft_wrap=True)
    elif outcome.interrupted:
        out.print(f"Stopped at a safe point; {again}.")
    elif outcome.exit_code == 0:
        out.print(f"Next: sweep report {made.spec.name} --store {root}", markup=False, soft_wrap=True)
    return outcome.exit_code


@app.command(rich_help_panel=_PANEL)
def stop(sweep: SweepName, store: Store = Path("runs"), place: WhereStore = None) -> None:
    """Stop a sweep's running trials at the next safe point; the same `sweep run` resumes it."""
    elsewhere(place, "stop", sweep)
    from mixsweep.core.store.stops import request_stop

    found = find_sweep(sweep, store)
    request_stop(found.path)
    running = [f.trial_id for f in found.trials() if (info := f.info()) and info.state == "running"]
    out.print(f"{found.name}: asked {len(running)} running trials to stop after their epoch.", markup=False)
    if (found.path / "jobs").is_dir():
        from mixsweep.sweep.backends.slurm.driver import cancel_waiting

        out.print(f"Cancelled {cancel_waiting(found)} queued tasks.", markup=False)


@app.command(rich_help_panel=_PANEL)
def doctor(
    place: Annotated[
        str | None,
        typer.Option(help="Where to run; `local` if left out.", autocompletion=complete_place),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="The folder of sweeps. Without --place its files are checked.")
    ] = None,
    data: Data = None,
    job: Annotated[bool, typer.Option(help="slurm: check a node too, with a small job.")] = True,
    wait: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="The longest wait for that job.")] = 300,
    as_json: Json = False,
) -> None:
    """Check a place before you spend an allocation on it; or, with --store alone, the files of its sweeps."""
    from mixsweep.sweep.store_check import sweeps_below

    if place is None and store is not None and (sweeps := sweeps_below(store)):
        raise typer.Exit(_check_files(sweeps, as_json))
    from mixsweep.cluster.doctor.examine import examine
    from mixsweep.sweep.run import find_data

    where, store = find_place(place or "local"), store or Path("runs")
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: remove the job and its files
        signal.signal(number, signal.default_int_handler)
    styles = {"ok": "green", "warning": "yellow", "failed": "bold red"}
    checks = []
    with (Console(stderr=True) if as_json else out).status("checking") as live:
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


def _check_files(sweeps: "list[SweepStore]", as_json: bool) -> int:
    """Print a line for each file of these sweeps that is not as it has to be; return 1 if there is one."""
    from mixsweep.sweep.store_check import check

    found: list[dict[str, str]] = []
    for one in sweeps:
        for finding in check(one):
            found.append({"path": str(finding.path), "found": finding.message})
            if not as_json:
                out.print(str(finding), markup=False, soft_wrap=True)
    if as_json:
        out.print_json(json.dumps(found))
    elif not found:
        trials = sum(len(one.trial_names()) for one in sweeps)
        counted = f"{len(sweeps)} sweep{'s' * (len(sweeps) > 1)} with {trials} trials"
        out.print(f"{counted}: all files are as they have to be", markup=False, soft_wrap=True)
    return int(bool(found))


@app.command(
    rich_help_panel=_PANEL, context_settings={"ignore_unknown_options": True, "allow_extra_args": True}
)
def agent(
    context: typer.Context,
    file: File,
    store: Store = Path("runs"),
    place: PlaceName = "debug",
    data: Data = None,
) -> None:
    """Run the trial that `wandb agent` asks for: `sweep agent FILE --lr=0.1 --seed=42`."""
    require("wandb", what="sweep agent")
    from mixsweep.analysis.wandb_mirror.sinks import MirrorError, TransientError
    from mixsweep.core.store.store import SweepStore
    from mixsweep.sweep.backends.base import RunOptions
    from mixsweep.sweep.cli.wandb_sweeps import show_in_wandb, trial_for
    from mixsweep.sweep.planning.parse import load_spec
    from mixsweep.sweep.planning.plan import make_plan

    made = make_plan(load_spec(file))
    config = trial_for(made, context.args)
    where = find_place(place)
    options = RunOptions(store_root=store, data_dir=data, only=(config,), raise_errors=where.kind == "debug")
    code = _run(made, where, options)
    try:
        show_in_wandb(SweepStore(store / made.spec.name), config, made)
    except (MirrorError, TransientError) as error:
        out.print(f"{error}. The trial is in the store; `sweep mirror` pushes it.", markup=False)
    raise typer.Exit(code)


def _mirrored(store: "SweepStore", say: Callable[[str], None]) -> AbstractContextManager[None]:
    require("wandb", what="--mirror")
    from mixsweep.sweep.cli.mirror_process import MirrorOptions, mirror_beside, wants_offline

    return mirror_beside(store, MirrorOptions(offline=wants_offline(False)), say)
