"""One attempt at a trial: it begins, trains from where the trial's checkpoint has it, and its end is written down."""

import os
import socket
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import IO

import torch

from mixsweep.core import records
from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import UserError
from mixsweep.core.execution.build import build_trial
from mixsweep.core.execution.follower import CONTINUE
from mixsweep.core.execution.rank_channel import RankChannel
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.failures import INTERRUPTIONS, POLICIES, LeaseLostError, ParentLostError
from mixsweep.core.provenance import provenance
from mixsweep.core.records import Record
from mixsweep.core.store import checkpoint
from mixsweep.core.store.crash_recovery import epoch_reached
from mixsweep.core.store.lease import Lease
from mixsweep.core.store.store import ENDED, Attempt, SweepStore, TrialFolder, TrialInfo
from mixsweep.core.trainables.interface import RunningTrial
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.core.training import device as devices

# Asked after each epoch with the trial's record; True stops the trial for good (a stopping rule).
Decide = Callable[[Record], bool]

# Asked after each epoch; one of INTERRUPTIONS stops the process there, '' lets it go on.
Pause = Callable[[], str]

# Told each record once it is in the store.
Report = Callable[[Record], None]


@dataclass(frozen=True, kw_only=True)
class RunningAttempt:
    """An attempt that runs: where and by which right it writes, how it trains, and whom it asks."""

    number: int
    folder: TrialFolder
    lease: Lease
    log: IO[str]
    run_config: RunConfig
    device: torch.device
    channel: RankChannel
    decide: Decide
    pause: Pause
    report: Report

    def write_info(self, info: TrialInfo) -> None:
        self.folder.write_info(info, self.lease.check)

    def write_records(self, rows: list[Record]) -> None:
        self.folder.write_records(rows, self.lease.check)

    def save_checkpoint(self, trial: RunningTrial) -> None:
        checkpoint.save_checkpoint(self.folder.path, trial.state(), self.lease.check)

    def say(self, line: str) -> None:
        _say(self.log, line)


def begin_attempt(config: TrialConfig, info: TrialInfo | None, run_config: RunConfig) -> TrialInfo:
    """The trial with a new attempt that runs from now on, in this process.

    After each end by `oom` it trains with more micro-batches, as its kind of trial has it.
    """
    attempts = info.attempts if info else ()
    retries_from = info.retries_from if info else 0
    if info and info.state == "failed" and not info.may_retry:
        retries_from = len(attempts)  # a new command's try: its retries begin anew
    if info and info.state in ("completed", "stopped"):
        retries_from = len(attempts)  # what it met on the way to that end is past
    out_of_memory = sum(a.end == "oom" for a in attempts)
    device = devices.choose_device(run_config.gpus)
    attempt = Attempt(
        number=len(attempts) + 1,
        place=run_config.place,
        host=run_config.host or socket.gethostname(),
        pid=os.getpid(),
        job=run_config.job,
        restarts=run_config.restarts,
        command_id=run_config.command_id,
        revision=provenance()["revision"],
        started_at=records.now().isoformat(),
        from_epoch=info.epoch if info else 0,  # until its checkpoint says better
        accumulate=find_trainable(config.kind).accumulate_after(config, out_of_memory, run_config.ranks),
        threads=run_config.cpus,
        ranks=run_config.ranks,
        device=devices.device_name(device),
    )
    return TrialInfo(
        trial_id=config.trial_id,
        config=config,
        state="running",
        epoch=info.epoch if info else 0,
        attempts=(*attempts, attempt),
        provenance={**provenance(), "command": run_config.command},
        retries_from=retries_from,
    )


def run_attempt(attempt: RunningAttempt, info: TrialInfo) -> TrialInfo:
    """Train a trial from where its checkpoint has it to where it ends or has to stop."""
    run_config = attempt.run_config
    trial = build_trial(
        info.config, info.attempts[-1].accumulate, run_config, attempt.device, attempt.channel
    )
    run_config.retention.release(SweepStore(run_config.store), info.trial_id)
    rows, later = _restore(attempt, trial)
    begun = replace(info.attempts[-1], from_epoch=trial.epoch)
    info = replace(
        info,
        epoch=trial.epoch,
        attempts=(*info.attempts[:-1], begun),
        provenance={**info.provenance, **trial.facts},
    )
    attempt.write_info(info)
    attempt.say(f"attempt {attempt.number} at {begun.place} on {begun.host} from epoch {trial.epoch}")

    # An extended trial has passed rungs that its rule did not ask about before; decided ones stay as they are.
    state = "stopped" if any(attempt.decide(row) for row in rows) else _train(attempt, trial, rows, later)
    info = replace(info, epoch=trial.epoch)
    attempt.channel.broadcast(state)
    if state == "completed":
        tested = trial.test()
        rows[-1] = rows[-1].with_metrics(tested)
        attempt.say(", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in tested.items()))
    if state in ENDED:
        attempt.write_records(rows)
    info = end_attempt(info, state)
    # The end is written first: a process killed here leaves a checkpoint too many, never a result too few.
    attempt.write_info(info)
    attempt.say(f"attempt {attempt.number} ended: {state}")
    if info.ended:
        with suppress(OSError):  # a checkpoint too many is no failure
            run_config.retention.apply(SweepStore(run_config.store), info, rows)
    return info


def _restore(attempt: RunningAttempt, trial: RunningTrial) -> tuple[list[Record], list[Record]]:
    """Put a trial where its checkpoint has it: its rows up to there, and the rows of epochs to be trained again."""
    stored = records.from_table(attempt.folder.records())
    saved = checkpoint.load_checkpoint(attempt.folder.path)
    begins_after = trial.config.begins_after
    if (
        saved is not None
        and sum(row.epoch <= saved["epoch"] for row in stored) != saved["epoch"] - begins_after
    ):
        # Records are written before their checkpoint, so something else has cut this store.
        attempt.say(f"checkpoint of epoch {saved['epoch']} without its records; training from the start")
        saved = None
    if saved is None and begins_after:
        raise ParentLostError(f"no checkpoint of {trial.config.parent} to go on from")
    saved = attempt.channel.share(saved)
    if saved is not None:
        trial.restore(saved)
    # Only the last row has test figures.
    untested = dict.fromkeys(find_trainable(trial.config.kind).test_metrics)
    rows = [row.with_metrics(untested) for row in stored if row.epoch <= trial.epoch]
    return rows, [row for row in stored if row.epoch > trial.epoch]


def _train(attempt: RunningAttempt, trial: RunningTrial, rows: list[Record], later: list[Record]) -> str:
    """Train on, adding to `rows`, and return the state to which that leads.

    `later` are an earlier attempt's rows: they stay in the store until their epochs are trained again.
    """
    trainable, epochs = find_trainable(trial.config.kind), trial.config.epochs
    last = min(epochs, attempt.run_config.until or epochs)
    cadence = _Cadence(attempt.run_config.checkpoint_share)
    training = trial.train(attempt.number)
    while trial.epoch < last:
        attempt.channel.broadcast(CONTINUE)
        record = next(training)
        rows.append(record)
        attempt.write_records(rows + [row for row in later if row.epoch > record.epoch])
        attempt.say(f"epoch {record.epoch}/{epochs}  {trainable.progress(record)}")
        attempt.report(record)
        if trainable.has_diverged(record):
            return "diverged"
        if attempt.decide(record):
            return "stopped"
        reason = attempt.pause() if record.epoch < epochs else ""
        if reason or record.epoch == last or cadence.is_due():
            with cadence:
                attempt.save_checkpoint(trial)
        if reason:
            return reason
    return "completed" if trial.epoch >= epochs else "paused"


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


def end_attempt(info: TrialInfo, end: str, message: str = "") -> TrialInfo:
    """The trial with its running attempt ended: by a state, an interruption, `killed` or a kind of failure."""
    attempt = replace(
        info.attempts[-1],
        ended_at=records.now().isoformat(),
        end=end,
        message=message,
        to_epoch=info.epoch,
    )
    state = "failed" if end in POLICIES else "interrupted" if end in (*INTERRUPTIONS, "killed") else end
    return replace(info, state=state, attempts=(*info.attempts[:-1], attempt))


def record_failure(
    folder: TrialFolder, info: TrialInfo, lease: Lease, kind: str, error: BaseException
) -> TrialInfo:
    """Write down that an attempt ended by an error, and return the trial as it stands then.

    Where even that cannot be written, readers will find the trial `lost`.
    """
    ended = end_attempt(info, kind, one_line(error))
    try:
        current = folder.info()
        if current is not None and len(current.attempts) == len(info.attempts):
            if current.attempts[-1].end:
                return current  # it had ended already: what failed afterwards takes nothing back
            reached = replace(current, epoch=epoch_reached(folder, current.attempts[-1]))
            ended = end_attempt(reached, kind, one_line(error))
        folder.write_info(ended, lease.check)
        with open(folder.log_path, "a", encoding="utf-8") as log:
            _say(log, f"attempt {len(info.attempts)} ended: {kind}: {one_line(error)}")
            if kind == "bug":
                log.write("".join(traceback.format_exception(error)))
    except (OSError, UserError, LeaseLostError):
        pass
    return ended


def one_line(error: BaseException) -> str:
    """An error by its class and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _say(log: IO[str], line: str) -> None:
    log.write(f"{records.now().isoformat(timespec='seconds')}  {line}\n")
