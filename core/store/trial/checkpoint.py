"""Checkpoints: files of torch.save, or folders, each written once under a name with its epoch and digest.

A checkpoint is made beside its final name, flushed and renamed. The two newest are kept, in case the newest is
damaged. The digest of a folder is that of the paths, sizes and digests of its files.
"""

import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from mixsweep.core.failures import DamagedError
from mixsweep.core.store import files
from mixsweep.core.store.trial.names import CheckpointName, Made

if TYPE_CHECKING:  # torch takes seconds to import, and a plan only asks whether a checkpoint is there
    import torch

_log = logging.getLogger(__name__)


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


def write_state(folder: Path, term: int, payload: Mapping[str, Any]) -> CheckpointName:
    """Write a checkpoint with torch.save.

    Args:
        payload: `epoch`, and tensors and plain values only, so that it loads with `weights_only=True`.
    """
    import torch

    def write(sink: BinaryIO) -> None:
        try:
            torch.save(dict(payload), sink)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch hides a full disk behind its own error
                raise error.__context__ from None
            raise

    return _write_file(folder, term, int(payload.get("epoch", 0)), write)


def write_content(folder: Path, made: Made, content: bytes | Mapping[str, bytes]) -> None:
    """Write a checkpoint or kept files that were read by `content_of` elsewhere, under their own name.

    Raises:
        DamagedError: the content does not have the digest in the name.
    """
    if (folder / made.name).exists():
        return
    if isinstance(content, bytes):
        if files.digest_of(content) != made.digest:
            raise DamagedError(f"{folder / made.name}: damaged, its digest does not match")
        files.write_bytes(folder / made.name, content)
        return
    beside = files.beside(folder / made.name)
    try:
        beside.mkdir()
        for name, part in content.items():
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            files.write_bytes(beside / name, part)
        if folder_digest(beside) != made.digest:
            raise DamagedError(f"{folder / made.name}: damaged, its digest does not match")
        files.move(beside, folder / made.name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_folder(folder: Path, term: int, epoch: int, source: Path) -> CheckpointName:
    """Copy a folder into a trial's folder as the checkpoint of an epoch; links are followed."""
    beside = folder / f".checkpoint.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        shutil.copytree(source, beside)
        for path in beside.rglob("*"):
            if path.is_file():
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
        made = CheckpointName(term, epoch, folder_digest(beside), is_folder=True)
        if not (folder / made.name).exists():
            files.move(beside, folder / made.name)
        return made
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def content_of(folder: Path, made: Made) -> bytes | dict[str, bytes]:
    """The verified content of a checkpoint or of kept files: a file's bytes, or those of a folder's files by path.

    Raises:
        FileNotFoundError: it is gone.
        DamagedError: it is not what was written.
    """
    path = folder / made.name
    if made.is_folder:
        if not path.is_dir():
            raise FileNotFoundError(path)
        found = {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
        if folder_digest(path) != made.digest:
            raise DamagedError(f"{path}: damaged, its digest does not match")
        return found
    try:
        content = path.read_bytes()
    except IsADirectoryError as error:
        raise DamagedError(f"{path}: damaged, not a file") from error
    if files.digest_of(content) != made.digest:
        raise DamagedError(f"{path}: damaged, its digest does not match")
    return content


def newest_whole(
    folder: Path, candidates: Iterable[CheckpointName], say: Callable[[str], None] = lambda line: None
) -> CheckpointName | None:
    """The first of these checkpoints whose digest matches; None if there is none.

    Args:
        say: called with a line for each damaged one.
    """
    for made in candidates:
        try:
            if made.is_folder:
                content_of(folder, made)
            else:
                with open(folder / made.name, "rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest()[:16] != made.digest:
                        raise DamagedError(f"{folder / made.name}: damaged, its digest does not match")
            return made
        except FileNotFoundError:
            continue
        except (DamagedError, IsADirectoryError) as error:
            say(str(error))
    return None


def load_state(
    folder: Path,
    candidates: Iterable[CheckpointName],
    device: "torch.device | str" = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any] | None:
    """The state in the first of these checkpoints whose digest matches; None if there is none.

    That of a folder is its `epoch`, and its path as `folder`: to be read, not changed.
    """
    import torch

    for made in candidates:
        if made.is_folder:
            if newest_whole(folder, [made], say) is not None:
                return {"epoch": made.epoch, "folder": folder / made.name}
            continue
        try:
            content = cast(bytes, content_of(folder, made))
        except FileNotFoundError:
            continue
        except DamagedError as error:
            _log.info("%s", error)
            say(str(error))
            continue
        _log.debug("%s: %s loads", folder, made.name)
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        return state
    return None


def remove(folder: Path, made: Iterable[Made]) -> None:
    """Remove checkpoints or kept files; a folder is renamed first, so that no part of one is found under its name."""
    for one in made:
        path = folder / one.name
        if one.is_folder:
            gone = files.beside(path)
            with suppress(OSError):
                os.rename(path, gone)
            shutil.rmtree(gone, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _write_file(folder: Path, term: int, epoch: int, write: Callable[[BinaryIO], None]) -> CheckpointName:
    beside = folder / f".checkpoint.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        with open(beside, "wb") as file:
            sink = _HashingFile(file)
            write(cast(BinaryIO, sink))
            file.flush()
            os.fsync(file.fileno())
        made = CheckpointName(term, epoch, sink.sha256.hexdigest()[:16])
        files.move(beside, folder / made.name)
        _log.debug("%s: checkpoint of epoch %d written", folder, epoch)
        return made
    finally:
        beside.unlink(missing_ok=True)


def folder_digest(folder: Path) -> str:
    """The digest of the paths, sizes and digests of a folder's files."""
    entries = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            entries.append([path.relative_to(folder).as_posix(), path.stat().st_size, digest])
    return files.digest_of(json.dumps(entries, ensure_ascii=False).encode("utf-8", "surrogateescape"))
