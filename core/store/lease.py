"""One writer at a time in a trial's folder: a lease with a heartbeat.

The lease is a file that is created exclusively, so it works on network file systems without lock
daemons. Its holder touches it; another process may take it over if it is untouched for STALE_SECONDS, or was made
by a process of this host that no longer lives. A takeover is itself an exclusive create, of a file named after
the lease that is taken, so that one of several processes wins.
"""

import errno
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from mixsweep.core.failures import LeaseLostError

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0

_log = logging.getLogger(__name__)

_NAME = "lease"
_DAMAGED = {"token": "damaged"}  # a lease whose content cannot be read: held until it is stale


class Lease:
    """The right to write in a trial's folder; a context manager that sends heartbeats until it is released."""

    def __init__(self, folder: Path, token: str):
        self._path = folder / _NAME
        self._token = token
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._keep_alive, daemon=True, name=f"lease-{folder.name}")
        self._beat.start()

    def check(self) -> None:
        """Check that this process still holds the folder; call before each write.

        Raises:
            LeaseLostError: this process slept so long that another one took over.
        """
        held = _read(self._path)
        if held is None or held.get("token") != self._token:
            _log.info("%s: lease lost to %s", self._path.parent, _describe(held))
            raise LeaseLostError(f"{self._path.parent}: taken over by another process")

    def release(self) -> None:
        self._stop.set()
        self._beat.join()
        held = _read(self._path)
        if held is not None and held.get("token") == self._token:
            with suppress(OSError):  # deleted, or no longer writable: then it becomes stale
                self._path.unlink()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _keep_alive(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                # A holder that slept must not renew the lease of the process that took over.
                if (_read(self._path) or {}).get("token") == self._token:
                    os.utime(self._path)
            except OSError as error:
                _log.info("%s: heartbeat failed: %s", self._path.parent, error)
                # A full or absent file system must not kill the trial here; the next `check` decides.
                continue


def take_lease(folder: Path, dead_holder: str = "") -> Lease | None:
    """The lease of a folder (made if absent), or None while another live process holds it.

    Args:
        dead_holder: a holder, as `holder_of` returns it, known to be dead although its lease is not stale yet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _NAME
    token = uuid.uuid4().hex
    content = json.dumps(
        {"token": token, "host": _this_host(), "pid": os.getpid(), "born": _born(os.getpid())}
    )
    beside = folder / f".{_NAME}.{token[:8]}"
    try:
        _write(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), content)
        try:
            _create(path, beside, content)
            _log.debug("%s: lease taken", folder)
            return Lease(folder, token)
        except FileExistsError:
            pass
        held = _read(path)
        if held is None or (held["token"] != dead_holder and _is_live(path, held)):
            _log.debug("%s: skipped, its lease is held by %s", folder, _describe(held))
            return None
        with _right_to_take(folder, held["token"]) as won:
            if not won or (_read(path) or {}).get("token") != held["token"]:
                _log.debug("%s: skipped, another process takes its stale lease", folder)
                return None
            os.replace(beside, path)
            _log.info("%s: lease taken over from %s", folder, _describe(held))
            return Lease(folder, token)
    finally:
        beside.unlink(missing_ok=True)


def lease_is_live(folder: Path) -> bool:
    """Whether a live process holds the folder."""
    held = _read(folder / _NAME)
    return held is not None and _is_live(folder / _NAME, held)


def holder_of(folder: Path) -> str:
    """The token that identifies the holder of a folder's lease; '' if there is none."""
    return (_read(folder / _NAME) or {}).get("token", "")


def _describe(held: dict | None) -> str:
    return (
        f"process {held.get('pid', '?')} of {held.get('host', '?').partition(' ')[0]}" if held else "nobody"
    )


def _create(path: Path, beside: Path, content: str) -> None:
    """Create the lease exclusively, and atomically if the file system has hard links.

    Raises:
        FileExistsError: there is a lease already.
    """
    try:
        os.link(beside, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
        _write(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), content)


def _write(descriptor: int, content: str) -> None:
    """Write a new file and flush it to the disk: a lease left empty by a crash would not name its holder."""
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> dict | None:
    """A lease's content, or None if there is no lease."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:  # neither JSON nor UTF-8
        return _DAMAGED
    return held if isinstance(held, dict) and held.keys() >= {"token", "host", "pid", "born"} else _DAMAGED


def _this_host() -> str:
    """The host, boot and process namespace in which a process id is valid.

    The host name alone is not enough: containers share it, and it survives a reboot.
    """
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _is_live(path: Path, held: dict) -> bool:
    if held.get("host") == _this_host() and _born(held["pid"]) != held["born"]:
        return False
    try:
        return _now_at(path.parent) - path.stat().st_mtime < STALE_SECONDS
    except FileNotFoundError:
        return False


def _now_at(folder: Path) -> float:
    """The current time by the clock that stamps the folder's files: a file server's may differ from ours."""
    probe = folder / f".clock.{uuid.uuid4().hex[:8]}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()  # a reader without the right to write
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _born(pid: int) -> str:
    """The start time of a process of this host, in kernel ticks; '' if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "" if not _alive(pid) else "?"
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in ("Z", "X") else fields[19]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return not Path("/proc/self").exists()  # with a /proc, a process that is not in it has ended


@contextmanager
def _right_to_take(folder: Path, token: str) -> Iterator[bool]:
    """True for the one process that may replace the lease with this token."""
    marker = folder / f".{_NAME}.taking.{token[:8]}"
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        # A process that died during its takeover would block the folder: its marker becomes stale like a lease.
        with suppress(FileNotFoundError):  # the other process has just finished its takeover
            if _now_at(folder) - marker.stat().st_mtime > STALE_SECONDS:
                marker.unlink()
        yield False
        return
    try:
        yield True
    finally:
        marker.unlink(missing_ok=True)
