"""The cost of the built-in image trainer's trials, computed from their configs: multiply-adds and parameters."""

import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from typing import Any

from mixsweep.core import registry
from mixsweep.core.config import canonical_json
from mixsweep.core.extras import is_installed
from mixsweep.core.trainables.image.config import ACTIVATIONS, FIELDS, ImageConfig
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
    """Multiply-adds of one image's forward pass; None for a registered model, or images of unknown form."""
    form = registry.form_of(config.dataset)
    if form is None:
        return None
    channels, height, width = form.shape
    classes = form.classes or 10
    if config.model == "mlp":
        widths = [channels * height * width, *config.hidden, classes]
        return float(sum(a * b for a, b in pairwise(widths)))
    if config.model == "mixer":
        patches = (height // config.patch_size) * (width // config.patch_size)
        dim = config.embed_dim
        embedding = patches * dim * channels * config.patch_size**2
        tokens = 2 * dim * patches * int(config.token_ratio * dim)
        mixing = 2 * patches * dim * int(config.channel_ratio * dim)
        return float(embedding + config.blocks * (tokens + mixing) + classes * dim)
    if config.model == "resnet18":
        pixels = height * width
        macs = channels * 9 * 64 * pixels
        inside = 64
        for stage, outside in enumerate((64, 128, 256, 512)):
            if stage:
                height, width = -(-height // 2), -(-width // 2)
                pixels = height * width
            macs += pixels * 9 * outside * (inside + 3 * outside)
            macs += pixels * inside * outside if stage else 0
            inside = outside
        return float(macs + 512 * classes)
    return None


def dataset_with_patches(patch_size: Any) -> str:
    """A data set whose images can be cut into patches of this size; the default one if there is none."""
    for dataset in registry.names("dataset"):
        form = registry.form_of(dataset)
        is_size = isinstance(patch_size, int) and patch_size > 0
        if form and is_size and not form.shape[1] % patch_size and not form.shape[2] % patch_size:
            return dataset
    return "cifar10"


def epoch_macs(config: ImageConfig) -> float | None:
    """Forward multiply-adds of one epoch of training."""
    macs = forward_macs(config)
    images = _TRAIN_IMAGES.get(config.dataset)
    if macs is None or images is None:
        return None
    return macs * min(images, config.train_limit or images)


def epoch_work(config: ImageConfig) -> EpochWork:
    """The multiply-adds of an epoch; trials of one architecture and precision have the same rate.

    Where these are not known, because the user registered the model or the data set, epochs are counted.
    """
    group = config.model if config.precision == "fp32" else f"{config.model}/{config.precision}"
    macs = epoch_macs(config)
    if macs is None:
        subject = f"model {config.model!r} on {config.dataset!r}"
        return EpochWork(group=f"{group} on {config.dataset}", units=1.0, rough_rate=None, subject=subject)
    return EpochWork(
        group=group, units=macs, rough_rate=ROUGH_RATES.get(config.model), subject=f"model {config.model!r}"
    )


def count_parameters(values: Mapping[str, Any], config_class: type[ImageConfig] = ImageConfig) -> float:
    """Trainable parameters of a trial's model; NaN if the model is not registered here or PyTorch not installed."""
    names = (*_MODEL_FIELDS, *(spec.name for spec in config_class.own))
    return _count_parameters(
        canonical_json({name: values[name] for name in names}), config_class.from_mapping
    )


@cache
def _count_parameters(values: str, make: Callable[[Mapping[str, Any]], ImageConfig]) -> float:
    try:
        config = make(json.loads(values))
        form = registry.form_of(config.dataset)
        if form is None or form.classes is None:
            return math.nan
        known = built_in_parameters(config, form.shape, form.classes)
        return _parameters_of_model(config, form.shape, form.classes) if known is None else float(known)
    except Exception:  # a registered builder's own error, or its file was not imported here
        return math.nan


def built_in_parameters(config: ImageConfig, shape: registry.Shape, classes: int) -> int | None:
    """Trainable parameters of a built-in architecture with a built-in activation; None for another one.

    Needs no PyTorch, whose import takes seconds and some 400 MiB.
    """
    channels, height, width = shape
    if config.activation not in ACTIVATIONS or registry.registered("model", config.model) is not None:
        return None
    if config.model == "mlp":
        widths = [channels * height * width, *config.hidden, classes]
        return sum((a + 1) * b for a, b in pairwise(widths))
    if config.model == "resnet18":
        count, inside = (channels * 9 + 2) * 64, 64
        for outside in (64, 128, 256, 512):
            count += (inside * 9 + 2) * outside + 3 * (outside * 9 + 2) * outside
            count += (inside + 2) * outside if inside != outside else 0
            inside = outside
        return count + (inside + 1) * classes
    if config.model == "mixer" and not (height % config.patch_size or width % config.patch_size):
        patches, dim = (height // config.patch_size) * (width // config.patch_size), config.embed_dim
        tokens, wide = int(config.token_ratio * dim), int(config.channel_ratio * dim)
        block = 4 * dim + 2 * patches * tokens + tokens + patches + 2 * dim * wide + wide + dim
        count = (channels * config.patch_size**2 + 1) * dim + config.blocks * block
        return count + 2 * dim + (dim + 1) * classes if tokens and wide else None
    return None


def _parameters_of_model(config: ImageConfig, shape: registry.Shape, classes: int) -> float:
    """The parameters of any other model, counted; NaN where PyTorch is not installed."""
    if not is_installed("train"):
        return math.nan
    import torch

    from mixsweep.core.models import build

    with torch.device("meta"):  # no memory is allocated
        return float(build.count_parameters(build.build_model(config, classes, shape)))
