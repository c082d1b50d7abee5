"""Folders of temporary files that go with the process that made them, however that ends."""

import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

# Locked in a folder while its owner lives; no folder without it is ever removed. By host: on a shared file system
# another host's lock may not be seen here.
_MARK = f"owned-by-mixsweep-on-{socket.gethostname()}"
_FRESH_SECONDS = 60.0


@contextmanager
def scratch_folder(prefix: str = "mixsweep-") -> Iterator[Path]:
    """An empty folder where this machine keeps temporary files; it goes as an owned_folder does."""
    with owned_folder(tempfile.gettempdir(), prefix) as owned:
        empty = owned / "scratch"
        empty.mkdir()
        yield empty


@contextmanager
def owned_folder(root: Path | str, prefix: str) -> Iterator[Path]:
    """A new folder, removed in the end; those of owners that were killed before are removed as well.

    Args:
        root: where to.
        prefix: of its name, and of those whose owners may have been killed.
    """
    _remove_leftovers(Path(root), prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
    owned = FileLock(folder / _MARK, thread_local=False)  # a generator may end in another thread
    try:
        try:
            owned.acquire(timeout=0)
        except OSError:  # a file system without locks: the folder stays where its owner is killed
            (folder / _MARK).unlink(missing_ok=True)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        owned.release()


def _remove_leftovers(root: Path, prefix: str) -> None:
    """Remove the folders whose owners were killed: the kernel has let go of their locks."""
    for mark in root.glob(f"{prefix}*/{_MARK}"):
        with suppress(OSError, Timeout):
            if time.time() - mark.parent.stat().st_mtime < _FRESH_SECONDS:
                continue  # perhaps made just now, and not locked yet
            with FileLock(mark, timeout=0):
                shutil.rmtree(mark.parent)
