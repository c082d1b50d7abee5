"""Reads the status of a sweep from its store alone: while it runs, on any machine that sees the folder."""

import heapq
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixsweep.core.config import TrialConfig
from mixsweep.core.execution.superseded import Superseded
from mixsweep.core.records import ENERGY, UTILISATION, now
from mixsweep.core.scoring import scored_rows
from mixsweep.core.store import arrow
from mixsweep.core.store.store import SweepStore, since
from mixsweep.core.store.trial_index import TrialIndex, TrialSummary
from mixsweep.core.trainables.definition import UNLIMITED
from mixsweep.core.trainables.interface import Trainable
from mixsweep.sweep.planning.forecast import Pace, RemainingWork, extras_of, forecast, rates_of
from mixsweep.sweep.planning.plan import brief, labels_of_columns
from mixsweep.sweep.planning.search_schema import Search
from mixsweep.sweep.status import Cost, SweepStatus, TrialStatus


class StatusReader:
    """Reads a sweep's status repeatedly; what has not changed is not read twice."""

    def __init__(self, store: SweepStore):
        self._store = store
        self._index = TrialIndex(store)
        self._superseded = Superseded(store)

    def read(self) -> SweepStatus:
        """Return the present status."""
        source = self._store.sweep_file()
        trainable = self._store.trainable
        objective = trainable.objective(source)
        metric, mode, score = objective.metric, objective.mode, objective.score
        unit = str(source.get("stopping", {}).get("unit", "epoch"))
        plan = _Trials(self._store.plan(), trainable)
        summaries = self._index.read()
        columns = ("trial_id", "epoch", metric, *trainable.second_metrics, "recorded_at")
        table = self._store.records(
            (*columns, *(name for name in _DEVICE_METRICS if name in trainable.schema.names))
        )
        newest = _newest(table, plan.epochs, metric, mode, score)
        energy = _energy(table)
        trials = tuple(
            _trial_status(
                trial_id,
                epochs,
                summaries.get(trial_id),
                newest.get(trial_id),
                plan.labels[trial_id],
                energy.get(trial_id),
            )
            for trial_id, epochs in plan.epochs.items()
        )
        trials = _with_likely_ends(trials)
        running = sum(trial.state == "running" for trial in trials)
        todo = {t.trial_id: t.epochs - t.epoch for t in trials if t.state in _OPEN and t.epochs > t.epoch}
        left = _time_left(plan, todo, summaries, table) if newest and todo else None
        planned = [summary for trial_id, summary in summaries.items() if trial_id in plan.epochs]
        others = sorted(set(self._index.folders()) - plan.epochs.keys())
        superseded: tuple[str, ...] = ()
        if others and source.get("code") == "pin":
            superseded = self._superseded.among(others, {i: plan.config(i) for i in plan.epochs})
        return SweepStatus(
            name=self._store.name,
            question=source.get("question", ""),
            metric=metric,
            mode=mode,
            score=score,
            trials=trials,
            to_come=_to_come(source, len(trials)),
            seconds_left=left[1] / max(1, running) if left else None,
            seconds_left_range=(left[0] / max(1, running), left[2] / max(1, running)) if left else None,
            epochs_an_hour=_rate(table) if running else None,
            device_seconds=sum(trial.device_seconds for trial in trials),
            energy_joules=_known(pc.sum, table, ENERGY),
            device_utilisation=_known(pc.mean, table, UTILISATION),
            devices=dict(Counter(s.device for s in planned if s.state == "running" and s.device)),
            curves=_curves(table, trials, metric, mode),
            rungs=_rungs(self._store.rungs_path(metric, mode, unit)),
            rung_unit=unit,
            costs=plan.costs(trials),
            others=len(others) - len(superseded),
            superseded=superseded,
        )


_DEVICE_METRICS = (ENERGY, UTILISATION)
_OPEN = ("waiting", "running", "lost", "interrupted")
_RATE_SECONDS = 600.0
_SAMPLE = 2000  # records that rates are estimated from
_CURVES = 5
_MOST_VALUES = 50  # of a field: where a search draws every value once, a row per value says nothing


class _Trials:
    """The plan's columns that a status needs, each trial once: the first seed of every point first."""

    def __init__(self, table: pa.Table, trainable: Trainable):
        self._table, self.trainable = table, trainable
        ids, replicas = table["trial_id"].to_pylist(), table["replica"].to_pylist()
        epochs = table[trainable.budget].to_pylist()
        parts = table["part"].to_pylist() if "part" in table.column_names else [""] * len(ids)
        self.epochs: dict[str, int] = {}
        self._row: dict[str, int] = {}
        for n in sorted(range(len(ids)), key=replicas.__getitem__):
            if epochs[n] > self.epochs.get(ids[n], 0):
                self.epochs[ids[n]] = epochs[n]
                self._row[ids[n]] = n
        self._varied = {}
        for name in trainable.field_names:
            if name in table.column_names and (name == "seed" or _varies(table[name])):
                self._varied[name] = table[name].to_pylist()
        self.labels = labels_of_columns(parts, ids, self._varied)

    def config(self, trial_id: str) -> TrialConfig:
        (row,) = self._table.slice(self._row[trial_id], 1).to_pylist()
        return self.trainable.config_from_row(row)

    def costs(self, trials: Iterable[TrialStatus]) -> dict[str, dict[str, Cost]]:
        """Return the cost of the trials that have started, by varied field and value."""
        started = [trial for trial in trials if trial.state != "waiting" or trial.device_seconds]
        found: dict[str, dict[str, Cost]] = {}
        for axis, column in self._varied.items():
            if axis in ("seed", "parent", self.trainable.budget):
                continue
            groups: dict[str, list[TrialStatus]] = {}
            for trial in started:
                groups.setdefault(brief(column[self._row[trial.trial_id]]), []).append(trial)
            if 1 < len(groups) <= _MOST_VALUES:
                found[axis] = {value: _cost(groups[value]) for value in groups}
        return found

    def group_by_work(self, trial_ids: Iterable[str]) -> dict[str, list[str]]:
        """Group trials whose epochs cost the same, by the first: building ten thousand configs is slow."""
        known = [name for name in self.trainable.work_fields if name in self._table.column_names]
        names = [name for name in known if _varies(self._table[name])]
        arrow = [self._table[name].to_pylist() for name in names]
        groups: dict[str, list[str]] = {}
        first: dict[str, str] = {}
        for trial_id in trial_ids:
            key = str([column[self._row[trial_id]] for column in arrow])
            groups.setdefault(first.setdefault(key, trial_id), []).append(trial_id)
        return groups


def _varies(column: pa.ChunkedArray) -> bool:
    first = column[0].as_py() if len(column) else None
    if pa.types.is_list(column.type):
        return any(value != first for value in column.to_pylist())
    return not pa.types.is_null(column.type) and len(column.unique()) > 1


def _newest(
    table: pa.Table, epochs: Mapping[str, int], metric: str, mode: str, score: str
) -> dict[str, tuple[int, float]]:
    """Return each trial's newest epoch within its planned budget, and the metric in the record that counts."""
    ids = list(epochs)
    trials = arrow.dictionary_codes(
        table["trial_id"], {trial_id: n for n, trial_id in enumerate(ids)}, len(ids)
    )
    at = arrow.numbers(table["epoch"])
    limits = np.array([*epochs.values(), 0], dtype=np.int64)
    rows = np.flatnonzero(at <= limits[trials])
    last = rows[scored_rows(trials[rows], at[rows], at[rows], mode, "last")]
    if score == "best":
        scores = arrow.numbers(pc.fill_null(table[metric].cast(pa.float64()), math.nan))
    elif table[metric].null_count:  # NaN is a value: that of a trial that diverged
        scores = np.where(table[metric].is_valid().to_pylist(), 0.0, math.nan)
    else:
        scores = np.zeros(len(at))
    counted = rows[scored_rows(trials[rows], at[rows], scores[rows], mode, score)] if len(rows) else rows
    values = arrow.rows_at(table.select([metric]), counted)[metric].to_pylist()
    return {ids[n]: (epoch, v) for n, epoch, v in zip(trials[last].tolist(), at[last].tolist(), values)}


def _energy(table: pa.Table) -> dict[str, float]:
    """Return the joules of each trial's epochs; empty where no device reports energy."""
    if ENERGY not in table.column_names or table[ENERGY].null_count == table.num_rows:
        return {}
    sums = table.group_by("trial_id").aggregate([(ENERGY, "sum")])
    values = zip(sums["trial_id"].to_pylist(), sums[f"{ENERGY}_sum"].to_pylist())
    return {trial_id: joules for trial_id, joules in values if joules is not None}


def _cost(trials: Sequence[TrialStatus]) -> Cost:
    energy = [trial.energy_joules for trial in trials if trial.energy_joules is not None]
    return Cost(
        trials=len(trials),
        device_seconds=sum(trial.device_seconds for trial in trials),
        energy_joules=sum(energy) if energy else None,
    )


def _known(figure: Callable[[pa.ChunkedArray], pa.Scalar], table: pa.Table, column: str) -> float | None:
    """Return an aggregate of a column; None where no device reports it."""
    found = figure(table[column]).as_py() if column in table.column_names else None
    return None if found is None else float(found)


def _time_left(
    plan: _Trials, todo: Mapping[str, int], summaries: Mapping[str, TrialSummary], table: pa.Table
) -> tuple[float, float, float] | None:
    """Return the device-seconds left, at the 90 %, 50 % and 10 % quantile of the epochs' rates."""
    step = max(1, table.num_rows // _SAMPLE)
    sample = arrow.rows_at(table, np.arange(0, table.num_rows, step))
    measured = plan.group_by_work(
        i for i in dict.fromkeys(sample["trial_id"].to_pylist()) if i in plan.epochs
    )
    configs = {
        i: config for first, group in measured.items() for config in [plan.config(first)] for i in group
    }
    groups = plan.group_by_work(todo)
    running = {i for i in todo if i in summaries and summaries[i].state == "running"}
    work = [
        RemainingWork(plan.config(first), sum(todo[i] for i in group), sum(i not in running for i in group))
        for first, group in groups.items()
    ]
    walls = {i: s.device_seconds / s.ranks for i, s in summaries.items() if s.state == "completed"}
    extras = extras_of(table, plan.trainable, configs, walls)
    paces = [Pace(rates_of(sample, plan.trainable, configs, share), extras) for share in (0.9, 0.5, 0.1)]
    spread = [forecast(work, pace).seconds for pace in paces]
    low, middle, high = spread
    return None if not (low and middle and high) else (low, middle, high)


def _rate(table: pa.Table) -> float | None:
    """Return epochs per hour, over the last ten minutes with records."""
    if not table.num_rows:
        return None
    times = np.sort(arrow.numbers(table["recorded_at"].cast(pa.int64()))) / 1000
    recent = times[times > times[-1] - _RATE_SECONDS]
    span = max(now().timestamp(), recent[-1]) - recent[0]
    return float((len(recent) - 1) * 3600 / span) if len(recent) > 1 and span > 0 else None


def _curves(
    table: pa.Table, trials: Sequence[TrialStatus], metric: str, mode: str
) -> dict[str, tuple[float, ...]]:
    """Return the metric by epoch of the best few trials."""
    sign = 1 if mode == "max" else -1
    ranked = [t for t in trials if t.value is not None and math.isfinite(t.value)]
    ranked = heapq.nlargest(_CURVES, ranked, key=lambda t: sign * (t.value or 0.0))
    best = [t.trial_id for t in ranked]
    is_drawn = arrow.dictionary_codes(table["trial_id"], dict.fromkeys(best, 1), 0)
    chosen = arrow.rows_at(table.select(["trial_id", "epoch", metric]), np.flatnonzero(is_drawn)).sort_by(
        "epoch"
    )
    curves: dict[str, list[float]] = {trial_id: [] for trial_id in best}
    for trial_id, value in zip(chosen["trial_id"].to_pylist(), chosen[metric].to_pylist()):
        curves[trial_id].append(value)
    return {trial_id: tuple(values) for trial_id, values in curves.items()}


def _rungs(folder: Path) -> dict[int, int]:
    """Return the number of values recorded at each rung of a stopping rule."""
    found = {}
    with suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.isdigit():
                found[int(entry.name)] = sum("_" in name for name in os.listdir(entry.path))
    return dict(sorted(found.items()))


def _to_come(source: Mapping[str, Any], known: int) -> int:
    table = source.get("search", {"algorithm": ""})
    if table.get("algorithm", "tpe") != "tpe":
        return 0
    return max(0, int(table.get("trials", Search(algorithm="tpe").trials)) - known)


def _trial_status(
    trial_id: str,
    epochs: int,
    summary: TrialSummary | None,
    newest: tuple[int, float] | None,
    label: str,
    energy: float | None,
) -> TrialStatus:
    state = summary.state if summary else "waiting"
    epoch, value = newest or (0, None)
    if summary and state == "completed" and summary.budget_met < epochs:
        state = "waiting"  # the sweep file now asks for more epochs
    if state == "completed" and epoch:
        epochs = min(epochs, epoch)  # it may have ended before its budget
    return TrialStatus(
        trial_id=trial_id,
        label=label,
        state=state,
        epoch=epoch,
        epochs=epochs,
        value=value,
        failure=summary.failure if summary else "",
        message=summary.message if summary else "",
        device_seconds=_device_seconds(summary) if summary else 0.0,
        energy_joules=energy,
        codes=summary.codes if summary else (),
    )


def _with_likely_ends(trials: tuple[TrialStatus, ...]) -> tuple[TrialStatus, ...]:
    """Trials without a budget, with the number of records that the longest completed one has for theirs."""
    if all(trial.epochs < UNLIMITED for trial in trials):
        return trials
    longest = max((trial.epoch for trial in trials if trial.state == "completed"), default=1)
    return tuple(
        replace(trial, epochs=max(trial.epoch, longest)) if trial.epochs == UNLIMITED else trial
        for trial in trials
    )


def _device_seconds(summary: TrialSummary) -> float:
    """Return the device-seconds of all attempts; a lost one counts once the next attempt has recorded its end."""
    runs = summary.state == "running" and summary.began
    return summary.device_seconds + (since(summary.began) * summary.ranks if runs else 0.0)
