"""A trial's folder as versions before 0.3 wrote it: one file each for state, records and log, replaced in place.

Readers read such a folder; the first `run` rewrites it (core.store.trial.migration).
"""

import hashlib
import io
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mixsweep.core import records
from mixsweep.core.failures import DamagedError
from mixsweep.core.store import files
from mixsweep.core.store.arrow import numbers
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.trainables.kinds import find_trainable

if TYPE_CHECKING:
    import torch

INFO, RECORDS, LOG = "trial.json", "metrics.parquet", "log.txt"
NEWEST, PREVIOUS, DIGESTS, PATCH = "checkpoint.pt", "checkpoint.previous.pt", "checkpoint.json", "code.patch"
FILES = (INFO, RECORDS, NEWEST, PREVIOUS, DIGESTS, PATCH, LOG)


def is_old(names: Iterable[str]) -> bool:
    """Whether a trial's folder with these files is of this format."""
    return not {INFO, RECORDS, NEWEST, PREVIOUS}.isdisjoint(names)


def read_info(folder: Path) -> tuple[TrialInfo | None, tuple[str, ...]]:
    """The trial, None before the first attempt, and a line for each file that is damaged or does not agree.

    Raises:
        DamagedError: the state cannot be read.
    """
    path = folder / INFO
    try:
        info = TrialInfo.from_mapping(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None, ()
    except (IsADirectoryError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path}: damaged ({error})") from error
    if info.config.trial_id != folder.name:
        raise DamagedError(f"{path}: damaged, its config is not that of trial {folder.name}")
    if not info.ended or info.state == "failed":
        return info, ()
    table, damage = _records(folder, find_trainable(info.config.kind).schema)
    epochs = info.epoch - info.config.begins_after
    if not damage and table.num_rows < epochs:
        damage = f"{folder / RECORDS}: {table.num_rows} records of {epochs}"
    return info, (damage,) if damage else ()


def read_records(folder: Path, schema: pa.Schema) -> pa.Table:
    """The records, none if the file is absent or damaged."""
    return _records(folder, schema)[0]


def _records(folder: Path, schema: pa.Schema) -> tuple[pa.Table, str]:
    try:
        table = files.read_records(folder / RECORDS, schema)
        order = numbers(table["epoch"])
        if len(order) > 1 and not bool((order[1:] > order[:-1]).all()):
            table = table.sort_by("epoch")
        return records.with_all_columns(table, schema), ""
    except (DamagedError, KeyError, pa.ArrowException) as error:
        return schema.empty_table(), str(error) or f"{folder / RECORDS}: damaged"


def has_checkpoint(names: Iterable[str]) -> bool:
    """Whether there is a checkpoint, damaged or not."""
    return not {NEWEST, PREVIOUS}.isdisjoint(names)


def checkpoint_epoch(folder: Path) -> int:
    """The epoch of the newest checkpoint from its digest file; 0 if there is none or it is not recorded."""
    try:
        return int(json.loads((folder / DIGESTS).read_bytes())["epoch"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def whole_checkpoint(folder: Path) -> bytes | None:
    """The content of the newest checkpoint whose digest matches."""
    try:
        digests = set(json.loads((folder / DIGESTS).read_bytes()).values())
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    for name in (NEWEST, PREVIOUS):
        with suppress(OSError):
            content = (folder / name).read_bytes()
            if hashlib.sha256(content).hexdigest() in digests:
                return content
    return None


def load_checkpoint(folder: Path, device: "torch.device | str" = "cpu") -> dict[str, Any] | None:
    """The state in the newest checkpoint whose digest matches; None if there is none."""
    import torch

    content = whole_checkpoint(folder)
    if content is None:
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    return state
