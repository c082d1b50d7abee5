"""The cost of the built-in image trainer's trials, computed from their configs: multiply-adds and parameters."""

import json
import math
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any

from mixsweep.core.config import canonical_json
from mixsweep.core.extras import is_installed
from mixsweep.core.trainables.image_config import FIELDS, ImageConfig
from mixsweep.core.trainables.interface import EpochWork

# Train images of the split; a registered set is unknown before it is loaded.
_TRAIN_IMAGES = {"cifar10": 45_000, "digits": 1_137}

# Forward multiply-adds a second of training on one core of an AVX2 server CPU, fp32 (docs/log.md).
ROUGH_RATES = {"mlp": 1.0e10, "resnet18": 1.0e10, "mixer": 1.0e10}

# The fields that the multiply-adds of an epoch depend on.
WORK_FIELDS = (
    "model", "dataset", "precision", "hidden", "patch_size", "embed_dim", "blocks", "token_ratio",
    "channel_ratio", "train_limit",
)  # fmt: skip

# The fields that a model's shapes depend on.
_MODEL_FIELDS = tuple(
    spec.name for spec in FIELDS if spec.name in ("model", "dataset", "activation") or "model" in spec.applies
)


def forward_macs(config: ImageConfig) -> float | None:
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


def epoch_macs(config: ImageConfig) -> float | None:
    """Forward multiply-adds of one epoch of training."""
    macs = forward_macs(config)
    images = _TRAIN_IMAGES.get(config.dataset)
    if macs is None or images is None:
        return None
    return macs * min(images, config.train_limit or images)


def epoch_work(config: ImageConfig) -> EpochWork:
    """The multiply-adds of an epoch; trials of one architecture and precision have the same rate."""
    return EpochWork(
        group=config.model if config.precision == "fp32" else f"{config.model}/{config.precision}",
        units=epoch_macs(config),
        rough_rate=ROUGH_RATES.get(config.model),
        subject=f"model {config.model!r}",
    )


def count_parameters(values: Mapping[str, Any]) -> float:
    """Trainable parameters of a trial's model; NaN if the model is not registered here or PyTorch not installed."""
    return _count_parameters(canonical_json({name: values[name] for name in _MODEL_FIELDS}))


@cache
def _count_parameters(values: str) -> float:
    if not is_installed("train"):
        return math.nan
    import torch  # takes seconds to import, and only this function needs it

    from mixsweep.core.models import build

    try:
        config = ImageConfig.from_mapping(json.loads(values))
        with torch.device("meta"):  # no memory is allocated: counting a ResNet takes milliseconds
            return float(build.count_parameters(build.build_model(config, classes=10)))
    except Exception:  # a registered builder's own error, or its file was not imported here
        return math.nan
