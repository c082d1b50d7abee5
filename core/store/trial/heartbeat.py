"""Heartbeats of a lease from a process of their own.

A holder's threads stand still while the code that it trains holds the interpreter's lock, which it may do for minutes.
This process touches the lease's file meanwhile, and ends with the holder. While the holder is stopped, it touches
nothing: then another process may take the trial.
"""

import atexit
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PROGRAM = """
import os, select, signal, socket, sys

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, signal.SIG_IGN)  # the holder decides what they mean, and its end is this process's
channel, holder, seconds = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), float(sys.argv[3])
lease = None


def is_stopped():
    try:
        with open(f"/proc/{holder}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False


while os.getppid() == holder:
    if select.select([channel], [], [], seconds)[0]:
        word, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if lease is not None:
            os.close(lease)
        lease = descriptors[0] if descriptors else None
        if not word:
            break
    elif lease is not None and not is_stopped():
        try:
            os.utime(lease)
        except OSError:  # a file system without this, as in the holder's own heartbeats
            try:
                os.pwrite(lease, os.pread(lease, 65536, 0), 0)
            except OSError:
                pass
"""


class _Helper:
    """The process that touches what it is told to, one file at a time."""

    def __init__(self, seconds: float):
        self.owner = os.getpid()
        self.seconds = seconds
        self._channel, far = socket.socketpair()
        words = [sys.executable, "-I", "-S", "-c", _PROGRAM, str(far.fileno()), str(self.owner), str(seconds)]
        with far:
            self._process = subprocess.Popen(
                words,
                pass_fds=(far.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
            )

    def touch(self, descriptor: int | None) -> None:
        """Touch this open file from now on; None: nothing."""
        socket.send_fds(self._channel, [b"."], [] if descriptor is None else [descriptor])

    def close(self) -> None:
        self._channel.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(2)


_helper: _Helper | None = None


@contextmanager
def beating(descriptor: int, seconds: float) -> Iterator[None]:
    """Let another process touch this open file every so many seconds, as long as this one lives and is not stopped.

    Where no process can be started, nothing is done: a lease has heartbeats of its holder too.
    """
    global _helper
    if _helper is not None and (_helper.owner, _helper.seconds) != (os.getpid(), seconds):
        _end()  # of another test, or a copy of this process's parent's
    with suppress(OSError):
        if _helper is None:
            _helper = _Helper(seconds)
        _helper.touch(descriptor)
    try:
        yield
    finally:
        try:
            if _helper is not None:
                _helper.touch(None)
        except OSError:  # it was killed: the next lease gets a new one
            _end()


def _end() -> None:
    global _helper
    if _helper is not None and _helper.owner == os.getpid():
        _helper.close()
    _helper = None


atexit.register(_end)
