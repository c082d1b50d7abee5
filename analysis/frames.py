"""The store's records as tidy tables: one row per epoch, or one row per trial."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mixsweep.core.errors import UserError
from mixsweep.core.records import ENERGY, PLAN_COLUMNS
from mixsweep.core.scoring import scored_row
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.folder import TrialFolder, as_damaged
from mixsweep.core.store.trial.info import Attempt, TrialInfo
from mixsweep.core.trainables.interface import Trainable
from mixsweep.core.trainables.kinds import BUILT_IN, find_trainable

Sweep = SweepStore | Path | str

_KEYS = ("sweep", "part", "trial_id", "point", "replica")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One ablation of a sweep: its question, what it varies, and what it claims."""

    sweep: str
    name: str
    question: str
    metric: str
    mode: str  # of the metric: max or min
    axes: tuple[str, ...]  # varied fields, without the seed
    claims: tuple[Mapping[str, Any], ...] = ()
    kind: str = BUILT_IN  # the kind of its trials
    score: str = "last"  # which record of a trial counts: one of core.scoring.SCORES
    zipped: tuple[tuple[str, ...], ...] = ()  # groups of axes whose values go together

    @property
    def trainable(self) -> Trainable:
        """The trainable of its trials."""
        return find_trainable(self.kind)

    @property
    def figure_word(self) -> str:
        """How the figure of a trial is called: `final`, or `best` where its best record counts."""
        return "best" if self.score == "best" else "final"

    def others(self, axis: str, trials: pd.DataFrame) -> tuple[str, ...]:
        """The other axes, whose values are the same on both sides of a comparison of two values of this one.

        Without those that are zipped with it, so that each of its values has one value of theirs.
        """
        together = {name for group in self.zipped if axis in group for name in group}
        return tuple(
            other
            for other in self.axes
            if other != axis and not (other in together and _determines(trials, axis, other))
        )


def open_sweep(sweep: Sweep) -> SweepStore:
    """The store of a sweep that has been run.

    Raises:
        UserError: there is no sweep at that path, or none of its trials has begun.
    """
    store = sweep if isinstance(sweep, SweepStore) else SweepStore(sweep)
    if not store.exists() or not (store.path / "plan.parquet").is_file():
        raise UserError(f"{store.path}: no sweep here (a sweep's folder holds sweep.toml and plan.parquet)")
    if not any(folder.stamp() for folder in store.trials()):
        raise UserError(f"{store.path}: the sweep is empty, none of its trials has begun; run it first")
    return store


def parts(sweep: Sweep) -> tuple[Part, ...]:
    """The ablations of a sweep, in the order of its file; a file without parts has one."""
    store = open_sweep(sweep)
    plan = _plan(store)
    file = store.sweep_file()
    objective = store.trainable.objective(file)
    several = "parts" in file
    found = []
    for number, table in enumerate(file.get("parts", [file]), start=1):
        name = str(table.get("name", f"part-{number}" if several else file["name"]))
        rows = plan[plan["part"] == name]
        found.append(
            Part(
                sweep=str(file["name"]),
                name=name,
                question=str(table.get("question", "")),
                metric=objective.metric,
                mode=objective.mode,
                score=objective.score,
                axes=_varied(rows, store.trainable.field_names, tuple(table.get("space", {}))),
                kind=store.trainable.kind,
                claims=tuple(table.get("claims", ())),
                zipped=tuple(map(tuple, table.get("combine", {}).get("zip", ()))),
            )
        )
    return tuple(found)


def load(*sweeps: Sweep) -> pd.DataFrame:
    """Every epoch record of one or more sweeps, with its trial's config.

    Columns: sweep, part, trial_id, point, replica, state; the varied fields, then the other fields of a
    trial; epoch and the metrics, in the units that its kind declares (a record's `lr` is `epoch_lr`).
    A trial that belongs to several parts appears once per part, each time up to that part's epochs.

    Raises:
        UserError: a sweep is unknown or empty.
    """
    frames = []
    names: dict[str, None] = {}  # of fields, and of records' columns
    columns: dict[str, None] = {}
    for store in map(open_sweep, sweeps):
        table, budget = store.records(), store.trainable.budget
        own = record_columns(store.trainable, table.column_names)
        names |= dict.fromkeys(store.trainable.field_names)
        columns |= dict.fromkeys(own.values())
        records = table.to_pandas().rename(columns=own)
        trials, infos = _plan(store), trial_infos(store)
        reached = records.groupby("trial_id")["epoch"].max().to_dict()
        trials["state"] = [
            _state(infos.get(trial_id), reached.get(trial_id, 0), epochs)
            for trial_id, epochs in zip(trials["trial_id"], trials[budget])
        ]
        merged = trials.merge(records, on="trial_id")
        merged = merged[merged["epoch"] <= merged[budget]]
        frames.append(merged.sort_values([*_KEYS[1:3], "epoch"]))
    frame = pd.concat(frames, ignore_index=True)
    varied = _varied(frame, tuple(names), ())
    others = tuple(name for name in names if name not in varied)
    return frame[[*_KEYS, "state", *varied, *others, "epoch", *columns]]


def record_columns(trainable: Trainable, stored: Sequence[str] = ()) -> dict[str, str]:
    """A frame's names of record columns, by their names in the store: `epoch_lr` for `lr`, which is also a field.

    Args:
        stored: the columns of its records, which may have more than its kind declares.
    """
    names = dict.fromkeys((*trainable.schema.names, *stored))
    for key in ("trial_id", "epoch"):
        names.pop(key, None)
    for key in ("attempt", "recorded_at"):  # of the store, so they come last
        if key in names:
            names[key] = names.pop(key)
    taken = {*trainable.field_names, *PLAN_COLUMNS}
    return {name: f"epoch_{name}" if name in taken else name for name in names}


def load_trials(*sweeps: Sweep) -> pd.DataFrame:
    """One row per (part, trial) of the plan, begun or not.

    If parts have different budgets for a trial, each sees it up to its own budget: it is completed
    there once it has reached that epoch, and its test figures are NaN if they belong to a longer run.

    Beyond the keys, the state and the config: `epochs_planned`, the budget; `epochs_trained`; `trained_on_to`,
    the last epoch of a trial that was trained beyond its part's budget, else NaN; `final_<metric>`, of each objective
    in the record of a completed trial that counts (its last one, or its best by the sweep's metric), and of each test
    metric in its last one, NaN for any other trial; `last`, the sweep's metric at the last
    recorded epoch; `best` and `best_epoch`, by the sweep's metric over all epochs (optimistic, since chosen on it;
    test figures are those of the last epoch); the seconds of a record (`train_seconds` and `valid_seconds`) and
    its size (`train_images`), medians over the epochs without the first, which warms up; `parameters`; `device`,
    `attempts`,
    `device_seconds` (wall time of all attempts, in all parts, times the devices of each), `energy_joules` (of
    all epochs in the store, in all parts; NaN if no device measured it), `message` (of the last failure). Where a
    field of the user's has one of these names, such as `device`, the figure is `trial_device`.

    Raises:
        UserError: a sweep is unknown or empty.
    """
    frames = []
    for store in map(open_sweep, sweeps):
        by_name = {part.name: part for part in parts(store)}
        infos = trial_infos(store)
        records = dict(iter(store.records().to_pandas().groupby("trial_id")))
        rows = []
        for planned in _plan(store).to_dict("records"):
            info, epochs = infos.get(planned["trial_id"]), records.get(planned["trial_id"])
            part = by_name.get(planned["part"])
            figures = _trial_figures(store.trainable, planned, info, epochs, part)
            rows.append(planned | {figure_column(store.trainable, name): v for name, v in figures.items()})
        frames.append(pd.DataFrame(rows))
    return pd.concat(frames, ignore_index=True)


def figure_column(trainable: Trainable, name: str) -> str:
    """The column of a figure of trials, which has another name where a field has this one."""
    return f"trial_{name}" if name in trainable.field_names else name


def of_part(part: Part, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of one part."""
    return table[(table["sweep"] == part.sweep) & (table["part"] == part.name)]


def trial_infos(store: SweepStore) -> dict[str, TrialInfo]:
    """What the store says of each planned trial that has begun, by id."""
    planned = _plan(store).set_index("trial_id")
    infos = {}
    for folder in store.trials():
        if folder.trial_id in planned.index and (info := _info(store, folder, planned)) is not None:
            infos[folder.trial_id] = info
    return infos


def _info(store: SweepStore, folder: TrialFolder, planned: pd.DataFrame) -> TrialInfo | None:
    """A trial; one whose state cannot be read has failed, with the config of the plan."""
    info = folder.info(verify=True)
    if info is not None or not (damages := folder.damages()):
        return info
    rows = planned.loc[[folder.trial_id]].iloc[0]
    values = {name: _as_json(rows[name]) for name in store.trainable.field_names}
    config = store.trainable.config_from_store(values)
    return as_damaged(TrialInfo(trial_id=folder.trial_id, config=config, state="failed"), damages[0])


def unplanned(sweep: Sweep) -> int:
    """The number of trials in the folder that are not in the plan any more; all other counts exclude them."""
    store = open_sweep(sweep)
    planned = set(_plan(store)["trial_id"])
    return sum(folder.trial_id not in planned for folder in store.trials())


def values_of(frame: pd.DataFrame, axis: str) -> list[Any]:
    """The distinct values of a field in their natural order: numbers ascending, else as planned."""
    values = list(dict.fromkeys(frame[axis].map(plain)))
    return sorted(values) if all(isinstance(v, int | float) for v in values) else values


def plain(value: Any) -> Any:
    """A value of a table as plain Python: None for a null, a tuple for a list."""
    if isinstance(value, np.ndarray | list | tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, np.generic):
        value = value.item()
    return (
        None
        if value is None or value is pd.NaT or (isinstance(value, float) and math.isnan(value))
        else value
    )


def _as_json(value: Any) -> Any:
    found = plain(value)
    return list(found) if isinstance(found, tuple) else found


def _plan(store: SweepStore) -> pd.DataFrame:
    """The plan with `sweep` and `part`, one row per trial and part; lists as tuples, which can be compared."""
    plan = store.plan().to_pandas()
    file = store.sweep_file()
    if not file.get("parts") or "part" not in plan:
        plan["part"] = str(file["name"])
    plan["sweep"] = str(file["name"])
    trainable = store.trainable
    for field in trainable.fields:
        if field.name not in plan:  # an older plan, from before this field
            plan[field.name] = trainable.defaults[field.name]
        elif field.is_list:
            plan[field.name] = plan[field.name].map(plain)
    order = [*_KEYS, *trainable.field_names]
    return plan[order].drop_duplicates(["part", "trial_id"], ignore_index=True)


def _state(info: TrialInfo | None, reached: int, epochs: int) -> str:
    """A trial's state for a part with a budget of `epochs`; `reached` is its last recorded epoch."""
    if info is None:
        return "waiting"
    if reached > epochs or (reached == epochs < info.config.epochs and info.state != "diverged"):
        return "completed"  # regardless of its later state, in a longer part
    met = max(reached, info.budget_met)
    return "waiting" if info.state == "completed" and met < epochs else info.state


def _varied(rows: pd.DataFrame, names: tuple[str, ...], declared: tuple[str, ...]) -> tuple[str, ...]:
    """The fields with more than one value, those of the sweep file's space first and in its order.

    A field determined by declared ones is excluded, such as `activation` if only `model` varies.
    """
    several = [name for name in names if name != "seed" and rows[name].map(plain).nunique(dropna=False) > 1]
    axes = [name for name in declared if name in several]
    for name in several:
        if name in axes:
            continue
        if axes:
            keys = [tuple(map(plain, row)) for row in rows[axes].itertuples(index=False)]
            if (
                rows[name].map(plain).groupby(pd.Index(keys, tupleize_cols=False)).nunique(dropna=False).max()
                <= 1
            ):
                continue
        axes.append(name)
    return tuple(axes)


def _determines(trials: pd.DataFrame, axis: str, other: str) -> bool:
    """Whether all trials with one value of an axis have one value of another."""
    pairs = {(plain(a), plain(b)) for a, b in zip(trials[axis], trials[other])}
    return len(pairs) == len({a for a, _ in pairs})


def _trial_figures(
    trainable: Trainable,
    planned: Mapping[Any, Any],
    info: TrialInfo | None,
    epochs: pd.DataFrame | None,
    part: Part | None,
) -> dict[str, Any]:
    reached = 0 if epochs is None or epochs.empty else int(epochs["epoch"].max())
    asked_for = planned[trainable.budget]
    state = _state(info, reached, asked_for)
    figures: dict[str, Any] = {
        "state": state,
        "epochs_trained": 0,
        "epochs_planned": asked_for,
        "trained_on_to": reached if reached > asked_for else math.nan,
        **{f"final_{name}": math.nan for name in trainable.result_metrics},
        "last": math.nan,
        "best": math.nan,
        "best_epoch": math.nan,
        **dict.fromkeys((*trainable.second_metrics, *trainable.record_products), math.nan),
        "parameters": trainable.parameters({name: _as_json(planned[name]) for name in trainable.field_names}),
        "device": info.attempts[-1].device if info and info.attempts else "",
        "attempts": len(info.attempts) if info else 0,
        "device_seconds": _device_seconds(info, epochs),
        "energy_joules": math.nan
        if epochs is None or ENERGY not in epochs
        else epochs[ENERGY].sum(min_count=1),
        "message": info.attempts[-1].message if info and info.attempts else "",
    }
    if epochs is None or epochs.empty:
        return figures
    epochs = epochs[epochs["epoch"] <= asked_for].sort_values("epoch")
    last = epochs.iloc[-1]
    figures["epochs_trained"] = int(last["epoch"])
    counted = last
    if part is not None and part.metric in epochs:
        numbers, values = epochs["epoch"].to_numpy(), epochs[part.metric].to_numpy(dtype=float)
        figures["last"] = float(last[part.metric])
        best = epochs.iloc[scored_row(numbers, values, part.mode, "best")]
        if math.isfinite(best[part.metric]):
            figures |= {"best": float(best[part.metric]), "best_epoch": int(best["epoch"])}
        counted = epochs.iloc[scored_row(numbers, values, part.mode, part.score)]
    if state == "completed":
        tests = trainable.test_metrics
        figures |= {
            f"final_{name}": float((last if name in tests else counted)[name])
            for name in trainable.result_metrics
        }
    warm = epochs[epochs["epoch"] > 1] if len(epochs) > 1 else epochs
    for name in trainable.second_metrics:
        figures[name] = float(warm[name].median())
    for name, (one, other) in trainable.record_products.items():
        figures[name] = round(float((warm[one] * warm[other]).median()))
    return figures


def attempt_seconds(attempt: Attempt, epochs: pd.DataFrame | None) -> float:
    """Device time of an attempt: its wall time times its ranks.

    An attempt without an end is counted up to its last record.

    Args:
        epochs: the attempt's own records.
    """
    if not attempt.started_at:
        return 0.0
    start = datetime.fromisoformat(attempt.started_at)
    if attempt.ended_at:
        end = datetime.fromisoformat(attempt.ended_at)
    elif epochs is not None and not epochs.empty:
        end = epochs["recorded_at"].max()
    else:
        return 0.0
    return max(0.0, (end - start).total_seconds()) * attempt.ranks


def _device_seconds(info: TrialInfo | None, epochs: pd.DataFrame | None) -> float:
    return sum(
        attempt_seconds(a, None if epochs is None else epochs[epochs["attempt"] == a.number])
        for a in (info.attempts if info else ())
    )
