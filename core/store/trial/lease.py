"""One writer at a time in a folder: a lease with a heartbeat.

The lease is a file that is created exclusively, so it works on network file systems without lock daemons. Its
holder touches it; another process may take it over once its holder is dead or silent. Who may do so is settled by a
lease for just that, named after the dead holder; its owner puts its own in the dead one's place by one rename, so that
there is no moment without a lease, and nobody removes that of a process that has just taken over.

A lease keeps processes from doing the same work; it cannot keep a process that sleeps from writing when it wakes.
That is what terms are for (core.store.trial.term).
"""

import hashlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from mixsweep.core.failures import LeaseLostError
from mixsweep.core.store import files
from mixsweep.core.store.trial.heartbeat import beating

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0

# A lease whose stamp looks old or lies ahead may be that of a host with another clock, where a file system takes its
# stamps from its clients. Its holder is dead if the lease does not change while this process watches it for so long.
OBSERVE_SECONDS = 30.0
_LONG_DEAD_SECONDS = 7200.0  # no clock is wrong by so much: nothing is observed
_AHEAD_SECONDS = 5.0  # clocks are that far apart everywhere

_log = logging.getLogger(__name__)

_NAME = "lease"
_DAMAGED = {"token": "damaged", "host": "", "pid": 0, "born": ""}  # held until it is stale

_Verdict = Literal["live", "dead", "undecided"]

# What this process has seen of leases that look stale: token, stamp and the monotonic time, by path.
_observed: dict[str, tuple[str, int, float]] = {}


class Lease:
    """The right to write in a folder; a context manager that sends heartbeats until it is released."""

    def __init__(self, folder: Path, token: str, content: bytes, descriptor: int):
        self._path = folder / _NAME
        self._token = token
        self._content = content
        self._descriptor = descriptor  # of the lease's own file: a heartbeat through it touches no other's
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._keep_alive, daemon=True, name=f"lease-{folder.name}")
        self._beat.start()

    def check(self) -> None:
        """Check that this process still holds the folder; call before each write.

        Raises:
            LeaseLostError: another process has taken over, or the folder is gone.
        """
        held = _read(self._path)
        if held is None and self._create_again():
            return
        if held is None or held["token"] != self._token:
            _log.info("%s: lease lost to %s", self._path.parent, _describe(held))
            raise LeaseLostError(f"{self._path.parent}: taken over by another process")

    def beat_apart(self) -> AbstractContextManager[None]:
        """Let another process send heartbeats too, while this one runs code that may make its threads stand still."""
        return beating(self._descriptor, HEARTBEAT_SECONDS)

    def release(self) -> None:
        self._stop.set()
        self._beat.join()
        held = _read(self._path)
        if held is not None and held["token"] == self._token:
            with suppress(OSError):  # deleted, or no longer writable: then it becomes stale
                _remove(self._path, self._token, os.fstat(self._descriptor).st_ino)
        with suppress(OSError):
            os.close(self._descriptor)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _create_again(self) -> bool:
        """Create the lease again if somebody has deleted it and nobody has taken it."""
        try:
            descriptor = _create(self._path, self._content)
        except OSError:
            return False
        if descriptor is None:
            return False
        _log.info("%s: the lease was gone, and is taken again", self._path.parent)
        before, self._descriptor = self._descriptor, descriptor
        with suppress(OSError):
            os.close(before)
        return True

    def _keep_alive(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                # A holder that slept must not renew the lease of the process that took over.
                if (_read(self._path) or {}).get("token") == self._token:
                    self._touch()
            except OSError as error:
                _log.info("%s: heartbeat failed: %s", self._path.parent, error)
                # A full or absent file system must not kill the trial here; the next `check` decides.
                continue

    def _touch(self) -> None:
        try:
            os.utime(self._descriptor)
        except OSError:  # a file system without this: the same bytes again change the stamp as well
            os.pwrite(self._descriptor, self._content, 0)


def take_lease(folder: Path, dead_holder: str = "") -> Lease | None:
    """The lease of a folder (made if absent), or None while another process holds it or may do so.

    Args:
        dead_holder: a holder, as `holder_of` returns it, known to be dead although its lease is not stale yet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _NAME
    token = uuid.uuid4().hex
    me = {"token": token, "host": _this_host(), "pid": os.getpid(), "born": _born(os.getpid())}
    content = json.dumps(me).encode()
    descriptor = _create(path, content)
    if descriptor is not None:
        _log.debug("%s: lease taken", folder)
        return Lease(folder, token, content, descriptor)
    held = _read(path)
    if held is not None and held["token"] != dead_holder and _verdict(path, held) != "dead":
        _log.debug("%s: skipped, its lease is held by %s", folder, _describe(held))
        return None
    descriptor = _create(path, content) if held is None else _take_over(path, held, content)
    if descriptor is None:
        _log.debug("%s: skipped, another process takes its stale lease", folder)
        return None
    _log.info("%s: lease taken over from %s", folder, _describe(held))
    return Lease(folder, token, content, descriptor)


def lease_is_live(folder: Path) -> bool:
    """Whether a live process holds the folder, as far as one look can tell."""
    held = _read(folder / _NAME)
    if held is None or _process_is(held) == "dead":
        return False
    age = _age(folder / _NAME)
    return age is not None and abs(age) < STALE_SECONDS


def lease_is_undecided(folder: Path) -> bool:
    """Whether the folder's holder may be dead, and this process watches whether its lease still changes.

    Also while another process is about to take a dead holder's place, since it may die before it does.
    """
    path = folder / _NAME
    held = _read(path)
    while held is not None and (verdict := _verdict(path, held)) == "dead":
        path = _succession(path, held)
        held = _read(path)
        if held is not None and _verdict(path, held) == "live":
            return True
    return held is not None and verdict == "undecided"


def holder_of(folder: Path) -> str:
    """The token that identifies the holder of a folder's lease; '' if there is none."""
    held = _read(folder / _NAME)
    return "" if held is None else str(held["token"])


def give_lease_away(folder: Path) -> None:
    """Make the holder of a folder of this machine find its lease lost, since another machine has the trial."""
    with suppress(OSError):
        beside = folder / f".{_NAME}.{uuid.uuid4().hex[:8]}"
        beside.write_text(json.dumps({**_DAMAGED, "token": "elsewhere", "pid": 1}))
        os.replace(beside, folder / _NAME)


def _describe(held: dict[str, Any] | None) -> str:
    return f"process {held['pid'] or '?'} of {held['host'].partition(' ')[0] or '?'}" if held else "nobody"


def _create(path: Path, content: bytes, tries: int = 2) -> int | None:
    """Create a lease exclusively and whole; its open file, or None if there is one already."""
    beside, descriptor = _write_beside(path, content)
    try:
        made = files.link(beside, path)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, FileNotFoundError) and tries:  # taken for a leftover while this process slept
            return _create(path, content, tries - 1)
        raise
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    if made:
        return descriptor
    os.close(descriptor)
    if made is None:  # no links here
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
            os.write(descriptor, content)
            return descriptor
    return None


def _write_beside(path: Path, content: bytes) -> tuple[Path, int]:
    """A file with a lease's content, open.

    It is not flushed to the disk: after a power cut its holder is dead, whatever it says.
    """
    beside, descriptor = files.open_beside(path)
    try:
        os.write(descriptor, content)
    except BaseException:
        os.close(descriptor)
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    return beside, descriptor


def _succession(path: Path, held: dict[str, Any]) -> Path:
    """The lease whose owner may take the place of this holder."""
    of = hashlib.sha256(held["token"].encode("utf-8", "replace")).hexdigest()[:16]
    return path.with_name(f".{_NAME}.after.{of}")


def _take_over(path: Path, held: dict[str, Any], content: bytes) -> int | None:
    """Put a lease with this content in a dead holder's place; its open file, or None if another process does."""
    right = _succession(path, held)
    descriptor = _create(right, content)
    if descriptor is None:
        other = _read(right)
        if other is None or _verdict(right, other) != "dead":
            return None
        descriptor = _take_over(right, other, content)  # it died while it took over
        if descriptor is None:
            return None
    try:
        now = _read(path)
        if now is None:  # its holder was alive and has released it
            return _create(path, content)
        return _replace(path, content) if now["token"] == held["token"] else None
    finally:
        os.close(descriptor)
        if _is_own(right, content):
            with suppress(OSError):
                right.unlink(missing_ok=True)


def _replace(path: Path, content: bytes) -> int | None:
    """Put a lease in the place of the one that is there; its open file, or None if this process slept meanwhile."""
    beside, descriptor = _write_beside(path, content)
    try:
        files.move(beside, path)
        return descriptor
    except BaseException as error:
        os.close(descriptor)
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        if isinstance(error, FileNotFoundError):  # taken for a leftover
            return None
        raise


def _is_own(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def _remove(path: Path, expected: str, number: int) -> None:
    """Remove the lease with the expected token and inode; another's stays, or gets its place back."""
    aside = path.with_name(f".{_NAME}.{uuid.uuid4().hex[:8]}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        if not files.is_listed(aside, number):  # else it was done, and the file server was asked twice
            return
    held = _read(aside)
    if held is not None and held["token"] != expected:  # taken over since the look at it
        try:
            os.link(aside, path)
        except OSError as error:
            if error.errno in files.NO_LINKS:
                os.rename(aside, path)
    with suppress(OSError):
        aside.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    """A lease's content, or None if there is no lease."""
    try:
        held = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (IsADirectoryError, ValueError, RecursionError):  # neither JSON nor UTF-8
        return _DAMAGED
    kinds = {"token": str, "host": str, "pid": int, "born": str}
    if not isinstance(held, dict):
        return _DAMAGED
    is_whole = all(type(held.get(name)) is kind for name, kind in kinds.items()) and held["token"]
    return held if is_whole and 0 < held["pid"] < 2**31 else _DAMAGED


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


def _verdict(path: Path, held: dict[str, Any]) -> _Verdict:
    """Whether a lease's holder lives; undecided while only watching it can tell."""
    process = _process_is(held)
    age = _age(path)
    if process == "dead" or age is None:
        return "dead"
    if -_AHEAD_SECONDS <= age < STALE_SECONDS:
        return "live"
    if age >= STALE_SECONDS and (process == "stopped" or age >= _LONG_DEAD_SECONDS):
        return "dead"
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        return "dead"
    seen = _observed.get(str(path))
    if seen is None or seen[:2] != (held["token"], stamp):
        seen = _observed[str(path)] = (held["token"], stamp, time.monotonic())
    return "dead" if time.monotonic() - seen[2] >= OBSERVE_SECONDS else "undecided"


def _age(path: Path) -> float | None:
    """Seconds since the lease was touched, by the clock that stamps files here; None if there is none."""
    try:
        return _now_at(path.parent) - path.stat().st_mtime
    except OSError:
        return None


def _process_is(held: dict[str, Any]) -> Literal["dead", "alive", "stopped", "unknown"]:
    """What this host knows of the holder's process."""
    if held["host"] != _this_host():
        return "unknown"
    born = _born(held["pid"])
    if not born or (born != held["born"] and "?" not in (born, held["born"])):
        return "dead"
    if "?" in (born, held["born"]):
        return "unknown"
    try:
        state = Path(f"/proc/{held['pid']}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "unknown"
    return "stopped" if state in ("T", "t") else "alive"


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
    """The start time of a process of this host, in kernel ticks; '' if there is no such process, '?' if unknown.

    A process of another user is not seen where /proc is mounted with hidepid.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return "" if fields[0] in ("Z", "X") else fields[19]
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        return "?"
    return "?"
