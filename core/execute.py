"""Run units of work: trainer × store × decision. Every place calls `work`, and nothing else trains.

The store is the queue. A process takes whatever of its units is free, so that any number of processes may be
given the same list: they share it, and one that dies leaves its trial to the others.
"""

import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import IO

import pyarrow as pa
import torch

from core import checkpoint, data, records
from core import device as devices
from core.config import TrialConfig, UserError
from core.failures import (
    DEATHS_WITHOUT_PROGRESS,
    INTERRUPTIONS,
    POLICIES,
    DiedError,
    LeaseLostError,
    kind_of,
)
from core.lease import Lease, take_lease
from core.provenance import provenance
from core.records import EpochRecord
from core.setting import Setting, Unit, is_done
from core.store import ENDED, Attempt, SweepStore, TrialFolder, TrialInfo
from core.trainer import Trial

# Asked after each epoch with the trial's record; True stops the trial for good (a stopping rule).
Decide = Callable[[EpochRecord], bool]

# Asked after each epoch; one of INTERRUPTIONS stops the process there, '' lets it go on.
Pause = Callable[[], str]


def work(
    units: Sequence[Unit],
    setting: Setting,
    decide: Decide = lambda record: False,
    pause: Pause = lambda: "",
    report: Callable[[EpochRecord], None] = lambda record: None,
) -> Iterator[TrialInfo]:
    """Run what is free of these units until nothing is left for this process, and yield each trial's end.

    Trials that another live process holds are left to it. One failed trial never ends the work, but a broken
    device does: what raised it goes through once it is recorded, so that a new process begins. `report` is
    called after each record is in the store.
    """
    store = SweepStore(setting.store)
    pending = [config for unit in units for config in unit]
    progress = True
    while pending and progress:
        again: list[TrialConfig] = []
        progress = False
        for config in pending:
            if pause():
                return
            folder = store.trial(config.trial_id)
            with suppress(OSError, UserError):  # run_trial meets it again, and says so
                if is_done(folder.info(), config, setting):
                    continue
            info = run_trial(config, folder, setting, decide, pause, report)
            if info is None:
                again.append(config)
                continue
            yield info
            progress = True
            if not is_done(info, config, setting) and _is_recorded(folder, info):
                again.append(config)
        pending = again


def _is_recorded(folder: TrialFolder, info: TrialInfo) -> bool:
    """Whether an attempt's end is in the store; where it is not, trying again would never come to an end."""
    try:
        stored = folder.info()
    except (OSError, UserError):
        return False
    return stored is not None and info.attempts[-1] in stored.attempts


def run_trial(
    config: TrialConfig,
    folder: TrialFolder,
    setting: Setting,
    decide: Decide,
    pause: Pause,
    report: Callable[[EpochRecord], None],
) -> TrialInfo | None:
    """Take one trial on from where its folder says it stands, to its end or to where it has to stop.

    Returns:
        how it stands then, or None where another live process holds the trial.

    Raises:
        Exception: what broke this process's device; with `setting.raise_errors` also a bug. It is recorded.
    """
    try:
        lease = take_lease(folder.path)
    except OSError as error:  # a full disk or a lost mount: nothing can be written down, so it is only told
        return _ended(_begin(config, None, setting), kind_of(error), _one_line(error))
    if lease is None:
        return None
    with lease:
        try:
            info = folder.info()
        except (OSError, UserError) as error:  # it cannot be read, and is not written over
            return _ended(_begin(config, None, setting), "disk", _one_line(error))
        if is_done(info, config, setting):
            return info
        info = _begin(config, _with_its_death(folder, info), setting)
        try:
            folder.write_info(info, lease.check)
            with open(folder.log_path, "a", encoding="utf-8", buffering=1) as log:
                if _deaths_without_progress(info) >= DEATHS_WITHOUT_PROGRESS:
                    raise DiedError(f"killed {DEATHS_WITHOUT_PROGRESS} times at epoch {info.epoch}")
                return _attempt(info, folder, lease, setting, decide, pause, report, log)
        except LeaseLostError:
            return None
        except BaseException as error:
            kind = "interrupted" if isinstance(error, KeyboardInterrupt) else kind_of(error)
            info = _record_failure(folder, info, lease, kind, error)
            # After an error of the device, every further call of this process would fail too.
            if not isinstance(error, Exception) or kind == "node" or (kind == "bug" and setting.raise_errors):
                raise
            return info
        finally:
            devices.release_memory(devices.choose_device(setting.gpus))


def _deaths_without_progress(info: TrialInfo) -> int:
    """How many attempts just before this one were killed at the same epoch."""
    deaths = 0
    before = info.attempts[info.retries_from : -1]
    for attempt in reversed(before):
        if attempt.end != "killed" or attempt.from_epoch != before[-1].from_epoch:
            break
        deaths += 1
    return deaths


def _with_its_death(folder: TrialFolder, info: TrialInfo | None) -> TrialInfo | None:
    """The trial with its last attempt ended, where that was killed: when, and how far it had come."""
    if info is None or not info.attempts or info.attempts[-1].end:
        return info
    attempt = info.attempts[-1]
    times = []
    for path in (folder.log_path, folder.metrics_path):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    epoch = attempt.from_epoch
    with suppress(OSError, pa.ArrowInvalid):
        rows = folder.records().select(["epoch", "attempt"]).to_pylist()
        epoch = max([epoch, *(row["epoch"] for row in rows if row["attempt"] == attempt.number)])
    ended_at = datetime.fromtimestamp(max(times), UTC).isoformat() if times else info.updated_at
    ended = replace(attempt, end="killed", ended_at=ended_at)
    return replace(info, epoch=epoch, attempts=(*info.attempts[:-1], ended))


def _begin(config: TrialConfig, info: TrialInfo | None, setting: Setting) -> TrialInfo:
    """The trial with a new attempt that runs."""
    attempts = info.attempts if info else ()
    retries_from = info.retries_from if info else 0
    if info and info.state == "failed" and not info.may_retry:
        retries_from = len(attempts)  # a new command's try: its retries begin anew
    if info and info.state in ("completed", "stopped"):
        retries_from = len(attempts)  # what it met on the way to that end is past
    out_of_memory = sum(a.end == "oom" for a in attempts)
    accumulate = config.accumulate * 2**out_of_memory
    while config.batch_size % accumulate:
        accumulate //= 2
    device = devices.choose_device(setting.gpus)
    attempt = Attempt(
        number=len(attempts) + 1,
        place=setting.place,
        host=socket.gethostname(),
        pid=os.getpid(),
        job=setting.job,
        command_id=setting.command_id,
        revision=provenance()["revision"],
        started_at=records.now().isoformat(),
        accumulate=accumulate,
        threads=setting.cpus,
        device=devices.device_name(device),
    )
    return TrialInfo(
        trial_id=config.trial_id,
        config=config,
        state="running",
        epoch=info.epoch if info else 0,
        attempts=(*attempts, attempt),
        provenance={**provenance(), "command": setting.command},
        retries_from=retries_from,
    )


def _attempt(
    info: TrialInfo,
    folder: TrialFolder,
    lease: Lease,
    setting: Setting,
    decide: Decide,
    pause: Pause,
    report: Callable[[EpochRecord], None],
    log: IO[str],
) -> TrialInfo:
    attempt = info.attempts[-1]
    device = devices.choose_device(setting.gpus)
    devices.prepare_process(setting.cpus)
    images = _images(info.config.dataset, setting.data_dir, device)
    setting.retention.release(SweepStore(setting.store), info.trial_id)
    trial, rows, later = _restore(info, folder, setting, images, device, log)
    attempt = replace(attempt, from_epoch=trial.epoch)
    counts = {"images": [len(images.train_labels), len(images.test_labels)]}
    info = replace(
        info,
        epoch=trial.epoch,
        attempts=(*info.attempts[:-1], attempt),
        provenance={**info.provenance, **counts},
    )
    folder.write_info(info, lease.check)
    _say(log, f"attempt {attempt.number} at {attempt.place} on {attempt.host} from epoch {trial.epoch}")

    # An extended trial has passed rungs that its rule did not ask about before; decided ones stay as they are.
    if any(decide(row) for row in rows):
        state = "stopped"
    else:
        state = _train(trial, rows, later, attempt.number, folder, lease, setting, decide, pause, report, log)
    info = replace(info, epoch=trial.epoch)
    if state == "completed":
        test_loss, test_accuracy = trial.test()
        rows[-1] = replace(rows[-1], test_loss=test_loss, test_accuracy=test_accuracy)
        _say(log, f"test loss {test_loss:.4f}, accuracy {test_accuracy:.4f}")
    if state in ENDED:
        folder.write_records(rows, lease.check)
    info = _ended(info, state)
    # The end is written first: a process killed here leaves a checkpoint too many, never a result too few.
    folder.write_info(info, lease.check)
    _say(log, f"attempt {attempt.number} ended: {state}")
    if info.ended:
        with suppress(OSError):  # a checkpoint too many is no failure
            setting.retention.apply(SweepStore(setting.store), info, rows)
    return info


def _restore(
    info: TrialInfo,
    folder: TrialFolder,
    setting: Setting,
    images: data.Images,
    device: torch.device,
    log: IO[str],
) -> tuple[Trial, list[EpochRecord], list[EpochRecord]]:
    """The trial as its checkpoint has it, its rows up to there, and the rows of epochs to be trained again."""
    accumulate = info.attempts[-1].accumulate
    trial = Trial(info.config, images, device, accumulate=accumulate, compile=setting.compile)
    stored = records.from_table(folder.records())
    saved = checkpoint.load_checkpoint(folder.path, device)
    if saved is not None:
        if sum(row.epoch <= saved["epoch"] for row in stored) == saved["epoch"]:
            trial.restore(saved)
        else:  # records are written before their checkpoint, so something else has cut this store
            _say(log, f"checkpoint of epoch {saved['epoch']} without its records; training from the start")
    # Only the last row has test figures.
    rows = [replace(row, test_loss=None, test_accuracy=None) for row in stored if row.epoch <= trial.epoch]
    return trial, rows, [row for row in stored if row.epoch > trial.epoch]


def _train(
    trial: Trial,
    rows: list[EpochRecord],
    later: list[EpochRecord],
    attempt: int,
    folder: TrialFolder,
    lease: Lease,
    setting: Setting,
    decide: Decide,
    pause: Pause,
    report: Callable[[EpochRecord], None],
    log: IO[str],
) -> str:
    """Train on, adding to `rows`, and return the state to which that leads.

    `later` are an earlier attempt's rows: they stay in the store until their epochs are trained again.
    """
    epochs = trial.config.epochs
    cadence = _Cadence(setting.checkpoint_share)
    for record in trial.train(attempt):
        rows.append(record)
        folder.write_records(rows + [row for row in later if row.epoch > record.epoch], lease.check)
        _say(log, _line(record, epochs))
        report(record)
        if not record.is_finite:
            return "diverged"
        if decide(record):
            return "stopped"
        reason = pause() if record.epoch < epochs else ""
        if reason or record.epoch == epochs or cadence.is_due():
            with cadence:
                checkpoint.save_checkpoint(folder.path, trial.state(), lease.check)
        if reason:
            return reason
    return "completed"


@lru_cache(maxsize=1)
def _images(dataset: str, data_dir: Path | None, device: torch.device) -> data.Images:
    """A data set on a device, loaded once for all trials in turn that share it."""
    return data.load_images(dataset, data_dir).to(device)


class _Cadence:
    """When to write a checkpoint: as a share of the training time allows; a context that times one."""

    def __init__(self, share: float):
        self._share = share
        self._due_at = 0.0
        self._start = 0.0

    def is_due(self) -> bool:
        return time.monotonic() >= self._due_at

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *error: object) -> None:
        end = time.monotonic()
        self._due_at = end + (end - self._start) * (1 / self._share - 1)


def _ended(info: TrialInfo, end: str, message: str = "") -> TrialInfo:
    """The trial with its running attempt ended: by a state, an interruption or a kind of failure."""
    attempt = replace(info.attempts[-1], ended_at=records.now().isoformat(), end=end, message=message)
    state = "interrupted" if end in INTERRUPTIONS else "failed" if end in POLICIES else end
    return replace(info, state=state, attempts=(*info.attempts[:-1], attempt))


def _record_failure(
    folder: TrialFolder, info: TrialInfo, lease: Lease, kind: str, error: BaseException
) -> TrialInfo:
    """Write down how an attempt ended; where even that fails, readers will find the trial `lost`."""
    ended = _ended(info, kind, _one_line(error))
    try:
        current = folder.info()
        if current is not None and len(current.attempts) == len(info.attempts):
            ended = _ended(current, kind, _one_line(error))
        folder.write_info(ended, lease.check)
        with open(folder.log_path, "a", encoding="utf-8") as log:
            _say(log, f"attempt {len(info.attempts)} ended: {kind}: {_one_line(error)}")
            if kind == "bug":
                log.write("".join(traceback.format_exception(error)))
    except (OSError, UserError, LeaseLostError):
        pass
    return ended


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _line(record: EpochRecord, epochs: int) -> str:
    return (
        f"epoch {record.epoch}/{epochs}  train {record.train_loss:.4f} {record.train_accuracy:.4f}  "
        f"valid {record.valid_loss:.4f} {record.valid_accuracy:.4f}  lr {record.lr:.3g}  "
        f"{record.images_per_second:.0f} images/s"
    )


def _say(log: IO[str], line: str) -> None:
    log.write(f"{records.now().isoformat(timespec='seconds')}  {line}\n")
