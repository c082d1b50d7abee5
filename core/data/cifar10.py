"""CIFAR-10 on this machine: its files, and their decoded images in a memory-mapped cache.

Images are decoded once per machine into arrays that all its processes share. Needs no torch: a driver checks a data
folder before it starts anything.
"""

import hashlib
import io
import json
import logging
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from mixsweep.core.failures import DataError

_log = logging.getLogger(__name__)

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")

_CLASSES = 10
_BATCHES = "cifar-10-batches-py"  # the folder that the official archive unpacks to
_CACHE_FORMAT = "1"  # part of each cache's name; increase it when the meaning of the arrays changes


def source_files(data_dir: Path | None) -> list[Path]:
    """The source files in a folder: six batches of the official archive, or Parquet shards.

    Raises:
        DataError: there is no such folder, or no CIFAR-10 in it.
    """
    if data_dir is None:
        raise DataError("cifar10: no data folder given; give --data DIR or set SWEEP_DATA")
    data_dir = data_dir.expanduser().absolute()
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
        f"test-*.parquet (there or one folder deeper); to download it: {_how_to_download(data_dir)}"
    )


def _how_to_download(folder: Path) -> str:
    return f"python -c 'from mixsweep import download_cifar10; download_cifar10(\"{folder}\")'"


def _shards(folder: Path, part: str) -> list[Path]:
    """The Parquet shards of `train` or `test` in a folder, in order.

    Raises:
        DataError: one is missing.
    """
    shards = sorted(folder.glob(f"{part}-*.parquet"))
    for shard in shards:
        numbered = re.fullmatch(rf"{part}-\d+-of-(\d+)\.parquet", shard.name)
        if numbered and int(numbered[1]) != len(shards):
            raise DataError(
                f"cifar10: {folder} holds {len(shards)} of the {int(numbered[1])} {part} shards that "
                f"{shard.name} belongs to; copy the missing ones"
            )
    return shards


def _decode(files: Sequence[Path]) -> tuple[np.ndarray, ...]:
    """Decode the source files into the four arrays of ARRAYS."""
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
            # Compares the files' digests first, so that only the official files are unpickled.
            read = CIFAR10(root, train=train, download=False)
        except RuntimeError as error:
            raise DataError(
                f"cifar10: {root / _BATCHES} is damaged (its digests are not the official ones); remove it, "
                f"then {_how_to_download(root)}"
            ) from error
        parts.append(np.ascontiguousarray(read.data.transpose(0, 3, 1, 2)))
        parts.append(np.array(read.targets, dtype=np.int64))
    return tuple(parts)


def _decode_shard(file: Path) -> Iterator[tuple[np.ndarray, int]]:
    """The images uint8 [3, 32, 32] and labels of a Parquet shard, in order."""
    from PIL import Image

    try:
        table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"cifar10: {file} is not a readable Parquet file: {error}") from error
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
        if not isinstance(label, int) or not 0 <= label < _CLASSES:
            raise DataError(f"cifar10: {file}, row {row}: label {label!r}, not a class from 0 to 9")
        yield pixels.transpose(2, 0, 1), label


def cached_arrays(files: Sequence[Path]) -> list[np.ndarray]:
    """The decoded files as memory-mapped arrays, in the order of ARRAYS; decoded first if there is no cache."""
    name = f"cifar10-{_fingerprint(files)}"
    for cache in _cache_folders():
        arrays = (
            _open_arrays(cache / name) if _is_trusted(cache) else None
        )  # an existing cache is used even if no folder is writable
        if arrays is not None:
            _log.debug("images from the cache %s", cache / name)
            return arrays
    folder = writable_cache_folder() / name
    with FileLock(folder.with_name(f"{name}.lock")):
        arrays = _open_arrays(folder)  # another process may have written it meanwhile
        if arrays is None:
            _log.info("building the cache %s from %d files of %s", folder, len(files), files[0].parent)
            _write_arrays(folder, _decode(files))
            arrays = _open_arrays(folder)
    if arrays is None:
        raise DataError(f"cifar10: the cache {folder} cannot be read back; set SWEEP_CACHE to another folder")
    return arrays


def _cache_folders() -> tuple[Path, Path]:
    """The folders for caches: $SWEEP_CACHE or else the user's cache folder, then one in the temporary folder."""
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mixsweep"
    wanted = Path(os.environ["SWEEP_CACHE"]).expanduser() if os.environ.get("SWEEP_CACHE") else user_cache
    owner = os.getuid() if hasattr(os, "getuid") else "user"
    fallback = Path(tempfile.gettempdir()) / f"mixsweep-{owner}"
    return wanted, fallback


def _is_trusted(folder: Path) -> bool:
    """False for a folder in the temporary folder that another user created or can write to."""
    if folder != _cache_folders()[1] or not hasattr(os, "getuid"):
        return True
    try:
        facts = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and not facts.st_mode & 0o077


def writable_cache_folder() -> Path:
    """The first cache folder that this user can write to and that no other user can.

    Raises:
        DataError: there is none.
    """
    folders = _cache_folders()
    for folder in folders:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_trusted(folder):
                _log.info("%s: no cache there, other users may write to it", folder)
                continue
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError as error:
            _log.info("%s: no cache there: %s", folder, error)
            continue
    raise DataError(
        f"cifar10: neither {folders[0]} nor {folders[1]} can be written; set SWEEP_CACHE to a folder"
    )


def _fingerprint(files: Sequence[Path]) -> str:
    """16 hex digits that change with the name, size or time of a source file."""
    try:
        facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    except FileNotFoundError as error:
        raise DataError(
            f"cifar10: {error.filename} is missing; unpack or download the archive again"
        ) from error
    return hashlib.sha256(json.dumps([_CACHE_FORMAT, facts]).encode()).hexdigest()[:16]


def _write_arrays(folder: Path, arrays: Sequence[np.ndarray]) -> None:
    """Write a cache folder atomically, in place of a damaged one."""
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        beside.mkdir()
        for name, array in zip(ARRAYS, arrays):
            with open(beside / f"{name}.npy", "wb") as file:
                np.save(file, array)
                file.flush()
                os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _open_arrays(folder: Path) -> list[np.ndarray] | None:
    """The arrays of a cache folder, or None if it is missing, truncated or damaged."""
    try:
        # Copy on write: processes share the pages, and torch takes the array without a warning.
        return [np.load(folder / f"{name}.npy", mmap_mode="c") for name in ARRAYS]
    except (OSError, ValueError, EOFError):
        return None
