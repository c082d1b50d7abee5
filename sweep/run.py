"""Run a plan at a place: what is left of it becomes units, the units run, the store says how it ended."""

import os
import shlex
import signal
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType

from mixsweep.cluster.places import Place, find_place
from mixsweep.core import records
from mixsweep.core.config import TrialConfig
from mixsweep.core.data.cifar10 import source_files
from mixsweep.core.errors import UserError
from mixsweep.core.execution.run_config import RunConfig, Unit
from mixsweep.core.extras import require
from mixsweep.core.records import EpochRecord
from mixsweep.core.store.checkpoint import has_checkpoint
from mixsweep.core.store.forecasts import StoredForecast, save_forecast
from mixsweep.core.store.retention import Retention
from mixsweep.core.store.store import SweepStore, TrialInfo
from mixsweep.sweep.backends.ray.search_driver import driving
from mixsweep.sweep.backends.slurm.driver import ArrayDriver
from mixsweep.sweep.planning.forecast import RemainingWork, forecast, measured_rates
from mixsweep.sweep.planning.plan import Plan, save_plan
from mixsweep.sweep.planning.schema import SweepSpec
from mixsweep.sweep.runtime.retry import (
    RetryLoop,
    in_background,
    info_of,
    is_held,
    left_to_do,
    unless_unreadable,
)
from mixsweep.sweep.runtime.worker import WorkerSpec, make_worker_spec, run_trials
from mixsweep.sweep.search.suggestions import check_place, coming, examples, to_come, with_known

# What of the package's extras a place of each kind needs in the process that runs a plan there.
_EXTRAS = {"debug": ("train",), "local": ("train", "ray"), "ray": ("ray",), "slurm": ("slurm",)}

OnRecord = Callable[[EpochRecord], None]
OnEnd = Callable[[TrialInfo], None]


class RunError(UserError):
    """A sweep that cannot begin: nothing was allocated, and one line says why."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command's trials stand when it ends."""

    interrupted: bool
    counts: dict[str, int]
    unrecorded: tuple[TrialInfo, ...] = ()  # failures that the store could not take (a full disk)
    detached: bool = False  # jobs were submitted, and nobody waited for them

    @property
    def exit_code(self) -> int:
        """0 done, 1 some trials failed (or are left), 130 interrupted."""
        if self.interrupted:
            return 130
        if self.detached:
            return 0
        done = sum(self.counts.get(state, 0) for state in ("completed", "stopped", "diverged"))
        return 0 if done == sum(self.counts.values()) and not self.unrecorded else 1


def make_run_config(
    spec: SweepSpec, store: SweepStore, place: Place, data_dir: Path | None, retry_failed: bool = False
) -> RunConfig:
    """How the processes of this command train."""
    return RunConfig(
        store=store.path.absolute(),
        place=place.name,
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        data_dir=find_data(data_dir, place),
        cpus=spec.resources.cpus,
        gpus=spec.resources.gpus or 0.0,
        compile=spec.resources.compile,
        ranks=spec.resources.ranks,
        batch_norm=spec.resources.batch_norm,
        retention=Retention(spec.keep_checkpoints, spec.metric, spec.mode),
        started_at=records.now().isoformat(),
        command_id=uuid.uuid4().hex,
        retry_failed=retry_failed,
        stopping=spec.may_stop_trials,
    )


def find_data(data_dir: Path | None, place: Place) -> Path | None:
    """Where this machine's data lies: `--data`, SWEEP_DATA, or the place's own."""
    if data_dir is not None:
        return data_dir.expanduser().absolute()
    if os.environ.get("SWEEP_DATA"):
        return Path(os.environ["SWEEP_DATA"]).expanduser().absolute()
    return place.data.absolute() if place.data else None


def run_plan(
    plan: Plan,
    *,
    place: str | Place = "local",
    store_root: Path | str = "runs",
    data_dir: Path | None = None,
    limit: int | None = None,
    only: Sequence[TrialConfig] | None = None,
    retry_failed: bool = False,
    raise_errors: bool = False,
    detach: bool = False,
    say: Callable[[str], None] = lambda text: None,
    on_record: OnRecord = lambda record: None,
    on_end: OnEnd = lambda info: None,
    on_tick: Callable[[], None] = lambda: None,
    on_interrupt: Callable[[], None] = lambda: None,
) -> Outcome:
    """Run what is left of a plan and return how it stands.

    Args:
        plan: from make_plan.
        place: a place's name, or the place.
        store_root: the folder of sweeps.
        data_dir: where the images lie; see find_data.
        limit: run no more than so many of the trials that are left.
        only: run only these trials of the plan.
        retry_failed: give failed trials a new try, whatever their kind.
        raise_errors: in `debug`, let an exception pass once it is recorded.
        detach: at a place that works by itself (`slurm`), return as soon as all is submitted.
        say: told what was submitted.
        on_record: called after each epoch, in `debug` only.
        on_end: called when a trial ends or halts.
        on_tick: called about twice a second while a cluster works.
        on_interrupt: called at the first Ctrl-C.

    Raises:
        RunError: the store or the data cannot be used; nothing was allocated.
    """
    place = find_place(place) if isinstance(place, str) else place
    if detach and place.kind != "slurm":
        raise RunError(f"--detach: place {place.name} works only as long as this command does")
    if plan.spec.resources.ranks > 1 and place.kind == "debug":
        raise RunError(f"resources.ranks: place {place.name} trains a trial in one process; use another one")
    if plan.spec.resources.nodes > 1 and place.kind == "local":
        raise RunError(f"resources.nodes = {plan.spec.resources.nodes}: place {place.name} is one machine")
    if plan.spec.resources.ranks > 1 and plan.spec.search is not None:
        raise RunError("resources.ranks: with [search] a trial has one process")
    if place.ray and place.ray.takes_jobs:
        raise RunError(f"place {place.name} takes jobs: `sweep run` submits one; here, give HOST:PORT")
    if place.kind != "ray" and (plan.spec.resources.memory or plan.spec.resources.custom):
        raise RunError(f"resources: memory and custom are Ray's; place {place.name} does not know them")
    store = SweepStore(Path(store_root) / plan.spec.name)
    search = plan.spec.search if only is None else None
    if search is not None:
        check_place(plan.spec, place, limit)
        plan = with_known(plan, store)
    run_config = make_run_config(plan.spec, store, place, data_dir, retry_failed)
    if raise_errors:
        run_config = replace(run_config, raise_errors=True)
    trials = tuple(only) if only is not None else plan.trials
    try:
        todo = left_to_do(trials, store, run_config)
        if todo or search:
            require(*_EXTRAS[place.kind], what=f"place {place.name}")
        if limit is not None:
            todo = [config for config in todo if not is_held(store, config)][:limit]
        check_data([*todo, *(examples(plan.spec) if search else [])], run_config)
        if search is None and plan.spec.search is None:
            save_plan(plan, store)
        if only is None:
            _keep_forecast(todo, coming(plan)[:limit] if search else [], store, run_config)
    except OSError as error:
        raise RunError(f"{store.path}: the store cannot be written: {error.strerror or error}") from error
    unrecorded: list[TrialInfo] = []
    still_to_come = 0  # trials that a search has yet to choose

    def ended(info: TrialInfo) -> None:
        if info.state == "failed" and info_of(store, info.config) is None:
            unrecorded.append(info)
        on_end(info)

    if todo and place.kind == "slurm":
        batch = ArrayDriver(plan.spec, place, todo, run_config)
        for made in batch.submit_unassigned():
            say(f"Submitted {len(made.tasks)} tasks as job {made.job_id}.")
        if not detach:
            batch.follow(ended, on_tick, say)
            store.compact()
    elif todo or (search and to_come(plan.spec, len(trials))):
        worker_spec = make_worker_spec(plan, run_config)
        with stop_on_signal(store, on_interrupt):
            if place.kind == "debug":
                _run_here(todo, worker_spec, plan.spec, on_record, ended)
            elif place.kind == "ray":
                from mixsweep.sweep.backends.ray.cluster import run_attached, search_attached

                if search is not None:
                    still_to_come = search_attached(plan, worker_spec, place, limit, ended, on_tick, say)
                else:
                    run_attached(todo, worker_spec, plan.spec.resources, place, ended, on_tick)
            elif search is not None:
                still_to_come = _search_on_local_ray(plan, worker_spec, place, limit, ended, on_tick, say)
            else:
                _run_on_local_ray(todo, worker_spec, plan.spec, place, ended, on_tick)
        if search is not None:
            trials = with_known(plan, store).trials
        store.compact()
    asked = trials if limit is None else todo
    infos = [info_of(store, config) for config in asked]
    counts = Counter(info.state if info else "waiting" for info in infos)
    counts["waiting"] += still_to_come
    return Outcome(
        interrupted=store.stop_requested(run_config.started_at)
        and (still_to_come > 0 or bool(left_to_do(asked, store, run_config))),
        counts=dict(+counts),
        unrecorded=tuple(unrecorded),
        detached=bool(todo) and detach,
    )


def _keep_forecast(
    todo: Sequence[TrialConfig], to_choose: Sequence[TrialConfig], store: SweepStore, run_config: RunConfig
) -> None:
    work = [RemainingWork(config, max(0, config.epochs - _goes_on_from(store, config))) for config in todo]
    work += [RemainingWork(config, config.epochs) for config in to_choose]
    if not work:
        return
    cost = forecast(work, measured_rates(store.path.parent))
    expectation = StoredForecast(
        command_id=run_config.command_id,
        made_at=run_config.started_at,
        place=run_config.place,
        trials=len(work),
        epochs=sum(left.epochs for left in work),
        seconds=cost.seconds,
        basis=cost.basis,
    )
    save_forecast(store, expectation)


def _goes_on_from(store: SweepStore, config: TrialConfig) -> int:
    """The epoch that a trial has a checkpoint of, as far as can be told without reading it."""
    info = info_of(store, config)
    has_one = info is not None and has_checkpoint(store.trial(config.trial_id).path)
    return max(config.begins_after, info.epoch if info and has_one else 0)


def check_data(trials: Sequence[TrialConfig], run_config: RunConfig) -> None:
    """Make sure that the images' files are there, before anything is allocated.

    Raises:
        DataError: what is missing, where, and what to do.
    """
    if any(config.dataset == "cifar10" for config in trials):
        source_files(run_config.data_dir)


@contextmanager
def stop_on_signal(store: SweepStore, on_interrupt: Callable[[], None]) -> Iterator[None]:
    """A first Ctrl-C (or SIGTERM, or a lost terminal) asks for a stop at the next safe point, a second stops now."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        store.request_stop()
        on_interrupt()

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_here(
    todo: Sequence[TrialConfig], worker_spec: WorkerSpec, spec: SweepSpec, on_record: OnRecord, on_end: OnEnd
) -> None:
    here = _with_gpus(worker_spec, spec, _cuda_devices())
    for info in run_trials(here, [(config,) for config in todo], on_record):
        on_end(info)


def _run_on_local_ray(
    todo: list[TrialConfig],
    worker_spec: WorkerSpec,
    spec: SweepSpec,
    place: Place,
    on_end: OnEnd,
    on_tick: Callable[[], None],
) -> None:
    from mixsweep.cluster.ray_cluster.nodes import local_ray
    from mixsweep.sweep.backends.ray.rank_groups import run_rank_groups
    from mixsweep.sweep.backends.ray.tune_driver import run_on_ray

    store = SweepStore(worker_spec.run_config.store)
    ranks = worker_spec.run_config.ranks
    work = run_rank_groups if ranks > 1 else run_trials
    with local_ray(place.cpus, place.gpus) as has:
        worker_spec = _with_gpus(worker_spec, spec, int(has.get("GPU", 0)))
        slots = _slots(worker_spec.run_config.cpus, worker_spec.run_config.gpus, has, ranks)

        def run(trials: list[TrialConfig]) -> list[str]:
            units: list[Unit] = [(config,) for config in trials]
            return in_background(
                partial(run_on_ray, units, worker_spec, slots, on_end, work), unless_unreadable(on_tick)
            )

        RetryLoop(
            store=store,
            run_config=replace(worker_spec.run_config, retry_failed=False),
            run=run,
            halt=lambda: store.stop_requested(worker_spec.run_config.started_at),
        ).go(todo)


def _search_on_local_ray(
    plan: Plan,
    worker_spec: WorkerSpec,
    place: Place,
    limit: int | None,
    on_end: OnEnd,
    on_tick: Callable[[], None],
    say: Callable[[str], None],
) -> int:
    """Run an adaptive sweep; return how many of its trials have not been chosen."""
    from mixsweep.cluster.ray_cluster.nodes import local_ray
    from mixsweep.sweep.backends.ray.search_driver import run_search

    with driving(SweepStore(worker_spec.run_config.store)) as lease, local_ray(place.cpus, place.gpus) as has:
        worker_spec = _with_gpus(worker_spec, plan.spec, int(has.get("GPU", 0)))
        slots = _slots(worker_spec.run_config.cpus, worker_spec.run_config.gpus, has)
        job = partial(run_search, plan, worker_spec, slots, limit, on_end, say, lease.check)
        return in_background(job, unless_unreadable(on_tick))


def _with_gpus(worker_spec: WorkerSpec, spec: SweepSpec, available: int) -> WorkerSpec:
    """Orders with the GPUs of a trial: as the sweep file says, else one where there is any."""
    gpus = spec.resources.gpus if spec.resources.gpus is not None else float(available > 0)
    return replace(worker_spec, run_config=replace(worker_spec.run_config, gpus=gpus))


def _slots(cpus: int, gpus: float, has: dict[str, float], ranks: int = 1) -> int:
    """How many trials fit at once, each of so many ranks.

    Raises:
        RunError: not even one does.
    """
    fits = has.get("CPU", 0) / cpus
    if gpus:
        fits = min(fits, has.get("GPU", 0) / gpus)
    if fits < ranks:
        asks = f"a trial asks for {cpus} CPUs and {gpus:g} GPUs" + f" for each of {ranks} ranks" * (ranks > 1)
        raise RunError(
            f"{asks}; this machine has {has.get('CPU', 0):g} and {has.get('GPU', 0):g}: see [resources]"
        )
    return int(fits // ranks)


def _cuda_devices() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
