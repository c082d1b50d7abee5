"""The store: one folder per sweep, one folder per trial, and the only source of truth about both.

Files are replaced atomically; a trial's folder has one writer at a time (see core.store.lease);
readers take no lock and see the last complete state.
"""

import json
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mixsweep.core import records
from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import UserError
from mixsweep.core.failures import POLICIES
from mixsweep.core.records import Record
from mixsweep.core.store import files
from mixsweep.core.store.arrow import dictionary_codes, rows_at
from mixsweep.core.store.lease import lease_is_live
from mixsweep.core.trainables.interface import Objective, Trainable
from mixsweep.core.trainables.kinds import BUILT_IN, find_trainable

# A trial's states. `waiting` and `lost` are derived: no trial.json yet; running without a live lease.
STATES = ("waiting", "running", "interrupted", "lost", "completed", "stopped", "diverged", "failed")
ENDED = ("completed", "stopped", "diverged", "failed")

# A table has an overhead of 28 KiB beside its rows: the tables of many trials are concatenated in blocks.
_TABLES_AT_ONCE = 100
_READERS = 4  # threads that read many files

STAMPS_KEY = b"mixsweep:sources"  # metadata of the compacted file: which states of the trials' files it holds


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt at a trial: where, when, and how it ended."""

    number: int
    place: str
    host: str
    pid: int
    job: str = ""
    restarts: int = 0  # how often the job had been requeued
    command_id: str = ""  # the command that made it; a later command may retry its failures
    revision: str = ""  # of the code
    started_at: str = ""
    ended_at: str = ""
    from_epoch: int = 0
    to_epoch: int = 0  # epochs trained when it ended
    accumulate: int = 1
    threads: int = 1
    ranks: int = 1  # processes that trained together
    device: str = "cpu"
    end: str = ""  # a state, or a kind of failure; empty while it runs or where it was killed
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class TrialInfo:
    """The content of trial.json: a trial's config, state, provenance and attempts."""

    trial_id: str
    config: TrialConfig
    state: str
    epoch: int = 0
    attempts: tuple[Attempt, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    updated_at: str = ""
    retries_from: int = 0  # attempts before this one no longer count against the retries

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def failure(self) -> str:
        """The kind of failure of a failed trial's last attempt, else ''."""
        return self.attempts[-1].end if self.state == "failed" else ""

    @property
    def may_retry(self) -> bool:
        """Whether a failed trial has a retry left for its kind of failure."""
        counted = [attempt.end for attempt in self.attempts[self.retries_from :]]
        return self.state == "failed" and counted.count(self.failure) <= POLICIES[self.failure].retries

    def to_json(self) -> str:
        values = {
            "trial_id": self.trial_id,
            "state": self.state,
            "epoch": self.epoch,
            "config": self.config.to_mapping(),
            "identity": self.config.identity(),
            "attempts": [vars(a) for a in self.attempts],
            "provenance": dict(self.provenance),
            "updated_at": self.updated_at,
            "retries_from": self.retries_from,
        }
        if self.config.kind != BUILT_IN:
            values["kind"] = self.config.kind
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "TrialInfo":
        values = json.loads(text)
        trainable = find_trainable(values.pop("kind", BUILT_IN))
        values["config"] = trainable.config_from_store(values["config"])
        values["attempts"] = tuple(Attempt(**_known(Attempt, a)) for a in values["attempts"])
        return cls(**_known(cls, values))


def _known(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """The values that a dataclass has fields for; a newer version may have written others."""
    names = {spec.name for spec in fields(kind)}
    return {name: value for name, value in values.items() if name in names}


class TrialFolder:
    """The folder of one trial. Reading needs no lease; writing belongs to the lease's holder."""

    def __init__(self, path: Path):
        self.path = path
        self._schema = find_trainable().schema

    @property
    def trial_id(self) -> str:
        return self.path.name

    @property
    def checkpoint_path(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def log_path(self) -> Path:
        return self.path / "log.txt"

    @property
    def patch_path(self) -> Path:
        return self.path / "code.patch"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.parquet"

    def info(self) -> TrialInfo | None:
        """The content of trial.json, or None before the first attempt; `running` without a live lease is `lost`."""
        try:
            text = (self.path / "trial.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            info = TrialInfo.from_json(text)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.path / 'trial.json'}: damaged ({error}); move it away, the trial's records stay"
            ) from error
        if info.state == "running" and not lease_is_live(self.path):
            return replace(info, state="lost")
        return info

    def records(self) -> pa.Table:
        """The trial's epoch records, an empty table before the first."""
        return files.read_records(self.metrics_path, self._schema)

    def write_info(self, info: TrialInfo, fence: Callable[[], None] = lambda: None) -> None:
        info = replace(info, updated_at=records.now().isoformat())
        files.write_bytes(self.path / "trial.json", info.to_json().encode(), fence)

    def write_records(self, rows: list[Record], fence: Callable[[], None] = lambda: None) -> None:
        files.write_table(records.to_table(rows, self._schema), self.metrics_path, fence)


class SweepStore:
    """The folder of one sweep: `runs/<sweep>/`."""

    def __init__(self, path: Path | str):
        self.path = Path(path)

    @property
    def trainable(self) -> Trainable:
        """The trainable of the sweep's trials."""
        return find_trainable()

    def objective(self) -> Objective:
        """The metric that the sweep's trials are judged by, and whether max or min is better."""
        return self.trainable.objective(self.sweep_file())

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def trials_path(self) -> Path:
        return self.path / "trials"

    @property
    def stop_path(self) -> Path:
        return self.path / "stop"

    def exists(self) -> bool:
        return (self.path / "sweep.toml").is_file()

    def sweep_file(self) -> dict[str, Any]:
        """The resolved sweep file of the last run."""
        return tomllib.loads((self.path / "sweep.toml").read_text(encoding="utf-8"))

    def plan(self) -> pa.Table:
        """The plan of the last run: one row per trial, with `trial_id`, `point`, `replica` and the config.

        `point` numbers the combination of varied fields, `replica` the seed within a point.

        Raises:
            FileNotFoundError: there is no plan.
            UserError: it cannot be read.
        """
        path = self.path / "plan.parquet"
        try:
            return files.read_table(path)
        except pa.ArrowInvalid as error:
            raise UserError(
                f"{path}: damaged; move it away, and the same `sweep run` writes it again"
            ) from error

    def trial(self, trial_id: str) -> TrialFolder:
        return TrialFolder(self.trials_path / trial_id)

    def trials(self) -> Iterator[TrialFolder]:
        """The trials that have a folder, by id."""
        if self.trials_path.is_dir():
            for path in sorted(self.trials_path.iterdir()):
                if path.is_dir() and not path.name.startswith("."):
                    yield TrialFolder(path)

    def _trial_names(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.trials_path) if not name.startswith("."))
        except FileNotFoundError:
            return []

    def records(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All trials' records in one table: the compacted file, and the records written since.

        Args:
            columns: only these, `trial_id` among them; left out: all.
        """
        return self.assemble(columns)[0]

    def assemble(self, columns: Sequence[str] | None = None) -> tuple[pa.Table, dict[str, list[int]]]:
        """All trials' records, and the stamp of each trial's file by trial id."""
        all_columns = self.trainable.schema
        schema = records.selected(all_columns, columns)
        try:
            compacted = files.read_records(self.path / "metrics.parquet", all_columns, columns)
        except (pa.ArrowInvalid, OSError):  # derived: if damaged, all records are read from the trials' files
            compacted = schema.empty_table()
        known = json.loads((compacted.schema.metadata or {}).get(STAMPS_KEY, b"{}"))
        stamps: dict[str, list[int]] = {}
        new: list[str] = []
        trials = str(self.trials_path)
        for name in self._trial_names():
            try:
                facts = os.stat(f"{trials}/{name}/metrics.parquet")  # at worst it is read once more
            except (FileNotFoundError, NotADirectoryError):
                continue
            # Not by time alone: a copied folder keeps its old times.
            stamps[name] = [facts.st_mtime_ns, facts.st_size, facts.st_ino]
            if known.get(name) != stamps[name]:
                new.append(name)
        kept = compacted
        if known != stamps:
            unchanged = {name: 1 for name, stamp in stamps.items() if known.get(name) == stamp}
            are_kept = np.flatnonzero(dictionary_codes(compacted["trial_id"], unchanged, 0))
            kept = rows_at(compacted, are_kept)

        def read(name: str) -> pa.Table:
            return files.read_records(self.trials_path / name / "metrics.parquet", all_columns, columns)

        changed: list[pa.Table] = []
        with ThreadPoolExecutor(_READERS) if len(new) > _TABLES_AT_ONCE else nullcontext() as pool:
            for start in range(0, len(new), _TABLES_AT_ONCE):
                block = new[start : start + _TABLES_AT_ONCE]
                tables = list(pool.map(read, block) if pool else map(read, block))
                changed.append(records.concat(tables, schema).combine_chunks())
        return records.concat([kept, *changed], schema), stamps

    def stop_requested(self, since: str) -> bool:
        """Whether a stop was requested after this moment (ISO, UTC); a later command ignores an older request."""
        try:
            return self.stop_path.read_text(encoding="utf-8") > since
        except FileNotFoundError:
            return False

    def request_stop(self) -> None:
        """Ask every process that trains for this sweep to stop at its next safe point."""
        files.write_bytes(self.stop_path, records.now().isoformat().encode())


def since(moment: str) -> float:
    """Seconds from an ISO time in the store until now."""
    return (records.now() - datetime.fromisoformat(moment)).total_seconds()
