"""Requeue the job of this task: why, how often, and without which nodes.

The scheduler counts restarts of all causes, and a new exclusion replaces the previous ones; so failures of the place
are counted, and their nodes collected, in the submission's folder, one line each.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from mixsweep.cluster.slurm import client as slurm
from mixsweep.cluster.slurm import job_environment
from mixsweep.core.failures import RankError, end_of
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.backends.slurm.submissions import Submission, submission_folder

# Failures of the place, after which the job is requeued, and how often per task.
_PLACE_FAILURES = ("node", "port", "rendezvous")
_MAX_PLACE_FAILURES = 20


@dataclass(frozen=True)
class PlaceFailure:
    """A kind of failure, and the node at fault, '' if unknown."""

    kind: str
    node: str = ""


def requeue(reason: str, exclude: Sequence[str] = ()) -> None:
    """Requeue this job, unless it has been cancelled or requeued already; `exclude` are nodes to avoid.

    Raises:
        SlurmError: the scheduler refused.
    """
    if _is_still_running():
        job_environment.requeue_this_job(reason, exclude=",".join(exclude))


def requeue_reason(error: Exception, store: SweepStore, submission: Submission, index: int) -> str:
    """Why a task's job is requeued after an error, '' where it is not: only failures of the place are, not for ever.

    A failure of the place is recorded, with this node where it is at fault.
    """
    kind = record_error(error, store, submission, index)
    count = len(place_failures(store, submission.submission_id, index))
    return kind if kind in _PLACE_FAILURES and count <= _MAX_PLACE_FAILURES else ""


def record_error(error: Exception, store: SweepStore, submission: Submission, index: int) -> str:
    """Return the kind of a failure; record a failure of the place, with this node where it is at fault."""
    kind = end_of(error)
    if kind in _PLACE_FAILURES:
        # A RankError reports a failure of another rank, which records it with its own node.
        is_here = kind == "node" and not isinstance(error, RankError)
        failure = PlaceFailure(kind, job_environment.node_name() if is_here else "")
        record_place_failure(store, submission.submission_id, index, failure)
    return kind


def nodes_to_exclude(store: SweepStore, submission: Submission, index: int) -> tuple[str, ...]:
    """The nodes that a requeued task avoids; none as long as no node has failed it."""
    failures = place_failures(store, submission.submission_id, index)
    broken = dict.fromkeys(failure.node for failure in failures if failure.node)
    return (*submission.exclude, *broken) if broken else ()


def record_place_failure(store: SweepStore, submission_id: str, index: int, failure: PlaceFailure) -> None:
    """Add a place failure of a task."""
    path = submission_folder(store, submission_id) / f"{index}.place-failures"
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{failure.kind} {failure.node}\n")


def place_failures(store: SweepStore, submission_id: str, index: int) -> list[PlaceFailure]:
    """A task's place failures, oldest first."""
    path = submission_folder(store, submission_id) / f"{index}.place-failures"
    with suppress(FileNotFoundError):
        fields = (
            line.partition(" ") for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        )
        return [PlaceFailure(kind, node) for kind, _, node in fields]
    return []


def _is_still_running() -> bool:
    """Whether this job has been neither cancelled nor requeued; True if the queue cannot be queried."""
    try:
        task = slurm.query_tasks([job_environment.job_id()]).get(job_environment.job_id())
    except slurm.SlurmError:
        return True  # the requeue then fails with a message
    return task is not None and task.state == "RUNNING"
