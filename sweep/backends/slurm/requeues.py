"""Why tasks of a job went back into the queue without their trials' fault: a line each in the submission's folder.

The scheduler counts restarts for all causes, and the exclusions of a job are replaced, not added to: what is to be
counted and added up stands here.
"""

from contextlib import suppress
from dataclasses import dataclass

from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.backends.slurm.submissions import submission_folder


@dataclass(frozen=True)
class PlaceFailure:
    """A kind of failure, and the node at fault: '' where it is not known."""

    kind: str
    node: str = ""


def record_place_failure(store: SweepStore, submission_id: str, index: int, trouble: PlaceFailure) -> None:
    """Add a trouble of a task."""
    path = submission_folder(store, submission_id) / f"{index}.troubles"
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{trouble.kind} {trouble.node}\n")


def place_failures(store: SweepStore, submission_id: str, index: int) -> list[PlaceFailure]:
    """A task's troubles, oldest first."""
    path = submission_folder(store, submission_id) / f"{index}.troubles"
    with suppress(FileNotFoundError):
        words = (line.partition(" ") for line in path.read_text(encoding="utf-8").splitlines())
        return [PlaceFailure(kind, node) for kind, _, node in words]
    return []
