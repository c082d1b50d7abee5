"""SLURM from inside a job: which one, how long still, its warnings, and back into the queue.

The scheduler warns in two ways. SIGUSR2 comes some minutes before the time limit (and, where the cluster is so
configured, before preemption): then there is time to end an epoch. SIGTERM comes with preemption and with
scancel, seconds before SIGKILL.
"""

import os
import signal
import socket
import subprocess
import threading
import time
from types import FrameType, TracebackType

from mixsweep.core.failures import Interruption

# Seconds before the end in which a process must have left its trial.
MARGIN_SECONDS = 5.0

# Set by our batch scripts to the time at which they began, seconds since the epoch.
STARTED_AT = "SWEEP_JOB_STARTED_AT"

_REQUEUE_SECONDS = 60.0  # the longest that the scheduler should take to end a job that it has requeued
_SLACK_SECONDS = 60.0  # the scheduler may warn up to a minute early


def job_id() -> str:
    """The id of the job or array task (`12` or `12_3`) that this process belongs to, '' outside one."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def restarts() -> int:
    """How often this job has been requeued."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def ends_at(minutes: int) -> float:
    """When this job's time is over, seconds since the epoch: by the scheduler's word, or counted from its start."""
    said = os.environ.get("SLURM_JOB_END_TIME", "")  # not before SLURM 22.05.9
    if said.isdigit():
        return float(said)
    return float(os.environ.get(STARTED_AT, time.time())) + minutes * 60


def node_name() -> str:
    """This node's name for the scheduler."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def export_ranks() -> bool:
    """Set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT as torch reads them; whether this is rank 0.

    An address that the place's `environment` sets stays: node names are not host names everywhere. The port is
    drawn from the job's id; a requeued job, which may have met a taken one, draws another.
    """
    from submitit.helpers import TorchDistributedEnvironment

    address = os.environ.get("MASTER_ADDR")
    os.environ.pop("MASTER_PORT", None)
    ranks = TorchDistributedEnvironment()
    ranks.master_port += restarts()
    ranks.master_addr = address or ranks.master_addr
    # The scheduler says which devices are the job's; which of them is this rank's follows from LOCAL_RANK.
    ranks.export(set_cuda_visible_devices=False, overwrite=True)
    return ranks.rank == 0


def go_back_into_the_queue(reason: str, exclude: str = "") -> None:
    """Have this job requeued, and wait until the scheduler ends it.

    A job that ends by itself just after it was requeued counts as done, and never comes back.

    Args:
        reason: for the job's output.
        exclude: nodes that the job shall not come back to; they replace those that it was submitted with.

    Raises:
        SystemExit: the scheduler refused; its words are in the job's output.
    """
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    refused = _scontrol("requeue", job_id())
    if refused:
        print(f"{reason}: not requeued: {refused}", flush=True)
        raise SystemExit(1)
    if exclude:
        _scontrol("update", f"JobId={job_id()}", f"ExcNodeList={exclude}")
    print(f"{reason}: back into the queue", flush=True)
    ended.wait(_REQUEUE_SECONDS)


class JobSignals:
    """A context that hears the scheduler's warnings, in the main thread.

    `reason` is `preempted` from then on; the time limit, which is known, is no reason before an epoch no longer
    fits. The running epoch may be ended; where it takes too long, Interruption is raised in it, `preempted` or
    `timeout`, in time for its end to be written down.

    Args:
        ends_at: when the job's time is over, seconds since the epoch.
        warning_seconds: how long before that SIGUSR2 comes.
        grace_seconds: from SIGTERM to SIGKILL.
        last: the process has nothing to do afterwards but to end, and hears no warning any more.
    """

    def __init__(self, ends_at: float, warning_seconds: float, grace_seconds: float, *, last: bool = False):
        self._last = last
        self._has_left = False
        self.reason = ""
        self.ends_at = ends_at
        self._warning_seconds = warning_seconds
        self._grace_seconds = grace_seconds
        self._leave_at = float("inf")

    def __enter__(self) -> "JobSignals":
        self._before = {
            number: signal.signal(number, self._heard) for number in (signal.SIGUSR2, signal.SIGTERM)
        }
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._leave)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._has_left = True
        # submitit's own handlers would requeue by themselves, or end the job: they are not put back.
        for number, handler in self._before.items():
            signal.signal(number, _hear_nothing if self._last else handler)

    @property
    def seconds_left(self) -> float:
        return self.ends_at - time.time()

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self._has_left:
            return  # once is enough: a second Interruption would disturb the writing down of the first
        early = self._warning_seconds + _SLACK_SECONDS if number == signal.SIGUSR2 else 2 * MARGIN_SECONDS
        timed_out = self.seconds_left < early
        if not timed_out:
            self.reason = "preempted"
        left = self.seconds_left if number == signal.SIGUSR2 else self._grace_seconds
        self._leave_at = min(self._leave_at, time.time() + max(left - MARGIN_SECONDS, left / 2))
        signal.setitimer(signal.ITIMER_REAL, max(self._leave_at - time.time(), 0.01))

    def _leave(self, number: int, frame: FrameType | None) -> None:
        if not self._has_left:
            self._has_left = True
            raise Interruption(self.reason or "timeout")


def _hear_nothing(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN, which children would inherit."""


def _scontrol(*words: str) -> str:
    """Run scontrol; what it complained of, '' where all went well."""
    # A requeue ends all processes of the job by SIGTERM, and what is still to be said after it would not be.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # a child inherits it
    try:
        done = subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return "" if done.returncode == 0 else " ".join(done.stderr.split()) or "scontrol failed without a word"
