"""The backend for an existing Ray cluster, with this process as its driver.

The driver learns from Ray which nodes are dead, and releases their trials at once instead of waiting until their
leases are stale.
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
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.store.trial.lease import HEARTBEAT_SECONDS, STALE_SECONDS
from mixsweep.core.toml.reader import bytes_of
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
    """A cluster that this process is connected to: its slots, the worker spec for it, and the watch on its nodes."""

    worker_spec: WorkerSpec
    slots: RaySlots
    node_watch: "_NodeWatch"


class RayClusterBackend(Backend):
    """A place of kind `ray` whose address is a cluster's, not a job server's."""

    extras: ClassVar[tuple[str, ...]] = ("ray",)
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
        with self._connect(sweep_run) as cluster:
            on_tick = cluster.node_watch.wrap_tick(sweep_run.callbacks.on_tick)
            if sweep_run.searches:
                return drive_search(sweep_run, cluster.worker_spec, cluster.slots, on_tick)

            def halt() -> bool:
                cluster.node_watch.check()
                return sweep_run.stop_requested()

            run_until_done(
                sweep_run.trials,
                cluster.worker_spec,
                cluster.slots,
                on_end=sweep_run.callbacks.on_end,
                on_tick=on_tick,
                halt=halt,
                patience_seconds=STALE_SECONDS + HEARTBEAT_SECONDS,
            )
        return 0

    @contextmanager
    def _connect(self, sweep_run: SweepRun) -> Iterator[_ConnectedCluster]:
        """Connect this process to the cluster as its driver, and ship what workers need."""
        with scratch_folder() as folder:
            worker_spec, runtime_env = _stage_files(folder, sweep_run, self._ray.exclude)
            with connection.connect_to_cluster(self._ray, runtime_env) as head:
                inspect = partial(_inspect_cluster, sweep_run, worker_spec, self._ray, head)
                # In a thread, because a call into Ray blocks while the head does not answer.
                yield in_background(inspect, head.check)


def _stage_files(
    folder: Path, sweep_run: SweepRun, exclude: Sequence[str]
) -> tuple[WorkerSpec, dict[str, object]]:
    """Stage the files to ship; return the worker spec with the paths of imports on the cluster, and the runtime env."""
    worker_spec = sweep_run.worker_spec
    if connection.is_ray_job():  # it has shipped the files: the workers' working folder is a copy of this one
        return _relative_imports(Path.cwd(), worker_spec), {}
    shipment = packaging.stage(folder, worker_spec.imports, worker_spec.project, exclude)
    if shipment.notice:
        sweep_run.callbacks.say(shipment.notice)
    return replace(worker_spec, imports=shipment.imports, project="."), shipment.runtime_env


def _relative_imports(folder: Path, worker_spec: WorkerSpec) -> WorkerSpec:
    """The worker spec for workers whose working folder is a copy of `folder`."""
    imports = [Path(p) for p in worker_spec.imports]
    relative = [str(p.relative_to(folder)) if p.is_relative_to(folder) else str(p) for p in imports]
    return replace(worker_spec, imports=tuple(relative), project=".")


def _inspect_cluster(
    sweep_run: SweepRun, worker_spec: WorkerSpec, place: RayPlace, head: HeadMonitor
) -> _ConnectedCluster:
    """Query the cluster's devices, check that they fit, and choose how its slots train."""
    store, resources = sweep_run.store, sweep_run.plan.spec.resources
    has_gpus = any(node.resources.get("GPU") for node in connection.alive_nodes())
    gpus = resources.gpus if resources.gpus is not None else float(has_gpus)
    worker_spec = worker_spec.with_run_config(gpus=gpus)
    needs = needs_of(resources, gpus, place)
    count = connection.capacity(needs, resources.ranks)
    job = connection.this_job()
    train: Train = partial(run_trials_on_node, job)
    release: Callable[[Mapping[str, str]], object] = partial(_release_trials, store)
    if resources.ranks > 1:
        train = partial(
            run_rank_groups,
            nodes=resources.nodes,
            needs=needs,
            localize=partial(worker_spec_on_this_node, job),
        )
    if place.shared:
        if (store.path / "plan.parquet").exists():  # a search writes it later
            _check_store_is_shared(store.path)
    else:
        proxy = _start_proxy(worker_spec, sweep_run.trials)
        train = partial(run_remote_trials_on_node, proxy, job)
        release = proxy.release_lost_nodes.remote
    slots = RaySlots(count=count, needs=needs, train=train)
    return _ConnectedCluster(worker_spec=worker_spec, slots=slots, node_watch=_NodeWatch(head, release))


def needs_of(resources: Resources, gpus: float, place: RayPlace) -> dict[str, float]:
    """A trial's needs by Ray's resource names; the sweep file has precedence over the place."""
    needs = {"CPU": float(resources.cpus), "GPU": gpus}
    if memory := resources.memory or place.memory:
        needs["memory"] = float(bytes_of(memory))
    return {**needs, **place.resources, **resources.custom}


def run_trials_on_node(
    job: str, worker_spec: WorkerSpec, trials: Sequence[TrialConfig]
) -> Iterator[TrialInfo]:
    """Run trials in a worker process on any node; yield each trial's end."""
    yield from run_trials(worker_spec_on_this_node(job, worker_spec), trials)


def run_remote_trials_on_node(
    proxy: Any, job: str, worker_spec: WorkerSpec, trials: Sequence[TrialConfig]
) -> Iterator[TrialInfo]:
    """As run_trials_on_node, on a node that reaches the store only through the store proxy."""
    from mixsweep.sweep.backends.ray.remote_worker import run_trials_remotely

    worker_spec = worker_spec_on_this_node(job, worker_spec)
    yield from run_trials_remotely(proxy, node_id_of(worker_spec.run_config.job), worker_spec, trials)


def worker_spec_on_this_node(job: str, worker_spec: WorkerSpec) -> WorkerSpec:
    """The worker spec with this process's node, which its attempts record."""
    node_id, host = connection.this_node()
    return replace(
        worker_spec, run_config=replace(worker_spec.run_config, host=host, job=job_with_node(job, node_id))
    )


class _NodeWatch:
    """Releases the trials of nodes that Ray has declared dead.

    Args:
        head: the monitor of the cluster's head.
        release: called with the dead nodes when there are new ones.
    """

    def __init__(self, head: HeadMonitor, release: Callable[[Mapping[str, str]], object]):
        self._head = head
        self._release = release
        self._released: Mapping[str, str] = {}

    def check(self) -> None:
        """Release the trials of dead nodes now.

        Raises:
            HeadGoneError: the cluster's head does not answer.
        """
        self._head.check()
        self._release_lost()

    def wrap_tick(self, on_tick: Callable[[], None]) -> Callable[[], None]:
        """A tick that also checks the head and releases the trials of dead nodes."""

        def release_and_call() -> None:
            self._release_lost()
            on_tick()

        guarded = ignore_read_errors(release_and_call)

        def tick() -> None:
            self._head.check()
            guarded()

        return tick

    def _release_lost(self) -> None:
        dead = self._head.dead_nodes
        if dead != self._released:
            self._release(dead)
            self._released = dead


def _release_trials(store: SweepStore, dead: Mapping[str, str]) -> None:
    record_lost_nodes(store.trials(), dead, breaks_leases=True)


def _start_proxy(worker_spec: WorkerSpec, trials: Sequence[TrialConfig]) -> Any:
    """Start the store proxy on this node; Ray restarts it if it dies. Return its actor handle."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from mixsweep.sweep.backends.ray.store_proxy import StoreProxy

    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": this_node}
    return ray.remote(StoreProxy).options(**options).remote(worker_spec, trials)


def _check_store_is_shared(path: Path) -> None:
    """Check that every node sees the store; results of the others would be lost."""
    missing = connection.nodes_missing_file(path / "plan.parquet")
    if missing:
        raise ClusterError(
            f"{path}: not visible on {', '.join(missing)}; use a shared folder, or set shared = false in the place"
        )
