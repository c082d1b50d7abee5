"""The kinds of failures, and how each is handled."""

import errno
from dataclasses import dataclass

from mixsweep.core.errors import ConfigError, UserError


@dataclass(frozen=True)
class Policy:
    """How a kind of failure is handled, and the advice shown to the user."""

    retries: int  # within one command
    again: bool  # whether the next command retries without --retry-failed: the place failed, not the trial
    advice: str


POLICIES: dict[str, Policy] = {
    "oom": Policy(3, False, "tried again with twice the micro-batches at the same batch size"),
    "node": Policy(3, True, "tried again elsewhere"),
    "died": Policy(
        0,
        False,
        "its process was killed repeatedly; check memory and time limit, then run with --retry-failed",
    ),
    "port": Policy(3, True, "tried again on another port"),
    "rendezvous": Policy(3, True, "tried again"),
    "data": Policy(0, True, "check the data folder, then run the same command again"),
    "parent": Policy(
        0, False, "the checkpoint that it continues from is missing; its population continues without it"
    ),
    "disk": Policy(0, True, "free space or repair it, then run the same command again"),
    "config": Policy(0, False, "see the sweep file"),
    "bug": Policy(1, False, "see its log; after a fix, run with --retry-failed"),
}

# A kind that a newer version wrote.
_UNKNOWN = Policy(0, False, "a kind of failure that this version does not know; run with --retry-failed")


def policy_of(kind: str) -> Policy:
    """How a kind of failure is handled; one that this version does not know is terminal."""
    return POLICIES.get(kind, _UNKNOWN)


# Ends of an attempt that cost no retry: the trial continues from its checkpoint. A `paused` one waits at
# `RunConfig.until` for the rest of its population.
INTERRUPTIONS = ("interrupted", "preempted", "timeout", "paused")

# After this many crashes without a message, or timeouts, at one epoch, the trial is blamed: its failure is `died`.
DEATHS_WITHOUT_PROGRESS = 5
TIMEOUTS_WITHOUT_PROGRESS = 2


class DataError(UserError):
    """Images that cannot be loaded: a missing folder, a wrong layout, a damaged archive."""


class DamagedError(UserError):
    """A file of the store is not what was written; it costs at most its own trial, and the next run mends it."""


class CommandError(Exception):
    """A command that failed as the training of a trial; the message has its exit code and its last lines."""


class ParentLostError(Exception):
    """The checkpoint of the parent that a trial continues from is missing."""


class DiedError(Exception):
    """The trial's process is killed, or exceeds its job's time limit, in the same epoch each time."""


class Interruption(BaseException):
    """Raised by a signal handler in a process that has to leave its trial in the middle of an epoch.

    `reason` is one of INTERRUPTIONS. A BaseException, like KeyboardInterrupt, so that `except Exception` does not
    catch it.
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class LeaseLostError(Exception):
    """Another process holds the trial's folder now; this one must not write to it any more."""


# A file system that is full, unreachable or not writable: the trial is not to blame.
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
    """The kind of failure of an exception; `bug` if no other kind matches."""
    if isinstance(error, ConfigError):
        return "config"
    if isinstance(error, DiedError):
        return "died"
    if isinstance(error, ParentLostError):
        return "parent"
    if isinstance(error, DataError):
        return "data"
    if isinstance(error, DamagedError):
        return "disk"
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
        return "node"  # persistent: every later CUDA call of this process fails too
    if "No space left on device" in message:
        return "disk"
    if type(error).__name__ in ("DistNetworkError", "DistStoreError"):
        return "port" if "EADDRINUSE" in message or "address already in use" in message else "rendezvous"
    return "bug"


class RankError(Exception):
    """Another rank has failed with this `kind`; `gone`: its process has ended, so that this one has to end too."""

    def __init__(self, message: str, kind: str = "rendezvous", gone: bool = True):
        super().__init__(message)
        self.kind = kind
        self.gone = gone


# Ray ends the workers of a dead driver by a SystemExit with this attribute, which a user's own SystemExit lacks.
_RAYS_WORD = "ray_terminate_msg"


def end_of(error: BaseException) -> str:
    """The end of an attempt with this error: one of INTERRUPTIONS, `killed`, or a kind of failure."""
    if isinstance(error, Interruption):
        return error.reason
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, SystemExit) and hasattr(error, _RAYS_WORD):
        return "killed"
    return error.kind if isinstance(error, RankError) else kind_of(error)


def ends_process(error: BaseException) -> bool:
    """Whether a process has to end after this error: it was interrupted, its device is broken, or a rank has ended."""
    if isinstance(error, RankError):
        return error.gone
    return not isinstance(error, Exception) or kind_of(error) == "node"
