"""Attempts whose node is gone: their end is written down, so that their trials are free at once."""

from collections.abc import Iterable, Mapping

from mixsweep.core.store.crash_recovery import record_killed_attempt
from mixsweep.core.store.lease import holder_of
from mixsweep.core.store.store import TrialFolder


def job_with_node(job: str, node_id: str) -> str:
    """What an attempt says of its job: Ray's name for it, and the beginning of its node's id."""
    return f"{job}@{node_id[:16]}"


def node_id_of(job: str) -> str:
    """The beginning of a node's id, of what job_with_node made."""
    return job.rpartition("@")[2]


def record_lost_nodes(
    folders: Iterable[TrialFolder], dead: Mapping[str, str], *, breaks_leases: bool
) -> None:
    """Write down that attempts on dead nodes were killed.

    Args:
        folders: of the trials that may have been there.
        dead: what is known of each dead node, by the beginning of its id.
        breaks_leases: whether the attempts hold their leases themselves, so that those are of dead processes.
    """
    for folder in folders:
        holder = holder_of(folder.path) if breaks_leases else ""
        info = folder.info()
        if info is None or not info.attempts or info.attempts[-1].end:
            continue
        job = info.attempts[-1].job
        why = dead.get(node_id_of(job))
        if why is not None:
            record_killed_attempt(folder, job, "killed", f"its node is gone: {why}", dead_holder=holder)
