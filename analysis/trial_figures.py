"""The figures of whole trials, computed from their records and attempts."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from mixsweep.analysis.reading import Reading, as_json
from mixsweep.core.records import ENERGY
from mixsweep.core.scoring import scored_rows
from mixsweep.core.store.trial.info import Attempt, TrialInfo


def trial_figures(reading: Reading) -> dict[str, Any]:
    """The figures of each row of a plan, by name: the columns of `load_trials` beside the plan's own."""
    infos = [reading.infos.get(trial_id) for trial_id in reading.plan["trial_id"]]
    trainable, plan, spans = reading.trainable, reading.plan, reading.spans
    asked_for = plan[trainable.budget].to_numpy()
    reached = spans["reached"].to_numpy()
    last = [info.attempts[-1] if info and info.attempts else None for info in infos]
    return {
        "state": reading.states,
        **_of_records(reading),
        "epochs_planned": asked_for,
        "trained_on_to": np.where(reached > asked_for, reached, math.nan),
        "parameters": _parameters(reading),
        "device": [attempt.device if attempt else "" for attempt in last],
        "attempts": [len(info.attempts) if info else 0 for info in infos],
        "device_seconds": [
            _device_seconds(info, reading.records, start, end)
            for info, start, end in zip(infos, spans["start"], spans["end_of_all"])
        ],
        "energy_joules": _energy(reading),
        "message": [attempt.message if attempt else "" for attempt in last],
    }


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


def rows_of(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The positions from each start to its end, one after the other, and the number of the span of each."""
    counts = end - start
    spans = np.repeat(np.arange(len(counts)), counts)
    before = np.cumsum(counts) - counts
    return start[spans] + np.arange(len(spans)) - before[spans], spans


def _of_records(reading: Reading) -> dict[str, Any]:
    """What the records within each part's budget say of its trials."""
    trainable, spans, count = reading.trainable, reading.spans, len(reading.plan)
    rows, trials = rows_of(spans["start"].to_numpy(), spans["end"].to_numpy())
    records = reading.records.take(rows)
    epochs = records["epoch"].to_numpy(dtype=np.int64)
    begun = np.flatnonzero(np.bincount(trials, minlength=count))
    last = np.flatnonzero(np.append(trials[1:] != trials[:-1], True)) if len(trials) else trials
    trained = np.zeros(count, dtype=np.int64)
    trained[begun] = epochs[last]
    at_end, best, best_epoch = (np.full(count, math.nan) for _ in range(3))
    counted = last
    part = reading.parts[0] if reading.parts else None  # all have the sweep's objective
    if part is not None and part.metric in records:
        values = records[part.metric].to_numpy(dtype=float, na_value=math.nan)
        at_end[begun] = values[last]
        top = scored_rows(trials, epochs, values, part.mode, "best")
        finite = np.isfinite(values[top])
        best[begun[finite]] = values[top[finite]]
        best_epoch[begun[finite]] = epochs[top[finite]]
        counted = scored_rows(trials, epochs, values, part.mode, part.score)
    found: dict[str, Any] = {"epochs_trained": trained}
    completed = np.array([state == "completed" for state in reading.states], dtype=bool)[begun]
    for name in trainable.result_metrics:
        final = np.full(count, math.nan)
        if name in records:
            source = last if name in trainable.test_metrics else counted
            column = records[name].to_numpy(dtype=float, na_value=math.nan)
            final[begun[completed]] = column[source[completed]]
        found[f"final_{name}"] = final
    found |= {"last": at_end, "best": best, "best_epoch": best_epoch}
    warm = (epochs > 1) | (np.bincount(trials, minlength=count)[trials] <= 1)
    for name in trainable.second_metrics:
        found[name] = _medians(records[name], warm, trials, count)
    for name, (one, other) in trainable.record_products.items():
        found[name] = _whole(np.round(_medians(records[one] * records[other], warm, trials, count)))
    return found


def _medians(values: pd.Series, chosen: np.ndarray, trials: np.ndarray, count: int) -> np.ndarray:
    """The median of each trial's chosen values, NaN where it has none."""
    numbers = pd.Series(values.to_numpy(dtype=float, na_value=math.nan)[chosen])
    return numbers.groupby(trials[chosen]).median().reindex(range(count)).to_numpy(dtype=float)


def _whole(values: np.ndarray) -> np.ndarray:
    return values if np.isnan(values).any() else values.astype(np.int64)


def _parameters(reading: Reading) -> list[float]:
    names = reading.trainable.field_names
    columns = [reading.plan[name] for name in names]
    return [
        reading.trainable.parameters({name: as_json(value) for name, value in zip(names, row)})
        for row in zip(*columns)
    ]


def _energy(reading: Reading) -> np.ndarray:
    """Of all epochs of a trial in the store; NaN if no device measured it."""
    spans, count = reading.spans, len(reading.plan)
    if ENERGY not in reading.records:
        return np.full(count, math.nan)
    rows, trials = rows_of(spans["start"].to_numpy(), spans["end_of_all"].to_numpy())
    joules = pd.Series(reading.records[ENERGY].to_numpy(dtype=float, na_value=math.nan)[rows])
    return joules.groupby(trials).sum(min_count=1).reindex(range(count)).to_numpy(dtype=float)


def _device_seconds(info: TrialInfo | None, records: pd.DataFrame, start: int, end: int) -> float:
    attempts: Sequence[Attempt] = info.attempts if info else ()
    seconds = 0.0
    for attempt in attempts:
        own = None
        if not attempt.ended_at:
            epochs = records.iloc[start:end]
            own = epochs[epochs["attempt"] == attempt.number]
        seconds += attempt_seconds(attempt, own)
    return seconds
