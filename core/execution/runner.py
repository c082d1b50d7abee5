"""Run trials from a shared queue. Every backend trains through `work`, and nothing else trains.

The store is the queue. A process takes any of its trials that is free, so any number of processes may be given the
same list: they share the work, and when a process dies, another one takes its trial.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import ConfigError
from mixsweep.core.execution.attempt import (
    Decide,
    Pause,
    Report,
    RunningAttempt,
    begin_attempt,
    end_attempt,
    one_line,
    record_failure,
    run_attempt,
)
from mixsweep.core.execution.follower import attempt_message, follow
from mixsweep.core.execution.rank_channel import RankChannel
from mixsweep.core.execution.remaining import is_done
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.failures import (
    DEATHS_WITHOUT_PROGRESS,
    TIMEOUTS_WITHOUT_PROGRESS,
    DamagedError,
    DiedError,
    LeaseLostError,
    end_of,
    ends_process,
    kind_of,
)
from mixsweep.core.provenance import patch
from mixsweep.core.store.code_copy import keep_patch
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.crash_recovery import finalize_killed_attempt
from mixsweep.core.store.trial.folder import TrialFolder
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.store.trial.lease import lease_is_undecided, take_lease
from mixsweep.core.store.trial.term import Term
from mixsweep.core.training import device as devices
from mixsweep.core.training.process_group import ALONE, ranks_from_environment

_log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


def work(
    trials: Sequence[TrialConfig],
    run_config: RunConfig,
    decide: Decide = lambda record: False,
    pause: Pause = lambda: "",
    report: Report = lambda record: None,
) -> Iterator[TrialInfo]:
    """Run the free ones of these trials until none is left for this process, and yield each after its attempt.

    Trials that another live process holds are skipped. A failed trial does not end the loop, but a broken
    device does: its error is recorded and raised again, so that a new process starts. `report` is called
    after each record is in the store.

    With `run_config.ranks` above 1, that many processes make this call with the same arguments and train
    each trial together (see core.execution.rank_channel). Only rank 0 decides, writes and yields; the others end
    when it does.

    Raises:
        ConfigError: RANK and WORLD_SIZE do not fit `run_config.ranks`.
        Exception: the ranks cannot connect, or one of them has ended: all have to be started again.
    """
    ranks = ranks_from_environment() if run_config.ranks > 1 else ALONE
    if ranks.world != run_config.ranks:
        raise ConfigError(
            f"ranks = {run_config.ranks}, but WORLD_SIZE = {ranks.world}: the place starts them all"
        )
    with RankChannel(ranks, run_config.rank_timeout_seconds) as channel:
        if ranks.leads:
            yield from _lead(trials, run_config, decide, pause, report, channel)
        else:
            follow({config.trial_id: config for config in trials}, run_config, channel)


def _lead(
    trials: Sequence[TrialConfig],
    run_config: RunConfig,
    decide: Decide,
    pause: Pause,
    report: Report,
    channel: RankChannel,
) -> Iterator[TrialInfo]:
    store = SweepStore(run_config.store)
    pending = list(trials)
    progress = True
    while pending and progress:
        again: list[TrialConfig] = []
        progress = False
        for config in pending:
            if pause():
                return
            folder = store.trial(config.trial_id)
            with suppress(OSError):  # run_trial meets the same error and reports it
                if is_done(folder.info(verify=True), config, run_config):
                    _log.info("%s: skipped, done", config.trial_id)
                    continue
            info = run_trial(config, folder, run_config, decide, pause, report, channel)
            if info is None:
                _log.info("%s: skipped, held by another process", config.trial_id)
                again.append(config)
                continue
            yield info
            progress = True
            if not is_done(info, config, run_config) and _is_recorded(folder, info):
                _log.info("%s: to be retried after %s", config.trial_id, info.attempts[-1].end)
                again.append(config)
        pending = again
        if pending and not progress:
            progress = _wait_for_verdicts(pending, store, pause)


def _wait_for_verdicts(trials: Sequence[TrialConfig], store: SweepStore, pause: Pause) -> bool:
    """Wait while it is not known whether a trial's holder lives; return whether there was such a trial."""
    waited = False
    while any(lease_is_undecided(store.trial(config.trial_id).path) for config in trials):
        if pause():
            return False
        waited = True
        time.sleep(_POLL_SECONDS)
    return waited


def _is_recorded(folder: TrialFolder, info: TrialInfo) -> bool:
    """Whether an attempt's end is in the store; without it, retries would not be counted and never stop."""
    try:
        stored = folder.info()
    except OSError:
        return False
    return stored is not None and info.attempts[-1] in stored.attempts


def run_trial(
    config: TrialConfig,
    folder: TrialFolder,
    run_config: RunConfig,
    decide: Decide,
    pause: Pause,
    report: Report,
    channel: RankChannel | None = None,
) -> TrialInfo | None:
    """Continue one trial from the state in its folder, until it ends or has to stop.

    Returns:
        the trial after the attempt, or None if another live process holds it.

    Raises:
        Exception: this process's device is broken, or another rank has ended; with `run_config.raise_errors`
            also a bug. The error has been recorded.
    """
    channel = channel or RankChannel()
    try:
        lease = take_lease(folder.path)
    except OSError as error:  # a full disk or a lost mount: nothing can be written, so it is only returned
        return end_attempt(begin_attempt(config, None, run_config), kind_of(error), one_line(error))
    if lease is None:
        return None
    with lease, lease.beat_apart():
        info = folder.info(verify=True)
        if is_done(info, config, run_config):
            _log.info("%s: skipped, done by another process", config.trial_id)
            return info
        info = begin_attempt(config, finalize_killed_attempt(folder, info), run_config)
        with suppress(OSError):  # a disk that is full is met again below, and told
            own_patch = keep_patch(run_config.store, patch())
            info = replace(info, provenance={**info.provenance, "patch": own_patch})
        device = devices.choose_device(run_config.gpus, channel.ranks.local_rank)
        try:
            term = Term(folder, lease)
        except LeaseLostError:
            return None
        except OSError as error:
            return end_attempt(info, kind_of(error), one_line(error))
        with term:
            try:
                term.begin(info)
                with open(
                    term.log_path, "a", encoding="utf-8", errors="backslashreplace", buffering=1
                ) as log:
                    if _ends_without_progress(info, "killed") >= DEATHS_WITHOUT_PROGRESS:
                        raise DiedError(f"killed {DEATHS_WITHOUT_PROGRESS} times at epoch {info.epoch}")
                    if _ends_without_progress(info, "timeout") >= TIMEOUTS_WITHOUT_PROGRESS:
                        raise DiedError(f"epoch {info.epoch + 1} does not fit into the job's time limit")
                    attempt = RunningAttempt(
                        number=len(info.attempts),
                        term=term,
                        log=log,
                        run_config=run_config,
                        device=device,
                        channel=channel,
                        decide=decide,
                        pause=pause,
                        report=report,
                    )
                    channel.broadcast(attempt_message(info.trial_id, info.attempts[-1].accumulate))
                    with channel.attempt(device):
                        return run_attempt(attempt, info)
            except LeaseLostError:
                return None
            except BaseException as error:
                if isinstance(error, OSError | DamagedError) and _is_over(term):
                    return None  # the new holder has removed files that it has replaced
                kind = end_of(error)
                info = record_failure(term, info, kind, error)
                if ends_process(error) or (kind == "bug" and run_config.raise_errors):
                    raise
                return info
            finally:
                devices.release_memory(device)


def _is_over(term: Term) -> bool:
    try:
        return term.is_over()
    except OSError:
        return False


def _ends_without_progress(info: TrialInfo, end: str) -> int:
    """The number of attempts in a row before this one that had this end and reached no new epoch."""
    count = furthest = 0
    for attempt in info.attempts[info.retries_from : -1]:
        reached = max(attempt.from_epoch, attempt.to_epoch)
        count = count + 1 if attempt.end == end and reached <= furthest else 0
        furthest = max(furthest, reached)
    return count
