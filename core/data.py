"""Images in memory, their split, and the order in which a trial sees them.

A data set is decoded once a machine into memory-mapped arrays that all its processes share.
"""

import hashlib
import io
import json
import math
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor

from core.config import TrialConfig
from core.failures import DataError
from core.registry import registered_dataset

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR10_MEAN = (0.49139968, 0.48215841, 0.44653091)
CIFAR10_STD = (0.24703223, 0.24348513, 0.26158784)

_BATCHES = "cifar-10-batches-py"  # the folder that the official archive unpacks to
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
_CACHE_FORMAT = "1"  # part of each cache's name; a new one where the arrays' meaning changes
_SPLIT_SEED = 42


@dataclass(frozen=True)
class Images:
    """A data set. Images are uint8 [count, 3, 32, 32], labels int64 [count] in 0 … classes − 1.

    `mean` and `std` are those of the train images' pixels by channel, as fractions of 255. `valid_count` of
    the train images are set aside for validation; None: a tenth.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    class_names: tuple[str, ...] = ()
    valid_count: int | None = None

    def to(self, device: torch.device) -> "Images":
        """The same images on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _ARRAYS})


def load_images(dataset: str, data_dir: Path | None) -> Images:
    """Load `cifar10`, `digits` or a registered data set, checked.

    Args:
        data_dir: where the data lies on this machine; `digits` needs none.

    Raises:
        DataError: the images cannot be had, or are not what Images says.
    """
    load = registered_dataset(dataset)
    if load is not None:
        images = load(data_dir)
    elif dataset == "cifar10":
        images = _load_cifar10(data_dir)
    elif dataset == "digits":
        images = _load_digits()
    else:
        raise DataError(f"data set {dataset!r} is neither built in nor registered; see `imports`")
    _check(dataset, images)
    return images


def split_indices(config: TrialConfig, images: Images) -> tuple[Tensor, Tensor]:
    """Indices of the train and the valid images into the train part, int64.

    The split is the same for all trials and seeds, so that replicas are paired. `clean`: one permutation,
    cut in two. `leaky`: the valid images come from a second one, so that most are also trained on.
    """
    count = len(images.train_labels)
    valid_count = count // 10 if images.valid_count is None else images.valid_count
    train_count = count - valid_count
    if min(train_count, valid_count) < 1:
        raise DataError(f"{config.dataset}: {count} train images are too few to set {valid_count} aside")
    first = torch.randperm(count, generator=stream_generator(_SPLIT_SEED, 0, "split"))
    second = first
    if config.split == "leaky":
        second = torch.randperm(count, generator=stream_generator(_SPLIT_SEED, 0, "leaky split"))
    return first[:train_count][: config.train_limit], second[train_count:][: config.valid_limit]


def epoch_order(config: TrialConfig, epoch: int, count: int) -> Tensor:
    """The permutation of `count` train images in which a trial sees them in an epoch, int64."""
    return torch.randperm(count, generator=stream_generator(config.seed, epoch, "order"))


def stream_seed(seed: int, epoch: int, purpose: str) -> int:
    """A seed in 0 … 2³² − 1 for one purpose in one epoch; those of other purposes are independent of it."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "little")  # torch's CPU generator takes no more than 32 bits


def stream_generator(seed: int, epoch: int, purpose: str) -> torch.Generator:
    """A CPU generator seeded by stream_seed."""
    return torch.Generator().manual_seed(stream_seed(seed, epoch, purpose))


def download(data_dir: Path | str) -> None:
    """Fetch the official CIFAR-10 archive (170 MB), verify and unpack it."""
    from torchvision.datasets import CIFAR10

    CIFAR10(data_dir, download=True)


def _load_digits() -> Images:
    """scikit-learn's 1,797 handwritten digits, 8×8 of 0 … 16, resized bilinearly to 32×32, in three channels.

    360 are held out for testing by a fixed permutation; of the other 1,437, 300 validate.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    large = torch.nn.functional.interpolate(small, size=32, mode="bilinear").round().to(torch.uint8)
    images = large.expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(labels), generator=stream_generator(_SPLIT_SEED, 0, "digits test"))
    test, train = order[:360], order[360:]
    # Sums of integers, so that the constants are the same bits everywhere.
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


def _load_cifar10(data_dir: Path | None) -> Images:
    if data_dir is None:
        raise DataError("cifar10: no data folder given; give --data DIR or set SWEEP_DATA")
    files = _source_files(data_dir.expanduser().absolute())
    train_images, train_labels, test_images, test_labels = map(torch.from_numpy, _cached_arrays(files))
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


def _source_files(data_dir: Path) -> list[Path]:
    """The files of the layout that a folder has: six batches of the official archive, or Parquet shards."""
    if not data_dir.is_dir():
        raise DataError(f"cifar10: {data_dir} is not a folder; give another by --data DIR or SWEEP_DATA")
    for folder in (data_dir, data_dir / _BATCHES):
        if folder.name == _BATCHES and folder.is_dir():
            return sorted([*folder.glob("data_batch_*"), *folder.glob("test_batch"), folder / "batches.meta"])
    for folder in (data_dir, *sorted(path for path in data_dir.iterdir() if path.is_dir())):
        train, test = _shards(folder, "train"), _shards(folder, "test")
        if train and test:
            return [*train, *test]
    raise DataError(
        f"cifar10: {data_dir} holds neither {_BATCHES}/ nor that folder's files nor train-*.parquet and "
        "test-*.parquet (there or one folder deeper); to download it: "
        f"python -c 'from core.data import download; download(\"{data_dir}\")'"
    )


def _shards(folder: Path, part: str) -> list[Path]:
    """The Parquet shards of `train` or `test` in a folder, in order; none may be missing."""
    shards = sorted(folder.glob(f"{part}-*.parquet"))
    for shard in shards:
        numbered = re.fullmatch(rf"{part}-\d+-of-(\d+)\.parquet", shard.name)
        if numbered and int(numbered[1]) != len(shards):
            raise DataError(
                f"cifar10: {folder} holds {len(shards)} of the {int(numbered[1])} {part} shards that "
                f"{shard.name} speaks of; copy the missing ones"
            )
    return shards


def _decode(files: Sequence[Path]) -> tuple[np.ndarray, ...]:
    """The four arrays of _ARRAYS out of the source files."""
    if files[0].suffix != ".parquet":
        return _decode_batches(files[0].parent.parent)
    parts = []
    for part in ("train", "test"):
        decoded = [image for file in files if file.name.startswith(part) for image in _decode_shard(file)]
        if not decoded:
            raise DataError(f"cifar10: the {part} shards in {files[0].parent} hold no image")
        parts.append(np.stack([pixels for pixels, _ in decoded]))
        parts.append(np.array([label for _, label in decoded], dtype=np.int64))
    return tuple(parts)


def _decode_batches(root: Path) -> tuple[np.ndarray, ...]:
    from torchvision.datasets import CIFAR10

    parts = []
    for train in (True, False):
        try:
            # Compares the files' digests first, so that what is unpickled is the official 50,000 and 10,000.
            read = CIFAR10(root, train=train, download=False)
        except RuntimeError as error:
            raise DataError(
                f"cifar10: {root / _BATCHES} is incomplete or damaged (its digests are not the official "
                f"ones); remove it, then python -c 'from core.data import download; download(\"{root}\")'"
            ) from error
        parts.append(np.ascontiguousarray(read.data.transpose(0, 3, 1, 2)))
        parts.append(np.array(read.targets, dtype=np.int64))
    return tuple(parts)


def _decode_shard(file: Path) -> Iterator[tuple[np.ndarray, int]]:
    """The images uint8 [3, 32, 32] and labels of a Parquet shard, in order."""
    try:
        table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"cifar10: {file} is no readable Parquet file: {error}") from error
    column = next((name for name in ("img", "image") if name in table.column_names), None)
    if column is None or "label" not in table.column_names:
        raise DataError(
            f"cifar10: {file} has columns {', '.join(table.column_names)}; needed: img or image, and label"
        )
    for row, (image, label) in enumerate(zip(table[column].to_pylist(), table["label"].to_pylist())):
        try:
            pixels = np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("RGB"))
        except (OSError, TypeError, KeyError) as error:
            raise DataError(
                f"cifar10: {file}, row {row}: no decodable image in {column!r}: {error}"
            ) from error
        if pixels.shape != (32, 32, 3):
            raise DataError(f"cifar10: {file}, row {row}: image of {pixels.shape[:2]} pixels, not (32, 32)")
        if not isinstance(label, int) or not 0 <= label < len(CIFAR10_CLASSES):
            raise DataError(f"cifar10: {file}, row {row}: label {label!r}, not a class from 0 to 9")
        yield pixels.transpose(2, 0, 1), label


def _cached_arrays(files: Sequence[Path]) -> list[np.ndarray]:
    """The decoded files as memory-mapped arrays, in the order of _ARRAYS; decoded first where need be."""
    name = f"cifar10-{_fingerprint(files)}"
    for cache in _cache_folders():
        arrays = _open_arrays(cache / name)  # even where nothing can be written
        if arrays is not None:
            return arrays
    folder = _writable_cache_folder() / name
    with FileLock(folder.with_name(f"{name}.lock")):
        arrays = _open_arrays(folder)  # another process may have made it meanwhile
        if arrays is None:
            _write_arrays(folder, _decode(files))
            arrays = _open_arrays(folder)
    if arrays is None:
        raise DataError(f"cifar10: the cache {folder} cannot be read back; set SWEEP_CACHE to another folder")
    return arrays


def _cache_folders() -> tuple[Path, Path]:
    """$SWEEP_CACHE, else the user's cache folder, else one of this user's among the temporary files."""
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mixsweep"
    wanted = Path(os.environ["SWEEP_CACHE"]).expanduser() if os.environ.get("SWEEP_CACHE") else user_cache
    owner = os.getuid() if hasattr(os, "getuid") else "user"
    fallback = Path(tempfile.gettempdir()) / f"mixsweep-{owner}"
    return wanted, fallback


def _writable_cache_folder() -> Path:
    folders = _cache_folders()
    for folder in folders:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    raise DataError(
        f"cifar10: neither {folders[0]} nor {folders[1]} can be written; set SWEEP_CACHE to a folder"
    )


def _fingerprint(files: Sequence[Path]) -> str:
    """16 hex digits that change when a source file does: its name, size or time."""
    try:
        facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    except FileNotFoundError as error:
        raise DataError(
            f"cifar10: {error.filename} is missing; unpack or download the archive anew"
        ) from error
    return hashlib.sha256(json.dumps([_CACHE_FORMAT, facts]).encode()).hexdigest()[:16]


def _write_arrays(folder: Path, arrays: Sequence[np.ndarray]) -> None:
    """Make a cache folder appear whole, in place of a damaged one."""
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        beside.mkdir()
        for name, array in zip(_ARRAYS, arrays):
            np.save(beside / f"{name}.npy", array)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _open_arrays(folder: Path) -> list[np.ndarray] | None:
    """The arrays of a cache folder, or None where it is missing, cut short or damaged."""
    try:
        # Copy on write: processes share the pages, and torch takes the array without a warning.
        return [np.load(folder / f"{name}.npy", mmap_mode="c") for name in _ARRAYS]
    except (OSError, ValueError, EOFError):
        return None


def _check(dataset: str, images: Images) -> None:
    """Raise DataError where a data set is not what Images says."""
    if not isinstance(images, Images):
        raise DataError(f"{dataset}: its loader returned a {type(images).__name__}, not core.data.Images")
    for part in ("train", "test"):
        pixels, labels = getattr(images, f"{part}_images"), getattr(images, f"{part}_labels")
        if not isinstance(pixels, Tensor) or not isinstance(labels, Tensor):
            raise DataError(f"{dataset}: {part}_images and {part}_labels are not both torch tensors")
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, 32, 32):
            found = f"{pixels.dtype} {list(pixels.shape)}"
            raise DataError(f"{dataset}: {part}_images are {found}, not torch.uint8 [count, 3, 32, 32]")
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
    if len(images.mean) != 3 or len(images.std) != 3 or min(images.std) <= 0:
        raise DataError(
            f"{dataset}: mean {images.mean} and std {images.std} are not three numbers each, std above 0"
        )
