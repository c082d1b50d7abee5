"""Runs a command for a process that may be killed: when that process is gone, the command and all its children end.

Started as a program of its own with the standard library alone. Its stdin is a pipe from the process that started it:
a closed pipe means that nobody waits any more. As a subreaper it inherits every child that the command leaves behind.
The first argument is the number of seconds from SIGTERM to SIGKILL; the others are the command.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

NOT_FOUND = 127  # the exit code where the command cannot be started, as a shell has it

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of <sys/prctl.h>
_POLL_SECONDS = 0.1
_LEFT_SECONDS = 2.0  # for what a command leaves behind, from SIGTERM to SIGKILL


def main(grace_seconds: float, command: list[str]) -> int:
    """Run the command, and return its exit code once none of its processes is left."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the process that started this one
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"{command[0]}: {error.strerror or error}", flush=True)
        return NOT_FOUND
    asked_at = 0.0

    def ask(*_: object) -> None:
        nonlocal asked_at
        asked_at = asked_at or time.monotonic()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, ask)
    while process.poll() is None:
        readable, _, _ = select.select([0], [], [], _POLL_SECONDS)
        if readable and not os.read(0, 1) and not asked_at:
            ask()
        if asked_at and time.monotonic() - asked_at > grace_seconds:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    _end_children()
    return process.returncode


def _end_children() -> None:
    """End what the command has left behind, however deep: its orphans become children of this process."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _LEFT_SECONDS
        while (left := _children()) and time.monotonic() < deadline:
            for pid in left:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            time.sleep(_POLL_SECONDS)


def _children() -> list[int]:
    _reap()
    own = os.getpid()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError, IndexError, ValueError):
                with open(f"/proc/{entry}/stat", "rb") as file:
                    state, parent = file.read().rpartition(b")")[2].split()[:2]
                if int(parent) == own and state != b"Z":
                    found.append(int(entry))
    return found


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    code = main(float(sys.argv[1]), sys.argv[2:])
    sys.exit(code if code >= 0 else 128 - code)
