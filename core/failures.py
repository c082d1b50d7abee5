"""A failure has a kind, and the kind says what happens next."""

import errno
from dataclasses import dataclass

from mixsweep.core.errors import ConfigError, UserError


@dataclass(frozen=True)
class Policy:
    """What a kind of failure leads to, and what the user is told."""

    retries: int  # within one command
    again: bool  # whether the next command tries once more by itself: the place failed, not the trial
    advice: str


POLICIES: dict[str, Policy] = {
    "oom": Policy(3, False, "tried again with twice the micro-batches at the same batch size"),
    "node": Policy(3, True, "tried again elsewhere"),
    "died": Policy(
        0, False, "its process was killed again and again (memory? time limit?); then --retry-failed"
    ),
    "port": Policy(3, True, "tried again on another port"),
    "rendezvous": Policy(3, True, "tried again"),
    "data": Policy(0, True, "see the data folder, then run the same command again"),
    "parent": Policy(
        0, False, "the checkpoint that it goes on from is gone; its population goes on without it"
    ),
    "disk": Policy(0, True, "make room or mend it, then run the same command again"),
    "config": Policy(0, False, "see the sweep file"),
    "bug": Policy(1, False, "see its log; after a fix, run with --retry-failed"),
}

# Ends of an attempt that cost no retry: the trial continues from its checkpoint. A `paused` one waits at
# `Setting.until` for the rest of its population.
INTERRUPTIONS = ("interrupted", "preempted", "timeout", "paused")

# A process that dies without a word at the same epoch so often is the trial's fault, and the kind `died`; so is
# an epoch that did not fit into its job's time so often.
DEATHS_WITHOUT_PROGRESS = 5
TIMEOUTS_WITHOUT_PROGRESS = 2


class DataError(UserError):
    """Images that cannot be had: a missing folder, a wrong layout, a damaged archive."""


class ParentLostError(Exception):
    """A trial that goes on from another one's checkpoint, where that is gone."""


class DiedError(Exception):
    """A trial whose process is killed, or runs out of its job's time, in the same epoch each time."""


class Interruption(BaseException):
    """Raised in a process that has to leave its trial in the middle of an epoch: by a signal's handler.

    `reason` is one of INTERRUPTIONS. As with KeyboardInterrupt, nothing that catches failures may hold it up.
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class LeaseLostError(Exception):
    """Another process holds the trial's folder now; this one must write nothing more."""


# A file system that is full, away, or closed to us: the trial is not to blame.
_DISK_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN,
    errno.EHOSTDOWN, errno.EACCES, errno.EPERM,
}  # fmt: skip

_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def kind_of(error: BaseException) -> str:
    """The kind of failure that an exception stands for; `bug` where nothing better is known."""
    if isinstance(error, ConfigError):
        return "config"
    if isinstance(error, DiedError):
        return "died"
    if isinstance(error, ParentLostError):
        return "parent"
    if isinstance(error, DataError):
        return "data"
    if isinstance(error, OSError):
        if error.errno in _DISK_ERRORS:
            return "disk"
        if error.errno == errno.EADDRINUSE:
            return "port"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "oom"
    message = str(error)
    if any(words in message for words in _OUT_OF_MEMORY):
        return "oom"
    if "CUDA error" in message or type(error).__name__ == "AcceleratorError":
        return "node"  # it sticks: every later call of this process fails too
    if "No space left on device" in message:
        return "disk"
    if type(error).__name__ in ("DistNetworkError", "DistStoreError"):
        return "port" if "EADDRINUSE" in message or "address already in use" in message else "rendezvous"
    return "bug"


class RankError(Exception):
    """Another rank has failed: how (`kind`), and whether its process has ended (`gone`), so that ours must too."""

    def __init__(self, message: str, kind: str = "rendezvous", gone: bool = True):
        super().__init__(message)
        self.kind = kind
        self.gone = gone


# Ray ends the workers of a driver that is gone by a SystemExit in them, which has this attribute; a user's has not.
_RAYS_WORD = "ray_terminate_msg"


def end_of(error: BaseException) -> str:
    """How an attempt ends by this error: one of INTERRUPTIONS, `killed`, or a kind of failure."""
    if isinstance(error, Interruption):
        return error.reason
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, SystemExit) and hasattr(error, _RAYS_WORD):
        return "killed"
    return error.kind if isinstance(error, RankError) else kind_of(error)


def ends_process(error: BaseException) -> bool:
    """Whether a process must not go on after this error: it is told to end, its device is broken, or a rank is gone."""
    if isinstance(error, RankError):
        return error.gone
    return not isinstance(error, Exception) or kind_of(error) == "node"
