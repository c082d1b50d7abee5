"""One attempt at a trial: begin it, train from the trial's checkpoint, and record how it ended."""

import logging
import os
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import IO

import pyarrow as pa
import torch

from mixsweep.core import records
from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import ConfigError, UserError
from mixsweep.core.execution.build import build_trial
from mixsweep.core.execution.follower import CONTINUE, predictions_of
from mixsweep.core.execution.rank_channel import RankChannel
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.failures import INTERRUPTIONS, POLICIES, CommandError, LeaseLostError, ParentLostError
from mixsweep.core.provenance import provenance
from mixsweep.core.records import Record
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.crash_recovery import epoch_reached
from mixsweep.core.store.trial.info import ENDED, Attempt, TrialInfo
from mixsweep.core.store.trial.segments import up_to
from mixsweep.core.store.trial.term import Term
from mixsweep.core.trainables.definition import UNLIMITED
from mixsweep.core.trainables.interface import AsksForCheckpoints, KeepsFiles, RunningTrial
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.core.training import device as devices

_log = logging.getLogger(__name__)

# Called after each epoch with the trial's record; True stops the trial for good (a stopping rule).
Decide = Callable[[Record], bool]

# Called after each epoch; one of INTERRUPTIONS stops the process at that epoch, '' lets it continue.
Pause = Callable[[], str]

# Called with each record once it is in the store.
Report = Callable[[Record], None]


@dataclass(frozen=True, kw_only=True)
class RunningAttempt:
    """A running attempt: the term that writes its files, its log, run config and device, and the caller's callbacks."""

    number: int
    term: Term
    log: IO[str]
    run_config: RunConfig
    device: torch.device
    channel: RankChannel
    decide: Decide
    pause: Pause
    report: Report

    def say(self, line: str) -> None:
        _write_line(self.log, line)


def begin_attempt(config: TrialConfig, info: TrialInfo | None, run_config: RunConfig) -> TrialInfo:
    """The trial with a new running attempt in this process.

    After each attempt that ended by `oom`, its kind of trial decides how many more micro-batches it uses.
    """
    attempts = info.attempts if info else ()
    retries_from = info.retries_from if info else 0
    if info and info.state == "failed" and not info.may_retry:
        retries_from = len(attempts)  # a new command tries it again: its retries are counted from here
    if info and info.state in ("completed", "stopped"):
        retries_from = len(attempts)  # failures before that end no longer count
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
        project_revision=run_config.project_revision,
        project_dirty=run_config.project_dirty,
        project_patch=run_config.project_patch,
        code=run_config.code,
        started_at=records.now().isoformat(),
        from_epoch=info.epoch if info else 0,  # until its checkpoint is read
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
    """Train a trial from its checkpoint until it ends or has to stop, and return it with the attempt ended."""
    trial = build_trial(
        info.config,
        info.attempts[-1].accumulate,
        attempt.run_config,
        attempt.device,
        attempt.channel,
        attempt.say,
        attempt.term.kept_files(attempt.say),
    )
    with closing(trial):
        try:
            return _run(attempt, trial, info)
        except Exception:
            with suppress(Exception):  # the error counts; files of a failed attempt help to find its cause
                _keep_files(attempt, trial, is_last=True)
            raise


def _run(attempt: RunningAttempt, trial: RunningTrial, info: TrialInfo) -> TrialInfo:
    run_config = attempt.run_config
    run_config.retention.release(SweepStore(run_config.store), info.trial_id)
    for line in attempt.term.damages:
        attempt.say(line)
    stored = _restore(attempt, trial)
    begun = replace(info.attempts[-1], from_epoch=trial.epoch)
    info = replace(
        info,
        epoch=trial.epoch,
        attempts=(*info.attempts[:-1], begun),
        provenance={**info.provenance, **trial.facts},
    )
    attempt.term.write_info(info)
    attempt.say(f"attempt {attempt.number} at {begun.place} on {begun.host} from epoch {trial.epoch}")
    _log.info("%s: attempt %d begins from epoch %d", info.trial_id, attempt.number, trial.epoch)

    # An extended trial has passed rungs that its rule has not decided yet; earlier decisions do not change.
    passed = records.from_table(up_to(stored, trial.epoch))
    last = passed[-1] if passed else None
    if any(attempt.decide(row) for row in passed):
        state = "stopped"
    else:
        state, last = _train(attempt, trial, last)
    info = replace(info, epoch=trial.epoch)
    attempt.channel.broadcast(state)
    if state == "completed":
        tested = trial.test()
        if last is None:
            raise ConfigError("the trial ended without a record")
        _check_metric(attempt, last)
        if tested:
            attempt.term.append(last.with_metrics(tested))
            attempt.say(", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in tested.items()))
        predictions = predictions_of(trial, run_config.keep_predictions)
        if predictions is not None:
            attempt.term.keep_predictions(trial.epoch, predictions)
    _keep_files(attempt, trial, is_last=True)
    info = end_attempt(info, state)
    # The end is written first: a process killed here leaves an unneeded checkpoint, but loses no result.
    if state in ENDED:
        attempt.term.seal(info)
    else:
        attempt.term.write_info(info)
    attempt.say(f"attempt {attempt.number} ended: {state}")
    _log.info("%s: attempt %d ended: %s", info.trial_id, attempt.number, state)
    if info.ended:
        with suppress(OSError):  # an unneeded checkpoint is no failure
            run_config.retention.apply(SweepStore(run_config.store), info)
    return info


def _check_metric(attempt: RunningAttempt, last: Record) -> None:
    """Check that the metric of the sweep was ever recorded.

    Raises:
        ConfigError: it was not; names those that were.
    """
    metric = attempt.run_config.retention.metric
    if last[metric] is not None:
        return
    table = attempt.term.records()
    if metric not in table.column_names or table[metric].null_count == table.num_rows:
        raise ConfigError(f"no record has the metric {metric!r}; the last one has {', '.join(last.metrics)}")


def _restore(attempt: RunningAttempt, trial: RunningTrial) -> pa.Table:
    """Restore a trial from its checkpoint; return its records, those of epochs to train again among them."""
    stored = _without_tests(attempt.term.records(), find_trainable(trial.config.kind).test_metrics)
    saved = attempt.term.load_checkpoint(attempt.say)
    begins_after = trial.config.begins_after
    if saved is not None and up_to(stored, saved["epoch"]).num_rows != saved["epoch"] - begins_after:
        # Records are written before their checkpoint, so something other than mixsweep removed them.
        attempt.say(f"checkpoint of epoch {saved['epoch']} without its records; training from the start")
        saved = None
    if saved is None and begins_after:
        raise ParentLostError(f"no checkpoint of {trial.config.parent} to continue from")
    saved = attempt.channel.share(saved)
    if saved is not None:
        trial.restore(saved)
    return stored


def _train(attempt: RunningAttempt, trial: RunningTrial, last: Record | None) -> tuple[str, Record | None]:
    """Train until the trial ends or has to stop; return the resulting state and the last record.

    Records of an earlier attempt stay in the store until their epochs are trained again.
    """
    trainable, epochs = find_trainable(trial.config.kind), trial.config.epochs
    until = min(epochs, attempt.run_config.until or epochs)
    cadence = _Cadence(attempt.run_config.checkpoint_share)
    training = trial.train(attempt.number)
    metric = attempt.run_config.retention.metric
    of_all = "" if epochs == UNLIMITED else f"/{epochs}"

    def progress(record: Record) -> str:
        return f"epoch {record.epoch}{of_all}  {trainable.progress(record)}"

    while trial.epoch < until:
        attempt.channel.broadcast(CONTINUE)
        try:
            record = next(training, None)
        except CommandError:
            reason = attempt.pause()  # the scheduler's warning reached the command too
            if not reason:
                raise
            _save(attempt, trial)
            return reason, last
        if record is None:
            if of_all:
                attempt.say(f"ended by itself after {trial.epoch} of {epochs} records")
            return "completed", last
        last = _keep(attempt, record, progress)
        if trainable.has_diverged(record, metric):
            return "diverged", record
        if attempt.run_config.stopping:
            attempt.term.flush()  # a decision rests on records that are in the store
        if attempt.decide(record):
            return "stopped", record
        reason = attempt.pause() if record.epoch < epochs else ""
        if reason:
            for late in trial.leave():
                last = _keep(attempt, late, progress)
        if reason or record.epoch == until or cadence.is_due() or _asks_for_checkpoint(trial):
            with cadence:
                _save(attempt, trial)
        if reason:
            return reason, last
    return ("completed" if trial.epoch >= epochs else "paused"), last


def _save(attempt: RunningAttempt, trial: RunningTrial) -> None:
    """Write a checkpoint, if the trial has a new one; the files that it keeps are kept first."""
    _keep_files(attempt, trial)
    state = trial.state()
    if state is not None:
        attempt.term.save_checkpoint(state)


def _keep_files(attempt: RunningAttempt, trial: RunningTrial, is_last: bool = False) -> None:
    if isinstance(trial, KeepsFiles):
        attempt.term.keep_files(trial.files_to_keep(is_last))


def _asks_for_checkpoint(trial: RunningTrial) -> bool:
    return isinstance(trial, AsksForCheckpoints) and trial.wants_checkpoint


def _keep(attempt: RunningAttempt, record: Record, progress: Callable[[Record], str]) -> Record:
    """Put a record into the store and the log."""
    attempt.term.append(record)
    attempt.say(progress(record))
    attempt.report(record)
    return record


def _without_tests(stored: pa.Table, tests: Sequence[str]) -> pa.Table:
    """Records without test figures: only the last record of a trial that has ended has them."""
    for name in set(tests) & set(stored.column_names):
        position = stored.column_names.index(name)
        empty = pa.nulls(stored.num_rows, stored.schema.field(name).type)
        stored = stored.set_column(position, stored.schema.field(name), empty)
    return stored


class _Cadence:
    """Keeps checkpoint writing within a share of the training time; as a context manager it times one write."""

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
    """The trial with its running attempt ended by a state, an interruption, `killed` or a kind of failure."""
    attempt = replace(
        info.attempts[-1],
        ended_at=records.now().isoformat(),
        end=end,
        message=message,
        to_epoch=info.epoch,
    )
    state = "failed" if end in POLICIES else "interrupted" if end in (*INTERRUPTIONS, "killed") else end
    return replace(info, state=state, attempts=(*info.attempts[:-1], attempt))


def record_failure(term: Term, info: TrialInfo, kind: str, error: BaseException) -> TrialInfo:
    """Record that an attempt ended by an error, and return the trial with that end.

    If that cannot be written either, readers find the trial `lost`.
    """
    _log.info("%s: attempt %d ended: %s", info.trial_id, len(info.attempts), kind)
    current = term.info or info
    if len(current.attempts) == len(info.attempts):
        if current.attempts[-1].end:
            return current  # it had ended already: a later failure does not change that
        info = current
    ended = end_attempt(info, kind, one_line(error))
    if not term.number:  # it could not even begin
        return ended
    try:
        reached = replace(info, epoch=epoch_reached(term.records(), info.attempts[-1]))
        ended = end_attempt(reached, kind, one_line(error))
        term.write_info(ended)
        with open(term.log_path, "a", encoding="utf-8", errors="backslashreplace") as log:
            _write_line(log, f"attempt {len(info.attempts)} ended: {kind}: {one_line(error)}")
            if kind == "bug":
                log.write("".join(traceback.format_exception(error)))
    except (OSError, UserError, LeaseLostError):
        pass
    return ended


def one_line(error: BaseException) -> str:
    """An error's class and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _write_line(log: IO[str], line: str) -> None:
    log.write(f"{records.now().isoformat(timespec='seconds')}  {line}\n")
