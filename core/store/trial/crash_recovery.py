"""Attempts whose process was killed: reconstruct when and at which epoch they ended, and record it.

And trials that start from scratch again: what they have trained counts no more.
"""

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa

from mixsweep.core.errors import UserError
from mixsweep.core.failures import INTERRUPTIONS, LeaseLostError
from mixsweep.core.store.trial.folder import TrialFolder
from mixsweep.core.store.trial.info import Attempt, TrialInfo
from mixsweep.core.store.trial.lease import take_lease
from mixsweep.core.store.trial.term import Term, amend


def finalize_killed_attempt(folder: TrialFolder, info: TrialInfo | None) -> TrialInfo | None:
    """The trial, its last attempt marked `killed` with time and epoch if it has no recorded end."""
    if info is None or not info.attempts or info.attempts[-1].end:
        return info
    attempt = info.attempts[-1]
    listing = folder.listing()
    names = [segment.name for segment in listing.segments] + [path.name for path in folder.logs()]
    times = []
    for name in names:
        with suppress(OSError):
            times.append((folder.path / name).stat().st_mtime)
    epoch = epoch_reached(folder.records(["epoch", "attempt"]), attempt)
    ended_at = datetime.fromtimestamp(max(times), UTC).isoformat() if times else info.updated_at
    ended = replace(attempt, end="killed", ended_at=ended_at, to_epoch=epoch)
    return replace(info, epoch=epoch, attempts=(*info.attempts[:-1], ended))


def epoch_reached(records: pa.Table, attempt: Attempt) -> int:
    """The last epoch that an attempt has recorded, or the one from which it began.

    Args:
        records: the trial's.
    """
    rows = records.select(["epoch", "attempt"]).to_pylist()
    return max([attempt.from_epoch, *(row["epoch"] for row in rows if row["attempt"] == attempt.number)])


def record_killed_attempt(
    folder: TrialFolder, job: str, end: str, message: str, dead_holder: str = ""
) -> bool:
    """Record why a trial's last attempt ended, as its scheduler reports it, if the attempt could not.

    Args:
        job: the attempt's job; an attempt of a newer job is not changed.
        end: a kind of failure, one of INTERRUPTIONS, or `killed`, after which the trial continues.
        dead_holder: the holder of the trial's lease, if known to be dead; see take_lease.

    Returns:
        whether it was recorded: False if the attempt has an end already or its process still lives.
    """
    lease = take_lease(folder.path, dead_holder)
    if lease is None:
        return False
    with lease, suppress(LeaseLostError):
        info = folder.info()
        if info is None or not info.attempts or info.attempts[-1].end or info.attempts[-1].job != job:
            return False
        dead = finalize_killed_attempt(folder, info)
        assert dead is not None
        attempt = replace(dead.attempts[-1], end=end, message=message)
        state = "interrupted" if end in (*INTERRUPTIONS, "killed") else "failed"
        amend(folder, lease, replace(dead, state=state, attempts=(*dead.attempts[:-1], attempt)))
        return True
    return False


def restart_trial(folder: TrialFolder) -> None:
    """Remove a trial's records, checkpoints and kept files; its attempts stay listed, and their logs are kept.

    Raises:
        UserError: a live process holds it.
    """
    lease = take_lease(folder.path) if folder.path.is_dir() else None
    if lease is None:
        if folder.path.is_dir():
            raise UserError(f"{folder.trial_id}: runs now; stop it before it starts from scratch")
        return
    with lease:
        info = finalize_killed_attempt(folder, folder.info())
        if info is None:
            return
        again = replace(
            info, state="interrupted", epoch=info.config.begins_after, retries_from=len(info.attempts)
        )
        try:
            with Term(folder, lease) as term:
                term.begin(again, from_scratch=True)
        except LeaseLostError as error:
            raise UserError(f"{folder.trial_id}: another process has taken it; try again") from error
