"""Ray clusters: start one on this machine or over the nodes of a job, and end only what was started here."""

import ctypes
import importlib.util
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mixsweep.core.scratch import owned_folder

# Trials share images through memory-mapped files and results through the store; Ray carries the plan alone.
_OBJECT_STORE_BYTES = 128 * 2**20

# Read by Ray when it is imported or started; a user's own choice comes first.
_QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a CPU trial must not change what the process sees of GPUs
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a store may be a relative path
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the store is the record: no CSV, JSON, TensorBoard beside it
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: it ends at a safe point
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # no snapshots of the driver: the store is the state
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

# Of a node: `ms-<random>/r/session_<time>_<pid>/sockets/plasma_store`; a socket's path has 107 bytes.
_LONGEST_ROOT_BYTES = 107 - 80

# From SIGTERM, which may reach all processes of a job at once, until Ray ends its workers by SIGKILL.
LEAVE_SECONDS = 2.0

_PREFIX = "ms-"  # of a node's folder

_START_SECONDS = 120.0
_END_SECONDS = LEAVE_SECONDS  # for processes to end by themselves
_POLL_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1
_HELD_BACK = {signal.SIGTERM, signal.SIGALRM, signal.SIGUSR2}


class RayError(Exception):
    """A Ray that did not start, or died."""


@contextmanager
def local_ray(cpus: int | None = None, gpus: int | None = None) -> Iterator[dict[str, float]]:
    """A Ray of our own on this machine, of the given size or the machine's; ended on leaving.

    Yields:
        the cluster's resources by name.
    """
    os.environ.update(quiet(os.environ))
    import ray

    ray.init(
        address="local",  # never a cluster of somebody else that happens to run here
        num_cpus=cpus,
        num_gpus=gpus,
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        configure_logging=True,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class ClusterAddress:
    """Where the nodes of one cluster meet: the head's `host:port`, and the token that lets a process in."""

    address: str
    token: str = field(repr=False)


class RayNode:
    """One node of a Ray cluster: `ray start --block` in a session of its own, with all that it starts.

    Args:
        process: the leader of that session; nobody else waits for it.
        folder: private to the node; Ray's own folder in it is not, Ray opens it to everybody.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", folder: Path):
        self._process = process
        self.folder = folder

    @property
    def pid(self) -> int:
        """The leader of its session."""
        return self._process.pid

    @property
    def token_path(self) -> Path:
        return self.folder / "token"

    @property
    def ray_path(self) -> Path:
        return self.folder / "r"

    @property
    def meeting(self) -> ClusterAddress:
        address = (self.ray_path / "ray_current_cluster").read_text().strip()
        return ClusterAddress(address, self.token_path.read_text())

    def check(self) -> None:
        """Make sure that it lives.

        Raises:
            RayError: it does not; with its last words.
        """
        pid = self._process.pid  # not waited for, so that its number stays its own until the end
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            lines = (self.folder / "start.log").read_text(errors="replace").strip().splitlines()
            raise RayError(f"Ray ended on {socket.gethostname()}: {lines[-1] if lines else 'without a word'}")

    def wait_until_started(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with suppress(FileNotFoundError):
                if self.meeting.address:
                    return
            self.check()
            if time.monotonic() > deadline:
                raise RayError(f"Ray did not start on {socket.gethostname()} in {_START_SECONDS:g} s")
            time.sleep(_POLL_SECONDS)

    def end(self) -> None:
        """End all its processes: by its own means, and what then is left of its session by SIGKILL."""
        leader = self._process.pid
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)  # what wants this process to leave waits
        os.kill(leader, signal.SIGTERM)
        deadline = time.monotonic() + _END_SECONDS
        while _living(leader) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        while left := _living(leader):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_POLL_SECONDS)
        self._process.wait()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)


@contextmanager
def ray_node(
    cpus: int,
    gpus: int,
    join: ClusterAddress | None = None,
    *,
    dashboard_port: int | None = None,
    inside: Sequence[str] = (),
    options: Sequence[str] = (),
) -> Iterator[RayNode]:
    """A node of a Ray cluster on this machine: the head of a new one, or one more; ended on leaving.

    Args:
        join: the cluster; None: the node is the head of a new one.
        dashboard_port: of a head: where its job server answers this machine, and no other; None: it has none.
        inside: a command that runs `ray start` somewhere else on this machine: `ip netns exec NAME`.
        options: further ones of `ray start`.

    Any number of clusters and nodes of one user may be on a machine: ports are free ones, folders are private,
    and who has no token is not let in. A node whose starter is killed ends too.

    Raises:
        RayError: it did not start.
    """
    words = ["--head", "--port=0", "--no-monitor", f"--include-dashboard={str(bool(dashboard_port)).lower()}"]
    if dashboard_port:
        words += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}"]
    if importlib.util.find_spec("grpc") is not None:
        words.append(f"--ray-client-server-port={_free_port()}")  # nobody asked for it; else always 10001
    if join is not None:
        words = [f"--address={join.address}"]
    with owned_folder(_short_root(), _PREFIX) as folder:
        with open(os.open(folder / "token", os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
            file.write(join.token if join else secrets.token_hex(32))
        with open(folder / "start.log", "wb") as log:
            process = subprocess.Popen(
                [
                    *inside, sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *words,
                    f"--num-cpus={cpus}", f"--num-gpus={gpus}", f"--object-store-memory={_OBJECT_STORE_BYTES}",
                    f"--temp-dir={folder / 'r'}", "--include-log-monitor=false", "--dashboard-agent-listen-port=0",
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_node_environment(folder / "token"),
                start_new_session=True,
                preexec_fn=_as_a_node,
            )  # fmt: skip
        node = RayNode(process, folder)
        try:
            node.wait_until_started()
            yield node
        finally:
            node.end()


@contextmanager
def connected(node: RayNode) -> Iterator[None]:
    """This process as a driver of a node's cluster. Ray must not have been imported before."""
    os.environ.pop("RAY_AUTH_TOKEN", None)  # it would come before the path
    os.environ.update(_node_environment(node.token_path))
    import ray

    on_sigterm = signal.getsignal(signal.SIGTERM)
    ray.init(
        address=node.meeting.address,
        configure_logging=True,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own would end this process at once
    yield
    # Not after an exception: a cluster that is ending would end its workers at once, before they leave.
    ray.shutdown()


def living_nodes() -> list[dict[str, float]]:
    """What each living node of the cluster has of each resource."""
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _node_environment(token_path: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    return {
        **kept,
        **quiet(os.environ),
        "RAY_ENABLE_AUTO_CONNECT": "0",  # or a driver that lost its cluster would start one on the machine
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": f"{LEAVE_SECONDS:g}",
    }


def _as_a_node() -> None:
    """In the child, before `ray start`: a scheduler's warning is no signal to die, its starter's death is."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _living(session: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if fields[3] == str(session) and fields[0] not in ("Z", "X"):
                found.append(int(path.parent.name))
    return found


def _short_root() -> str:
    """The folder of temporary files, where it is short enough for sockets."""
    root = tempfile.gettempdir()
    return root if len(os.fsencode(root)) <= _LONGEST_ROOT_BYTES else "/tmp"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def quiet(environment: Mapping[str, str]) -> dict[str, str]:
    """What keeps Ray quiet and out of the way, as variables; those that are set already stay as they are."""
    return {name: environment.get(name, value) for name, value in _QUIET.items()}
