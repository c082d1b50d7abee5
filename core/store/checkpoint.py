"""Checkpoints: replaced atomically, with a digest; the previous one is kept in case the newest is damaged.

Three files make the state: `checkpoint.pt`, `checkpoint.previous.pt` and `checkpoint.json`, which holds the
SHA-256 of both and the newest one's epoch. The digests are written before the files are moved, so that a process
killed between any two steps leaves at least one file that matches.
"""

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from mixsweep.core.store import files

if TYPE_CHECKING:  # torch takes seconds to import, and a plan only asks whether a checkpoint is there
    import torch

_log = logging.getLogger(__name__)

_NEWEST, _PREVIOUS, _DIGESTS = "checkpoint.pt", "checkpoint.previous.pt", "checkpoint.json"


class _HashingFile(io.RawIOBase):
    """A sink for torch.save that hashes what passes through."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.sha256 = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.sha256.update(content)
        return self._file.write(content)


def save_checkpoint(folder: Path, payload: dict[str, Any], fence: Callable[[], None] = lambda: None) -> None:
    """Replace a folder's checkpoint; the previous one is kept beside it.

    Args:
        folder: the trial's folder.
        payload: tensors and plain values only, so that it loads with `weights_only=True`.
        fence: called before anything is moved or removed, and may raise to prevent it.
    """
    import torch

    def write(sink: BinaryIO) -> None:
        try:
            torch.save(payload, sink)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch hides a full disk behind its own error
                raise error.__context__ from None
            raise

    _replace(folder, write, int(payload.get("epoch", 0)), fence)


def put_checkpoint(
    folder: Path, content: bytes, epoch: int, fence: Callable[[], None] = lambda: None
) -> None:
    """Replace a folder's checkpoint by content that `checkpoint_bytes` read from another folder."""
    _replace(folder, lambda sink: cast(None, sink.write(content)), epoch, fence)


def checkpoint_bytes(folder: Path) -> tuple[bytes, int] | None:
    """The content of the newest checkpoint whose digest matches, and its epoch (0 if not recorded).

    None if there is none, or if it is being replaced.
    """
    digests, epoch = _digests(folder), checkpoint_epoch(folder)
    for name in (_NEWEST, _PREVIOUS):
        with suppress(FileNotFoundError):
            content = (folder / name).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            if digest in digests.values():
                return content, epoch if digest == digests.get(_NEWEST) else 0
    return None


def _replace(folder: Path, write: Callable[[BinaryIO], None], epoch: int, fence: Callable[[], None]) -> None:
    fence()
    _remove_leftovers(folder)
    beside = folder / f".{_NEWEST}.{os.getpid()}"
    try:
        with open(beside, "wb") as file:
            sink = _HashingFile(file)
            write(cast(BinaryIO, sink))
            file.flush()
            os.fsync(file.fileno())
        digest = sink.sha256.hexdigest()
        # The files are hashed again: after a kill or damage, the digests on disk may be ahead of the files.
        current, before = _verified(folder) or ("", None)
        digests = json.dumps({_NEWEST: digest, _PREVIOUS: before, "epoch": epoch}).encode()
        files.write_bytes(folder / _DIGESTS, digests, fence)
        if current == _NEWEST:
            os.replace(folder / _NEWEST, folder / _PREVIOUS)
        os.replace(beside, folder / _NEWEST)
        _log.debug("%s: checkpoint of epoch %d written", folder, epoch)
    finally:
        beside.unlink(missing_ok=True)


def load_checkpoint(folder: Path, device: "torch.device | str" = "cpu") -> dict[str, Any] | None:
    """The newest checkpoint whose digest matches, or None if there is none.

    Damaged files and files without a digest are skipped.
    """
    import torch

    known = set(_digests(folder).values()) - {None}
    for name in (_NEWEST, _PREVIOUS):
        try:
            content = (folder / name).read_bytes()
        except FileNotFoundError:
            continue
        if hashlib.sha256(content).hexdigest() in known:
            _log.debug("%s: %s loads", folder, name)
            return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        _log.info("%s: %s refused, its digest is not the recorded one", folder, name)
    return None


def _verified(folder: Path) -> tuple[str, str] | None:
    """The name and the digest of the newest checkpoint whose digest matches."""
    known = set(_digests(folder).values()) - {None}
    for name in (_NEWEST, _PREVIOUS):
        with suppress(FileNotFoundError), open(folder / name, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest in known:
                return name, digest
    return None


def copy_checkpoint(source: Path, target: Path, fence: Callable[[], None] = lambda: None) -> bool:
    """Copy a folder's newest checkpoint into a folder that has none.

    Args:
        fence: as for save_checkpoint, of the target.

    Returns:
        False if the newest is missing or damaged: then nothing was copied.
    """
    try:
        content = (source / _NEWEST).read_bytes()
    except FileNotFoundError:
        return False
    digest = hashlib.sha256(content).hexdigest()
    if digest != _digests(source).get(_NEWEST):
        _log.info("%s: %s not copied, its digest is not the recorded one", source, _NEWEST)
        return False
    text = json.dumps({_NEWEST: digest, _PREVIOUS: None, "epoch": checkpoint_epoch(source)})
    files.write_bytes(target / _DIGESTS, text.encode(), fence)
    files.write_bytes(target / _NEWEST, content, fence)
    return True


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint to continue from, damaged or not."""
    return (folder / _NEWEST).exists() or (folder / _PREVIOUS).exists()


def checkpoint_epoch(folder: Path) -> int:
    """The epoch of the newest checkpoint from its digest file; 0 if there is none or it is not recorded."""
    try:
        return int(json.loads((folder / _DIGESTS).read_text(encoding="utf-8"))["epoch"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def drop_previous(folder: Path) -> None:
    """Remove the previous checkpoint if the newest one's digest matches."""
    try:
        content = (folder / _NEWEST).read_bytes()
    except FileNotFoundError:
        return
    if hashlib.sha256(content).hexdigest() == _digests(folder).get(_NEWEST):
        (folder / _PREVIOUS).unlink(missing_ok=True)


def remove_checkpoints(folder: Path) -> None:
    """Remove a trial's checkpoints; its records, config and log stay."""
    for name in (_NEWEST, _PREVIOUS, _DIGESTS):
        (folder / name).unlink(missing_ok=True)
    _remove_leftovers(folder)


def _remove_leftovers(folder: Path) -> None:
    """Remove partial files of processes killed while saving; this process holds the lease, so none is in use."""
    for path in folder.glob(f".{_NEWEST}.*"):
        path.unlink(missing_ok=True)


def _digests(folder: Path) -> dict[str, str | None]:
    try:
        found = json.loads((folder / _DIGESTS).read_text(encoding="utf-8"))
        return {name: found.get(name) for name in (_NEWEST, _PREVIOUS)}
    except (FileNotFoundError, ValueError):  # a damaged file may be neither JSON nor UTF-8
        return {}
