"""Bring an older store up to date: its trials' folders are rewritten once, by the first `run`."""

import time
from pathlib import Path

from mixsweep.core.errors import UserError
from mixsweep.core.store import files
from mixsweep.core.store.store import FORMAT, FORMAT_FILE, SweepStore
from mixsweep.core.store.trial import format_1
from mixsweep.core.store.trial.lease import Lease, take_lease
from mixsweep.core.store.trial.migration import migrate_trial

_POLL_SECONDS = 0.5


def bring_up_to_date(store: SweepStore) -> None:
    """Rewrite a sweep's folder in this version's format, under one lock; nothing to do for a new sweep.

    Raises:
        UserError: a newer version wrote it, or an older one still trains in it.
    """
    path = store.path
    found = store.format()
    if found == FORMAT and (path / FORMAT_FILE).exists():
        return
    lease = _wait_for_lease(path)
    with lease:
        for folder in store.trials():
            if not format_1.is_old(folder.listing().names):
                continue
            trial_lease = take_lease(folder.path)
            if trial_lease is None:
                raise UserError(
                    f"{folder.path}: an older version of mixsweep trains this trial; wait until it has ended or stop "
                    "it, then run the same command again"
                )
            with trial_lease:
                migrate_trial(folder, trial_lease)
        files.write_bytes(path / FORMAT_FILE, f"{FORMAT}\n".encode())


def _wait_for_lease(path: Path) -> Lease:
    """The lease of a sweep's folder, as soon as no other command brings it up to date."""
    while (lease := take_lease(path)) is None:
        time.sleep(_POLL_SECONDS)
    return lease
