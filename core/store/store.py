"""The store: one folder per sweep, one folder per trial, and the only source of truth about both.

Files are replaced atomically, or written once; readers take no lock and see the last complete state. A trial is read
through its TrialFolder, and changed through a Term.
"""

import hashlib
import json
import os
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from mixsweep.core import records
from mixsweep.core.errors import UserError
from mixsweep.core.failures import DamagedError
from mixsweep.core.store import files
from mixsweep.core.store.arrow import dictionary_codes, rows_at
from mixsweep.core.store.definitions import learn_kind, newest_kind
from mixsweep.core.store.trial.folder import TrialFolder, is_current
from mixsweep.core.trainables.interface import Objective, Trainable
from mixsweep.core.trainables.kinds import BUILT_IN, find_trainable

FORMAT = 2  # of the stores that this version writes
FORMAT_FILE = "format"
DECLARED_FILE = "declared.json"

# A table has an overhead of 28 KiB beside its rows: the tables of many trials are concatenated in blocks.
_TABLES_AT_ONCE = 100
_READERS = 4  # threads that read many files

# The stamps of the trials in the compacted table, by trial id: see TrialFolder.stamp.
Stamps = dict[str, list[list[Any]]]

_STAMPS_KEY = b"mixsweep:stamps"  # metadata of the compacted table
_COMPACTED = "metrics.parquet"
_DIGEST_LINE = "# digest of what follows: "


class SweepStore:
    """The folder of one sweep: `runs/<sweep>/`."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._known_kind: tuple[tuple[int, int, int], str] | None = None  # by the sweep file's stamp

    @property
    def trainable(self) -> Trainable:
        """The trainable of the sweep's trials, as the last run has it; the built-in one before the first.

        Raises:
            DamagedError: its definition cannot be read.
        """
        return find_trainable(self._kind())

    def _kind(self) -> str:
        try:
            facts = (self.path / "sweep.toml").stat()
        except OSError:
            return BUILT_IN
        stamp = (facts.st_ino, facts.st_mtime_ns, facts.st_size)
        if self._known_kind is None or self._known_kind[0] != stamp:
            try:
                kind = str(self.sweep_file().get("kind", BUILT_IN))
            except DamagedError:
                kind = newest_kind(self.path) or BUILT_IN
            learn_kind(self.path, kind)
            self._known_kind = (stamp, kind)
        return self._known_kind[1]

    def objective(self) -> Objective:
        """The metric that the sweep's trials are judged by, and whether max or min is better."""
        return self.trainable.objective(self.sweep_file())

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def trials_path(self) -> Path:
        return self.path / "trials"

    def rungs_path(self, metric: str, mode: str, unit: str = "epoch") -> Path:
        """The folder of a stopping rule's rungs for a metric, of any name, a mode, and what the rungs count."""
        return self.objective_path("rungs", metric, mode if unit == "epoch" else f"{mode}-{unit}")

    def objective_path(self, folder: str, metric: str, mode: str) -> Path:
        """Where a folder of the sweep keeps what is about a metric, of any name, and a mode."""
        return self.path / folder / f"{quote(metric, safe=' ()[]+,=@')}-{mode}"

    def exists(self) -> bool:
        return (self.path / "sweep.toml").is_file()

    def has_plan(self) -> bool:
        """Whether there is the plan of a run."""
        return (self.path / "plan.parquet").is_file()

    def declared(self) -> dict[str, Any] | None:
        """What was declared before the first trial, as core.store.declarations has it; None if that is not known."""
        with suppress(OSError, UserError):
            return files.read_json(self.path / DECLARED_FILE)
        return None

    @property
    def report_path(self) -> Path:
        """The folder of its report."""
        return self.path / "report"

    def format(self) -> int:
        """The format of its files; that of this version where there is no store yet.

        Raises:
            UserError: a newer version of mixsweep wrote it.
        """
        path = self.path / FORMAT_FILE
        try:
            found = int(path.read_bytes())
        except FileNotFoundError:
            return 1 if self.exists() else FORMAT
        except (OSError, ValueError):  # damaged: the trials' folders say of themselves what they are
            return 1
        if found > FORMAT:
            raise UserError(
                f"{self.path}: the store has format {found}, and this version of mixsweep knows {FORMAT}; "
                "install a newer version"
            )
        return found

    def sweep_file(self) -> dict[str, Any]:
        """The resolved sweep file of the last run.

        Raises:
            DamagedError: it is not what was written.
        """
        path = self.path / "sweep.toml"
        try:
            text = path.read_bytes().decode("utf-8")
            first, _, rest = text.partition("\n")
            if first.startswith(_DIGEST_LINE) and first != _digest_line(rest):
                raise DamagedError(
                    f"{path}: damaged, its digest does not match; the same `sweep run` writes it again"
                )
            values = tomllib.loads(text)
            if "name" not in values:  # empty, or cut off at the start of a line
                raise DamagedError(
                    f"{path}: damaged, it names no sweep; the same `sweep run` writes it again"
                )
            return values
        except (IsADirectoryError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise DamagedError(f"{path}: damaged ({error}); the same `sweep run` writes it again") from error

    def write_sweep_file(self, text: str) -> None:
        """Write the resolved sweep file, with a digest in its first line."""
        files.write_bytes(self.path / "sweep.toml", f"{_digest_line(text)}\n{text}".encode())

    def plan(self) -> pa.Table:
        """The plan of the last run: one row per trial, with `trial_id`, `point`, `replica` and the config.

        `point` numbers the combination of varied fields, `replica` the seed within a point.

        Raises:
            FileNotFoundError: there is no plan.
            DamagedError: it is not what was written.
        """
        try:
            return files.read_table(self.path / "plan.parquet")
        except DamagedError as error:
            raise DamagedError(f"{error}; the same `sweep run` writes it again") from error

    def trial(self, trial_id: str) -> TrialFolder:
        return TrialFolder(self.trials_path / trial_id)

    def trials(self) -> Iterator[TrialFolder]:
        """The trials that have a folder, by id."""
        if self.trials_path.is_dir():
            for path in sorted(self.trials_path.iterdir()):
                if path.is_dir() and not path.name.startswith("."):
                    yield TrialFolder(path)

    def trial_names(self) -> list[str]:
        """The ids of the trials that have a folder."""
        try:
            with os.scandir(self.trials_path) as entries:
                return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def records(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All trials' records in one table: the compacted file, and the records written since.

        Args:
            columns: only these, `trial_id` among them; left out: all.
        """
        return self.assemble(columns)[0]

    def assemble(self, columns: Sequence[str] | None = None) -> tuple[pa.Table, Stamps]:
        """All trials' records, and the stamp of each trial that has any files."""
        schema = records.selected(self.trainable.schema, columns)
        compacted, known = self._compacted(columns)
        stamps: Stamps = {}
        new: list[TrialFolder] = []
        root = str(self.trials_path)
        for name in self.trial_names():
            stamp = known.get(name)
            if stamp is not None and is_current(f"{root}/{name}", stamp):
                stamps[name] = stamp
            elif stamp := self.trial(name).stamp():
                stamps[name] = stamp
                new.append(self.trial(name))
        kept = compacted
        if new or known.keys() != stamps.keys():
            changed_names = {folder.trial_id for folder in new}
            unchanged = {name: 1 for name in stamps if name not in changed_names}
            are_kept = np.flatnonzero(dictionary_codes(compacted["trial_id"], unchanged, 0))
            kept = rows_at(compacted, are_kept)

        def read(folder: TrialFolder) -> pa.Table:
            return folder.records(columns)

        changed: list[pa.Table] = []
        with ThreadPoolExecutor(_READERS) if len(new) > _TABLES_AT_ONCE else nullcontext() as pool:
            for start in range(0, len(new), _TABLES_AT_ONCE):
                block = new[start : start + _TABLES_AT_ONCE]
                tables = [table for table in (pool.map if pool else map)(read, block) if table.num_rows]
                changed.append(records.concat(tables, schema).combine_chunks())
        return records.concat([kept, *changed], schema), stamps

    def _compacted(self, columns: Sequence[str] | None) -> tuple[pa.Table, Stamps]:
        """The compacted table and its stamps; empty if it is absent or damaged, since it is derived."""
        schema = records.selected(self.trainable.schema, columns)
        with suppress(OSError, ValueError, KeyError, pa.ArrowException):
            table = files.read_table(self.path / _COMPACTED, columns)
            stamps: Stamps = json.loads((table.schema.metadata or {})[_STAMPS_KEY])
            table = table.replace_schema_metadata(None)
            return (table if columns is not None else records.with_all_columns(table, schema)), stamps
        return schema.empty_table(), {}

    def write_compacted(self, table: pa.Table, stamps: Stamps) -> None:
        """Write the table of all trials' records, and which state of each trial it has."""
        table = table.replace_schema_metadata({_STAMPS_KEY: json.dumps(stamps)})
        files.write_table(table, self.path / _COMPACTED)


def _digest_line(text: str) -> str:
    return _DIGEST_LINE + hashlib.sha256(text.encode()).hexdigest()


def since(moment: str) -> float:
    """Seconds from an ISO time in the store until now."""
    return (records.now() - datetime.fromisoformat(moment)).total_seconds()
