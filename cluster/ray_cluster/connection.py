"""Connect to an existing Ray cluster as a driver; query its nodes and their resources."""

import atexit
import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixsweep.cluster.places import PlaceError, RayPlace
from mixsweep.cluster.ray_cluster.head_monitor import ClusterError, HeadMonitor, exit_message
from mixsweep.cluster.ray_cluster.nodes import quiet_ray_environment
from mixsweep.core.verbosity import is_verbose, verbosity_variables

_CONNECT_SECONDS = 5.0
_INIT_SECONDS = 15.0
_TASK_SECONDS = 60.0  # a node may have to start a worker process first

# Ray sets this in the processes of a job, to the job's runtime environment.
_RAY_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@dataclass(frozen=True)
class NodeInfo:
    """An alive node: Ray's id, host name, address, and the amount of each resource."""

    node_id: str
    host: str
    address: str
    resources: Mapping[str, float]


def is_ray_job() -> bool:
    """Whether this process is the driver of a Ray job, whose files are already on the cluster."""
    return _RAY_JOB_VARIABLE in os.environ


def set_ray_environment(place: RayPlace) -> None:
    """Set the variables that Ray reads on import: the place's token, and those that keep Ray quiet.

    Raises:
        PlaceError: the place's token file does not exist.
    """
    if place.token_path:
        path = Path(place.token_path).expanduser()
        if not path.is_file():
            raise PlaceError(f"token_path: {path} is no file; write the cluster's token into it")
        os.environ.pop("RAY_AUTH_TOKEN", None)  # it has precedence over the path
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(path))
    os.environ.update(quiet_ray_environment(os.environ))


@contextmanager
def connect_to_cluster(place: RayPlace, runtime_env: Mapping[str, object]) -> Iterator[HeadMonitor]:
    """Connect this process to the cluster as a driver; disconnect on exit.

    Args:
        runtime_env: what Ray ships to each worker; empty: the runtime environment of the job.

    Yields:
        a monitor of the cluster's head; check it while waiting for Ray, whose calls block without a head.

    Raises:
        ClusterError: no cluster answers at the address, it rejects the token, or its head is gone.
    """
    set_ray_environment(place)
    os.environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"] = "1"  # merge a job's variables with ours
    if place.address != "auto":
        _check_reachable(place.address)
    ended = (
        f"sweep: address {place.address}: killed, or ended by Ray because the cluster is gone from this machine; "
        "run the same command again once it is back, or with another place"
    )
    with exit_message(ended), _init_ray(place, runtime_env) as head:
        yield head


@contextmanager
def _init_ray(place: RayPlace, runtime_env: Mapping[str, object]) -> Iterator[HeadMonitor]:
    import ray

    variables = {**quiet_ray_environment(os.environ), **verbosity_variables(), **place.environment}
    environment = {**runtime_env, "env_vars": variables}
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        with _init_timeout(place.address):
            ray.init(
                address=place.address,
                runtime_env=environment,
                configure_logging=True,
                logging_level=logging.ERROR,
                log_to_driver=is_verbose(),
            )
    except ClusterError:
        raise
    except Exception as error:
        raise ClusterError(_connection_error(place.address, error)) from error
    for number, handler in handlers.items():
        signal.signal(number, handler)  # Ray's handlers end the process at once
    head = HeadMonitor(ray.get_runtime_context().gcs_address, _dead_nodes)
    with head:
        try:
            yield head
        except ClusterError:
            raise
        except Exception:
            head.wait_for_answer()  # the error may only follow from the loss of the head
            raise
        finally:
            if head.is_responsive:
                ray.shutdown()
            else:  # ray.shutdown would wait for the head
                atexit.unregister(ray.shutdown)


def alive_nodes() -> list[NodeInfo]:
    """The alive nodes of the cluster that this process is connected to."""
    import ray

    return [
        NodeInfo(n["NodeID"], n["NodeManagerHostname"], n["NodeManagerAddress"], dict(n["Resources"]))
        for n in ray.nodes()
        if n["Alive"]
    ]


def _dead_nodes() -> dict[str, str]:
    """The dead nodes of this cluster: name and cause of death by the first 16 digits of the id."""
    import ray

    return {n["NodeID"][:16]: _death_reason(n) for n in ray.nodes() if not n["Alive"]}


def _death_reason(node: Mapping[str, Any]) -> str:
    reason = str(node.get("DeathReasonMessage") or "").strip().partition("\n")[0]
    name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    return f"{name}: {reason}" if reason else name


def nodes_missing_file(path: Path) -> list[str]:
    """The nodes on which a path of this node does not exist."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    @ray.remote(num_cpus=0, max_retries=0)
    def path_exists(path: str) -> bool:
        return os.path.exists(path)

    tasks = [
        (
            node,
            path_exists.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)),
        )
        for node in alive_nodes()
    ]
    results = [(node, task.remote(str(path))) for node, task in tasks]

    def is_true(result: Any) -> bool:
        try:
            return bool(ray.get(result, timeout=_TASK_SECONDS))
        except ray.exceptions.RayError:  # the node was lost just now, or can run no task
            return False

    return [f"{node.host} ({node.address})" for node, result in results if not is_true(result)]


def this_node() -> tuple[str, str]:
    """The id and the name of this process's node."""
    import ray

    node_id = ray.get_runtime_context().get_node_id()
    return node_id, f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"


def this_job() -> str:
    """Ray's id of this process's job."""
    import ray

    context = ray.get_runtime_context()
    return os.environ.get("RAY_JOB_SUBMISSION_ID") or str(context.get_job_id())


def capacity(needs: Mapping[str, float], ranks: int = 1) -> int:
    """How many trials of `ranks` ranks, each with these needs on one node, fit the cluster at once.

    Raises:
        ClusterError: not one fits; names what the nodes have.
    """
    nodes = alive_nodes()
    fits = sum(_count_fitting(node.resources, needs) for node in nodes)
    if fits < ranks:
        asked = ", ".join(_amount(name, value) for name, value in needs.items() if value)
        asked, had = (
            (asked, "no node has that") if ranks == 1 else (f"{ranks} ranks with {asked}", f"{fits} fit")
        )
        raise ClusterError(
            f"a trial asks for {asked}; {had}: {_describe_nodes(nodes, needs)}; see [resources]"
        )
    return fits // ranks


def _count_fitting(resources: Mapping[str, float], needs: Mapping[str, float]) -> int:
    most = float("inf")
    for name, value in needs.items():
        if not value:
            continue
        if name == "GPU" and value < 1:  # a trial's share is on one device
            most = min(most, resources.get(name, 0.0) * int(1 / value + 1e-9))
        else:
            most = min(most, (resources.get(name, 0.0) + 1e-9) // value)
    return int(most)


def _describe_nodes(nodes: list[NodeInfo], needs: Mapping[str, float]) -> str:
    kinds = Counter(
        ", ".join(_amount(name, node.resources.get(name, 0.0)) for name, value in needs.items() if value)
        for node in nodes
    )
    return "; ".join(f"{count} with {kind}" for kind, count in kinds.items())


def _amount(name: str, value: float) -> str:
    if name == "memory":
        return f"{value / 2**30:.1f} GiB of memory"
    return f"{value:g} {name}{'s' if name in ('CPU', 'GPU') and value != 1 else ''}"


def _check_reachable(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"address {address}: nothing answers there ({error}); give the head's HOST:6379"
        ) from error


@contextmanager
def _init_timeout(address: str) -> Iterator[None]:
    """Bound `ray.init`, which retries without end, by a time-out, and capture the stderr of its retries."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    deadline = time.monotonic() + _INIT_SECONDS
    with tempfile.TemporaryFile() as captured:

        def check(number: int, frame: object) -> None:
            if b"InvalidAuthToken" in os.pread(captured.fileno(), 10_000, 0):
                raise ClusterError(wrong_token_message(address))
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"address {address}: no Ray cluster accepts this process within {_INIT_SECONDS:g} s; check the head"
                )

        stderr = os.dup(2)
        before = signal.signal(signal.SIGALRM, check)
        try:
            os.dup2(captured.fileno(), 2)
            signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            os.dup2(stderr, 2)
            os.close(stderr)


def _connection_error(address: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "InvalidAuthToken" in text or "uthentication" in text:
        return wrong_token_message(address)
    return f"address {address}: {text.split('. ')[0] or type(error).__name__}"


def wrong_token_message(address: str) -> str:
    """The error line where a cluster rejects this process's token."""
    return (
        f"address {address}: the cluster expects another token; set token_path in the place, or RAY_AUTH_MODE=token "
        "and RAY_AUTH_TOKEN_PATH"
    )
