"""The time of an epoch of the built-in image trainer, measured over a few steps on the machine at hand."""

import time
from statistics import median

from mixsweep.core.data.datasets import Images, split_indices
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.core.trainables.interface import MeasuredEpoch, Run
from mixsweep.core.training import device as devices
from mixsweep.core.training.trainer import Trial

_STEPS = 4  # of a measurement; the first one warms up, and does not count
_VALID_IMAGES = 500
_MOST = 8  # measurements


def measure_epoch(config: ImageConfig, images: Images, run: Run, seconds: float) -> MeasuredEpoch:
    """Train some steps of a trial, again and again for about so many seconds; nothing is stored."""
    devices.prepare_process(run.threads)
    train, valid = split_indices(config, images)
    steps = max(1, min(_STEPS, len(train) // config.batch_size))
    few = config.with_values(
        train_limit=steps * config.batch_size,
        valid_limit=min(_VALID_IMAGES, len(valid)),
        schedule="constant",
        epochs=_MOST + 1,
    )
    trial = Trial(few, images, run.device, accumulate=run.accumulate, compile=run.compile)
    found: list[float] = []
    end = time.monotonic() + seconds
    for record in trial.train():
        train_seconds = record["train_seconds"] / steps * (len(train) // config.batch_size)
        valid_seconds = record["valid_seconds"] / few["valid_limit"] * len(valid)
        found.append(train_seconds + valid_seconds)
        if time.monotonic() > end and len(found) > 1:
            break
    found = found[1:] or found  # one that diverges has no second record
    middle = median(found)
    spread = (max(found) - min(found)) / middle if len(found) > 1 else None
    return MeasuredEpoch(middle, spread, devices.device_name(run.device))
