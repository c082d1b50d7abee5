"""Trials on a Ray cluster that is there already, with this process as its driver.

The driver hears from Ray which nodes are gone, and frees their trials at once: nobody waits until a dead
node's lease is stale.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mixsweep.cluster.places import Place, RayPlace
from mixsweep.cluster.ray_cluster import connection, packaging
from mixsweep.cluster.ray_cluster.head_monitor import ClusterError, HeadMonitor
from mixsweep.core.config import TrialConfig
from mixsweep.core.scratch import scratch_folder
from mixsweep.core.store.lease import HEARTBEAT_SECONDS, STALE_SECONDS
from mixsweep.core.store.store import SweepStore, TrialInfo
from mixsweep.core.toml_reader import bytes_of
from mixsweep.sweep.backends.base import Backend, RunOptions, SweepRun
from mixsweep.sweep.backends.ray.lost_nodes import job_with_node, node_id_of, record_lost_nodes
from mixsweep.sweep.backends.ray.rank_groups import run_rank_groups
from mixsweep.sweep.backends.ray.search_driver import drive_search
from mixsweep.sweep.backends.ray.tune_driver import RaySlots, Train, run_until_done
from mixsweep.sweep.planning.plan import Plan
from mixsweep.sweep.planning.schema import Resources
from mixsweep.sweep.runtime.retry import ignore_read_errors, in_background
from mixsweep.sweep.runtime.worker import WorkerSpec, run_trials


@dataclass(frozen=True, kw_only=True)
class _ConnectedCluster:
    """What a driver knows of the cluster that it has come into, for the trials of one sweep."""

    worker_spec: WorkerSpec
    slots: RaySlots
    watch: "_NodeWatch"


class RayClusterBackend(Backend):
    """A place of kind `ray` whose address is a cluster's own."""

    takes_custom_resources: ClassVar[bool] = True
    searches: ClassVar[bool] = True

    def __init__(self, place: Place):
        super().__init__(place)
        assert place.ray is not None
        self._ray = place.ray

    def check(self, plan: Plan, options: RunOptions) -> None:
        super().check(plan, options)
        if self._ray.shared:
            return
        unshared = f"place {self.place.name} has no store that all nodes see (shared = false)"
        if plan.spec.search is not None:
            raise ClusterError(f"[search]: {unshared}")
        if plan.spec.resources.ranks > 1:
            raise ClusterError(f"resources.ranks: {unshared}")

    def run(self, sweep_run: SweepRun) -> int:
        connection.set_ray_environment(self._ray)
        with self._connect(sweep_run) as here:
            if sweep_run.searches:
                on_tick = here.watch.wrap_tick(sweep_run.callbacks.on_tick)
                return drive_search(sweep_run, here.worker_spec, here.slots, on_tick)

            def halt() -> bool:
                here.watch.check()
                return sweep_run.stop_requested()

            run_until_done(
                sweep_run.trials,
                here.worker_spec,
                here.slots,
                on_end=sweep_run.callbacks.on_end,
                on_tick=here.watch.wrap_tick(sweep_run.callbacks.on_tick),
                halt=halt,
                patience_seconds=STALE_SECONDS + HEARTBEAT_SECONDS,
            )
        return 0

    @contextmanager
    def _connect(self, sweep_run: SweepRun) -> Iterator[_ConnectedCluster]:
        """This process as the cluster's driver, with all that its workers need shipped."""
        with scratch_folder() as folder:
            worker_spec, runtime_env = _stage_files(folder, sweep_run.worker_spec, self._ray.exclude)
            with connection.connect_to_cluster(self._ray, runtime_env) as head:
                look = partial(_inspect_cluster, sweep_run, worker_spec, self._ray, head)
                # Beside this thread: Ray does not return from a call while the head is silent.
                yield in_background(look, head.check)


def _stage_files(
    folder: Path, worker_spec: WorkerSpec, exclude: Sequence[str]
) -> tuple[WorkerSpec, dict[str, object]]:
    """Stage what the cluster needs; return the worker spec with the imports as they are found there."""
    if connection.is_ray_job():  # which has shipped it: the workers' working folder is a copy of this one
        return _relative_imports(Path.cwd(), worker_spec), {}
    shipment = packaging.stage(folder, worker_spec.imports, worker_spec.project, exclude)
    there = replace(worker_spec, imports=shipment.imports, project=".")
    return there, shipment.runtime_env


def _relative_imports(here: Path, worker_spec: WorkerSpec) -> WorkerSpec:
    """The worker spec of a job's driver, for workers whose working folder is a copy of this one."""
    imports = [Path(p) for p in worker_spec.imports]
    inside = [str(p.relative_to(here)) if p.is_relative_to(here) else str(p) for p in imports]
    return replace(worker_spec, imports=tuple(inside), project=".")


def _inspect_cluster(
    sweep_run: SweepRun, worker_spec: WorkerSpec, place: RayPlace, head: HeadMonitor
) -> _ConnectedCluster:
    store, resources = sweep_run.store, sweep_run.plan.spec.resources
    has_gpus = any(node.resources.get("GPU") for node in connection.alive_nodes())
    gpus = resources.gpus if resources.gpus is not None else float(has_gpus)
    worker_spec = worker_spec.with_run_config(gpus=gpus)
    needs = needs_of(resources, gpus, place)
    count = connection.capacity(needs, resources.ranks)
    job = connection.this_job()
    train: Train = partial(run_trials_on_node, job)
    free: Callable[[Mapping[str, str]], object] = partial(_free_trials, store)
    if resources.ranks > 1:
        train = partial(
            run_rank_groups,
            nodes=resources.nodes,
            needs=needs,
            localize=partial(worker_spec_on_this_node, job),
        )
    if place.shared:
        if (store.path / "plan.parquet").exists():  # a search writes its own later
            _check_store_is_shared(store.path)
    else:
        proxy = _start_proxy(worker_spec, sweep_run.trials)
        train = partial(run_remote_trials_on_node, proxy, job)
        free = proxy.release_lost_nodes.remote
    slots = RaySlots(count=count, needs=needs, train=train)
    return _ConnectedCluster(worker_spec=worker_spec, slots=slots, watch=_NodeWatch(head, free))


def needs_of(resources: Resources, gpus: float, place: RayPlace) -> dict[str, float]:
    """What a trial needs of a node, by Ray's names; the sweep file comes before the place."""
    needs = {"CPU": float(resources.cpus), "GPU": gpus}
    if memory := resources.memory or place.memory:
        needs["memory"] = float(bytes_of(memory))
    return {**needs, **place.resources, **resources.custom}


def run_trials_on_node(
    job: str, worker_spec: WorkerSpec, trials: Sequence[TrialConfig]
) -> Iterator[TrialInfo]:
    """What a worker process does on whichever node it is."""
    yield from run_trials(worker_spec_on_this_node(job, worker_spec), trials)


def run_remote_trials_on_node(
    proxy: Any, job: str, worker_spec: WorkerSpec, trials: Sequence[TrialConfig]
) -> Iterator[TrialInfo]:
    """As run_trials_on_node, where the store is seen by its keeper only."""
    from mixsweep.sweep.backends.ray.remote_worker import run_trials_remotely

    here = worker_spec_on_this_node(job, worker_spec)
    yield from run_trials_remotely(proxy, node_id_of(here.run_config.job), here, trials)


def worker_spec_on_this_node(job: str, worker_spec: WorkerSpec) -> WorkerSpec:
    """The orders with where this process is: its attempts say on which node they ran."""
    node_id, host = connection.this_node()
    return replace(
        worker_spec, run_config=replace(worker_spec.run_config, host=host, job=job_with_node(job, node_id))
    )


class _NodeWatch:
    """Frees the trials of nodes that Ray has given up: their processes end with them."""

    def __init__(self, head: HeadMonitor, free: Callable[[Mapping[str, str]], object]):
        self._head = head
        self._free = free
        self._freed: Mapping[str, str] = {}

    def check(self) -> None:
        """Free what is to be freed now.

        Raises:
            HeadGoneError: the cluster's head does not answer.
        """
        self._head.check()
        self._free_lost()

    def wrap_tick(self, on_tick: Callable[[], None]) -> Callable[[], None]:
        """A tick that looks, too."""

        def free_and_tick() -> None:
            self._free_lost()
            on_tick()

        patient = ignore_read_errors(free_and_tick)

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
    record_lost_nodes(store.trials(), dead, breaks_leases=True)


def _start_proxy(worker_spec: WorkerSpec, trials: Sequence[TrialConfig]) -> Any:
    """The store's keeper, on this node; one that dies is started again."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from mixsweep.sweep.backends.ray.store_proxy import StoreProxy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(StoreProxy).options(**options).remote(worker_spec, trials)


def _check_store_is_shared(path: Path) -> None:
    """Make sure that each node sees the store: else its trials would be written where nobody looks."""
    blind = connection.nodes_missing_file(path / "plan.parquet")
    if blind:
        raise ClusterError(
            f"{path}: not seen on {', '.join(blind)}; give a shared folder, or write shared = false in the place"
        )
