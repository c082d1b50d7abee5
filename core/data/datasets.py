"""Images in memory, their split, and the order in which a trial sees them."""

import hashlib
import importlib.util
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixsweep.core.data.cifar10 import ARRAYS, cached_arrays, source_files
from mixsweep.core.errors import ConfigError
from mixsweep.core.failures import DataError
from mixsweep.core.registry import BUILT_IN, Shape, form_of, registered
from mixsweep.core.trainables.image.config import ImageConfig

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR10_MEAN = (0.49139968, 0.48215841, 0.44653091)
CIFAR10_STD = (0.24703223, 0.24348513, 0.26158784)

_SPLIT_SEED = 42

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Images:
    """A data set. Images are uint8 [count, channels, height, width], labels int64 [count] in 0 … classes − 1.

    `mean` and `std` are those of the train images' pixels per channel, as fractions of 255. `valid_count` of
    the train images are used for validation; None: a tenth. A data set that comes with images for validation has
    them in `valid_images`, and all train images are trained on.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()
    valid_count: int | None = None
    valid_images: Tensor | None = None
    valid_labels: Tensor | None = None

    @property
    def shape(self) -> Shape:
        """Channels, height and width of an image."""
        _, channels, height, width = self.train_images.shape
        return channels, height, width

    def to(self, device: torch.device) -> "Images":
        """The same images on another device."""
        names = ARRAYS if self.valid_images is None else (*ARRAYS, "valid_images", "valid_labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def load_images(dataset: str, data_dir: Path | None, own: Mapping[str, Any] = MappingProxyType({})) -> Images:
    """Load and check `cifar10`, `digits` or a registered data set.

    Args:
        data_dir: the data folder on this machine; `digits` needs none.
        own: the values of fields that a registered data set brought.

    Raises:
        DataError: the images cannot be loaded, or do not have the form that Images requires.
    """
    load = registered("dataset", dataset)
    _log.debug("loading %s, data folder %s", dataset, data_dir)
    if load is not None:
        images = load(data_dir, **own)
    elif dataset == "cifar10":
        images = _load_cifar10(data_dir)
    elif dataset == "digits":
        images = _load_digits()
    else:
        raise DataError(f"data set {dataset!r} is neither built in nor registered; see `imports`")
    _check(dataset, images)
    return images


def split_indices(config: ImageConfig, images: Images) -> tuple[Tensor, Tensor]:
    """Indices of the train images into the train part, and of the valid images, int64.

    The latter are into the data set's own valid images if it has them, and else into the train part, too.

    The split is the same for all trials and seeds, so that replicas are paired. `clean`: one permutation, split in two.
    `leaky`: the valid images come from a second one, so that most are also trained on.
    """
    count = len(images.train_labels)
    if images.valid_labels is not None:
        if config.split == "leaky":
            raise ConfigError(f"split = 'leaky': {config.dataset} has valid images of its own", "split")
        first = torch.randperm(count, generator=stream_generator(_SPLIT_SEED, 0, "split"))
        valid = torch.randperm(len(images.valid_labels), generator=stream_generator(_SPLIT_SEED, 0, "valid"))
        return first[: config.train_limit], valid[: config.valid_limit]
    valid_count = count // 10 if images.valid_count is None else images.valid_count
    train_count = count - valid_count
    if min(train_count, valid_count) < 1:
        raise DataError(f"{config.dataset}: {count} train images are too few to set {valid_count} aside")
    first = torch.randperm(count, generator=stream_generator(_SPLIT_SEED, 0, "split"))
    second = first
    if config.split == "leaky":
        second = torch.randperm(count, generator=stream_generator(_SPLIT_SEED, 0, "leaky split"))
    return first[:train_count][: config.train_limit], second[train_count:][: config.valid_limit]


def epoch_order(config: ImageConfig, epoch: int, count: int) -> Tensor:
    """The order of `count` train images in an epoch of a trial, int64."""
    return torch.randperm(count, generator=stream_generator(config.seed, epoch, "order"))


def stream_seed(seed: int, epoch: int, purpose: str) -> int:
    """A seed in 0 … 2³² − 1 for one purpose in one epoch, independent of the seeds for other purposes."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "little")  # torch's CPU generator takes no more than 32 bits


def stream_generator(seed: int, epoch: int, purpose: str) -> torch.Generator:
    """A CPU generator seeded by stream_seed."""
    return torch.Generator().manual_seed(stream_seed(seed, epoch, purpose))


def download_cifar10(data_dir: Path | str) -> None:
    """Download the official CIFAR-10 archive (170 MB), verify and unpack it."""
    from torchvision.datasets import CIFAR10

    CIFAR10(data_dir, download=True)


def _load_digits() -> Images:
    """scikit-learn's 1,797 handwritten digits, 8×8 of 0 … 16, resized bilinearly to 32×32, in three channels.

    A fixed permutation holds out 360 for testing; of the other 1,437, 300 are for validation.
    """
    table = torch.from_numpy(_read_digits())
    labels = table[:, -1].long()
    small = table[:, :-1].float().view(-1, 1, 8, 8) * (255 / 16)
    large = torch.nn.functional.interpolate(small, size=32, mode="bilinear").round().to(torch.uint8)
    images = large.expand(-1, 3, -1, -1).contiguous()
    order = torch.randperm(len(labels), generator=stream_generator(_SPLIT_SEED, 0, "digits test"))
    test, train = order[:360], order[360:]
    # Sums of integers, so that the constants have the same bits everywhere.
    pixels = large[train].long()
    mean = pixels.sum().item() / pixels.numel()
    std = math.sqrt(pixels.square().sum().item() / pixels.numel() - mean**2)
    names = tuple(str(digit) for digit in range(10))
    return Images(
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        classes=10,
        mean=(mean / 255,) * 3,
        std=(std / 255,) * 3,
        class_names=names,
        valid_count=300,
    )


def _read_digits() -> np.ndarray:
    """The digits, float64 [1797, 65]: the pixels of an image in a row, and its label.

    They are read from scikit-learn's file, since importing scikit-learn takes longer than training on them.
    """
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])


def _load_cifar10(data_dir: Path | None) -> Images:
    arrays = cached_arrays(source_files(data_dir))
    train_images, train_labels, test_images, test_labels = map(torch.from_numpy, arrays)
    return Images(
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=len(CIFAR10_CLASSES),
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
        class_names=CIFAR10_CLASSES,
    )


def _check(dataset: str, images: Images) -> None:
    """Raise DataError if a data set does not have the form that Images requires."""
    if not isinstance(images, Images):
        raise DataError(
            f"{dataset}: its loader returned a {type(images).__name__}, not core.data.datasets.Images"
        )
    form = form_of(dataset)
    shape = images.train_images.shape[1:] if form is None else form.shape
    has_valid = images.valid_images is not None or images.valid_labels is not None
    for part in ("train", "valid", "test") if has_valid else ("train", "test"):
        pixels, labels = getattr(images, f"{part}_images"), getattr(images, f"{part}_labels")
        if not isinstance(pixels, Tensor) or not isinstance(labels, Tensor):
            raise DataError(f"{dataset}: {part}_images and {part}_labels are not both torch tensors")
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or tuple(pixels.shape[1:]) != tuple(shape):
            found = f"{pixels.dtype} {list(pixels.shape)}"
            wanted = f"torch.uint8 [count, {', '.join(map(str, shape))}]"
            more = "" if dataset in BUILT_IN["dataset"] else "; register_dataset(…, shape=…) says which"
            raise DataError(f"{dataset}: {part}_images are {found}, not {wanted}{more}")
        if labels.dtype != torch.int64 or tuple(labels.shape) != (len(pixels),):
            found = f"{labels.dtype} {list(labels.shape)}"
            raise DataError(f"{dataset}: {part}_labels are {found}, not torch.int64 [{len(pixels)}]")
        if len(labels) == 0:
            raise DataError(f"{dataset}: its {part} part is empty")
        low, high = (int(bound) for bound in labels.aminmax())
        if low < 0 or high >= images.classes:
            raise DataError(
                f"{dataset}: {part}_labels run from {low} to {high}, outside 0 … {images.classes - 1}"
            )
    if form is not None and form.classes not in (None, images.classes):
        raise DataError(f"{dataset}: {images.classes} classes, but it is registered with {form.classes}")
    channels = shape[0]
    if len(images.mean) != channels or len(images.std) != channels or min(images.std) <= 0:
        raise DataError(
            f"{dataset}: mean {images.mean} and std {images.std} are not {channels} numbers each, std above 0"
        )
