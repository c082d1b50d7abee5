"""The backend of `debug`: trials one after the other in this process, without Ray, so that breakpoints work."""

from typing import ClassVar

from mixsweep.sweep.backends.base import Backend, SweepRun
from mixsweep.sweep.runtime.worker import run_trials


class InlineBackend(Backend):
    """A place of kind `debug`."""

    extras: ClassVar[tuple[str, ...]] = ("train",)
    trains_ranks: ClassVar[bool] = False
    spans_nodes: ClassVar[bool] = False
    passes_paths_on: ClassVar[bool] = False

    def run(self, sweep_run: SweepRun) -> int:
        gpus = sweep_run.plan.spec.resources.gpus
        spec = sweep_run.worker_spec.with_run_config(gpus=_has_cuda() if gpus is None else gpus)
        for info in run_trials(spec, sweep_run.trials, sweep_run.callbacks.on_record):
            sweep_run.callbacks.on_end(info)
        return 0


def _has_cuda() -> float:
    import torch

    return float(torch.cuda.is_available() and torch.cuda.device_count() > 0)
