"""Run a plan at a place: prepare the run, pick the backend, and report the outcome."""

import os
import shlex
import signal
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType

from mixsweep.cluster.places import Place, find_place
from mixsweep.core import records
from mixsweep.core.config import TrialConfig
from mixsweep.core.execution.remaining import is_held, read_info, remaining
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.extras import require
from mixsweep.core.provenance import SUBMITTER_VERSION
from mixsweep.core.store.compaction import compact, tidy
from mixsweep.core.store.forecasts import StoredForecast, save_forecast
from mixsweep.core.store.retention import Retention
from mixsweep.core.store.stops import forget_command, stop_command, stop_token
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.crash_recovery import restart_trial
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.store.upgrade import bring_up_to_date
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.sweep.backends.base import (
    Backend,
    Callbacks,
    Outcome,
    RunError,
    RunOptions,
    SweepRun,
    find_backend,
)
from mixsweep.sweep.origin import check_origin, new_store_line, save_origin
from mixsweep.sweep.planning.forecast import RemainingWork, forecast, measured_rates
from mixsweep.sweep.planning.plan import Plan, other_code, other_code_line, save_plan
from mixsweep.sweep.planning.schema import SweepSpec
from mixsweep.sweep.runtime.worker import check_version, make_worker_spec
from mixsweep.sweep.search.suggestions import coming, examples, to_come, with_known


def run_plan(
    plan: Plan,
    *,
    place: str | Place = "local",
    store_root: Path | str | None = None,
    options: RunOptions = RunOptions(),
    callbacks: Callbacks = Callbacks(),
) -> Outcome:
    """Run the remaining trials of a plan, and return the outcome.

    Args:
        plan: from make_plan.
        place: a place, or its name.
        store_root: the folder of sweeps; None: that of `options`.
        options: further options.
        callbacks: called while the trials run.

    Raises:
        UserError: the place, the store or the data cannot be used; nothing was allocated.
    """
    place = find_place(place) if isinstance(place, str) else place
    options = options if store_root is None else replace(options, store_root=Path(store_root))
    if submitter := os.environ.get(SUBMITTER_VERSION):  # this process is the driver of a submitted job
        check_version(submitter)
    backend = find_backend(place)
    backend.check(plan, options)
    if (outcome := backend.run_elsewhere(plan, options, callbacks)) is not None:
        return outcome
    sweep_run = _prepare(plan, backend, options, callbacks)
    unrecorded: list[TrialInfo] = []

    def on_end(info: TrialInfo) -> None:
        if info.state == "failed" and read_info(sweep_run.store, info.trial_id) is None:
            unrecorded.append(info)
        callbacks.on_end(info)

    sweep_run = replace(sweep_run, callbacks=replace(callbacks, on_end=on_end))
    unchosen = 0  # the number of trials that a search has yet to choose
    if sweep_run.trials or (sweep_run.searches and to_come(plan.spec, len(sweep_run.plan.trials))):
        run_config = sweep_run.worker_spec.run_config
        stop = stop_on_signal(run_config, callbacks.on_interrupt)
        with stop if backend.ends_with_command else nullcontext():
            unchosen = backend.run(sweep_run)
        if not options.detach:
            compact(sweep_run.store)
    tidy(sweep_run.store)
    outcome = _outcome(sweep_run, options, unchosen, unrecorded)
    forget_command(sweep_run.store.path, sweep_run.worker_spec.run_config.command_id)
    return outcome


def _prepare(plan: Plan, backend: Backend, options: RunOptions, callbacks: Callbacks) -> SweepRun:
    """Check store and data, save the plan and the forecast; return the run of the remaining trials.

    Raises:
        UserError: the store or the data cannot be used.
    """
    store = SweepStore(options.store_root / plan.spec.name)
    searches = plan.spec.search is not None and options.only is None
    try:
        if store.exists():
            check_origin(plan, store)
            _open_store(store)
        if searches or plan.spec.search is None:
            plan = with_known(plan, store)
        run_config = make_run_config(plan.spec, store, backend.place, options)
        trials = remaining(options.only or plan.trials, store, run_config)
        if options.fresh is not None:  # first, so that no limit leaves it out
            trials = [options.fresh, *(one for one in trials if one.trial_id != options.fresh.trial_id)]
        if trials or searches:
            require(*backend.extras, what=f"place {backend.place.name}")
        if options.limit is not None:
            trials = [config for config in trials if not is_held(store, config)][: options.limit]
        check_data([*trials, *(examples(plan.spec) if searches else [])], run_config)
        announcement = new_store_line(plan, store)
        _open_store(store)
        for line in (announcement, other_code_line(plan, store, other_code(plan, store))):
            if line:
                callbacks.say(line)
        if options.fresh is not None:
            restart_trial(store.trial(options.fresh.trial_id))
        save_origin(plan, store)
        if plan.spec.search is None:
            save_plan(plan, store)
        if options.only is None:
            _save_forecast(trials, coming(plan)[: options.limit] if searches else [], store, run_config)
        worker_spec = make_worker_spec(plan, run_config)
    except OSError as error:
        raise RunError(f"{store.path}: the store cannot be written: {error.strerror or error}") from error
    return SweepRun(
        plan=plan,
        trials=tuple(trials),
        worker_spec=worker_spec,
        searches=searches,
        limit=options.limit,
        detach=options.detach,
        callbacks=callbacks,
    )


def _open_store(store: SweepStore) -> None:
    """Make a sweep's folder if there is none, and bring an older one up to date.

    Raises:
        UserError: it is of another version and cannot be used.
    """
    store.path.mkdir(parents=True, exist_ok=True)
    bring_up_to_date(store)


def _outcome(
    sweep_run: SweepRun, options: RunOptions, unchosen: int, unrecorded: Sequence[TrialInfo]
) -> Outcome:
    """The outcome of the command's trials, from the store."""
    store = sweep_run.store
    plan = with_known(sweep_run.plan, store) if sweep_run.searches else sweep_run.plan
    asked = (options.only or plan.trials) if options.limit is None else sweep_run.trials
    infos = [read_info(store, config.trial_id) for config in asked]
    counts = Counter(info.state if info else "waiting" for info in infos)
    counts["waiting"] += unchosen
    left = unchosen > 0 or bool(remaining(asked, store, sweep_run.worker_spec.run_config))
    return Outcome(
        interrupted=sweep_run.stop_requested() and left,
        counts=dict(+counts),
        unrecorded=tuple(unrecorded),
        detached=bool(sweep_run.trials) and options.detach,
    )


def make_run_config(
    spec: SweepSpec, store: SweepStore, place: Place, options: RunOptions = RunOptions()
) -> RunConfig:
    """The run config of this command's worker processes."""
    return RunConfig(
        store=store.path.absolute(),
        place=place.name,
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        data_dir=find_data(options.data_dir, place),
        cpus=spec.resources.cpus,
        gpus=spec.resources.gpus or 0.0,
        compile=spec.resources.compile,
        ranks=spec.resources.ranks,
        batch_norm=spec.resources.batch_norm,
        keep_predictions=spec.keep_predictions,
        retention=Retention(spec.keep_checkpoints, spec.metric, spec.mode, spec.score),
        started_at=records.now().isoformat(),
        command_id=uuid.uuid4().hex,
        stop_seen=stop_token(store.path),
        retry_failed=options.retry_failed,
        stopping=spec.may_stop_trials,
        raise_errors=options.raise_errors,
    )


def find_data(data_dir: Path | None, place: Place) -> Path | None:
    """The data folder of this machine: `--data`, SWEEP_DATA, or the place's; None: none is set."""
    if data_dir is not None:
        return data_dir.expanduser().absolute()
    if os.environ.get("SWEEP_DATA"):
        return Path(os.environ["SWEEP_DATA"]).expanduser().absolute()
    return place.data.absolute() if place.data else None


def check_data(trials: Sequence[TrialConfig], run_config: RunConfig) -> None:
    """Check that the data of the trials exists, before anything is allocated.

    Raises:
        DataError: files are missing; says where and what to do.
    """
    for kind in {config.kind for config in trials}:
        find_trainable(kind).check_data(
            [config for config in trials if config.kind == kind], run_config.data_dir
        )


def _save_forecast(
    trials: Sequence[TrialConfig], to_choose: Sequence[TrialConfig], store: SweepStore, run_config: RunConfig
) -> None:
    work = [RemainingWork(config, max(0, config.epochs - _resumes_from(store, config))) for config in trials]
    work += [RemainingWork(config, config.epochs) for config in to_choose]
    if not work:
        return
    cost = forecast(work, measured_rates(store.path.parent))
    save_forecast(
        store,
        StoredForecast(
            command_id=run_config.command_id,
            made_at=run_config.started_at,
            place=run_config.place,
            trials=len(work),
            epochs=sum(part.epochs for part in work),
            seconds=cost.seconds,
            basis=cost.basis,
        ),
    )


def _resumes_from(store: SweepStore, config: TrialConfig) -> int:
    """The epoch of a trial's checkpoint, from the trial's info; the checkpoint itself is not read."""
    info = read_info(store, config.trial_id)
    resumes = info is not None and store.trial(config.trial_id).has_checkpoint()
    return max(config.begins_after, info.epoch if info and resumes else 0)


@contextmanager
def stop_on_signal(run_config: RunConfig, on_interrupt: Callable[[], None]) -> Iterator[None]:
    """On a first Ctrl-C, SIGTERM or SIGHUP stop this command's processes at a safe point; on a second stop at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    requested = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True
        stop_command(run_config.store, run_config.command_id)
        on_interrupt()

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
