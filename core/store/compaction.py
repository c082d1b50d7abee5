"""Compaction: what all trials of a sweep say, in two derived files that are quick to read."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from mixsweep.core.failures import LeaseLostError
from mixsweep.core.store import files
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial import checkpoint
from mixsweep.core.store.trial.artifacts import remove_leftover_folders
from mixsweep.core.store.trial.folder import TrialFolder
from mixsweep.core.store.trial.lease import holder_of, lease_is_live, take_lease
from mixsweep.core.store.trial_index import TrialIndex

_THREADS = 4  # that list folders


def compact(store: SweepStore) -> None:
    """Write all trials' records into one table, and the states of those that have ended into an index.

    Safe at any time: both are derived, and rebuilt whole.
    """
    store.write_compacted(*store.assemble())
    TrialIndex(store).write()


def tidy(store: SweepStore) -> None:
    """Remove what killed processes have left, their leases of ended trials too; what a live one needs stays."""
    files.remove_leftovers(store.path)
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(_tidy_trial, store.trials()))


def _tidy_trial(folder: TrialFolder) -> None:
    with suppress(OSError, LeaseLostError):
        listing = folder.listing()
        is_clean = max(map(len, (listing.all_segments, listing.artifacts, listing.predictions))) <= 1
        is_clean &= not any(name.startswith(".") for name in listing.names)
        if (is_clean and not holder_of(folder.path)) or lease_is_live(folder.path):
            return
        lease = take_lease(folder.path)
        if lease is None:
            return
        with lease:
            files.remove_leftovers(folder.path)
            remove_leftover_folders(folder.path)
            _remove_unbelieved(folder)


def _remove_unbelieved(folder: TrialFolder) -> None:
    """Remove files of an ended trial that no reader believes; the caller holds its lease."""
    belief = folder.belief(verify=True)
    if belief.head is None or not belief.head.sealed or belief.damages:
        return
    counted = {one.name for one in belief.segments} | {one.name for one in belief.checkpoints}
    listing = folder.listing()
    for segment in listing.all_segments:
        if segment.name not in counted and segment.term <= belief.head.term:
            files.remove_file(folder.path / segment.name)
    counted |= {one.name for one in belief.artifacts[:1]} | {one.name for one in belief.predictions}
    made = [one for one in listing.made if one.name not in counted]
    checkpoint.remove(folder.path, [one for one in made if one.term <= belief.head.term])
