"""What a plan will cost: device-hours from what the store has measured, or from a rough rate.

A trial takes its epochs, each its training and its validation, and what comes on top once: building it, first
steps, files, test images. Epochs scale with the multiply-adds of a forward pass within one architecture, so one
measured patch size or width tells of the others; across architectures they do not, so each has its own pace.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import UserError
from mixsweep.core.store import arrow
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.plan import read_plan

# Train images of the split; a registered set is unknown before it is loaded.
_TRAIN_IMAGES = {"cifar10": 45_000, "digits": 1_137}

# Forward multiply-adds a second of training on one core of an AVX2 server CPU, fp32 (docs/log.md).
ROUGH_RATES = {"mlp": 1.0e10, "resnet18": 1.0e10, "mixer": 1.0e10}


@dataclass(frozen=True)
class Pace:
    """What trials have taken, by architecture.

    Args:
        rates: multiply-adds of training for each second of an epoch.
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


def forward_macs(config: TrialConfig) -> float | None:
    """Multiply-adds of one image's forward pass; None for a registered model."""
    if config.model == "mlp":
        widths = [3 * 32 * 32, *config.hidden, 10]
        return float(sum(a * b for a, b in pairwise(widths)))
    if config.model == "mixer":
        patches = (32 // config.patch_size) ** 2
        dim = config.embed_dim
        embedding = patches * dim * 3 * config.patch_size**2
        tokens = 2 * dim * patches * int(config.token_ratio * dim)
        channels = 2 * patches * dim * int(config.channel_ratio * dim)
        return float(embedding + config.blocks * (tokens + channels) + 10 * dim)
    if config.model == "resnet18":
        macs = 3 * 9 * 64 * 32 * 32
        inside, side = 64, 32
        for stage, width in enumerate((64, 128, 256, 512)):
            side //= 2 if stage else 1
            macs += side**2 * 9 * width * (inside + 3 * width)
            macs += side**2 * inside * width if stage else 0
            inside = width
        return float(macs + 512 * 10)
    return None


def epoch_macs(config: TrialConfig) -> float | None:
    """Forward multiply-adds of one epoch of training."""
    macs = forward_macs(config)
    images = _TRAIN_IMAGES.get(config.dataset)
    if macs is None or images is None:
        return None
    return macs * min(images, config.train_limit or images)


def measured_rates(root: Path) -> Pace:
    """The pace of every sweep under a store that can be read; of several sweeps, the middle one."""
    rates: dict[str, list[float]] = {}
    extras: dict[str, list[float]] = {}
    for path in sorted(root.glob("*/sweep.toml")):
        store = SweepStore(path.parent)
        with suppress(OSError, UserError, pa.ArrowInvalid, KeyError, TypeError):
            configs = {row.trial_id: row.config for row in read_plan(store)}
            table = store.records(PACE_COLUMNS)
            for kind, rate in rates_of(table, configs).items():
                rates.setdefault(kind, []).append(rate)
            for kind, extra in extras_of(table, configs, _wall_times(store, configs)).items():
                extras.setdefault(kind, []).append(extra)
    return Pace(_medians(rates), _medians(extras))


PACE_COLUMNS = ("trial_id", "train_seconds", "valid_seconds")
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


def rates_of(table: pa.Table, configs: Mapping[str, TrialConfig], share: float = 0.5) -> dict[str, float]:
    """Multiply-adds of training for each second of an epoch, by architecture, from the records of these trials.

    Args:
        share: of the epochs that were slower; 0.5 is the median.
    """
    rates: dict[str, list[float]] = {}
    work = {trial_id: epoch_macs(config) for trial_id, config in configs.items()}
    taken = pc.add(table["train_seconds"], table["valid_seconds"])
    for trial_id, seconds in zip(table["trial_id"].to_pylist(), taken.to_pylist()):
        macs = work.get(trial_id)
        if macs:
            rates.setdefault(_kind(configs[trial_id]), []).append(macs / seconds)
    if share == 0.5:
        return _medians(rates)
    return {kind: sorted(values)[int(share * (len(values) - 1))] for kind, values in rates.items()}


def extras_of(
    table: pa.Table, configs: Mapping[str, TrialConfig], walls: Mapping[str, float]
) -> dict[str, float]:
    """Seconds that a trial took beside its epochs, by architecture: the median.

    Args:
        walls: by trial, its seconds from its attempt's start to its end; of trials whose records are all there.
    """
    ids = [trial_id for trial_id in walls if trial_id in configs]
    trials = arrow.dictionary_codes(
        table["trial_id"], {trial_id: n for n, trial_id in enumerate(ids)}, len(ids)
    )
    taken = arrow.numbers(pc.add(table["train_seconds"], table["valid_seconds"]))
    epochs = np.bincount(trials, taken, minlength=len(ids))
    extras: dict[str, list[float]] = {}
    for trial_id, seconds in zip(ids, epochs.tolist()):
        extras.setdefault(_kind(configs[trial_id]), []).append(max(0.0, walls[trial_id] - seconds))
    return _medians(extras)


def forecast(todo: Sequence[RemainingWork], pace: Pace) -> Forecast:
    """Device-seconds for what is left."""
    seconds, rough = 0.0, False
    for left in todo:
        kind = _kind(left.config)
        work = epoch_macs(left.config)
        rate = pace.rates.get(kind)
        if rate is None:
            rate = ROUGH_RATES.get(left.config.model)
            rough = True
        if work is None or rate is None:
            model = left.config.model
            return Forecast(None, f"no record of model {model!r} yet; run one trial with --limit 1")
        seconds += work * left.epochs / rate + pace.extras.get(kind, 0.0) * left.trials
    if not todo:
        return Forecast(0.0, "nothing is left")
    if rough:
        return Forecast(seconds, "rough, from one core of a server CPU: this store has no such trial yet")
    return Forecast(seconds, "from this store's own records")


def _medians(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {kind: median(of_kind) for kind, of_kind in values.items()}


def _kind(config: TrialConfig) -> str:
    return f"{config.model}/{config.precision}" if config.precision != "fp32" else config.model
