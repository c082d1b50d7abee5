"""A Ray cluster that is there already: come in as a driver, see what it has, and which of its nodes live."""

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
from mixsweep.cluster.ray_cluster.nodes import quiet

_REACH_SECONDS = 5.0
_INIT_SECONDS = 15.0
_ANSWER_SECONDS = 60.0  # of a node that has to start a process first

# Set for each job's own processes by Ray: its runtime environment.
_IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@dataclass(frozen=True)
class Node:
    """One living node: Ray's id of it, what it calls itself, its address, and what it has of each resource."""

    node_id: str
    host: str
    address: str
    has: Mapping[str, float]


def is_in_a_job() -> bool:
    """Whether this process is the driver of a Ray job, so that its files are on the cluster already."""
    return _IN_A_JOB in os.environ


def prepare(place: RayPlace) -> None:
    """Set what Ray reads when it is imported: this place's token, and what keeps it quiet.

    Raises:
        PlaceError: there is no token where the place says.
    """
    if place.token_path:
        path = Path(place.token_path).expanduser()
        if not path.is_file():
            raise PlaceError(f"token_path: {path} is no file; write the cluster's token into it")
        os.environ.pop("RAY_AUTH_TOKEN", None)  # it would come before the path
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(path))
    os.environ.update(quiet(os.environ))


@contextmanager
def attached(place: RayPlace, runtime_env: Mapping[str, object]) -> Iterator[HeadMonitor]:
    """This process as a driver of the cluster.

    Args:
        runtime_env: what Ray ships to each worker; empty: as the job has it.

    Yields:
        the cluster's head; who waits for anything that Ray does checks it meanwhile.

    Raises:
        ClusterError: there is no cluster at the address, or it does not let this process in, or its head is gone.
    """
    prepare(place)
    os.environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"] = "1"  # a job's variables and ours together
    if place.address != "auto":
        _reach(place.address)
    ended = (
        f"sweep: address {place.address}: ended without a word: killed, or by Ray as the cluster is gone from this "
        "machine; once it is back, or the place names another one, the same command goes on"
    )
    with exit_message(ended), _connected(place, runtime_env) as head:
        yield head


@contextmanager
def _connected(place: RayPlace, runtime_env: Mapping[str, object]) -> Iterator[HeadMonitor]:
    import ray

    environment = {**runtime_env, "env_vars": {**quiet(os.environ), **place.environment}}
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        with _in_time(place.address):
            ray.init(
                address=place.address,
                runtime_env=environment,
                configure_logging=True,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
    except ClusterError:
        raise
    except Exception as error:
        raise ClusterError(_why(place.address, error)) from error
    for number, handler in handlers.items():
        signal.signal(number, handler)  # Ray's own would end this process at once
    head = HeadMonitor(ray.get_runtime_context().gcs_address, _dead_nodes)
    with head:
        try:
            yield head
        except ClusterError:
            raise
        except Exception:
            head.wait_for_answer()  # or what went wrong is only what follows from its death
            raise
        finally:
            if head.is_quick:
                ray.shutdown()
            else:  # it would wait for the head
                atexit.unregister(ray.shutdown)


def nodes() -> list[Node]:
    """The living nodes of the cluster that this process is connected to."""
    import ray

    return [
        Node(n["NodeID"], n["NodeManagerHostname"], n["NodeManagerAddress"], dict(n["Resources"]))
        for n in ray.nodes()
        if n["Alive"]
    ]


def _dead_nodes() -> dict[str, str]:
    """Nodes that this cluster has lost: the first 16 digits of their ids, and what is known of each."""
    import ray

    return {n["NodeID"][:16]: _last_words(n) for n in ray.nodes() if not n["Alive"]}


def _last_words(node: Mapping[str, Any]) -> str:
    reason = str(node.get("DeathReasonMessage") or "").strip().partition("\n")[0]
    name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    return f"{name}: {reason}" if reason else name


def nodes_that_miss(path: Path) -> list[str]:
    """The nodes on which a file of this one is not there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    @ray.remote(num_cpus=0, max_retries=0)
    def sees(text: str) -> bool:
        return os.path.exists(text)

    asked = [
        (node, sees.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)))
        for node in nodes()
    ]
    answers = [(node, task.remote(str(path))) for node, task in asked]

    def is_seen(answer: Any) -> bool:
        try:
            return bool(ray.get(answer, timeout=_ANSWER_SECONDS))
        except ray.exceptions.RayError:  # the node is gone just now, or nothing runs on it
            return False

    return [f"{node.host} ({node.address})" for node, answer in answers if not is_seen(answer)]


def this_node() -> tuple[str, str]:
    """The id and the name of the node on which this process runs."""
    import ray

    node_id = ray.get_runtime_context().get_node_id()
    return node_id, f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"


def this_job() -> str:
    """What Ray calls the job of this process."""
    import ray

    context = ray.get_runtime_context()
    return os.environ.get("RAY_JOB_SUBMISSION_ID") or str(context.get_job_id())


def capacity(needs: Mapping[str, float], ranks: int = 1) -> int:
    """How many trials the cluster holds at once, each of so many ranks with these needs; no rank is spread over nodes.

    Raises:
        ClusterError: it could never hold one; with what the nodes have.
    """
    found = nodes()
    fits = sum(_fits(node.has, needs) for node in found)
    if fits < ranks:
        asked = ", ".join(_amount(name, value) for name, value in needs.items() if value)
        asked, had = (
            (asked, "no node has that") if ranks == 1 else (f"{ranks} ranks with {asked}", f"{fits} fit")
        )
        raise ClusterError(
            f"a trial asks for {asked}; {had}: {_what_nodes_have(found, needs)}; see [resources]"
        )
    return fits // ranks


def _fits(has: Mapping[str, float], needs: Mapping[str, float]) -> int:
    most = float("inf")
    for name, value in needs.items():
        if not value:
            continue
        if name == "GPU" and value < 1:  # each trial's share is of one device
            most = min(most, has.get(name, 0.0) * int(1 / value + 1e-9))
        else:
            most = min(most, (has.get(name, 0.0) + 1e-9) // value)
    return int(most)


def _what_nodes_have(found: list[Node], needs: Mapping[str, float]) -> str:
    kinds = Counter(
        ", ".join(_amount(name, node.has.get(name, 0.0)) for name, value in needs.items() if value)
        for node in found
    )
    return "; ".join(f"{count} with {kind}" for kind, count in kinds.items())


def _amount(name: str, value: float) -> str:
    if name == "memory":
        return f"{value / 2**30:.1f} GiB of memory"
    return f"{value:g} {name}{'s' if name in ('CPU', 'GPU') and value != 1 else ''}"


def _reach(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"address {address}: nobody answers there ({error}); is it the head's HOST:6379?"
        ) from error


@contextmanager
def _in_time(address: str) -> Iterator[None]:
    """Not for ever, and not in many words: Ray tries again and again, and says so on each try."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    deadline = time.monotonic() + _INIT_SECONDS
    with tempfile.TemporaryFile() as said:

        def look(number: int, frame: object) -> None:
            if b"InvalidAuthToken" in os.pread(said.fileno(), 10_000, 0):
                raise ClusterError(wrong_token(address))
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"address {address}: no Ray cluster lets us in within {_INIT_SECONDS:g} s; is a head there?"
                )

        stderr = os.dup(2)
        before = signal.signal(signal.SIGALRM, look)
        try:
            os.dup2(said.fileno(), 2)
            signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            os.dup2(stderr, 2)
            os.close(stderr)


def _why(address: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "InvalidAuthToken" in text or "uthentication" in text:
        return wrong_token(address)
    return f"address {address}: {text.split('. ')[0] or type(error).__name__}"


def wrong_token(address: str) -> str:
    """What to say where a cluster does not let this process in."""
    return (
        f"address {address}: the cluster takes another token; set token_path in the place, or RAY_AUTH_MODE=token "
        "and RAY_AUTH_TOKEN_PATH"
    )
