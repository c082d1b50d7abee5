"""Run the checks that a place needs before an allocation is spent on it. No check raises."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from mixsweep.cluster.doctor.check_result import Check
from mixsweep.cluster.doctor.host import inspect_folder, one_line
from mixsweep.cluster.doctor.machine_checks import check_data_here, check_extras, check_machine, check_store
from mixsweep.cluster.doctor.probe_job import Say
from mixsweep.cluster.doctor.ray_checks import check_cluster, check_ray
from mixsweep.cluster.doctor.slurm_checks import (
    check_accounting,
    check_by_job,
    check_partition,
    check_scheduler,
    check_submitting,
)
from mixsweep.cluster.places import Place


def examine(
    place: Place,
    store: Path,
    data: Path | None,
    *,
    with_job: bool = True,
    wait_seconds: float = 300.0,
    say: Say = lambda line: None,
) -> Iterator[Check]:
    """Run the checks of a place one after the other; leave nothing in the store or in a queue.

    Args:
        store: the folder of sweeps; it need not exist.
        data: the folder of the image files, None if none was given.
        with_job: at a `slurm` place, also run a probe job, unless an earlier check failed.
        wait_seconds: how long that job may take to start and to report before it is cancelled.
        say: called with a line on what is being waited for.
    """
    checks: dict[str, Callable[[], list[Check]]] = {
        "store": lambda: [check_store(inspect_folder(store))],
        "data": lambda: [check_data_here(data)],
    }
    if place.ray is not None:
        # Where it takes jobs, store and data are on the cluster.
        checks = {"cluster": partial(check_cluster, place.ray), **({} if place.ray.takes_jobs else checks)}
    elif place.slurm is None:
        checks = {"python": partial(check_machine, place), **checks}
        if place.kind == "local":
            checks["ray"] = lambda: [check_ray()]
    else:
        checks = {
            "python": lambda: [check_submitting()],
            **checks,
            "scheduler": partial(check_scheduler, place.slurm),
            "partition": partial(check_partition, place.slurm),
            "accounting": partial(check_accounting, place.slurm),
        }
    checks["extras"] = lambda: [check_extras()]
    any_failed = False
    for name, run_check in checks.items():
        for check in _without_raising(name, run_check):
            any_failed |= check.state == "failed"
            yield check
    if place.slurm is not None and with_job:
        if any_failed:
            yield Check("job", "warning", "not tried", "first fix what failed")
        else:
            yield from _without_raising(
                "job", partial(check_by_job, place.slurm, store.absolute(), data, wait_seconds, say)
            )


def _without_raising(name: str, run_check: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    try:
        yield from run_check()
    except Exception as error:  # an error is a finding too
        yield Check(name, "failed", one_line(error))
