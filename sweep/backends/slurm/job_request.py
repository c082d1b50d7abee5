"""Build a sweep's job requests: the resources of a task, the trials of each task, and what a task runs."""

from collections.abc import Sequence

from mixsweep.cluster.places import AUTO, SlurmPlace
from mixsweep.cluster.slurm.client import JobRequest
from mixsweep.core.errors import UserError
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.backends.slurm import job_entry
from mixsweep.sweep.planning.schema import Resources


class SlurmBackendError(UserError):
    """A sweep that cannot run on its SLURM cluster; the message is one line."""


def request_for(
    name: str, place: SlurmPlace, resources: Resources, failing: tuple[str, ...] = ()
) -> JobRequest:
    """The job request of a task, which excludes the `failing` nodes.

    Raises:
        SlurmBackendError: SLURM cannot provide these resources.
    """
    gpus = place.gpus if resources.gpus is None else resources.gpus
    exclude = (*filter(None, [place.exclude]), *failing)
    if gpus != int(gpus):
        raise SlurmBackendError(
            f"resources.gpus = {gpus:g}: SLURM allocates whole GPUs; use 0 or 1, and trials_per_task"
        )
    if place.launch == "ray":
        if place.trials_per_task not in (AUTO, 1):
            raise SlurmBackendError(
                "trials_per_task: only with launch = 'array'; with 'ray' set trials_per_node and nodes"
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


def job_module(place: SlurmPlace, store: SweepStore, submission_id: str) -> tuple[str, ...]:
    """The module that a job's processes run, and its arguments."""
    return (job_entry.MODULE, place.launch, str(store.path.absolute()), submission_id)


def group(trials: Sequence[str], per_task: int) -> tuple[tuple[str, ...], ...]:
    """Deal trials to tasks in rounds, so that the tasks' first trials are the first of the plan.

    Each round begins one task later: a plan repeats its points seed by seed, and a task would get all seeds of one.
    """
    count = -(-len(trials) // per_task)
    tasks: list[list[str]] = [[] for _ in range(count)]
    for position, trial_id in enumerate(trials):
        dealt, place = divmod(position, count)
        tasks[(place + dealt) % count].append(trial_id)
    return tuple(map(tuple, tasks))
