"""A sweep in an exported table, as a store that can be read: the same questions, answered from the table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mixsweep.analysis.exported.facts import SweepFacts
from mixsweep.core import records
from mixsweep.core.store.arrow import column_type
from mixsweep.core.store.store import FORMAT, Stamps, SweepStore
from mixsweep.core.store.trial.folder import TrialFolder
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.trainables import kinds
from mixsweep.core.trainables.definition import Definition

if TYPE_CHECKING:
    import torch


class ExportedStore(SweepStore):
    """One sweep of an exported table. It has no checkpoints, logs and kept files.

    Args:
        path: the table's file, or `TABLE/NAME` for one of several sweeps in it.
        rows: the records of the sweep's trials, each once, with the columns of a store.
    """

    def __init__(self, path: Path, facts: SweepFacts, rows: pa.Table):
        super().__init__(path)
        self.facts = facts
        self._rows = rows

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def report_path(self) -> Path:
        table = self.path if self.path.is_file() else self.path.parent
        return table.with_name(f"{table.stem}-report")

    def exists(self) -> bool:
        return True

    def has_plan(self) -> bool:
        return True

    def declared(self) -> dict[str, Any] | None:
        return None if self.facts.declared is None else dict(self.facts.declared)

    def format(self) -> int:
        return FORMAT

    def sweep_file(self) -> dict[str, Any]:
        return dict(self.facts.file)

    def _kind(self) -> str:
        return self._declared_kind

    @cached_property
    def _declared_kind(self) -> str:
        if self.facts.definition is None:
            return kinds.BUILT_IN
        return kinds.declare(Definition.from_mapping(self.facts.definition)).kind

    def plan(self) -> pa.Table:
        types = {field.name: column_type(field) for field in self.trainable.fields}
        columns = {name: pa.array(values, types.get(name)) for name, values in self.facts.plan.items()}
        return pa.table(columns)

    def trial(self, trial_id: str) -> "ExportedTrial":
        return ExportedTrial(self.path / trial_id, self._info, self._of_trial)

    def trials(self) -> Iterator[TrialFolder]:
        return map(self.trial, self.trial_names())

    def trial_names(self) -> list[str]:
        return sorted(self.facts.trials)

    def records(self, columns: Sequence[str] | None = None) -> pa.Table:
        return self._all_columns if columns is None else self._all_columns.select(list(columns))

    def assemble(self, columns: Sequence[str] | None = None) -> tuple[pa.Table, Stamps]:
        return self.records(columns), {}

    @cached_property
    def _all_columns(self) -> pa.Table:
        schema = self.trainable.schema
        typed = [
            column.cast(schema.field(name).type) if name in schema.names else column
            for name, column in zip(self._rows.column_names, self._rows.columns)
        ]
        return records.with_all_columns(pa.table(typed, names=self._rows.column_names), schema)

    @cached_property
    def _configs(self) -> dict[str, Mapping[str, Any]]:
        """The values of the fields by trial."""
        names = self.trainable.field_names
        return {row["trial_id"]: {n: row[n] for n in names if n in row} for row in self.plan().to_pylist()}

    def _info(self, trial_id: str) -> TrialInfo | None:
        known = self.facts.trials.get(trial_id)
        if known is None:
            return None
        config = {**self._configs[trial_id], self.trainable.budget: known["budget"]}
        blank = {"place": "", "host": "", "pid": 0}
        attempts = [{**blank, **attempt} for attempt in known["attempts"]]
        provenance = self.facts.provenances[known["provenance"]]
        values = {**known, "trial_id": trial_id, "kind": self._kind(), "config": config}
        return TrialInfo.from_mapping({**values, "attempts": attempts, "provenance": provenance})

    def _of_trial(self, trial_id: str) -> pa.Table:
        table = self._all_columns
        return table.filter(pa.compute.equal(table["trial_id"], trial_id))


class ExportedTrial(TrialFolder):
    """A trial of an exported table.

    Args:
        path: of no folder; its last part is the trial's id.
        info: returns the info of a trial by its id, `rows` its records.
    """

    def __init__(self, path: Path, info: Callable[[str], TrialInfo | None], rows: Callable[[str], pa.Table]):
        super().__init__(path)
        self._read_info = info
        self._read_rows = rows

    def info(self, verify: bool = False) -> TrialInfo | None:
        return self._read_info(self.trial_id)

    def damages(self) -> tuple[str, ...]:
        return ()

    def stamp(self) -> list[list[Any]]:
        return [[self.trial_id]]

    def records(self, columns: Sequence[str] | None = None) -> pa.Table:
        table = self._read_rows(self.trial_id)
        return table if columns is None else table.select(list(columns))

    def load_checkpoint(
        self, device: "torch.device | str" = "cpu", say: Callable[[str], None] = lambda line: None
    ) -> dict[str, Any] | None:
        return None
