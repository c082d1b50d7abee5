"""Drive an adaptive sweep on a Ray cluster. A lease lets one driver at a time choose its trials."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.store.trial.lease import Lease, take_lease
from mixsweep.sweep.backends.base import SweepRun
from mixsweep.sweep.backends.ray.tune_driver import RaySlots, run_source_on_ray
from mixsweep.sweep.planning.plan import Plan, make_plan, save_plan
from mixsweep.sweep.runtime.retry import in_background
from mixsweep.sweep.runtime.worker import WorkerSpec
from mixsweep.sweep.search.pbt import Population
from mixsweep.sweep.search.suggestions import SearchError, Suggestions, to_come, with_known


@contextmanager
def hold_driver_lease(store: SweepStore) -> Iterator[Lease]:
    """Hold the lease that allows to choose a sweep's trials.

    Raises:
        SearchError: another live process holds it.
    """
    lease = take_lease(store.path / "driver")
    if lease is None:
        raise SearchError(
            f"{store.path}: another command chooses this sweep's trials; wait for it, or `sweep stop "
            f"{store.name}` (if its machine died: try again in a minute)"
        )
    with lease:
        yield lease


def drive_search(
    sweep_run: SweepRun, worker_spec: WorkerSpec, slots: RaySlots, on_tick: Callable[[], None]
) -> int:
    """Run an adaptive sweep on the Ray cluster that this process is connected to; return how many trials are unchosen.

    Args:
        worker_spec: the command's, with the GPUs per trial on this cluster.
        on_tick: called about twice a second; what it raises ends the run.

    Raises:
        SearchError: another live process chooses this sweep's trials, or every worker process failed.
    """
    with hold_driver_lease(sweep_run.store) as lease:
        search = partial(
            run_search,
            sweep_run.plan,
            worker_spec,
            slots,
            limit=sweep_run.limit,
            on_end=sweep_run.callbacks.on_end,
            say=sweep_run.callbacks.say,
            fence=lease.check,
        )
        return in_background(search, on_tick)


def run_search(
    plan: Plan,
    worker_spec: WorkerSpec,
    slots: RaySlots,
    *,
    limit: int | None,
    on_end: Callable[[TrialInfo], None],
    say: Callable[[str], None],
    fence: Callable[[], None],
) -> int:
    """Run an adaptive sweep until it is complete or stopped, as its only driver.

    Args:
        plan: of the sweep file; trials that the store already has are read here.
        worker_spec: for the workers; every node must reach its store.
        limit: the largest number of trials to run; None: no limit.
        on_end: called in this process for each trial that ended or paused.
        say: called with lines for the user.
        fence: called before each write to the plan; raises if the lease is lost.

    Returns:
        how many trials the sweep file asks for and the space has, but were not chosen.

    Raises:
        SearchError: every worker process failed and nothing was trained.
    """
    store = SweepStore(worker_spec.run_config.store)
    while True:
        plan = with_known(plan, store)
        save_plan(plan, store)
        trial_source: Suggestions | Population
        if plan.spec.search is not None and plan.spec.search.algorithm == "pbt":
            trial_source = Population(make_plan(plan.spec), store, worker_spec.run_config, fence)
        else:
            trial_source = Suggestions(plan, store, worker_spec.run_config, limit, fence)
        before = _epochs(store)
        dead_workers = run_source_on_ray(trial_source, worker_spec, slots, on_end)
        if trial_source.exhausted:
            say(f"The space has no further trial: the search ends with {len(trial_source.plan.trials)}.")
            return 0
        if not dead_workers or worker_spec.run_config.stop_requested():
            return to_come(plan.spec, len(trial_source.plan.trials)) if limit is None else 0
        if _epochs(store) == before:
            raise SearchError(f"every worker process failed: {dead_workers[0]}")
        limit = None if limit is None else max(0, limit - trial_source.started)


def _epochs(store: SweepStore) -> int:
    return sum(folder.records().num_rows for folder in store.trials())
