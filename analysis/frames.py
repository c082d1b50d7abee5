"""The store's records as tidy tables: a row an epoch, or a row a trial."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mixsweep.core.config import TrialConfig, canonical_json, field_names
from mixsweep.core.errors import UserError
from mixsweep.core.extras import is_installed
from mixsweep.core.records import SCHEMA, default_mode
from mixsweep.core.store.store import Attempt, SweepStore, TrialInfo

Sweep = SweepStore | Path | str

# `lr` is a trial's field already: its peak; a record's is that of the epoch's last step.
METRICS = tuple(
    "epoch_lr" if name == "lr" else name for name in SCHEMA.names if name not in ("trial_id", "epoch")
)
LOSSES_AND_ACCURACIES = tuple(
    f"{split}_{kind}" for split in ("train", "valid", "test") for kind in ("loss", "accuracy")
)
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


def open_sweep(sweep: Sweep) -> SweepStore:
    """The store of a sweep that has been run.

    Raises:
        UserError: there is no sweep at that path, or none of its trials has begun.
    """
    store = sweep if isinstance(sweep, SweepStore) else SweepStore(sweep)
    if not store.exists() or not (store.path / "plan.parquet").is_file():
        raise UserError(f"{store.path}: no sweep here (a sweep's folder holds sweep.toml and plan.parquet)")
    if not any((folder.path / "trial.json").exists() for folder in store.trials()):
        raise UserError(f"{store.path}: the sweep is empty, none of its trials has begun; run it first")
    return store


def parts(sweep: Sweep) -> tuple[Part, ...]:
    """The ablations of a sweep, in the order of its file; a file without parts is one."""
    store = open_sweep(sweep)
    plan = _plan(store)
    file = store.sweep_file()
    metric = str(file.get("metric", "valid_accuracy"))
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
                metric=metric,
                mode=str(file.get("mode", default_mode(metric))),
                axes=_varied(rows, tuple(table.get("space", {}))),
                claims=tuple(table.get("claims", ())),
            )
        )
    return tuple(found)


def load(*sweeps: Sweep) -> pd.DataFrame:
    """Every epoch record of one or more sweeps, with its trial's config.

    Columns: sweep, part, trial_id, point, replica, state; the varied fields, then the other fields of a
    trial; epoch and the metrics with the units of `core.records.SCHEMA` (a record's `lr` is `epoch_lr`).
    A trial that belongs to several parts is there once a part, each time up to that part's epochs.

    Raises:
        UserError: a sweep is unknown or empty.
    """
    frames = []
    for store in map(open_sweep, sweeps):
        records = store.records().to_pandas().rename(columns={"lr": "epoch_lr"})
        trials, infos = _plan(store), trial_infos(store)
        reached = records.groupby("trial_id")["epoch"].max().to_dict()
        trials["state"] = [
            _state(infos.get(trial_id), reached.get(trial_id, 0), epochs)
            for trial_id, epochs in zip(trials["trial_id"], trials["epochs"])
        ]
        merged = trials.merge(records, on="trial_id")
        merged = merged[merged["epoch"] <= merged["epochs"]]
        frames.append(merged.sort_values([*_KEYS[1:3], "epoch"]))
    frame = pd.concat(frames, ignore_index=True)
    varied = _varied(frame, ())
    others = tuple(name for name in field_names() if name not in varied)
    return frame[[*_KEYS, "state", *varied, *others, "epoch", *METRICS]]


def load_trials(*sweeps: Sweep) -> pd.DataFrame:
    """One row a (part, trial) of the plan, begun or not.

    Where parts ask for different lengths of a trial, each sees it up to its own `epochs`: it is completed
    there once it got that far, and its test figures are NaN where they belong to a longer run.

    Beyond the keys, the state and the config: `epochs_trained`; `trained_on_to`, the epoch that a trial has
    got to beyond those of its part, else NaN; `final_<metric>`, for losses and accuracies
    at the last epoch of a completed trial, NaN for any other; `last`, the sweep's metric at the last epoch
    there is; `best` and `best_epoch`, by the sweep's metric over all epochs (chosen on it, so it flatters:
    test figures are those of the last epoch); `train_seconds` and `valid_seconds`, medians over the epochs
    without the first, which warms up; `train_images` an epoch; `parameters`; `device`, `attempts`,
    `device_seconds` (wall time of all attempts, in all parts, times the devices of each), `energy_joules` (of
    all epochs in the store, in all parts; NaN where no device told it), `message` (of the last failure).

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
            rows.append(planned | _trial_figures(planned, info, epochs, part))
        frames.append(pd.DataFrame(rows))
    return pd.concat(frames, ignore_index=True)


def of_part(part: Part, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of one part."""
    return table[(table["sweep"] == part.sweep) & (table["part"] == part.name)]


def trial_infos(store: SweepStore) -> dict[str, TrialInfo]:
    """What trial.json says of each planned trial that has begun."""
    planned = set(_plan(store)["trial_id"])
    infos = {folder.trial_id: folder.info() for folder in store.trials() if folder.trial_id in planned}
    return {trial_id: info for trial_id, info in infos.items() if info is not None}


def unplanned(sweep: Sweep) -> int:
    """How many trials lie in the folder that the plan no longer names; nothing else counts them."""
    store = open_sweep(sweep)
    planned = set(_plan(store)["trial_id"])
    return sum(folder.trial_id not in planned for folder in store.trials())


def values_of(frame: pd.DataFrame, axis: str) -> list[Any]:
    """The distinct values of a field in their natural order: numbers ascending, else as planned."""
    values = list(dict.fromkeys(frame[axis].map(plain)))
    return sorted(values) if all(isinstance(v, int | float) for v in values) else values


def plain(value: Any) -> Any:
    """A value of a table as plain Python: None for a gap, a tuple for a list."""
    if isinstance(value, np.ndarray | list | tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, np.generic):
        value = value.item()
    return (
        None
        if value is None or value is pd.NaT or (isinstance(value, float) and math.isnan(value))
        else value
    )


def _plan(store: SweepStore) -> pd.DataFrame:
    """The plan with `sweep` and `part`, a trial once a part; lists as tuples, which can be compared."""
    plan = store.plan().to_pandas()
    file = store.sweep_file()
    if not file.get("parts") or "part" not in plan:
        plan["part"] = str(file["name"])
    plan["sweep"] = str(file["name"])
    plan["hidden"] = plan["hidden"].map(plain)
    for name in set(field_names()) - set(plan):  # a plan from before there was such a field
        plan[name] = TrialConfig().to_mapping()[name]
    order = [*_KEYS, *field_names()]
    return plan[order].drop_duplicates(["part", "trial_id"], ignore_index=True)


def _state(info: TrialInfo | None, reached: int, epochs: int) -> str:
    """A trial's state as a part sees it that asks for so many epochs; `reached` is its last record's."""
    if info is None:
        return "waiting"
    if reached > epochs or (reached == epochs < info.config.epochs and info.state != "diverged"):
        return "completed"  # whatever became of it later, in a longer part
    return "waiting" if info.state == "completed" and reached < epochs else info.state


def _varied(rows: pd.DataFrame, declared: tuple[str, ...]) -> tuple[str, ...]:
    """The fields with more than one value, those of the sweep file's space first and in its order.

    A field that follows from declared ones is none of its own: `activation` where only `model` varies.
    """
    several = [
        name for name in field_names() if name != "seed" and rows[name].map(plain).nunique(dropna=False) > 1
    ]
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


def _trial_figures(
    planned: Mapping[Any, Any], info: TrialInfo | None, epochs: pd.DataFrame | None, part: Part | None
) -> dict[str, Any]:
    reached = 0 if epochs is None or epochs.empty else int(epochs["epoch"].max())
    state = _state(info, reached, planned["epochs"])
    figures: dict[str, Any] = {
        "state": state,
        "epochs_trained": 0,
        "trained_on_to": reached if reached > planned["epochs"] else math.nan,
        **{f"final_{name}": math.nan for name in LOSSES_AND_ACCURACIES},
        "last": math.nan,
        "best": math.nan,
        "best_epoch": math.nan,
        "train_seconds": math.nan,
        "valid_seconds": math.nan,
        "train_images": math.nan,
        "parameters": _parameters(planned),
        "device": info.attempts[-1].device if info and info.attempts else "",
        "attempts": len(info.attempts) if info else 0,
        "device_seconds": _device_seconds(info, epochs),
        "energy_joules": math.nan if epochs is None else epochs["device_energy_joules"].sum(min_count=1),
        "message": info.attempts[-1].message if info and info.attempts else "",
    }
    if epochs is None or epochs.empty:
        return figures
    epochs = epochs[epochs["epoch"] <= planned["epochs"]].sort_values("epoch")
    last = epochs.iloc[-1]
    figures["epochs_trained"] = int(last["epoch"])
    if state == "completed":
        figures |= {f"final_{name}": float(last[name]) for name in LOSSES_AND_ACCURACIES}
    if part is not None and part.metric in epochs:
        scores = epochs[part.metric].replace([np.inf, -np.inf], np.nan)
        figures["last"] = float(last[part.metric])
        if scores.notna().any():
            position = int((scores if part.mode == "max" else -scores).argmax())
            figures["best"] = float(scores.iloc[position])
            figures["best_epoch"] = int(epochs["epoch"].iloc[position])
    warm = epochs[epochs["epoch"] > 1] if len(epochs) > 1 else epochs
    for name in ("train_seconds", "valid_seconds"):
        figures[name] = float(warm[name].median())
    figures["train_images"] = round(float((warm["images_per_second"] * warm["train_seconds"]).median()))
    return figures


def attempt_seconds(attempt: Attempt, epochs: pd.DataFrame | None) -> float:
    """Device time of an attempt: its wall time for each of its ranks.

    One without an end lasted to its last record at least.

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


_MODEL_FIELDS = tuple(
    spec.name
    for spec in fields(TrialConfig)
    if spec.name in ("model", "dataset") or "model" in spec.metadata["applies"]
)


def _parameters(planned: Mapping[Any, Any]) -> float:
    """Trainable parameters of a planned trial's model; NaN where its model, its data set or PyTorch is not here."""
    values = {name: plain(planned[name]) for name in _MODEL_FIELDS}
    return _count_parameters(
        canonical_json(
            values | {"hidden": list(values["hidden"]), "activation": plain(planned["activation"])}
        )
    )


@cache
def _count_parameters(identity: str) -> float:
    if not is_installed("train"):
        return math.nan
    import torch  # seconds of import that only this figure needs

    from mixsweep.core.models.build import build_model, count_parameters

    try:
        config = TrialConfig.from_mapping(json.loads(identity))
        with torch.device("meta"):  # shapes without numbers: a ResNet is counted in milliseconds
            return float(count_parameters(build_model(config, classes=10)))
    except Exception:  # a registered builder's own error, or its file was not imported here
        return math.nan
