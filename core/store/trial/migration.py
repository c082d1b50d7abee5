"""Rewrite a trial's folder of an older version in this one's format."""

import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mixsweep.core.failures import DamagedError
from mixsweep.core.store import files
from mixsweep.core.store.trial import checkpoint, format_1, segments
from mixsweep.core.store.trial.folder import Head, TrialFolder, as_damaged
from mixsweep.core.store.trial.lease import Lease
from mixsweep.core.store.trial.names import CheckpointName, head_name, list_folder, log_name
from mixsweep.core.trainables.kinds import find_trainable

_TERM = 1  # of what an older version wrote


def migrate_trial(folder: TrialFolder, lease: Lease) -> None:
    """Rewrite a trial's folder of format 1 as the first term; killed in between, it is done again.

    What is damaged is left out. A trial whose files do not agree has failed, so that it is trained again.
    """
    path = folder.path
    try:
        info, damages = format_1.read_info(path)
    except DamagedError:
        info, damages = None, ()
    lease.check()
    table = format_1.read_records(path, find_trainable().schema)
    base = (segments.write_segment(path, _TERM, 1, 1, table),) if table.num_rows else ()
    made: tuple[CheckpointName, ...] = ()
    if (content := format_1.whole_checkpoint(path)) is not None:
        epoch = format_1.checkpoint_epoch(path)
        made = (CheckpointName(_TERM, epoch, files.digest_of(content)),)
        checkpoint.write_content(path, made[0], content)
    with suppress(FileNotFoundError):
        os.replace(path / format_1.LOG, path / log_name(_TERM))
    lease.check()
    if info is not None:
        info = as_damaged(info, damages[0]) if damages else info
        head = Head(
            term=_TERM,
            token=uuid.uuid4().hex,
            info=info,
            base=base,
            checkpoints=made,
            sealed=info.ended and not damages,
        )
        files.create_exclusive(path / head_name(_TERM), head.to_bytes())
    remove_old_files(path, list_folder(path).names)


def remove_old_files(folder: Path, names: Iterable[str]) -> None:
    """Remove the files of format 1 from a folder that has been rewritten."""
    for name in {*format_1.FILES} & {*names}:
        with suppress(OSError):
            (folder / name).unlink()
