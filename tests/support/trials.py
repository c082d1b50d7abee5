"""Trials written into a store by hand, through the store's own writer, and the files that it wrote."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mixsweep.core.records import Record
from mixsweep.core.store.retention import remove_checkpoints
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial import checkpoint
from mixsweep.core.store.trial.folder import TrialFolder
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.store.trial.lease import take_lease
from mixsweep.core.store.trial.names import head_name
from mixsweep.core.store.trial.term import Term, amend
from mixsweep.sweep.search.rungs import STOP, RungEntry


def write_trial(
    folder: TrialFolder,
    info: TrialInfo,
    rows: Iterable[Record] = (),
    state: Mapping[str, Any] | None = None,
) -> None:
    """Write a trial with these records and this state as a checkpoint, as one term; an ended one is sealed."""
    lease = take_lease(folder.path)
    assert lease is not None, "another process holds the trial"
    with lease, Term(folder, lease) as term:
        term.begin(replace(info, state="running", epoch=0) if info.ended else info)
        for record in rows:
            term.append(record)
        if state is not None:
            term.save_checkpoint(state)
        if info.ended:
            term.seal(info)
        else:
            term.write_info(info)


def change_info(folder: TrialFolder, info: TrialInfo) -> None:
    """Change a trial's info, as a process that holds its lease does."""
    lease = take_lease(folder.path)
    assert lease is not None, "another process holds the trial"
    with lease:
        amend(folder, lease, info)


def write_checkpoint(folder: TrialFolder, state: Mapping[str, Any]) -> None:
    """Write a checkpoint into a trial's folder, in the place of those that it has."""
    remove_checkpoints(folder)
    folder.path.mkdir(parents=True, exist_ok=True)
    checkpoint.write_state(folder.path, max(1, folder.listing().newest_term), state)


def log_text(folder: TrialFolder) -> str:
    """The logs of all attempts."""
    return "".join(path.read_text(encoding="utf-8") for path in folder.logs())


def head_path(folder: TrialFolder) -> Path:
    """The newest head."""
    return folder.path / head_name(folder.listing().heads[0])


def record_paths(folder: TrialFolder) -> list[Path]:
    """The files of records that count."""
    return [folder.path / segment.name for segment in folder.belief().segments]


def checkpoint_path(folder: TrialFolder) -> Path:
    """The newest checkpoint."""
    return folder.path / folder.checkpoints()[0].name


def as_format_1(folder: TrialFolder) -> None:
    """Rewrite a trial's folder as versions before 0.3 left it."""
    info, table, checkpoint_found = folder.info(), folder.records(), folder.newest_checkpoint()
    log = log_text(folder)
    for path in folder.path.iterdir():
        path.unlink()
    if info is not None:
        (folder.path / "trial.json").write_text(json.dumps(info.to_mapping(), indent=1))
    pq.write_table(table, folder.path / "metrics.parquet", compression="zstd")
    (folder.path / "log.txt").write_text(log)
    if checkpoint_found is not None:
        made, content = checkpoint_found
        assert isinstance(content, bytes)
        (folder.path / "checkpoint.pt").write_bytes(content)
        digests = {"checkpoint.pt": hashlib.sha256(content).hexdigest(), "checkpoint.previous.pt": None}
        (folder.path / "checkpoint.json").write_text(json.dumps({**digests, "epoch": made.epoch}))


def stopped_at_rungs(store: SweepStore) -> set[str]:
    """The ids of the trials that a recorded decision stops."""
    names = [path.name for path in (store.path / "rungs").glob("*/*/*")]
    entries = filter(None, map(RungEntry.parse, names))
    return {entry.trial_id for entry in entries if entry.decision == STOP}
