"""Drive an adaptive sweep on a Ray cluster: one driver at a time has the right to choose its trials."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from mixsweep.core.store.lease import Lease, take_lease
from mixsweep.core.store.store import SweepStore, TrialInfo
from mixsweep.sweep.backends.ray.tune_driver import Work, run_source_on_ray
from mixsweep.sweep.planning.plan import Plan, make_plan, save_plan
from mixsweep.sweep.runtime.worker import WorkerSpec, run_trials
from mixsweep.sweep.search.pbt import Population
from mixsweep.sweep.search.suggestions import SearchError, Suggestions, to_come, with_known


@contextmanager
def driving(store: SweepStore) -> Iterator[Lease]:
    """The right to choose trials for a sweep.

    Raises:
        SearchError: another live process has it.
    """
    lease = take_lease(store.path / "driver")
    if lease is None:
        raise SearchError(
            f"{store.path}: another command chooses this sweep's trials; wait for it, or `sweep stop "
            f"{store.name}` (if its machine died: try again in a minute)"
        )
    with lease:
        yield lease


def run_search(
    plan: Plan,
    worker_spec: WorkerSpec,
    capacity: int,
    limit: int | None,
    on_end: Callable[[TrialInfo], None],
    say: Callable[[str], None],
    fence: Callable[[], None],
    work: Work = run_trials,
    needs: Mapping[str, float] | None = None,
) -> int:
    """Run an adaptive sweep on the Ray cluster that this process is connected to, to its end or a stop.

    Args:
        plan: of the sweep file; what the store has of it is read here.
        orders: how; the store must be reachable from every node.
        capacity: how many trials the cluster holds at once.
        limit: run no more than so many trials.
        on_end: called in this process for each trial that came to an end or a halt.
        say: told what a user should know.
        fence: called before each write to the plan; raises where the right to it is lost.
        work: what a worker process does.
        needs: what a trial needs of its node, by Ray's names; None: the CPUs and GPUs of the orders.

    Returns:
        how many trials were not chosen, though the sweep file asks for them and the space has more.

    Raises:
        SearchError: no process could work.
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
        deaths = run_source_on_ray(trial_source, worker_spec, capacity, on_end, work, needs)
        if trial_source.exhausted:
            say(f"The space has no further trial: the search ends with {len(trial_source.plan.trials)}.")
            return 0
        if not deaths or store.stop_requested(worker_spec.run_config.started_at):
            return to_come(plan.spec, len(trial_source.plan.trials)) if limit is None else 0
        if _epochs(store) == before:
            raise SearchError(f"no worker process could work: {deaths[0]}")
        limit = None if limit is None else max(0, limit - trial_source.started)


def _epochs(store: SweepStore) -> int:
    return sum(folder.records().num_rows for folder in store.trials())
