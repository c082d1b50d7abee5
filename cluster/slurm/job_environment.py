"""The SLURM job that this process runs in: its id, its end, its ranks, its warning signals, and how to requeue it.

The scheduler warns in two ways. SIGUSR2 comes minutes before the time limit and, where the cluster is configured
so, before preemption: there is time to finish an epoch. SIGTERM comes with preemption and with scancel, seconds
before SIGKILL.
"""

import hmac
import os
import signal
import socket
import subprocess
import threading
import time
from types import FrameType, TracebackType

from mixsweep.core.execution.rank_token import RANK_TOKEN
from mixsweep.core.failures import Interruption

# A process must have left its trial this long before it is killed.
MARGIN_SECONDS = 5.0

# Set by our batch scripts to the time at which they started, in Unix seconds.
STARTED_AT = "SWEEP_JOB_STARTED_AT"

_WARNINGS = (signal.SIGUSR2, signal.SIGTERM)
_PORTS = range(20_000, 32_768)  # below those that Linux gives to outgoing connections

_REQUEUE_SECONDS = 60.0  # the scheduler ends a requeued job within this time
_WARNING_SLACK_SECONDS = 60.0  # the scheduler may warn up to a minute early


def job_id() -> str:
    """The id of the job or array task (`12` or `12_3`) of this process; '' outside of jobs."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def restarts() -> int:
    """How often this job has been requeued."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def ends_at(minutes: int) -> float:
    """The end of this job's time in Unix seconds: from the scheduler, or counted from the job's start."""
    end = os.environ.get("SLURM_JOB_END_TIME", "")  # set since SLURM 22.05.9
    if end.isdigit():
        return float(end)
    return float(os.environ.get(STARTED_AT, time.time())) + minutes * 60


def node_name() -> str:
    """The scheduler's name of this node."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def export_rank_variables(token: str) -> bool:
    """Set the variables that torch reads (RANK, WORLD_SIZE, ..., MASTER_PORT); return whether this is rank 0.

    A MASTER_ADDR of the place's `environment` is kept, since node names are not host names on every cluster. The
    port follows from the token, the job's id and its restarts: nobody else can guess it, and a requeued job avoids
    a port that was taken.

    Args:
        token: a secret of the submission, which the ranks also sign their messages with.
    """
    from submitit.helpers import TorchDistributedEnvironment

    address = os.environ.get("MASTER_ADDR")
    drawn = hmac.digest(token.encode(), f"{job_id()} {restarts()}".encode(), "sha256")
    os.environ["MASTER_PORT"] = str(_PORTS[int.from_bytes(drawn) % len(_PORTS)])
    ranks = TorchDistributedEnvironment()
    ranks.master_addr = address or ranks.master_addr
    # The scheduler sets the job's devices; LOCAL_RANK selects this rank's among them.
    ranks.export(set_cuda_visible_devices=False, overwrite=True)
    os.environ[RANK_TOKEN] = token
    return ranks.rank == 0


def hold_warnings() -> None:
    """Hold the scheduler's warning signals back until `JobSignals` or `ignore_warnings` takes them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _WARNINGS)


def ignore_warnings() -> None:
    """Ignore the warning signals from now on: another process of the job acts on them."""
    for number in _WARNINGS:
        signal.signal(number, _ignore_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WARNINGS)


def requeue_this_job(reason: str, exclude: str = "") -> None:
    """Requeue this job, and wait until the scheduler ends it.

    A job that exits right after its requeue counts as completed and would not run again.

    Args:
        reason: printed to the job's output.
        exclude: nodes that the job must not use again; replaces the exclusions of its submission.

    Raises:
        SystemExit: the scheduler refused; its message is in the job's output.
    """
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    refused = _scontrol("requeue", job_id())
    if refused:
        print(f"{reason}: not requeued: {refused}", flush=True)
        raise SystemExit(1)
    if exclude:
        _scontrol("update", f"JobId={job_id()}", f"ExcNodeList={exclude}")
    print(f"{reason}: requeued", flush=True)
    ended.wait(_REQUEUE_SECONDS)


class JobSignals:
    """Context manager of the main thread that handles the scheduler's warning signals.

    After a warning of preemption `reason` is `preempted`. A warning of the time limit sets no reason: the caller
    decides by `seconds_left` whether one more epoch fits. Where the running epoch takes too long, Interruption
    (`preempted` or `timeout`) is raised in it, early enough to record the end of the attempt.

    Args:
        ends_at: the end of the job's time, in Unix seconds.
        warning_seconds: how long before that SIGUSR2 comes.
        grace_seconds: from SIGTERM to SIGKILL.
        until_exit: ignore warnings after the context too, because the process exits next.
    """

    def __init__(
        self, ends_at: float, warning_seconds: float, grace_seconds: float, *, until_exit: bool = False
    ):
        self._until_exit = until_exit
        self._is_closed = False
        self.reason = ""
        self.ends_at = ends_at
        self._warning_seconds = warning_seconds
        self._grace_seconds = grace_seconds
        self._raise_at = float("inf")

    def __enter__(self) -> "JobSignals":
        self._before = {number: signal.signal(number, self._on_warning) for number in _WARNINGS}
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._on_alarm)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WARNINGS)  # see hold_warnings
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._is_closed = True
        for number, handler in self._before.items():
            signal.signal(number, _ignore_signal if self._until_exit else handler)

    @property
    def seconds_left(self) -> float:
        """Seconds until the end of the job's time."""
        return self.ends_at - time.time()

    def _on_warning(self, number: int, frame: FrameType | None) -> None:
        if self._is_closed:
            return  # a second Interruption would disturb the recording of the first
        early = (
            self._warning_seconds + _WARNING_SLACK_SECONDS if number == signal.SIGUSR2 else 2 * MARGIN_SECONDS
        )
        timed_out = self.seconds_left < early
        if not timed_out:
            self.reason = "preempted"
        left = self.seconds_left if number == signal.SIGUSR2 else self._grace_seconds
        self._raise_at = min(self._raise_at, time.time() + max(left - MARGIN_SECONDS, left / 2))
        signal.setitimer(signal.ITIMER_REAL, max(self._raise_at - time.time(), 0.01))

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        if not self._is_closed:
            self._is_closed = True
            raise Interruption(self.reason or "timeout")


def _ignore_signal(number: int, frame: FrameType | None) -> None:
    """A handler instead of SIG_IGN, which child processes would inherit."""


def _scontrol(*words: str) -> str:
    """Run scontrol; return its error message, '' on success."""
    # A requeue sends SIGTERM to all processes of the job, which would end this scontrol before it is done.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # inherited by the child
    try:
        done = subprocess.run(
            ["scontrol", *words], capture_output=True, text=True, errors="replace", timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return (
        "" if done.returncode == 0 else " ".join(done.stderr.split()) or "scontrol failed without a message"
    )
