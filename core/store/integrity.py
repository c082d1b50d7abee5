"""What in a store is not as it has to be: a line for each finding. Reads only, and takes no lock."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mixsweep.core.errors import UserError
from mixsweep.core.failures import DamagedError
from mixsweep.core.store import files
from mixsweep.core.store.arrow import numbers
from mixsweep.core.store.files import LEFTOVER_SECONDS
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial import artifacts, checkpoint, format_1
from mixsweep.core.store.trial.folder import Belief, Head, TrialFolder, read_head
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.store.trial.lease import holder_of, lease_is_live
from mixsweep.core.store.trial.names import head_name
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.core.trainables.predictions import Predictions


@dataclass(frozen=True)
class Finding:
    """Something in a store that is not as it has to be: where, and what."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def check_sweep(store: SweepStore, leftover_seconds: float = LEFTOVER_SECONDS) -> Iterator[Finding]:
    """Find what is not as it has to be in a sweep's folder; decisions of rules are checked where they are made.

    Args:
        leftover_seconds: a temporary file of this age belongs to no one, unless a live process writes in its folder.
    """
    yield from _check_readable(store)
    yield from _leftovers(store.path, leftover_seconds, is_trial=False)
    for folder in store.trials():
        yield from check_trial(folder, leftover_seconds)
    yield from _check_compacted(store)


def check_trial(folder: TrialFolder, leftover_seconds: float = LEFTOVER_SECONDS) -> Iterator[Finding]:
    """Find what is not as it has to be in a trial's folder."""
    is_live = lease_is_live(folder.path)
    if holder_of(folder.path) and not is_live:
        yield Finding(folder.path / "lease", "its holder is gone; the next `sweep run` takes the trial over")
    yield from _leftovers(folder.path, leftover_seconds, is_trial=True)
    for term in folder.listing().heads:
        try:
            read_head(folder.path, term)
        except DamagedError as error:
            yield _damage(error)
        except FileNotFoundError:
            continue  # replaced by a newer one meanwhile
    if is_live:
        return  # it may change between two looks
    belief = folder.belief(verify=True)
    for line in belief.damages:
        yield _damage(line)
    for made in belief.checkpoints:
        if checkpoint.newest_whole(folder.path, [made]) is None:
            yield Finding(folder.path / made.name, "damaged; the one before or the start is used instead")
    for kept in belief.artifacts[:1]:
        if line := artifacts.damage_of(folder.path, kept):
            yield Finding(folder.path / kept.name, line)
    try:
        predictions = folder.predictions()
    except DamagedError as error:
        predictions = None
        yield _damage(error)
    yield from _unbelieved(folder, belief)
    if belief.head is not None:
        yield from _check_head(folder, belief.head)
        yield from _check_records(folder, belief.head.info)
        if predictions is not None:
            yield from _check_predictions(folder, belief.head.info, predictions)
    elif not format_1.is_old(folder.listing().names) and not belief.damages and belief.segments:
        yield Finding(folder.path, "records without a state; the next `sweep run` trains what is missing")


def _check_readable(store: SweepStore) -> Iterator[Finding]:
    signed = [store.path / "declared.json", *sorted((store.path / "evidence").glob("[0-9]*.json"))]
    reads: list[tuple[str, Callable[[], object]]] = [
        ("format", store.format),
        ("sweep.toml", store.sweep_file),
        ("plan.parquet", store.plan),
    ]
    reads += [(str(path.relative_to(store.path)), partial(files.read_json, path)) for path in signed]
    for name, read in reads:
        try:
            read()
        except FileNotFoundError:
            continue
        except UserError as error:
            yield _damage(error)
        except (OSError, ValueError) as error:
            yield Finding(store.path / name, f"cannot be read ({error})")


def _check_head(folder: TrialFolder, head: Head) -> Iterator[Finding]:
    info, path = head.info, folder.path / head_name(head.term)
    identity = info.config.identity()
    stored = _stored_identity(path)
    if stored is not None and stored != _plain(identity):
        yield Finding(path, "its identity is not that of its config")
    numbers_of_attempts = [attempt.number for attempt in info.attempts]
    if numbers_of_attempts != list(range(1, len(numbers_of_attempts) + 1)):
        yield Finding(path, f"attempts are numbered {numbers_of_attempts}")
    for attempt in info.attempts[:-1]:
        if not attempt.end:
            yield Finding(path, f"attempt {attempt.number} has no end although a later one began")
    if info.ended and info.attempts and not info.attempts[-1].end:
        yield Finding(path, f"{info.state}, but its last attempt has no end")
    if info.ended and not head.sealed and info.state != "failed":
        yield Finding(path, f"{info.state}, but further files of its term would count")


def _check_records(folder: TrialFolder, info: TrialInfo) -> Iterator[Finding]:
    table = folder.records()
    epochs = [int(number) for number in numbers(table["epoch"])]
    first = info.config.begins_after + 1
    if epochs != list(range(first, first + len(epochs))):
        yield Finding(folder.path, f"its records are of the epochs {_ranges(epochs)}")
    known = {attempt.number for attempt in info.attempts}
    strange = {row for row in table["attempt"].to_pylist() if row not in known}
    if strange:
        yield Finding(folder.path, f"records of attempts {sorted(strange)}, which it has not had")
    ids = set(table["trial_id"].to_pylist()) - {folder.trial_id}
    if ids:
        yield Finding(folder.path, f"records of another trial, {sorted(ids)[0]}")
    if info.state in ("completed", "stopped", "diverged"):
        last = epochs[-1] if epochs else info.config.begins_after
        if last != info.epoch:
            yield Finding(folder.path, f"{info.state} at epoch {info.epoch}, with records up to {last}")
    trainable = find_trainable(info.config.kind)
    tests = [name for name in trainable.test_metrics if name in table.column_names]
    if info.state == "completed":
        if info.epoch < info.config.epochs and not trainable.ends_by_itself:
            yield Finding(folder.path, f"completed at epoch {info.epoch} of {info.config.epochs}")
        missing = [name for name in tests if name in trainable.certain_tests and _last(table[name]) is None]
        if missing:
            yield Finding(folder.path, f"completed without {', '.join(missing)}")
    yield from _check_tests(folder, table, tests, ended=info.state == "completed")


def _check_predictions(folder: TrialFolder, info: TrialInfo, predictions: Predictions) -> Iterator[Finding]:
    """The share of right predictions is the recorded one, where the kind of trial says which that is."""
    metric = find_trainable(info.config.kind).predicted_accuracy
    recorded = _last(folder.records([metric])[metric]) if metric else None
    if recorded is not None and recorded != predictions.accuracy:
        yield Finding(
            folder.path, f"{metric} is {recorded}, but its predictions are right in {predictions.accuracy}"
        )


def _last(column: pa.ChunkedArray) -> Any:
    return column[-1].as_py() if len(column) else None


def _check_tests(folder: TrialFolder, table: pa.Table, tests: list[str], ended: bool) -> Iterator[Finding]:
    for name in tests:
        values = table[name].to_pylist()
        early = values[:-1] if ended else values
        if any(value is not None for value in early):
            yield Finding(folder.path, f"{name} in a record that is not a completed trial's last")


def _check_compacted(store: SweepStore) -> Iterator[Finding]:
    """The derived table has what the trials' own files have."""
    with suppress(UserError, OSError):
        table = store.records().sort_by([("trial_id", "ascending"), ("epoch", "ascending")])
        names = np.asarray(table["trial_id"].to_pylist(), dtype=object)
        starts = [0, *np.flatnonzero(names[1:] != names[:-1]) + 1] if len(names) else []
        ends = [*starts[1:], len(names)]
        derived = {names[start]: table.slice(start, end - start) for start, end in zip(starts, ends)}
        for name in store.trial_names():
            own = store.trial(name).records()
            mine = derived.get(name, table.slice(0, 0)).select(own.column_names)
            if mine.to_pylist() != own.to_pylist() and not lease_is_live(store.trial(name).path):
                yield Finding(
                    store.path / "metrics.parquet", f"its records of trial {name} are not the trial's"
                )


def _leftovers(path: Path, seconds: float, is_trial: bool) -> Iterator[Finding]:
    now = time.time()
    with suppress(FileNotFoundError), os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not entry.name.startswith("."):
                continue
            with suppress(FileNotFoundError):
                age = now - entry.stat(follow_symlinks=False).st_mtime
                if age >= seconds and not (is_trial and lease_is_live(path)):
                    yield Finding(Path(entry.path), "left by a process that was killed; it can be deleted")


def _unbelieved(folder: TrialFolder, belief: Belief) -> Iterator[Finding]:
    """Files of records and others that no reader believes, of a process that lost the trial."""
    listing = folder.listing()
    counted = {one.name for one in belief.segments} | {one.name for one in belief.checkpoints}
    counted |= {one.name for one in belief.artifacts[:1]} | {one.name for one in belief.predictions}
    every = {one.name for one in listing.all_segments} | {one.name for one in listing.made}
    for name in sorted(every - counted):
        yield Finding(
            folder.path / name, "not believed: of a process that lost the trial, or replaced; it can go"
        )


def _damage(error: object) -> Finding:
    path, _, message = str(error).partition(": ")
    return Finding(Path(path), message)


def _stored_identity(path: Path) -> Any:
    with suppress(UserError, OSError):
        return files.read_json(path).get("identity")
    return None


def _plain(values: Any) -> Any:
    """Values as JSON gives them back."""
    return json.loads(json.dumps(values))


def _ranges(epochs: list[int]) -> str:
    shown = ", ".join(map(str, epochs[:12]))
    return f"{shown}, …" if len(epochs) > 12 else shown or "none"
