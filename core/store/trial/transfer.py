"""Copy a trial's folder between machines that share no file system, as updates of whole files.

Records and checkpoints are written once and have their digest in their names. The files of an update are read in the
opposite order to that in which they are written: a head is read first and written last, so that what it names is there.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mixsweep.core.failures import DamagedError, LeaseLostError
from mixsweep.core.store import files
from mixsweep.core.store.trial import checkpoint, segments
from mixsweep.core.store.trial.folder import TrialFolder, read_head
from mixsweep.core.store.trial.names import (
    ArtifactsName,
    CheckpointName,
    Made,
    PredictionsName,
    Segment,
    head_name,
)

# The stamp of each file when it was last sent, by name: a different stamp means that the file has changed.
Stamps = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class FolderUpdate:
    """New and changed files of a trial's folder, by name; those in a folder of it by their paths in that."""

    head: tuple[str, bytes] | None = None
    checkpoints: Mapping[str, bytes | Mapping[str, bytes]] = field(default_factory=dict)
    artifacts: Mapping[str, bytes | Mapping[str, bytes]] = field(default_factory=dict)
    predictions: Mapping[str, bytes | Mapping[str, bytes]] = field(default_factory=dict)
    segments: Mapping[str, bytes] = field(default_factory=dict)
    logs: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not any(vars(self).values())


def collect_changes(folder: TrialFolder, sent: Stamps) -> tuple[FolderUpdate, Stamps]:
    """The files of a folder that count and have changed since `sent`, and the stamps to pass to the next call."""
    listing = folder.listing()
    stamps: Stamps = {}
    head = None
    if listing.heads:
        name = head_name(listing.heads[0])
        stamps[name] = _stamp(folder.path / name)
        if stamps[name] != sent.get(name):
            head = name, (folder.path / name).read_bytes()
    belief = folder.belief()
    made = _contents(folder, belief.checkpoints, sent, stamps)
    kept = _contents(folder, belief.artifacts[:1], sent, stamps)
    tested = _contents(folder, belief.predictions, sent, stamps)
    rows: dict[str, bytes] = {}
    for segment in belief.segments:
        stamps[segment.name] = ()
        if segment.name not in sent:
            try:
                rows[segment.name] = segments.verified_bytes(folder.path, segment)
            except (FileNotFoundError, DamagedError):
                del stamps[segment.name]
    logs: dict[str, bytes] = {}
    for path in folder.logs():
        stamps[path.name] = _stamp(path)
        if stamps[path.name] != sent.get(path.name):
            logs[path.name] = path.read_bytes()
    update = FolderUpdate(
        head=head, checkpoints=made, artifacts=kept, predictions=tested, segments=rows, logs=logs
    )
    return update, stamps


def _contents(
    folder: TrialFolder, wanted: Iterable[Made], sent: Stamps, stamps: Stamps
) -> dict[str, bytes | Mapping[str, bytes]]:
    """The contents of those that were not sent yet, by name; all that the other side has then are in `stamps`."""
    found: dict[str, bytes | Mapping[str, bytes]] = {}
    for one in wanted:
        stamps[one.name] = ()
        if one.name not in sent:
            try:
                found[one.name] = checkpoint.content_of(folder.path, one)
            except (FileNotFoundError, DamagedError):  # replaced meanwhile, or of no use
                del stamps[one.name]
    return found


def apply_update(folder: TrialFolder, update: FolderUpdate) -> None:
    """Write an update's files into a folder.

    Raises:
        LeaseLostError: another process has taken the term of the update's head.
        DamagedError: a file is not what was sent.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    for name, content in update.logs.items():
        if (folder.path / name).parent == folder.path:
            files.write_bytes(folder.path / name, content)
    for name, content in update.segments.items():
        segment = Segment.parse(name)
        if segment is None or files.digest_of(content) != segment.digest:
            raise DamagedError(f"{folder.path / name}: damaged on its way")
        if not (folder.path / name).exists():
            files.write_bytes(folder.path / name, content)
    _write_contents(folder, CheckpointName.parse, update.checkpoints, "a checkpoint")
    _write_contents(folder, ArtifactsName.parse, update.artifacts, "a folder of kept files")
    _write_contents(folder, PredictionsName.parse, update.predictions, "a file of predictions")
    if update.head is not None:
        _write_head(folder, *update.head)


def _write_contents(
    folder: TrialFolder,
    parse: Callable[[str], Made | None],
    contents: Mapping[str, bytes | Mapping[str, bytes]],
    what: str,
) -> None:
    for name, content in contents.items():
        made = parse(name)
        if made is None:
            raise DamagedError(f"{folder.path / name}: not the name of {what}")
        checkpoint.write_content(folder.path, made, content)


def copy_checkpoint(source: TrialFolder, target: TrialFolder) -> bool:
    """Copy a trial's newest checkpoint into the folder of a trial that has none.

    Returns:
        False if the newest is missing or damaged: then nothing was copied.
    """
    newest = source.checkpoints()[:1]
    found = source.newest_checkpoint()
    if found is None or found[0] not in newest:
        return False
    made, content = found
    checkpoint.write_content(target.path, replace(made, term=1), content)
    return True


def remove_replaced(folder: TrialFolder) -> None:
    """Remove files that the newest head's own files replace; for the holder of the folder's lease."""
    belief = folder.belief()
    if belief.head is None or belief.damages:
        return
    counted = {segment.name for segment in belief.segments}
    names = folder.listing().names
    for name in names:
        segment = Segment.parse(name)
        if segment is not None and name not in counted:
            (folder.path / name).unlink(missing_ok=True)
    # One of the head's own term may have arrived before the head that names it.
    replaced = [
        made
        for made in folder.listing().predictions
        if made.term < belief.head.term and made not in belief.predictions
    ]
    checkpoint.remove(folder.path, (*belief.checkpoints[2:], *belief.artifacts[1:], *replaced))


def _write_head(folder: TrialFolder, name: str, content: bytes) -> None:
    """Create a term's head exclusively, or replace it if the same process wrote it."""
    if files.create_exclusive(folder.path / name, content):
        return
    term = int(name.partition(".")[0])
    if term != folder.listing().heads[0] or read_head(folder.path, term).token != _token_of(content):
        raise LeaseLostError(f"{folder.path}: taken over by another process")
    files.write_bytes(folder.path / name, content)


def _token_of(content: bytes) -> str:
    return str(json.loads(content)["token"])


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        facts = path.stat()
    except FileNotFoundError:
        return ()
    return facts.st_mtime_ns, facts.st_size, facts.st_ino
