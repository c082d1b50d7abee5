"""Start a trial from scratch again: what it has trained counts no more."""

from dataclasses import replace

from mixsweep.core.errors import UserError
from mixsweep.core.failures import LeaseLostError
from mixsweep.core.store.trial.crash_recovery import finalize_killed_attempt
from mixsweep.core.store.trial.folder import TrialFolder
from mixsweep.core.store.trial.lease import take_lease
from mixsweep.core.store.trial.term import Term


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
