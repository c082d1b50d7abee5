"""Choose how many trials an array task runs in turn: as many as take some minutes, while every slot has a task.

A task pays its start once: some seconds of imports, and its turn in the queue. A task of many trials loses little when
it ends early, since its trials are in the store one by one.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mixsweep.cluster.places import AUTO, SlurmPlace
from mixsweep.cluster.slurm import client as slurm
from mixsweep.cluster.slurm.client import JobRequest, SlurmError
from mixsweep.core.formatting import rough_duration
from mixsweep.sweep.planning.forecast import RemainingWork, forecast, measured_rates

_TASK_SECONDS = 600.0
_SHARE_OF_LIMIT = 0.5  # of the job's time limit: forecasts are rough


@dataclass(frozen=True)
class Packing:
    """How many trials a task runs in turn, and why."""

    trials_per_task: int
    reason: str = ""  # empty where the place says how many


def choose_packing(
    place: SlurmPlace, request: JobRequest, work: Sequence[RemainingWork], root: Path
) -> Packing:
    """Return how the trials are distributed over array tasks.

    Args:
        request: of one task.
        work: what is left of each trial.
        root: the folder of sweeps, whose records tell how long trials take.
    """
    if place.trials_per_task != AUTO:
        return Packing(int(place.trials_per_task))
    if not work:
        return Packing(1)
    pace = measured_rates(root)
    cost = forecast(work, pace)
    if cost.seconds is None:
        return Packing(1, f"one trial a task: how long a trial takes is not known ({cost.basis})")
    each = max(cost.seconds / len(work), 1e-3)
    slowest = max(each, *(forecast([one], pace).seconds or 0.0 for one in work))
    slots = place.parallelism
    with suppress(SlurmError):  # `sweep plan` works where no scheduler is
        slots = min(slots, slurm.count_slots(place, request))
    within_limit = int(_SHARE_OF_LIMIT * 60 * place.time / slowest)
    count = max(1, min(int(_TASK_SECONDS / each), within_limit, math.ceil(len(work) / max(1, slots))))
    words = f"a trial takes about {rough_duration(each)}, and {slots} tasks can run at once"
    return Packing(count, f"{count} trial{'s' * (count > 1)} a task: {words}")
