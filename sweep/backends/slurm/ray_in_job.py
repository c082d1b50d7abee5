"""Run a sweep inside one SLURM job of several nodes: a Ray cluster over them, with the Tune driver on the first.

One process per node runs `run_ray_in_job`. The first starts the cluster's head and writes its address into a private
file of the `jobs/` folder; the others join, and end when that file is deleted. The job's warning signals reach all
its processes, workers included, and each pauses its trial as an array task does.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from mixsweep.cluster.ray_cluster import connection
from mixsweep.cluster.ray_cluster.nodes import (
    DRAIN_SECONDS,
    ClusterAddress,
    RayError,
    RayNode,
    alive_node_resources,
    connect_to_node,
    ray_node,
)
from mixsweep.cluster.slurm import job_environment
from mixsweep.cluster.slurm.job_environment import JobSignals
from mixsweep.core.config import TrialConfig
from mixsweep.core.execution.remaining import remaining
from mixsweep.core.failures import Interruption
from mixsweep.core.store import files
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.store.trial.lease import HEARTBEAT_SECONDS, STALE_SECONDS
from mixsweep.sweep.backends.ray.tune_driver import RaySlots, run_until_done
from mixsweep.sweep.backends.slurm.array_task import PausePolicy, load_work
from mixsweep.sweep.backends.slurm.requeues import requeue
from mixsweep.sweep.backends.slurm.submissions import Submission, read_submission, submission_folder
from mixsweep.sweep.runtime.worker import WorkerSpec, run_trials

_JOIN_SECONDS = 180.0  # for all nodes to join
_LEAVE_SECONDS = 15.0  # for all other nodes to leave
_POLL_SECONDS = 0.5

# The cluster ends this long before the job's time is over; its workers pause their trials as long before that.
_TEARDOWN_SECONDS = 10.0

# A worker pauses its trial within half of this after SIGTERM, before Ray kills it.
_GRACE_SECONDS = 1.5 * DRAIN_SECONDS


def run_ray_in_job(store_path: str, submission_id: str) -> None:
    """Run a submission's trials on all nodes of this job; called in one process per node.

    Where time runs out or the job is preempted, trials are paused at their checkpoints and the job is requeued.
    """
    store = SweepStore(store_path)
    submission = read_submission(store, submission_id)
    path = submission_folder(store, submission_id) / f"{job_environment.restarts()}.ray"
    ends_at = job_environment.ends_at(submission.minutes) - _TEARDOWN_SECONDS
    signals = JobSignals(
        ends_at, submission.warning_seconds, min(submission.kill_wait_seconds, _GRACE_SECONDS)
    )
    is_first = os.environ["SLURM_PROCID"] == "0"
    reason = ""
    with signals:
        try:
            if is_first:
                reason = _run_head_node(submission, store, path, signals)
            else:
                _run_joining_node(path, signals)
        except Interruption as interruption:
            reason = interruption.reason
    if is_first and reason and _is_work_left(submission, store):
        requeue(reason)


def _run_head_node(submission: Submission, store: SweepStore, path: Path, signals: JobSignals) -> str:
    """Run the head node and the driver; return why the job must be requeued, or ''."""
    for old in path.parent.glob("*.ray"):
        old.unlink(missing_ok=True)  # left by a killed run of this job
    with ray_node(*_node_devices()) as node, connect_to_node(node):
        files.write_bytes(path, json.dumps(asdict(node.cluster_address)).encode(), mode=0o600)
        try:
            _wait_for_nodes(int(os.environ["SLURM_NNODES"]), partial(_check_node, node, signals))
            reason = _run_driver(submission, store, node, signals)
        finally:
            path.unlink(missing_ok=True)
        deadline = time.monotonic() + _LEAVE_SECONDS
        while len(alive_node_resources()) > 1 and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return reason


def _run_joining_node(path: Path, signals: JobSignals) -> None:
    """Join the cluster, and run this node until the file with the head's address is deleted."""
    while (address := _read_address(path)) is None:
        if signals.reason:
            return
        time.sleep(_POLL_SECONDS)
    with ray_node(*_node_devices(), join=address) as node:
        while _read_address(path) is not None:
            try:
                _check_node(node, signals)
            except RayError:
                time.sleep(_LEAVE_SECONDS)  # a file server may show the deletion late
                if _read_address(path) is not None:
                    raise
            time.sleep(_POLL_SECONDS)


def run_trials_in_job(
    submission: Submission, ends_at: float, worker_spec: WorkerSpec, trials: Sequence[TrialConfig]
) -> Iterator[TrialInfo]:
    """Run trials in a worker process on any node of the job; yield each trial's end."""
    worker_spec = worker_spec.with_run_config(host=job_environment.node_name())
    signals = JobSignals(
        ends_at, submission.warning_seconds, min(submission.kill_wait_seconds, _GRACE_SECONDS)
    )
    policy = PausePolicy(SweepStore(worker_spec.run_config.store), worker_spec.run_config, signals)
    with signals, suppress(Interruption):  # the store has recorded it
        yield from run_trials(worker_spec, trials, policy.record, policy.pause)


def _run_driver(submission: Submission, store: SweepStore, node: RayNode, signals: JobSignals) -> str:
    """Run Tune until this job can train nothing more; return why the job must be requeued, or ''."""
    left, worker_spec = _load_remaining(submission, store)
    run_config = worker_spec.run_config
    needs = {"CPU": float(run_config.cpus), "GPU": run_config.gpus}
    train = partial(run_trials_in_job, submission, signals.ends_at - _TEARDOWN_SECONDS)
    slots = RaySlots(count=connection.capacity(needs), needs=needs, train=train)

    def stop_requested() -> bool:
        return run_config.stop_requested()

    try:
        ending = run_until_done(
            left,
            worker_spec,
            slots,
            on_end=_print_end,
            on_tick=partial(_check_node, node, signals),
            halt=lambda: stop_requested() or bool(signals.reason),
            patience_seconds=STALE_SECONDS + HEARTBEAT_SECONDS,
            workers_pause=True,
        )
    except Exception as error:
        if signals.reason:
            raise Interruption(signals.reason) from error
        raise
    if ending in ("done", "held") or (ending == "halted" and stop_requested()):
        return ""
    timed_out = ending == "paused" and not stop_requested()
    return signals.reason or ("timeout" if timed_out else "")


def _load_remaining(submission: Submission, store: SweepStore) -> tuple[list[TrialConfig], WorkerSpec]:
    (task,) = submission.tasks
    trials, worker_spec = load_work(store, submission, task)
    return remaining(trials, store, worker_spec.run_config), worker_spec


def _is_work_left(submission: Submission, store: SweepStore) -> bool:
    left, _ = _load_remaining(submission, store)
    return bool(left) and not submission.stop_requested()


def _node_devices() -> tuple[int, int]:
    """The number of CPUs and GPUs of this process on its node."""
    cpus = int(os.environ.get("SLURM_CPUS_ON_NODE") or len(os.sched_getaffinity(0)))
    return cpus, len([device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device])


def _wait_for_nodes(count: int, check: Callable[[], None]) -> None:
    deadline = time.monotonic() + _JOIN_SECONDS
    while (joined := len(alive_node_resources())) < count:
        check()
        if time.monotonic() > deadline:
            raise RayError(f"{joined} of {count} nodes joined in {_JOIN_SECONDS:g} s; see the others' output")
        time.sleep(_POLL_SECONDS)


def _check_node(node: RayNode, signals: JobSignals) -> None:
    """Check that the node's Ray runs; its end after a warning signal raises Interruption instead of an error."""
    try:
        node.check()
    except RayError as error:
        if signals.reason:
            raise Interruption(signals.reason) from error
        raise


def _print_end(info: TrialInfo) -> None:
    print(f"{info.trial_id}: {info.state}", flush=True)


def _read_address(path: Path) -> ClusterAddress | None:
    """The address in the head's file; None while there is no file."""
    try:
        return ClusterAddress(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
