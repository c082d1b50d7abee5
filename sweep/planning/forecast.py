"""Forecasts of a plan's device time, from measurements in the store or from a rough rate.

A trial takes the time of its epochs, and a fixed time: building it, first steps, files, test images. Within a group
of trials, the time of an epoch is proportional to its units of work. The trainable defines both: for images, a group is
an architecture and the work is the multiply-adds of its forward passes, so that one measured patch size or width
predicts the others.
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
from mixsweep.core.extras import require
from mixsweep.core.store import arrow
from mixsweep.core.store.store import SweepStore
from mixsweep.core.trainables.interface import MeasuredEpoch, Run, Trainable
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.sweep.planning.plan import Plan, read_plan

_SECONDS = 2.0  # a kind of trial


@dataclass(frozen=True)
class Pace:
    """Measured speed, by group of trials (core.trainables.interface.EpochWork).

    Args:
        rates: units of work per second of an epoch.
        extras: seconds of a trial outside its epochs.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    extras: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MeasuredPace:
    """The time of an epoch of one trial of each group, measured on the machine at hand.

    Args:
        epochs: by group, for the trial of this config.
    """

    epochs: Mapping[str, tuple[TrialConfig, MeasuredEpoch]] = field(default_factory=dict)

    def seconds_of(self, config: TrialConfig) -> float | None:
        """Seconds of an epoch; in proportion to its work, where that is known, and else as the measured trial's."""
        work = find_trainable(config.kind).epoch_work(config)
        if work.group not in self.epochs:
            return None
        measured, epoch = self.epochs[work.group]
        of_measured = find_trainable(measured.kind).epoch_work(measured).units
        return epoch.seconds * (work.units / of_measured if work.units and of_measured else 1.0)

    @property
    def basis(self) -> str:
        """What was measured, and how sure it is."""
        device = next(iter(self.epochs.values()))[1].device
        spreads = [epoch.spread for _, epoch in self.epochs.values() if epoch.spread is not None]
        count = len(self.epochs)
        trials = (
            "a few steps of one trial" if count == 1 else f"a few steps of {count} trials, one of each kind"
        )
        sure = f", which varied by {max(spreads):.0%}" if spreads else ""
        return f"measured now: {trials} on this {device}{sure}; starting them is not counted"


def measure_plan(plan: Plan, root: Path, data_dir: Path | None) -> MeasuredPace:
    """Train a few steps of a trial of each kind that the store does not know, and store nothing.

    Args:
        root: the folder of the sweeps.
        data_dir: the data folder on this machine.

    Raises:
        UserError: PyTorch is not installed here, or a trial cannot be trained.
    """
    require("train", what="--measure")
    from mixsweep.core.training.device import choose_device

    resources, known = plan.spec.resources, measured_rates(root).rates
    run = Run(
        device=choose_device(1 if resources.gpus is None else resources.gpus),
        data_dir=data_dir,
        threads=resources.cpus,
        compile=resources.compile,
    )
    found: dict[str, tuple[TrialConfig, MeasuredEpoch]] = {}
    for config in plan.trials:
        trainable = find_trainable(config.kind)
        group = trainable.epoch_work(config).group
        if group in found or group in known:
            continue
        trainable.check_data([config], run.data_dir)
        epoch = trainable.measure_epoch(config, run, _SECONDS)
        if epoch is not None:
            found[group] = (config, epoch)
    return MeasuredPace(found)


@dataclass(frozen=True)
class RemainingWork:
    """The epochs left in all of `trials` trials whose epochs cost the same."""

    config: TrialConfig
    epochs: int
    trials: int = 1


@dataclass(frozen=True)
class Forecast:
    """Seconds of one device, and their basis; `seconds` is None where they are unknown."""

    seconds: float | None
    basis: str


def measured_rates(root: Path) -> Pace:
    """Return the measured speed of the readable sweeps of a store; the median over sweeps."""
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


_SAMPLE = 20  # trials of a sweep whose wall time is read


def _wall_times(store: SweepStore, configs: Mapping[str, TrialConfig]) -> dict[str, float]:
    """Return the wall seconds of some trials that completed in one attempt."""
    found: dict[str, float] = {}
    for trial_id in configs:
        info = store.trial(trial_id).info()
        if info is not None and info.state == "completed" and len(info.attempts) == 1:
            started, ended = info.attempts[0].started_at, info.attempts[0].ended_at
            found[trial_id] = (
                datetime.fromisoformat(ended) - datetime.fromisoformat(started)
            ).total_seconds()
        if len(found) == _SAMPLE:
            break
    return found


def rates_of(
    table: pa.Table, trainable: Trainable, configs: Mapping[str, TrialConfig], share: float = 0.5
) -> dict[str, float]:
    """Return units of work per second of an epoch, by group, from the records of these trials.

    Args:
        share: the quantile: the fraction of epochs that were slower; 0.5 is the median.
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
    """Return the median seconds of a trial outside its epochs, by group.

    Args:
        walls: seconds from the start of an attempt to its end, by trial; for trials with all their records.
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


def forecast(todo: Sequence[RemainingWork], pace: Pace, measured: MeasuredPace | None = None) -> Forecast:
    """Return the device-seconds that the remaining work takes.

    Args:
        measured: of groups that the store does not know.
    """
    seconds, rough, fresh = 0.0, False, False
    for left in todo:
        work = find_trainable(left.config.kind).epoch_work(left.config)
        epoch = None if measured is None else measured.seconds_of(left.config)
        if epoch is not None:
            seconds += epoch * left.epochs
            fresh = True
            continue
        rate = pace.rates.get(work.group)
        if rate is None:
            rate = work.rough_rate
            rough = True
        if work.units is None or rate is None:
            hint = "run one trial with --limit 1"
            if measured is None and find_trainable(left.config.kind).can_measure:
                hint += ", or time a few steps with `sweep plan --measure`"
            return Forecast(None, f"no record of {work.subject} yet; {hint}")
        seconds += work.units * left.epochs / rate + pace.extras.get(work.group, 0.0) * left.trials
    if not todo:
        return Forecast(0.0, "nothing is left")
    if measured is not None and fresh:
        more = "; the rest from this store's own records" if pace.rates else ""
        return Forecast(seconds, f"{measured.basis}{more}")
    if rough:
        return Forecast(
            seconds,
            "rough, from one core of a server CPU: this store has no such trial yet; --measure times a few steps",
        )
    return Forecast(seconds, "from this store's own records")


def _medians(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {kind: median(of_kind) for kind, of_kind in values.items()}


def _seconds(table: pa.Table, trainable: Trainable) -> pa.ChunkedArray:
    """Return the seconds of each record."""
    first, *others = trainable.second_metrics
    return reduce(pc.add, (table[name] for name in others), table[first])
