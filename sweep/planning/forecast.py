"""What a plan will cost: device-hours from what the store has measured, or from a rough rate.

A trial takes its epochs, and what comes on top once: building it, first steps, files, test images. Epochs scale
with their units of work within a group of trials, which its kind knows: of the image trainer, with the multiply-adds
of a forward pass within one architecture, so that one measured patch size or width tells of the others; across
architectures they do not, so each has its own pace.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import reduce
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import UserError
from mixsweep.core.store import arrow
from mixsweep.core.store.store import SweepStore
from mixsweep.core.trainables.interface import Trainable
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.sweep.planning.plan import read_plan


@dataclass(frozen=True)
class Pace:
    """What trials have taken, by group of trials (core.trainables.interface.EpochWork).

    Args:
        rates: units of work for each second of an epoch.
        extras: seconds of a trial beside its epochs.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    extras: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RemainingWork:
    """What is left of `trials` alike: so many epochs altogether."""

    config: TrialConfig
    epochs: int
    trials: int = 1


@dataclass(frozen=True)
class Forecast:
    """Seconds of one device, and what they rest on; `seconds` is None where nothing is known."""

    seconds: float | None
    basis: str


def measured_rates(root: Path) -> Pace:
    """The pace of every sweep under a store that can be read; of several sweeps, the middle one."""
    rates: dict[str, list[float]] = {}
    extras: dict[str, list[float]] = {}
    for path in sorted(root.glob("*/sweep.toml")):
        store = SweepStore(path.parent)
        with suppress(OSError, UserError, pa.ArrowInvalid, KeyError, TypeError):
            configs = {row.trial_id: row.config for row in read_plan(store)}
            trainable = store.trainable
            table = store.records(("trial_id", *trainable.second_metrics))
            for group, rate in rates_of(table, trainable, configs).items():
                rates.setdefault(group, []).append(rate)
            for group, extra in extras_of(table, trainable, configs, _wall_times(store, configs)).items():
                extras.setdefault(group, []).append(extra)
    return Pace(_medians(rates), _medians(extras))


_SAMPLE = 20  # trials of a sweep whose wall time is looked up


def _wall_times(store: SweepStore, configs: Mapping[str, TrialConfig]) -> dict[str, float]:
    """By trial, the seconds of some that were completed at once."""
    found: dict[str, float] = {}
    for trial_id in configs:
        info = store.trial(trial_id).info()
        if info is not None and info.state == "completed" and len(info.attempts) == 1:
            begun, ended = info.attempts[0].started_at, info.attempts[0].ended_at
            found[trial_id] = (datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds()
        if len(found) == _SAMPLE:
            break
    return found


def rates_of(
    table: pa.Table, trainable: Trainable, configs: Mapping[str, TrialConfig], share: float = 0.5
) -> dict[str, float]:
    """Units of work for each second of an epoch, by group, from the records of these trials.

    Args:
        share: of the epochs that were slower; 0.5 is the median.
    """
    rates: dict[str, list[float]] = {}
    works = {trial_id: trainable.epoch_work(config) for trial_id, config in configs.items()}
    taken = _seconds(table, trainable)
    for trial_id, seconds in zip(table["trial_id"].to_pylist(), taken.to_pylist()):
        work = works.get(trial_id)
        if work and work.units:
            rates.setdefault(work.group, []).append(work.units / seconds)
    if share == 0.5:
        return _medians(rates)
    return {kind: sorted(values)[int(share * (len(values) - 1))] for kind, values in rates.items()}


def extras_of(
    table: pa.Table, trainable: Trainable, configs: Mapping[str, TrialConfig], walls: Mapping[str, float]
) -> dict[str, float]:
    """Seconds that a trial took beside its epochs, by group: the median.

    Args:
        walls: by trial, its seconds from its attempt's start to its end; of trials whose records are all there.
    """
    ids = [trial_id for trial_id in walls if trial_id in configs]
    trials = arrow.dictionary_codes(
        table["trial_id"], {trial_id: n for n, trial_id in enumerate(ids)}, len(ids)
    )
    taken = arrow.numbers(_seconds(table, trainable))
    epochs = np.bincount(trials, taken, minlength=len(ids))
    extras: dict[str, list[float]] = {}
    for trial_id, seconds in zip(ids, epochs.tolist()):
        extras.setdefault(trainable.epoch_work(configs[trial_id]).group, []).append(
            max(0.0, walls[trial_id] - seconds)
        )
    return _medians(extras)


def forecast(todo: Sequence[RemainingWork], pace: Pace) -> Forecast:
    """Device-seconds for what is left."""
    seconds, rough = 0.0, False
    for left in todo:
        work = find_trainable(left.config.kind).epoch_work(left.config)
        rate = pace.rates.get(work.group)
        if rate is None:
            rate = work.rough_rate
            rough = True
        if work.units is None or rate is None:
            return Forecast(None, f"no record of {work.subject} yet; run one trial with --limit 1")
        seconds += work.units * left.epochs / rate + pace.extras.get(work.group, 0.0) * left.trials
    if not todo:
        return Forecast(0.0, "nothing is left")
    if rough:
        return Forecast(seconds, "rough, from one core of a server CPU: this store has no such trial yet")
    return Forecast(seconds, "from this store's own records")


def _medians(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {kind: median(of_kind) for kind, of_kind in values.items()}


def _seconds(table: pa.Table, trainable: Trainable) -> pa.ChunkedArray:
    """The time of each record."""
    first, *others = trainable.second_metrics
    return reduce(pc.add, (table[name] for name in others), table[first])
