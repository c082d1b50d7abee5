"""Whether a cluster's head still answers its driver.

A call into Ray does not return while the head's GCS is silent, and after RAY_gcs_rpc_server_reconnect_timeout_s
Ray ends the whole process, in words of its own. So a thread asks, and the driver leaves by itself before that.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from mixsweep.core.errors import UserError

_ASK_SECONDS = 0.5
_QUICK_SECONDS = 5.0  # an answer that is older says that a call into Ray might not return

# Ray's own patience with a GCS that does not answer, and the part of it after which its drivers of ours leave.
_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
_RAYS_SECONDS = 60.0
_OUR_PART = 0.65  # to be doubted, and 0.1 more to be given up: a process that was suspended asks anew first
_DOUBT_PART = 0.1


class ClusterError(UserError):
    """A cluster that cannot be used, in one line."""


class HeadGoneError(ClusterError):
    """A cluster whose head is gone: a process that Ray holds ends by os._exit, or it hangs until Ray ends it."""


class HeadMonitor:
    """Asks a cluster's head again and again which nodes it has lost; a context manager.

    Args:
        address: of the head, for the line that says it is gone.
        ask: the question: which nodes are lost, and what is known of each.
    """

    def __init__(self, address: str, ask: Callable[[], Mapping[str, str]]):
        self._address = address
        self._ask = ask
        self._dead_nodes: Mapping[str, str] = {}
        self._answered = time.monotonic()
        self._doubted: float | None = None  # when a check first found it silent for too long
        self._stop = threading.Event()
        # Nobody waits for it: a question to a head that is gone is never answered.
        self._thread = threading.Thread(target=self._keep_asking, daemon=True, name="head")

    @property
    def dead_nodes(self) -> Mapping[str, str]:
        """The nodes that the cluster has lost, as its head said last."""
        return self._dead_nodes

    @property
    def is_quick(self) -> bool:
        """Whether it has answered just now."""
        return time.monotonic() - self._answered < _QUICK_SECONDS

    def check(self) -> None:
        """Make sure that it is not gone.

        Raises:
            HeadGoneError: it has not answered for most of the time after which Ray would end this process.
        """
        rays, now = _rays_seconds(), time.monotonic()
        doubt = max(_DOUBT_PART * rays, 3 * _ASK_SECONDS)
        if now - self._answered <= _OUR_PART * rays:
            self._doubted = None
            return
        if self._doubted is None:
            self._doubted = now
        if now - self._doubted >= doubt:
            seconds = _OUR_PART * rays + doubt
            raise HeadGoneError(
                f"address {self._address}: the cluster's head is gone: no answer for {seconds:g} s; once it is back, "
                "or the place names another one, the same command goes on"
            )

    def wait_for_answer(self) -> None:
        """Return once it has answered anew.

        Raises:
            HeadGoneError: as check.
        """
        asked = time.monotonic()
        while self._answered < asked and self._thread.is_alive():
            self.check()
            time.sleep(_ASK_SECONDS)

    def _keep_asking(self) -> None:
        while not self._stop.wait(_ASK_SECONDS):
            begun = time.monotonic()
            try:
                self._dead_nodes = self._ask()
            except Exception:  # whatever Ray makes of a head that is gone: the clock tells its silence
                continue
            self._answered = begun

    def __enter__(self) -> "HeadMonitor":
        self._thread.start()
        return self

    def __exit__(self, *of_error: Any) -> None:
        self._stop.set()


@contextmanager
def exit_message(line: str) -> Iterator[None]:
    """What is said on stderr where this process ends inside without a word of its own.

    Ray ends a driver on the spot whose node's object store is gone: nothing in the process could say so.
    """
    script = 'read -r left || printf "%s\\n" "$0" >&2'  # at the pipe's end without a line, its writer is gone
    teller = subprocess.Popen(["sh", "-c", script, line], stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        with suppress(BrokenPipeError):
            teller.communicate(b"left\n")


def _rays_seconds() -> float:
    """How long a head may be silent until Ray ends its driver."""
    try:
        return float(os.environ.get(_PATIENCE, ""))
    except ValueError:
        return _RAYS_SECONDS
