"""Copy a trial's folder between machines that share no file system, as updates of whole files.

The files of an update are read in the opposite order to that in which they are written: the file written first is
read last and is newest, so that records are never older than their checkpoint, nor an end older than its records.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mixsweep.core.store import files
from mixsweep.core.store.checkpoint import checkpoint_bytes, put_checkpoint
from mixsweep.core.store.store import TrialFolder

# The stamp of each file when it was last sent, by name: a different stamp means that the file has changed.
Stamps = dict[str, tuple[int, ...]]

_INFO, _CHECKPOINT, _METRICS, _LOG = "trial.json", "checkpoint.pt", "metrics.parquet", "log.txt"


@dataclass(frozen=True, kw_only=True)
class FolderUpdate:
    """Whole files of a trial's folder; None: absent or unchanged."""

    info: bytes | None = None
    checkpoint: tuple[bytes, int] | None = None  # and its epoch
    metrics: bytes | None = None
    log: bytes | None = None


def collect_changes(folder: TrialFolder, sent: Stamps) -> tuple[FolderUpdate, Stamps]:
    """The files of a folder that have changed since `sent`, and the stamps to pass to the next call."""
    stamps = {name: _stamp(folder.path / name) for name in (_INFO, _CHECKPOINT, _METRICS, _LOG)}
    changed = {name for name, stamp in stamps.items() if stamp and stamp != sent.get(name)}
    info = (folder.path / _INFO).read_bytes() if _INFO in changed else None
    checkpoint = checkpoint_bytes(folder.path) if _CHECKPOINT in changed else None
    if checkpoint is None:
        stamps[_CHECKPOINT] = sent.get(_CHECKPOINT, ())  # it is being replaced: the next update has it
    metrics = (folder.path / _METRICS).read_bytes() if _METRICS in changed else None
    log = (folder.path / _LOG).read_bytes() if _LOG in changed else None
    return FolderUpdate(info=info, checkpoint=checkpoint, metrics=metrics, log=log), stamps


def apply_update(folder: TrialFolder, update: FolderUpdate, fence: Callable[[], None] = lambda: None) -> None:
    """Write an update's files into a folder, each atomically; `fence` as for core.store.files.write_bytes."""
    folder.path.mkdir(parents=True, exist_ok=True)
    if update.log is not None:
        files.write_bytes(folder.path / _LOG, update.log, fence)
    if update.metrics is not None:
        files.write_bytes(folder.path / _METRICS, update.metrics, fence)
    if update.checkpoint is not None:
        put_checkpoint(folder.path, *update.checkpoint, fence)
    if update.info is not None:
        files.write_bytes(folder.path / _INFO, update.info, fence)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        facts = path.stat()
    except FileNotFoundError:
        return ()
    return facts.st_mtime_ns, facts.st_size, facts.st_ino
