"""A sweep on a Ray cluster that is there already, with this process as its driver.

The driver hears from Ray which nodes are gone, and frees their trials at once: nobody waits until a dead
node's lease is stale.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mixsweep.cluster.places import Place, RayPlace
from mixsweep.cluster.ray_cluster import connection, packaging
from mixsweep.cluster.ray_cluster.head_monitor import ClusterError, HeadMonitor
from mixsweep.core.config import TrialConfig
from mixsweep.core.execution.run_config import Unit
from mixsweep.core.scratch import scratch_folder
from mixsweep.core.store.crash_recovery import record_killed_attempt
from mixsweep.core.store.lease import HEARTBEAT_SECONDS, STALE_SECONDS, holder_of
from mixsweep.core.store.store import SweepStore, TrialInfo
from mixsweep.core.toml_reader import bytes_of
from mixsweep.sweep.backends.ray.rank_groups import run_rank_groups
from mixsweep.sweep.backends.ray.search_driver import driving, run_search
from mixsweep.sweep.backends.ray.tune_driver import Work, run_on_ray
from mixsweep.sweep.planning.plan import Plan
from mixsweep.sweep.planning.schema import Resources
from mixsweep.sweep.runtime.retry import RetryLoop, in_background, unless_unreadable
from mixsweep.sweep.runtime.worker import WorkerSpec, run_trials


@dataclass(frozen=True, kw_only=True)
class _Cluster:
    """What a driver knows of the cluster that it has come into, for the trials of one sweep."""

    worker_spec: WorkerSpec
    needs: Mapping[str, float]  # of a trial, or of each of its ranks, by Ray's names
    slots: int  # trials at once
    work: Work
    watch: "_NodeWatch"


def run_attached(
    todo: list[TrialConfig],
    worker_spec: WorkerSpec,
    resources: Resources,
    place: Place,
    on_end: Callable[[TrialInfo], None],
    on_tick: Callable[[], None],
) -> None:
    """Run trials on the cluster of a place.

    Raises:
        ClusterError: it cannot be reached, or could never hold a trial, or its head is gone.
    """
    store = SweepStore(worker_spec.run_config.store)
    with _attached(todo, worker_spec, resources, place) as here:

        def run(trials: list[TrialConfig]) -> list[str]:
            units: list[Unit] = [(config,) for config in trials]
            start = partial(run_on_ray, units, here.worker_spec, here.slots, on_end, here.work, here.needs)
            return in_background(start, here.watch.beside(on_tick))

        def halt() -> bool:
            here.watch.look()
            return store.stop_requested(worker_spec.run_config.started_at)

        RetryLoop(
            store=store,
            run_config=replace(here.worker_spec.run_config, retry_failed=False),
            run=run,
            halt=halt,
            patience_seconds=STALE_SECONDS + HEARTBEAT_SECONDS,
        ).go(todo)


def search_attached(
    plan: Plan,
    worker_spec: WorkerSpec,
    place: Place,
    limit: int | None,
    on_end: Callable[[TrialInfo], None],
    on_tick: Callable[[], None],
    say: Callable[[str], None],
) -> int:
    """Run an adaptive sweep on the cluster of a place; return how many of its trials have not been chosen.

    Raises:
        ClusterError: it cannot be reached, or could never hold a trial, or its nodes do not see the store.
    """
    assert place.ray is not None
    if not place.ray.shared:
        raise ClusterError(f"[search]: place {place.name} has no store that all nodes see (shared = false)")
    with (
        driving(SweepStore(worker_spec.run_config.store)) as lease,
        _attached([], worker_spec, plan.spec.resources, place) as here,
    ):
        start = partial(
            run_search,
            plan, here.worker_spec, here.slots, limit, on_end, say, lease.check, here.work, here.needs,
        )  # fmt: skip
        return in_background(start, here.watch.beside(on_tick))


@contextmanager
def _attached(
    todo: list[TrialConfig], worker_spec: WorkerSpec, resources: Resources, place: Place
) -> Iterator[_Cluster]:
    assert place.ray is not None
    connection.prepare(place.ray)
    if resources.ranks > 1 and not place.ray.shared:
        raise ClusterError(
            f"resources.ranks: place {place.name} has no store that all nodes see (shared = false)"
        )
    with (
        _shipped(worker_spec, place.ray) as (folder, worker_spec),
        connection.attached(place.ray, folder) as head,
    ):
        # Beside this thread: Ray does not return from a call while the head is silent.
        yield in_background(partial(_look_around, todo, worker_spec, resources, place.ray, head), head.check)


def _look_around(
    todo: list[TrialConfig], worker_spec: WorkerSpec, resources: Resources, place: RayPlace, head: HeadMonitor
) -> _Cluster:
    store = SweepStore(worker_spec.run_config.store)
    has_gpus = any(node.has.get("GPU") for node in connection.nodes())
    gpus = resources.gpus if resources.gpus is not None else float(has_gpus)
    worker_spec = replace(worker_spec, run_config=replace(worker_spec.run_config, gpus=gpus))
    needs = needs_of(resources, gpus, place)
    slots = connection.capacity(needs, resources.ranks)
    job = connection.this_job()
    work: Work = partial(run_on_node, job)
    free: Callable[[Mapping[str, str]], object] = partial(_free_trials, store)
    if resources.ranks > 1:
        work = partial(run_rank_groups, nodes=resources.nodes, needs=needs, here=partial(on_this_node, job))
    if place.shared:
        if (store.path / "plan.parquet").exists():  # a search writes its own later
            _check_store_is_shared(store.path)
    else:
        proxy = _start_proxy(worker_spec, todo)
        work = partial(run_remotely_on_node, proxy, job)
        free = proxy.drop_nodes.remote
    return _Cluster(
        worker_spec=worker_spec, needs=needs, slots=slots, work=work, watch=_NodeWatch(head, free)
    )


def needs_of(resources: Resources, gpus: float, place: RayPlace) -> dict[str, float]:
    """What a trial needs of a node, by Ray's names; the sweep file comes before the place."""
    needs = {"CPU": float(resources.cpus), "GPU": gpus}
    if memory := resources.memory or place.memory:
        needs["memory"] = float(bytes_of(memory))
    return {**needs, **place.resources, **resources.custom}


def run_on_node(job: str, worker_spec: WorkerSpec, units: list[Unit]) -> Iterator[TrialInfo]:
    """What a worker process does on whichever node it is."""
    yield from run_trials(on_this_node(job, worker_spec), units)


def run_remotely_on_node(
    proxy: Any, job: str, worker_spec: WorkerSpec, units: list[Unit]
) -> Iterator[TrialInfo]:
    """As run_on_node, where the store is seen by its keeper only."""
    from mixsweep.sweep.backends.ray.remote_worker import run_trials_remotely

    here = on_this_node(job, worker_spec)
    yield from run_trials_remotely(proxy, here.run_config.job.rpartition("@")[2], here, units)


def on_this_node(job: str, worker_spec: WorkerSpec) -> WorkerSpec:
    """The orders with where this process is: its attempts say on which node they ran."""
    node_id, host = connection.this_node()
    return replace(
        worker_spec, run_config=replace(worker_spec.run_config, host=host, job=_job_on(job, node_id))
    )


def _job_on(job: str, node_id: str) -> str:
    return f"{job}@{node_id[:16]}"


class _NodeWatch:
    """Frees the trials of nodes that Ray has given up: their processes end with them."""

    def __init__(self, head: HeadMonitor, free: Callable[[Mapping[str, str]], object]):
        self._head = head
        self._free = free
        self._freed: Mapping[str, str] = {}

    def look(self) -> None:
        """Free what is to be freed now.

        Raises:
            HeadGoneError: the cluster's head does not answer.
        """
        self._head.check()
        self._free_lost()

    def beside(self, on_tick: Callable[[], None]) -> Callable[[], None]:
        """A tick that looks, too."""

        def free_and_tick() -> None:
            self._free_lost()
            on_tick()

        patient = unless_unreadable(free_and_tick)

        def tick() -> None:
            self._head.check()
            patient()

        return tick

    def _free_lost(self) -> None:
        dead = self._head.dead_nodes
        if dead != self._freed:
            self._free(dead)
            self._freed = dead


def _free_trials(store: SweepStore, dead: Mapping[str, str]) -> None:
    """Write down the deaths of attempts on nodes that are gone, by the beginnings of their ids."""
    for folder in store.trials():
        holder = holder_of(folder.path)
        info = folder.info()
        if info is None or info.state not in ("running", "lost"):
            continue
        job = info.attempts[-1].job
        why = dead.get(job.rpartition("@")[2])
        if why is not None:
            record_killed_attempt(folder, job, "killed", f"its node is gone: {why}", dead_holder=holder)


def _start_proxy(worker_spec: WorkerSpec, trials: list[TrialConfig]) -> Any:
    """The store's keeper, on this node; one that dies is started again."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from mixsweep.sweep.backends.ray.store_proxy import StoreProxy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(StoreProxy).options(**options).remote(worker_spec, trials)


@contextmanager
def _shipped(worker_spec: WorkerSpec, place: RayPlace) -> Iterator[tuple[Path | None, WorkerSpec]]:
    """The working folder for the workers, and orders that name the imports as these find them."""
    imports = list(worker_spec.source.get("imports", []))
    if connection.is_in_a_job():
        here = Path.cwd()
        inside = [os.path.relpath(p, here) if Path(p).is_relative_to(here) else p for p in imports]
        yield None, _with_imports(worker_spec, inside)
        return
    with scratch_folder() as folder:
        places = packaging.stage(folder, imports, place.exclude)
        yield folder, _with_imports(worker_spec, [places[name] for name in imports])


def _with_imports(worker_spec: WorkerSpec, imports: list[str]) -> WorkerSpec:
    return replace(worker_spec, source={**worker_spec.source, "imports": imports}) if imports else worker_spec


def _check_store_is_shared(path: Path) -> None:
    """Make sure that each node sees the store: else its trials would be written where nobody looks."""
    blind = connection.nodes_that_miss(path / "plan.parquet")
    if blind:
        raise ClusterError(
            f"{path}: not seen on {', '.join(blind)}; give a shared folder, or write shared = false in the place"
        )
