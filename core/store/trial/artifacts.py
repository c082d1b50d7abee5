"""Files that a trial keeps beside its records, each written once, with a digest in its name.

They are folders of copies, and a file with its predictions. Each folder has all files that the trial has kept so far,
so that the newest one counts and those before it can go. It is made beside its final name and renamed; what has not
changed is a hard link to the copy before.
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from mixsweep.core.failures import DamagedError
from mixsweep.core.scratch import files_below
from mixsweep.core.store import files
from mixsweep.core.store.trial.checkpoint import content_of, folder_digest
from mixsweep.core.store.trial.names import ArtifactsName, PredictionsName
from mixsweep.core.trainables.predictions import Predictions, from_table

_Stamp = tuple[int, int, int]  # size, time in ns, inode

# Folders that are being written or removed.
_LEFTOVERS = (".artifacts.", ".checkpoint.")


class ArtifactsWriter:
    """Writes the kept files of a trial for one process; what has not changed since the last time is not copied."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._stamps: dict[str, _Stamp] = {}  # of the files as they were last copied

    def write(
        self, term: int, before: ArtifactsName | None, sources: Mapping[str, Path]
    ) -> ArtifactsName | None:
        """Copy files into a new folder; one that changes while it is copied stays as it was in the one before.

        Args:
            before: the folder that counts now.
            sources: the files to keep, by their path in the folder; links are followed.

        Returns:
            the folder that counts now: the new one, or the one before if it has the same content.
        """
        found = {name: stamp for name, path in sorted(sources.items()) if (stamp := _stamp(path))}
        if found == self._stamps if before else not found:
            return before
        beside = self._folder / f".artifacts.{os.getpid()}.{os.urandom(4).hex()}"
        try:
            beside.mkdir()
            for name, stamp in list(found.items()):
                (beside / name).parent.mkdir(parents=True, exist_ok=True)
                is_known = self._stamps.get(name) == stamp and self._link(before, name, beside)
                if not is_known and not _copy(sources[name], beside / name, stamp):
                    self._link(before, name, beside)
                    del found[name]
            digest = folder_digest(beside)
            if before is None or before.digest != digest:
                number = before.number + 1 if before and before.term == term else 1
                made = ArtifactsName(term, number, digest)
                files.move(beside, self._folder / made.name)
                before = made
            self._stamps = found
            return before
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _link(self, before: ArtifactsName | None, name: str, beside: Path) -> bool:
        """Take a file from the folder before; False if it is not there, or there are no links here."""
        if before is None:
            return False
        try:
            os.link(self._folder / before.name / name, beside / name)
        except OSError:
            return False
        return True


def files_in(folder: Path, made: ArtifactsName, say: Callable[[str], None] | None = None) -> dict[str, Path]:
    """The kept files in a folder, by their paths in it; none if it is gone.

    Args:
        say: called with a line if they are not what was kept; None: they are not read.
    """
    root = folder / made.name
    if say is not None and (line := damage_of(folder, made)):
        say(f"{root}: {line}")
    return files_below(root)


def damage_of(folder: Path, made: ArtifactsName) -> str:
    """What is wrong with the kept files in a folder, '' for nothing."""
    path = folder / made.name
    is_whole = path.is_dir() and folder_digest(path) == made.digest
    return "" if is_whole else "damaged, these are not the files that the trial kept"


def write_predictions(folder: Path, term: int, epoch: int, table: pa.Table) -> PredictionsName:
    """Write predictions from core.trainables.predictions.to_table; they count once a head names them."""
    content = files.table_bytes(table, repetitive=("label", "prediction"))
    made = PredictionsName(term, epoch, files.digest_of(content))
    files.write_bytes(folder / made.name, content)
    return made


def read_predictions(folder: Path, made: PredictionsName) -> Predictions:
    """The predictions in a file.

    Raises:
        FileNotFoundError: it is gone.
        DamagedError: it is not what was written.
    """
    path = folder / made.name
    content = content_of(folder, made)
    assert isinstance(content, bytes), "predictions are a file"
    try:
        return from_table(files.table_from_bytes(content, path))
    except (ValueError, KeyError) as error:
        raise DamagedError(f"{path}: damaged, these are no predictions ({error})") from error


def remove_leftover_folders(folder: Path, seconds: float = files.LEFTOVER_SECONDS) -> None:
    """Remove partial folders of killed processes from a trial's folder; the caller holds its lease."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            is_leftover = entry.name.startswith(".") and any(part in entry.name for part in _LEFTOVERS)
            with suppress(OSError):
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if is_leftover and entry.is_dir(follow_symlinks=False) and age >= seconds:
                    shutil.rmtree(entry.path, ignore_errors=True)


def _stamp(path: Path) -> _Stamp | None:
    """What changes with a file; None if it is gone."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_size, facts.st_mtime_ns, facts.st_ino


def _copy(source: Path, target: Path, stamp: _Stamp) -> bool:
    """Copy a file and flush the copy; False, and no copy, if it has changed meanwhile or is gone."""
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        target.unlink(missing_ok=True)
        return False
    if _stamp(source) != stamp:
        target.unlink()
        return False
    with open(target, "rb") as file:
        os.fsync(file.fileno())
    return True
