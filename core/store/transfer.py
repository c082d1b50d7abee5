"""What of a trial's folder is sent elsewhere, and received whole: for machines that share no file system.

A parcel is read in the opposite order to that in which it is written: what is written first is read last and
is newest, so that records are never older than their checkpoint, nor an end older than its records.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mixsweep.core.store import files
from mixsweep.core.store.checkpoint import checkpoint_bytes, put_checkpoint
from mixsweep.core.store.store import TrialFolder

# By their stamps it is known what has changed since the last parcel.
Stamps = dict[str, tuple[int, ...]]

_INFO, _CHECKPOINT, _METRICS, _LOG = "trial.json", "checkpoint.pt", "metrics.parquet", "log.txt"


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """Whole files; None: not there, or as it was."""

    info: bytes | None = None
    checkpoint: tuple[bytes, int] | None = None  # and its epoch
    metrics: bytes | None = None
    log: bytes | None = None


def pack(folder: TrialFolder, sent: Stamps) -> tuple[Parcel, Stamps]:
    """What has changed in a folder, and the stamps by which the next parcel will know."""
    stamps = {name: _stamp(folder.path / name) for name in (_INFO, _CHECKPOINT, _METRICS, _LOG)}
    changed = {name for name, stamp in stamps.items() if stamp and stamp != sent.get(name)}
    info = (folder.path / _INFO).read_bytes() if _INFO in changed else None
    checkpoint = checkpoint_bytes(folder.path) if _CHECKPOINT in changed else None
    if checkpoint is None:
        stamps[_CHECKPOINT] = sent.get(_CHECKPOINT, ())  # it is being replaced: the next parcel has it
    metrics = (folder.path / _METRICS).read_bytes() if _METRICS in changed else None
    log = (folder.path / _LOG).read_bytes() if _LOG in changed else None
    return Parcel(info=info, checkpoint=checkpoint, metrics=metrics, log=log), stamps


def unpack(folder: TrialFolder, parcel: Parcel, fence: Callable[[], None] = lambda: None) -> None:
    """Put a parcel's files into a folder, each whole; `fence` as for core.files.write_bytes."""
    folder.path.mkdir(parents=True, exist_ok=True)
    if parcel.log is not None:
        files.write_bytes(folder.path / _LOG, parcel.log, fence)
    if parcel.metrics is not None:
        files.write_bytes(folder.path / _METRICS, parcel.metrics, fence)
    if parcel.checkpoint is not None:
        put_checkpoint(folder.path, *parcel.checkpoint, fence)
    if parcel.info is not None:
        files.write_bytes(folder.path / _INFO, parcel.info, fence)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        facts = path.stat()
    except FileNotFoundError:
        return ()
    return facts.st_mtime_ns, facts.st_size, facts.st_ino
