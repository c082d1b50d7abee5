"""What a plan will cost: device-hours from what the store has measured, or from a rough rate.

An epoch is its training and its validation. What else a trial takes, from the start of its process to its test
images, comes on top.

Times scale with the multiply-adds of a forward pass within one architecture, so one measured patch size or
width tells of the others; across architectures they do not, so each has its own rate.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.compute as pc

from core.config import TrialConfig, UserError
from core.store import SweepStore
from sweep.plan import read_plan

# Train images of the split; a registered set is unknown before it is loaded.
_TRAIN_IMAGES = {"cifar10": 45_000, "digits": 1_137}

# Forward multiply-adds a second of training on one core of an AVX2 server CPU, fp32 (docs/log.md).
ROUGH_RATES = {"mlp": 1.0e10, "resnet18": 1.0e10, "mixer": 1.0e10}


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


def measured_rates(root: Path) -> dict[str, float]:
    """Multiply-adds a second by architecture, over every sweep under a store that can be read."""
    rates: dict[str, list[float]] = {}
    for path in sorted(root.glob("*/sweep.toml")):
        store = SweepStore(path.parent)
        with suppress(OSError, UserError, pa.ArrowInvalid, KeyError, TypeError):
            configs = {row.trial_id: row.config for row in read_plan(store)}
            for kind, rate in rates_of(store.records(RATE_COLUMNS), configs).items():
                rates.setdefault(kind, []).append(rate)
    return {kind: median(values) for kind, values in rates.items()}


RATE_COLUMNS = ("trial_id", "train_seconds", "valid_seconds")


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
        return {kind: median(values) for kind, values in rates.items()}
    return {kind: sorted(values)[int(share * (len(values) - 1))] for kind, values in rates.items()}


def forecast(todo: Sequence[tuple[TrialConfig, int]], measured: Mapping[str, float]) -> Forecast:
    """Device-seconds for trials with so many epochs left each."""
    seconds, rough = 0.0, False
    for config, epochs in todo:
        work = epoch_macs(config)
        rate = measured.get(_kind(config))
        if rate is None:
            rate = ROUGH_RATES.get(config.model)
            rough = True
        if work is None or rate is None:
            return Forecast(None, f"no record of model {config.model!r} yet; run one trial with --limit 1")
        seconds += work * epochs / rate
    if not todo:
        return Forecast(0.0, "nothing is left")
    if rough:
        return Forecast(seconds, "rough, from one core of a server CPU: this store has no such trial yet")
    return Forecast(seconds, "from this store's own records")


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _kind(config: TrialConfig) -> str:
    return f"{config.model}/{config.precision}" if config.precision != "fp32" else config.model
