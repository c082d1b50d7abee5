"""Start Ray nodes: a cluster on this machine or over the nodes of a SLURM job; end only what was started here."""

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
from mixsweep.core.verbosity import is_verbose

# Small: trials share images through memory-mapped files and results through the store, not through Ray.
OBJECT_STORE_BYTES = 128 * 2**20

# Read by Ray when it is imported or started; variables that the user has set are kept.
_QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a CPU trial must not change what the process sees of GPUs
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a store may be a relative path
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the store is the record: no CSV, JSON, TensorBoard beside it
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # our handler of Ctrl-C stops at a safe point
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # no snapshots of the driver: the store holds the state
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

# A node's socket is `ms-<random>/r/session_<time>_<pid>/sockets/plasma_store`; its path is limited to 107 bytes.
_LONGEST_ROOT_BYTES = 107 - 80

# From SIGTERM, which may reach all processes of a job at once, until Ray kills its workers.
DRAIN_SECONDS = 2.0

_FOLDER_PREFIX = "ms-"  # of a node's folder

_START_SECONDS = 120.0
_END_SECONDS = DRAIN_SECONDS  # for processes to exit before SIGKILL
_POLL_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1
_BLOCKED_SIGNALS = {signal.SIGTERM, signal.SIGALRM, signal.SIGUSR2}


class RayError(Exception):
    """Ray did not start, or died."""


@contextmanager
def local_ray(cpus: int | None = None, gpus: int | None = None) -> Iterator[dict[str, float]]:
    """Start a private Ray cluster on this machine, by default with all its devices; stop it on exit.

    Yields:
        the cluster's resources by name.
    """
    os.environ.update(quiet_ray_environment(os.environ))
    import ray

    ray.init(
        address="local",  # never another cluster that runs on this machine
        num_cpus=cpus,
        num_gpus=gpus,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        configure_logging=True,
        logging_level=logging.ERROR,
        log_to_driver=is_verbose(),
    )
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class ClusterAddress:
    """How to join a cluster: the head's `host:port`, and the token."""

    address: str
    token: str = field(repr=False)


class RayNode:
    """A Ray node on this machine: `ray start --block` as a session leader, with all processes that it starts.

    Args:
        process: the leader of the session; only this class waits for it.
        folder: the node's files, private; Ray makes its subfolder in it readable to all.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", folder: Path):
        self._process = process
        self.folder = folder

    @property
    def pid(self) -> int:
        """The process id of the session leader."""
        return self._process.pid

    @property
    def token_path(self) -> Path:
        """The file with the cluster's token."""
        return self.folder / "token"

    @property
    def ray_path(self) -> Path:
        """Ray's folder of temporary files."""
        return self.folder / "r"

    @property
    def cluster_address(self) -> ClusterAddress:
        """The address of the cluster that this node belongs to."""
        address = (self.ray_path / "ray_current_cluster").read_text().strip()
        return ClusterAddress(address, self.token_path.read_text())

    def check(self) -> None:
        """Check that the node runs.

        Raises:
            RayError: it has ended; quotes its last output line.
        """
        pid = self._process.pid  # WNOWAIT: the process id is not reused until `end` waits
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            lines = (self.folder / "start.log").read_text(errors="replace").strip().splitlines()
            raise RayError(f"Ray ended on {socket.gethostname()}: {lines[-1] if lines else 'no output'}")

    def wait_until_started(self) -> None:
        """Wait until the node has joined its cluster.

        Raises:
            RayError: it has ended, or did not start in time.
        """
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with suppress(FileNotFoundError):
                if self.cluster_address.address:
                    return
            self.check()
            if time.monotonic() > deadline:
                raise RayError(f"Ray did not start on {socket.gethostname()} in {_START_SECONDS:g} s")
            time.sleep(_POLL_SECONDS)

    def end(self) -> None:
        """End all processes of the session: by SIGTERM to the leader, then by SIGKILL to what is left."""
        leader = self._process.pid
        signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED_SIGNALS)  # not to be interrupted midway
        os.kill(leader, signal.SIGTERM)
        deadline = time.monotonic() + _END_SECONDS
        while _live_processes(leader) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        while left := _live_processes(leader):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_POLL_SECONDS)
        self._process.wait()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED_SIGNALS)


@contextmanager
def ray_node(
    cpus: int,
    gpus: int,
    join: ClusterAddress | None = None,
    *,
    dashboard_port: int | None = None,
    command_prefix: Sequence[str] = (),
    options: Sequence[str] = (),
) -> Iterator[RayNode]:
    """Start a Ray node on this machine, the head of a new cluster or one more node; end it on exit.

    Args:
        join: the cluster to join; None: start the head of a new one.
        dashboard_port: the local port of a head's job server; None: no job server.
        command_prefix: a command that runs `ray start` in another context of this machine: `ip netns exec NAME`.
        options: more options of `ray start`.

    One user may run any number of clusters and nodes on a machine: they take free ports and private folders, and
    reject processes without their token. A node ends when the process that started it is killed.

    Raises:
        RayError: it did not start.
    """
    words = ["--head", "--port=0", "--no-monitor", f"--include-dashboard={str(bool(dashboard_port)).lower()}"]
    if dashboard_port:
        words += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}"]
    if importlib.util.find_spec("grpc") is not None:
        words.append(f"--ray-client-server-port={_free_port()}")  # unused, but fixed at 10001 by default
    if join is not None:
        words = [f"--address={join.address}"]
    with node_folder() as folder:
        write_token(folder / "token", join.token if join else "")
        with open(folder / "start.log", "wb") as log:
            process = subprocess.Popen(
                [
                    *command_prefix, sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *words,
                    f"--num-cpus={cpus}", f"--num-gpus={gpus}", f"--object-store-memory={OBJECT_STORE_BYTES}",
                    f"--temp-dir={folder / 'r'}", "--include-log-monitor=false", "--dashboard-agent-listen-port=0",
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_node_environment(folder / "token"),
                start_new_session=True,
                preexec_fn=_set_up_child,
            )  # fmt: skip
        node = RayNode(process, folder)
        try:
            node.wait_until_started()
            yield node
        finally:
            node.end()


@contextmanager
def connect_to_node(node: RayNode) -> Iterator[None]:
    """Connect this process to a node's cluster as a driver. Ray must not have been imported before."""
    os.environ.pop("RAY_AUTH_TOKEN", None)  # it has precedence over the path
    os.environ.update(_node_environment(node.token_path))
    import ray

    on_sigterm = signal.getsignal(signal.SIGTERM)
    ray.init(
        address=node.cluster_address.address,
        configure_logging=True,
        logging_level=logging.ERROR,
        log_to_driver=is_verbose(),
    )
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray's handler ends the process at once
    yield
    # Not after an exception: the shutdown would kill workers of an ending cluster before they leave their trials.
    ray.shutdown()


def alive_node_resources() -> list[dict[str, float]]:
    """The resources of each alive node of the cluster."""
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _node_environment(token_path: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    return {
        **kept,
        **quiet_ray_environment(os.environ),
        "RAY_ENABLE_AUTO_CONNECT": "0",  # a driver that lost its cluster must not start one here
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": f"{DRAIN_SECONDS:g}",
    }


def _set_up_child() -> None:
    """In the child, before `ray start`: ignore the scheduler's warning signal, end when the parent dies."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _live_processes(session: int) -> list[int]:
    """The process ids of a session's processes that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
            if fields[3] == str(session) and fields[0] not in ("Z", "X"):
                found.append(int(path.parent.name))
    return found


def write_token(path: Path, token: str = "") -> None:
    """Write a cluster's token to a file for its owner only.

    Args:
        token: '': a random one.
    """
    with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
        file.write(token or secrets.token_hex(32))


@contextmanager
def node_folder() -> Iterator[Path]:
    """A folder for the files of a node, private, with a path that is short enough; deleted on exit."""
    with owned_folder(_short_root(), _FOLDER_PREFIX) as folder:
        yield folder


def _short_root() -> str:
    """The folder of temporary files, or /tmp where that is too long for sockets."""
    root = tempfile.gettempdir()
    return root if len(os.fsencode(root)) <= _LONGEST_ROOT_BYTES else "/tmp"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def quiet_ray_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that turn off Ray's extra logs, files and handlers; values in `environment` are kept."""
    return {name: environment.get(name, value) for name, value in _QUIET.items()}
