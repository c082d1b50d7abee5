"""Record why tasks were requeued after failures of the place: one line each in the submission's folder.

The scheduler counts restarts of all causes, and a new exclusion replaces the previous ones; so place failures are
counted, and their nodes collected, here.
"""

from contextlib import suppress
from dataclasses import dataclass

from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.backends.slurm.submissions import submission_folder


@dataclass(frozen=True)
class PlaceFailure:
    """A kind of failure, and the node at fault, '' if unknown."""

    kind: str
    node: str = ""


def record_place_failure(store: SweepStore, submission_id: str, index: int, failure: PlaceFailure) -> None:
    """Add a place failure of a task."""
    path = submission_folder(store, submission_id) / f"{index}.place-failures"
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{failure.kind} {failure.node}\n")


def place_failures(store: SweepStore, submission_id: str, index: int) -> list[PlaceFailure]:
    """A task's place failures, oldest first."""
    path = submission_folder(store, submission_id) / f"{index}.place-failures"
    with suppress(FileNotFoundError):
        fields = (line.partition(" ") for line in path.read_text(encoding="utf-8").splitlines())
        return [PlaceFailure(kind, node) for kind, _, node in fields]
    return []
