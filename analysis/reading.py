"""What a store says at one moment: each of its files is read once, whatever is made of it."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mixsweep.analysis.exported.tables import is_table, one_sweep, sweeps_in
from mixsweep.analysis.parts import Part, plain, varied_fields
from mixsweep.core.errors import UserError
from mixsweep.core.store.declarations import declared_before
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.folder import TrialFolder, as_damaged
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.store.trial_index import TrialIndex, TrialSummary
from mixsweep.core.trainables.interface import Trainable

KEYS = ("sweep_folder", "sweep", "part", "trial_id", "point", "replica")


class Reading:
    """A sweep's plan, trials and records, each read when it is first asked for and then kept.

    Args:
        store: the sweep's store.
    """

    def __init__(self, store: SweepStore):
        self.store = store

    @property
    def folder(self) -> str:
        """The sweep's folder, as it was given."""
        return str(self.store.path)

    @cached_property
    def trainable(self) -> Trainable:
        """The trainable of its trials."""
        return self.store.trainable

    @cached_property
    def file(self) -> dict[str, Any]:
        """The resolved sweep file."""
        return self.store.sweep_file()

    @property
    def name(self) -> str:
        """The sweep's name in its file."""
        return str(self.file["name"])

    @cached_property
    def plan(self) -> pd.DataFrame:
        """The plan with the keys of KEYS, one row per trial and part; lists as tuples, which can be compared."""
        plan = self.store.plan().to_pandas()
        if not self.file.get("parts") or "part" not in plan:
            plan["part"] = self.name
        plan["sweep"], plan["sweep_folder"] = self.name, self.folder
        for field in self.trainable.fields:
            if field.name not in plan:  # an older plan, from before this field
                plan[field.name] = self.trainable.defaults[field.name]
            elif field.is_list:
                plan[field.name] = plan[field.name].map(plain)
        order = [*KEYS, *self.trainable.field_names]
        return plan[order].drop_duplicates(["part", "trial_id"], ignore_index=True)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The ablations of the sweep, in the order of its file; a file without parts has one."""
        objective = self.trainable.objective(self.file)
        several = "parts" in self.file
        found = []
        for number, table in enumerate(self.file.get("parts", [self.file]), start=1):
            name = str(table.get("name", f"part-{number}" if several else self.name))
            rows = self.plan[self.plan["part"] == name]
            found.append(
                Part(
                    sweep=self.name,
                    name=name,
                    question=str(table.get("question", "")),
                    metric=objective.metric,
                    mode=objective.mode,
                    score=objective.score,
                    axes=varied_fields(rows, self.trainable.field_names, tuple(table.get("space", {}))),
                    kind=self.trainable.kind,
                    claims=tuple(table.get("claims", ())),
                    zipped=tuple(map(tuple, table.get("combine", {}).get("zip", ()))),
                    folder=self.folder,
                    published=dict(table.get("published", {})),
                    **declared_before(self.store, self.file, name),
                )
            )
        return tuple(found)

    @cached_property
    def infos(self) -> dict[str, TrialInfo]:
        """What the store says of each planned trial that has begun, by id."""
        planned = self.plan.drop_duplicates("trial_id").set_index("trial_id")
        infos = {}
        for folder in self.store.trials():
            if folder.trial_id in planned.index and (info := self._info(folder, planned)) is not None:
                infos[folder.trial_id] = info
        return infos

    def _info(self, folder: TrialFolder, planned: pd.DataFrame) -> TrialInfo | None:
        """A trial; one whose state cannot be read has failed, with the config of the plan."""
        info = folder.info(verify=True)
        if info is not None or not (damages := folder.damages()):
            return info
        row = planned.loc[folder.trial_id]
        values = {name: as_json(row[name]) for name in self.trainable.field_names}
        config = self.trainable.config_from_store(values)
        return as_damaged(TrialInfo(trial_id=folder.trial_id, config=config, state="failed"), damages[0])

    @cached_property
    def summaries(self) -> Mapping[str, TrialSummary]:
        """A summary of each trial that has begun, by id: quicker than `infos`, and with less."""
        return TrialIndex(self.store).read()

    @property
    def records(self) -> pd.DataFrame:
        """The records of planned trials, by trial in the plan's order, then by epoch."""
        return self._sorted[0]

    @cached_property
    def _sorted(self) -> tuple[pd.DataFrame, np.ndarray]:
        """The records, and the number of each one's trial."""
        records = self.store.records().to_pandas()
        numbers = self._ids.get_indexer(pd.Index(records["trial_id"]))
        order = np.lexsort((records["epoch"].to_numpy(), numbers))
        order = order[np.searchsorted(numbers[order], 0) :]  # without those of trials that are not planned
        return records.take(order).reset_index(drop=True), numbers[order]

    @cached_property
    def _ids(self) -> pd.Index:
        return pd.Index(self.plan["trial_id"].unique())

    @cached_property
    def spans(self) -> pd.DataFrame:
        """The rows of `records` that belong to each row of the plan.

        Columns: `start`; `end`, after its last record within the part's budget; `end_of_all`, after its last record;
        `reached`, the epoch of that one, 0 without records.
        """
        records, of_trial = self._sorted
        epochs = records["epoch"].to_numpy(dtype=np.int64)
        numbers = self._ids.get_indexer(pd.Index(self.plan["trial_id"]))
        start, end_of_all = (np.searchsorted(of_trial, numbers, side) for side in ("left", "right"))
        above = int(epochs.max(initial=0)) + 1
        budget = np.clip(self.plan[self.trainable.budget].to_numpy(dtype=np.int64), -1, above - 1)
        end = np.searchsorted(of_trial * above + epochs, numbers * above + budget, "right")
        found = end_of_all > start
        last = (
            epochs[np.maximum(end_of_all, 1) - 1] if len(epochs) else np.zeros(len(numbers), dtype=np.int64)
        )
        columns = {"start": start, "end": np.maximum(end, start), "end_of_all": end_of_all}
        return pd.DataFrame({**columns, "reached": np.where(found, last, 0)})

    @cached_property
    def states(self) -> list[str]:
        """The state of each row of the plan, for its part's budget."""
        if "infos" in vars(self):
            found = {i: (one.state, one.config.epochs, one.budget_met) for i, one in self.infos.items()}
        else:
            found = {i: (one.state, one.budget, one.budget_met) for i, one in self.summaries.items()}
        return [
            _state(found.get(trial_id), int(reached), epochs)
            for trial_id, reached, epochs in zip(
                self.plan["trial_id"], self.spans["reached"], self.plan[self.trainable.budget]
            )
        ]

    def unplanned(self) -> int:
        """The number of trials in the folder that are not in the plan any more; all other counts exclude them."""
        return len(set(self.store.trial_names()) - set(self.plan["trial_id"]))


Sweep = Reading | SweepStore | Path | str


def open_sweep(sweep: Sweep) -> SweepStore:
    """The store of a sweep that has been run.

    Raises:
        UserError: there is no sweep at that path, or none of its trials has begun.
    """
    store = read_planned(sweep).store
    if not any(folder.stamp() for folder in store.trials()):
        raise UserError(f"{store.path}: the sweep is empty, none of its trials has begun; run it first")
    return store


def with_tables(sweeps: Iterable[Sweep]) -> list[Sweep]:
    """These sweeps, where the path of an exported table stands for the sweeps in it.

    Raises:
        UserError: a table cannot be read as one of `sweep export`.
    """
    found: list[Sweep] = []
    for sweep in sweeps:
        if isinstance(sweep, str | Path) and is_table(sweep):
            found += sweeps_in(Path(sweep))
        else:
            found.append(sweep)
    return found


def read_sweep(sweep: Sweep) -> Reading:
    """A reading of a sweep that has been run.

    Raises:
        UserError: as `open_sweep`.
    """
    return sweep if isinstance(sweep, Reading) else Reading(open_sweep(sweep))


def read_planned(sweep: Sweep) -> Reading:
    """A reading of a sweep, begun or not.

    Raises:
        UserError: there is no sweep at that path.
    """
    if isinstance(sweep, Reading):
        return sweep
    store = sweep if isinstance(sweep, SweepStore) else _stored(Path(sweep))
    if not store.exists() or not store.has_plan():
        raise UserError(f"{store.path}: no sweep here (a sweep's folder holds sweep.toml and plan.parquet)")
    return Reading(store)


def _stored(path: Path) -> SweepStore:
    return one_sweep(path) if is_table(path) else SweepStore(path)


def as_json(value: Any) -> Any:
    """A value of a table as JSON has it."""
    found = plain(value)
    return list(found) if isinstance(found, tuple) else found


def _state(known: tuple[str, int, int] | None, reached: int, epochs: int) -> str:
    """A trial's state for a part with a budget of `epochs`; `reached` is its last recorded epoch.

    Args:
        known: its own state, the epochs that it was asked for, and the budget that it has met; None before it begins.
    """
    if known is None:
        return "waiting"
    state, asked, met = known
    if reached > epochs or (reached == epochs < asked and state != "diverged"):
        return "completed"  # regardless of its later state, in a longer part
    return "waiting" if state == "completed" and max(reached, met) < epochs else state
