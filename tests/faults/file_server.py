"""A file system in this process's hands: a folder, served through FUSE with the faults of a network's file server.

Two mounts of one folder are two clients: the kernel keeps attributes and names of each in a cache of its own. Run as
`python -m tests.faults.file_server FOLDER MOUNT SETTINGS`; the settings' file is read again whenever it changes.
"""

import contextlib
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import wait_until

INSTALL = "apt-get install fuse3, and root"
_NOW, _OMIT = (1 << 30) - 1, (1 << 30) - 2  # of utimensat(2)
_CHANGES = ("create", "write", "rename", "link", "unlink", "mkdir", "rmdir", "utimens", "truncate", "chmod")
_LOOKS = ("open", "read", "getattr", "readdir")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Faults of a client of the server.

    Args:
        cache_seconds: how long the client believes attributes and names that it has seen.
        delay_seconds: the longest delay of a call; replies of calls made at once come in any order.
        lost: share of changes that are done, and whose reply is an error.
        repeated: share of changes that are done twice, as by a client that did not hear the first reply.
        stale: share of looks that end in ESTALE.
        partition_seconds: after so many seconds a call ends in ETIMEDOUT, as long as `partitioned` is set.
        partitioned: whether the client is cut off.
        only: the calls that are lost, repeated or cut off; empty: all.
        links, locks, times: whether the server has hard links, flock, utime.
        clock_seconds: how far the server's clock is ahead.
    """

    cache_seconds: float = 1.0
    delay_seconds: float = 0.0
    lost: float = 0.0
    repeated: float = 0.0
    stale: float = 0.0
    partition_seconds: float = 2.0
    partitioned: bool = False
    only: tuple[str, ...] = ()
    links: bool = True
    locks: bool = True
    times: bool = True
    clock_seconds: int = 0
    seed: int = 0


class Mount:
    """A mounted client."""

    def __init__(self, path: Path, settings_path: Path, settings: Settings):
        self.path, self._settings_path, self._settings = path, settings_path, settings

    def change(self, **values: Any) -> None:
        """Change settings while it is mounted."""
        self._settings = Settings(**{**asdict(self._settings), **values})
        _write(self._settings_path, self._settings)


@contextlib.contextmanager
def mounted(folder: Path, mount: Path, settings: Settings) -> Iterator[Mount]:
    """A folder mounted elsewhere, with these faults; skips the test where FUSE cannot be had (in CI it fails)."""
    _require()
    mount.mkdir(parents=True, exist_ok=True)
    settings_path = mount.with_name(f"{mount.name}.settings")
    _write(settings_path, settings)
    log_path = mount.with_name(f"{mount.name}.log")
    words = [sys.executable, "-m", "tests.faults.file_server", str(folder), str(mount), str(settings_path)]
    with open(log_path, "ab") as log:
        server = subprocess.Popen(words, cwd=Path(__file__).parents[2], stdout=log, stderr=log)
    try:
        wait_until(lambda: server.poll() is not None or os.path.ismount(mount), 30)
        if server.poll() is not None:
            raise RuntimeError(f"the file server ended: {log_path.read_text(errors='replace')[-500:]}")
        yield Mount(mount, settings_path, settings)
    finally:
        _write(settings_path, Settings())
        subprocess.run(["fusermount3", "-u", "-z", str(mount)], capture_output=True)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _require() -> None:
    why = ""
    if not shutil.which("fusermount3"):
        why = "no fusermount3"
    elif not os.access("/dev/fuse", os.R_OK | os.W_OK):
        why = "/dev/fuse is not there, or not to be opened"
    if why:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"needs {INSTALL}: {why}")


def _write(path: Path, settings: Settings) -> None:
    beside = path.with_name(f".{path.name}")
    beside.write_text(json.dumps(asdict(settings)))
    os.replace(beside, path)


# --- The server ------------------------------------------------------------------------------------------


class _Faults:
    """The settings as they are now, and the dice."""

    def __init__(self, path: Path):
        self._path, self._stamp = path, 0
        self._lock = threading.Lock()
        self.now = Settings()
        self._rng = random.Random()
        self.read()

    def read(self) -> None:
        with contextlib.suppress(OSError):
            stamp = self._path.stat().st_mtime_ns
            if stamp != self._stamp:
                values = json.loads(self._path.read_text())
                self.now = Settings(**{**values, "only": tuple(values["only"])})
                self._stamp = stamp
                self._rng.seed(self.now.seed)

    def draw(self, share: float) -> bool:
        with self._lock:
            return share > 0 and self._rng.random() < share

    def delay(self) -> float:
        with self._lock:
            return self._rng.random() * self.now.delay_seconds


def _serve(folder: Path, mount: Path, settings_path: Path) -> None:
    warnings.simplefilter("ignore")
    import mfusepy

    faults = _Faults(settings_path)

    def guarded(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            faults.read()
            now = faults.now
            applies = not now.only or name in now.only
            if now.delay_seconds:
                time.sleep(faults.delay())
            if now.partitioned and applies:
                end = time.monotonic() + now.partition_seconds
                while time.monotonic() < end and faults.now.partitioned:
                    time.sleep(0.02)
                    faults.read()
                if faults.now.partitioned:
                    raise OSError(errno.ETIMEDOUT, "cut off")
            if name in _LOOKS and applies and faults.draw(now.stale):
                raise OSError(errno.ESTALE, "stale")
            result = call(*args)
            if name in _CHANGES and applies:
                if name not in ("create", "write") and faults.draw(now.repeated):
                    return call(*args)
                if faults.draw(now.lost):
                    raise OSError(errno.EIO, "the reply is lost")
            return result

        return run

    class Served(mfusepy.Operations):
        use_ns = True

    def attributes(facts: os.stat_result) -> dict[str, Any]:
        shift = faults.now.clock_seconds * 10**9
        return {
            "st_mode": facts.st_mode,
            "st_nlink": facts.st_nlink,
            "st_uid": facts.st_uid,
            "st_gid": facts.st_gid,
            "st_ino": facts.st_ino,
            "st_size": facts.st_size,
            "st_blocks": facts.st_blocks,
            "st_atime": facts.st_atime_ns + shift,
            "st_mtime": facts.st_mtime_ns + shift,
            "st_ctime": facts.st_ctime_ns + shift,
        }

    def at(path: str) -> str:
        return f"{folder}{path}"

    def readdir(path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:
        found = [(".", os.stat(at(path))), ("..", os.stat(folder))]
        for name in os.listdir(at(path)):
            with contextlib.suppress(FileNotFoundError):
                found.append((name, os.lstat(f"{at(path)}/{name}")))
        return [(name, {"st_mode": facts.st_mode, "st_ino": facts.st_ino}, 0) for name, facts in found]

    def rename(old: str, new: str) -> int:
        os.rename(at(old), at(new))
        return 0

    def link(target: str, source: str) -> int:
        if not faults.now.links:
            raise OSError(errno.EOPNOTSUPP, "no links")
        os.link(at(source), at(target))
        return 0

    def utimens(path: str, times: tuple[int, int] | None = None) -> int:
        if not faults.now.times:
            raise OSError(errno.ENOSYS, "no utime")
        if times is None or times[1] == _NOW:
            os.utime(at(path))
            return 0
        shift = faults.now.clock_seconds * 10**9
        facts = os.stat(at(path))
        before = (facts.st_atime_ns, facts.st_mtime_ns)
        os.utime(at(path), ns=tuple(old if new == _OMIT else new - shift for old, new in zip(before, times)))
        return 0

    def truncate(path: str, length: int, fh: int | None = None) -> int:
        os.truncate(at(path) if fh is None else fh, length)
        return 0

    def statfs(path: str) -> dict[str, int]:
        facts = os.statvfs(at(path))
        names = (
            "f_bavail",
            "f_bfree",
            "f_blocks",
            "f_bsize",
            "f_favail",
            "f_ffree",
            "f_files",
            "f_frsize",
            "f_namemax",
        )
        return {name: getattr(facts, name) for name in names}

    def fsync(path: str, datasync: int, fh: int) -> int:
        return 0  # what counts here is what the other client sees, not a power cut

    def flock(path: str, fh: int, operation: int) -> int:
        if not faults.now.locks:
            raise OSError(errno.ENOLCK, "no locks")
        import fcntl

        fcntl.flock(fh, operation)
        return 0

    calls: dict[str, Callable[..., Any]] = {
        "getattr": lambda path, fh=None: attributes(os.lstat(at(path)) if fh is None else os.fstat(fh)),
        "readdir": readdir,
        "readlink": lambda path: os.readlink(at(path)),
        "open": lambda path, flags: os.open(at(path), flags),
        "create": lambda path, mode, flags: os.open(at(path), flags | os.O_CREAT, mode),
        "read": lambda path, size, offset, fh: os.pread(fh, size, offset),
        "write": lambda path, data, offset, fh: os.pwrite(fh, data, offset),
        "release": lambda path, fh: os.close(fh),
        "flush": lambda path, fh: 0,
        "fsync": fsync,
        "unlink": lambda path: os.unlink(at(path)),
        "mkdir": lambda path, mode: os.mkdir(at(path), mode),
        "rmdir": lambda path: os.rmdir(at(path)),
        "symlink": lambda target, source: os.symlink(source, at(target)),
        "rename": rename,
        "link": link,
        "utimens": utimens,
        "truncate": truncate,
        "chmod": lambda path, mode: os.chmod(at(path), mode),
        "chown": lambda path, uid, gid: os.chown(at(path), uid, gid),
        "statfs": statfs,
        "flock": flock,
    }
    for name, call in calls.items():
        setattr(Served, name, staticmethod(guarded(name, call)))
    cache = faults.now.cache_seconds
    mfusepy.FUSE(
        Served(),
        str(mount),
        foreground=True,
        allow_other=True,
        use_ino=True,
        default_permissions=True,
        attr_timeout=cache,
        entry_timeout=cache,
        negative_timeout=cache,
    )


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
