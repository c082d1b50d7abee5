"""The backend of `local`: trials on a private Ray cluster of this machine."""

from typing import ClassVar

from mixsweep.cluster.ray_cluster import connection
from mixsweep.cluster.ray_cluster.nodes import local_ray
from mixsweep.sweep.backends.base import Backend, SweepRun
from mixsweep.sweep.backends.ray.rank_groups import run_rank_groups
from mixsweep.sweep.backends.ray.search_driver import drive_search
from mixsweep.sweep.backends.ray.tune_driver import RaySlots, run_until_done
from mixsweep.sweep.runtime.retry import ignore_read_errors
from mixsweep.sweep.runtime.worker import run_trials


class LocalRayBackend(Backend):
    """A place of kind `local`."""

    extras: ClassVar[tuple[str, ...]] = ("train", "ray")
    spans_nodes: ClassVar[bool] = False
    searches: ClassVar[bool] = True

    def run(self, sweep_run: SweepRun) -> int:
        resources = sweep_run.plan.spec.resources
        on_tick = ignore_read_errors(sweep_run.callbacks.on_tick)
        with local_ray(self.place.cpus, self.place.gpus) as available:
            gpus = resources.gpus if resources.gpus is not None else float(available.get("GPU", 0) > 0)
            spec = sweep_run.worker_spec.with_copy().with_run_config(gpus=gpus)
            needs = {"CPU": float(resources.cpus), "GPU": gpus}
            slots = RaySlots(
                count=connection.capacity(needs, resources.ranks),
                needs=needs,
                train=run_rank_groups if resources.ranks > 1 else run_trials,
            )
            if sweep_run.searches:
                return drive_search(sweep_run, spec, slots, on_tick)
            run_until_done(
                sweep_run.trials,
                spec,
                slots,
                on_end=sweep_run.callbacks.on_end,
                on_tick=on_tick,
                halt=sweep_run.stop_requested,
            )
        return 0
