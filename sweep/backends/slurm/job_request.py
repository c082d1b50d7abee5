"""What a sweep asks SLURM for: a task's resources, and which trials each task takes."""

from collections.abc import Sequence

from mixsweep.cluster.places import SlurmPlace
from mixsweep.cluster.slurm.client import JobRequest
from mixsweep.core.errors import UserError
from mixsweep.sweep.planning.schema import Resources


class SlurmBackendError(UserError):
    """A sweep that cannot go on at its scheduler, in one line."""


def request_for(
    name: str, place: SlurmPlace, resources: Resources, failing: tuple[str, ...] = ()
) -> JobRequest:
    """What a task asks the scheduler for; `failing` nodes are left out.

    Raises:
        SlurmBackendError: the scheduler does not give such a thing.
    """
    gpus = place.gpus if resources.gpus is None else resources.gpus
    exclude = (*filter(None, [place.exclude]), *failing)
    if gpus != int(gpus):
        raise SlurmBackendError(
            f"resources.gpus = {gpus:g}: SLURM gives whole GPUs; use 0 or 1, and trials_per_task"
        )
    if place.launch == "ray":
        if place.trials_per_task > 1:
            raise SlurmBackendError(
                "trials_per_task is of launch = 'array'; with 'ray' see trials_per_node and nodes"
            )
        if resources.ranks > 1:
            raise SlurmBackendError(
                "resources.ranks: under launch = 'ray' a trial has one process; use 'array'"
            )
        at_once = place.trials_per_node
        return JobRequest(
            name=name,
            cpus=resources.cpus * at_once,
            gpus=int(gpus) * at_once,
            processes=place.nodes,  # one a node
            nodes=place.nodes,
            exclude=exclude,
        )
    return JobRequest(
        name=name,
        cpus=resources.cpus,
        gpus=int(gpus),
        processes=resources.ranks,
        nodes=resources.nodes,
        exclude=exclude,
    )


def group(trials: Sequence[str], per_task: int) -> tuple[tuple[str, ...], ...]:
    """Trials in turn for each task. The first ones of all tasks come first in the plan's order."""
    count = -(-len(trials) // per_task)
    return tuple(tuple(trials[index::count]) for index in range(count))
