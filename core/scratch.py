"""Temporary folders, deleted when their process ends, or by a later run if it was killed, and files in folders."""

import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

# A file in the folder, locked while its owner lives; folders without it are never removed. Its name has the host: on
# a shared file system another host's lock may not be visible.
_MARK = f"owned-by-mixsweep-on-{socket.gethostname()}"
_FRESH_SECONDS = 60.0


@contextmanager
def scratch_folder(prefix: str = "mixsweep-") -> Iterator[Path]:
    """An empty folder for temporary files. Deleted on exit, or by a later run if its owner was killed."""
    with owned_folder(tempfile.gettempdir(), prefix) as owned:
        empty = owned / "scratch"
        empty.mkdir()
        yield empty


@contextmanager
def owned_folder(root: Path | str, prefix: str) -> Iterator[Path]:
    """A new folder, deleted on exit; folders of owners that were killed are deleted on entry.

    Args:
        root: the folder to create it in.
        prefix: of its name, and of the names of folders to delete if their owners were killed.
    """
    _remove_leftovers(Path(root), prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
    owned = FileLock(folder / _MARK, thread_local=False)  # a generator may be closed in another thread
    try:
        try:
            owned.acquire(timeout=0)
        except OSError:  # a file system without locks: the folder remains if its owner is killed
            (folder / _MARK).unlink(missing_ok=True)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        owned.release()


def _remove_leftovers(root: Path, prefix: str) -> None:
    """Remove the folders whose owners were killed: the kernel has released their locks."""
    for mark in root.glob(f"{prefix}*/{_MARK}"):
        with suppress(OSError, Timeout):
            if time.time() - mark.parent.stat().st_mtime < _FRESH_SECONDS:
                continue  # possibly just created, and not locked yet
            with FileLock(mark, timeout=0):
                shutil.rmtree(mark.parent)


def files_below(root: Path) -> dict[str, Path]:
    """The files in a folder and its folders, by their paths in it."""
    found = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path for path in found}


def copy_files(kept: Mapping[str, Path], target: Path) -> None:
    """Copy files into a folder, by their paths."""
    for name, path in kept.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)
