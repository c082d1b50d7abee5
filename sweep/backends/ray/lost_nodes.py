"""Record the end of attempts whose node is dead, so that their trials are free at once."""

from collections.abc import Iterable, Mapping

from mixsweep.core.store.trial.crash_recovery import record_killed_attempt
from mixsweep.core.store.trial.folder import TrialFolder
from mixsweep.core.store.trial.lease import holder_of


def job_with_node(job: str, node_id: str) -> str:
    """The `job` of an attempt: Ray's job id and the first 16 digits of the node's id."""
    return f"{job}@{node_id[:16]}"


def node_id_of(job: str) -> str:
    """The start of the node's id in what `job_with_node` returned."""
    return job.rpartition("@")[2]


def record_lost_nodes(
    folders: Iterable[TrialFolder], dead: Mapping[str, str], *, breaks_leases: bool
) -> None:
    """Record that attempts on dead nodes were killed.

    Args:
        folders: the folders of trials that may have run there.
        dead: what is known of each dead node, by the start of its id.
        breaks_leases: whether the dead attempts held their leases themselves, so that these may be broken.
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
