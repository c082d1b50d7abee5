"""Detect that a Ray cluster's head no longer answers its driver.

A call into Ray blocks while the head's GCS does not answer, and after RAY_gcs_rpc_server_reconnect_timeout_s Ray
ends the whole process. So a thread polls the head, and the driver exits with a clear error before that.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from mixsweep.core.errors import UserError

_POLL_SECONDS = 0.5
_RESPONSIVE_SECONDS = 5.0  # where the last answer is older, a call into Ray may block

# Ray's time-out for a GCS that does not answer, and the share of it after which our driver gives up.
_TIMEOUT_VARIABLE = "RAY_gcs_rpc_server_reconnect_timeout_s"
_DEFAULT_TIMEOUT_SECONDS = 60.0
_SUSPECT_SHARE = 0.65  # then a process that was suspended meanwhile gets _CONFIRM_SHARE more to poll again
_CONFIRM_SHARE = 0.1


class ClusterError(UserError):
    """A cluster that cannot be used; the message is one line."""


class HeadGoneError(ClusterError):
    """The cluster's head is gone. Leave the process by os._exit: a normal exit waits inside Ray for the head."""


class HeadMonitor:
    """Context manager that polls a cluster's head for its dead nodes.

    Args:
        address: the head's address, for the error.
        query: returns the dead nodes: what is known of each, by id.
    """

    def __init__(self, address: str, query: Callable[[], Mapping[str, str]]):
        self._address = address
        self._query = query
        self._dead_nodes: Mapping[str, str] = {}
        self._answered_at = time.monotonic()
        self._suspected_at: float | None = None  # when a check first found the last answer too old
        self._stop = threading.Event()
        # A daemon: a query to a lost head never returns.
        self._thread = threading.Thread(target=self._poll, daemon=True, name="head")

    @property
    def dead_nodes(self) -> Mapping[str, str]:
        """The nodes that the cluster has lost, by the head's last answer."""
        return self._dead_nodes

    @property
    def is_responsive(self) -> bool:
        """Whether the head has answered within the last seconds."""
        return time.monotonic() - self._answered_at < _RESPONSIVE_SECONDS

    def check(self) -> None:
        """Check that the head answers.

        Raises:
            HeadGoneError: it has been silent for most of the time after which Ray ends this process.
        """
        timeout, now = _ray_timeout_seconds(), time.monotonic()
        confirm = max(_CONFIRM_SHARE * timeout, 3 * _POLL_SECONDS)
        if now - self._answered_at <= _SUSPECT_SHARE * timeout:
            self._suspected_at = None
            return
        if self._suspected_at is None:
            self._suspected_at = now
        if now - self._suspected_at >= confirm:
            seconds = _SUSPECT_SHARE * timeout + confirm
            raise HeadGoneError(
                f"address {self._address}: the cluster's head is gone: no answer for {seconds:g} s; run the same "
                "command again once it is back, or with another place"
            )

    def wait_for_answer(self) -> None:
        """Wait for the head's next answer.

        Raises:
            HeadGoneError: as `check`.
        """
        start = time.monotonic()
        while self._answered_at < start and self._thread.is_alive():
            self.check()
            time.sleep(_POLL_SECONDS)

    def _poll(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            start = time.monotonic()
            try:
                self._dead_nodes = self._query()
            except (
                Exception
            ):  # whatever Ray raises for a lost head: `check` judges by the time of the last answer
                continue
            self._answered_at = start

    def __enter__(self) -> "HeadMonitor":
        self._thread.start()
        return self

    def __exit__(self, *of_error: Any) -> None:
        self._stop.set()


@contextmanager
def exit_message(line: str) -> Iterator[None]:
    """Print a line on stderr if this process is killed inside the context.

    Ray kills a driver whose node's object store is gone, so a child process has to print it.
    """
    script = 'read -r left || printf "%s\\n" "$0" >&2'  # end of file without a line: the writer was killed
    watcher = subprocess.Popen(["sh", "-c", script, line], stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        with suppress(BrokenPipeError):
            watcher.communicate(b"left\n")


def _ray_timeout_seconds() -> float:
    """How long a head may be silent before Ray ends its driver."""
    try:
        return float(os.environ.get(_TIMEOUT_VARIABLE, ""))
    except ValueError:
        return _DEFAULT_TIMEOUT_SECONDS
