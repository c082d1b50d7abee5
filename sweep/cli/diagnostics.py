"""Diagnostics of one trial in this process, outside the sweep: overfitting a few batches, and a profile."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mixsweep.cluster.places import Place
from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import UserError
from mixsweep.core.store.store import SweepStore
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.sweep.backends.base import RunOptions
from mixsweep.sweep.cli.views.live_view import RunView
from mixsweep.sweep.planning.plan import Plan
from mixsweep.sweep.run import check_data, make_run_config

if TYPE_CHECKING:
    from mixsweep.core.training.trainer import Trial

_PROFILED_STEPS = 20


def overfit_trial(
    config: TrialConfig, batches: int, plan: Plan, place: Place, data: Path | None, out: Console
) -> None:
    """Train one trial on a few batches, without augmentation; a working model reaches an accuracy near 1."""
    trial = _trial(config, batches, config.epochs, plan, place, data)
    view = RunView(SweepStore(plan.spec.name), out)
    accuracy = 0.0
    for record in trial.train():
        view.record(record)
        accuracy = record["train_accuracy"]
    images = batches * config["batch_size"]
    out.print(
        f"train accuracy {accuracy:.3f} on {images} images after {config.epochs} epochs; nothing is stored"
    )


def profile_trial(
    config: TrialConfig, plan: Plan, root: Path, place: Place, data: Path | None, out: Console
) -> None:
    """Write a torch profiler trace of the second of two epochs of 20 steps."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    trial = _trial(config, _PROFILED_STEPS, 2, plan, place, data)
    epochs = trial.train()
    next(epochs)  # the first one warms up
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities) as profiler:
        next(epochs)
    path = root / plan.spec.name / f"profile-{config.trial_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(path))
    order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=12, max_name_column_width=40))
    out.print(
        f"Trace: {path} (open it in a browser's tracing page or Perfetto)", markup=False, soft_wrap=True
    )


def _trial(
    config: TrialConfig, batches: int, epochs: int, plan: Plan, place: Place, data: Path | None
) -> "Trial":
    """Return the trial with its data limited to `batches` batches, with the sweep's resources, in this process."""
    from mixsweep.core.data.datasets import load_images
    from mixsweep.core.training import device as devices
    from mixsweep.core.training.trainer import Trial

    if not isinstance(config, ImageConfig):
        raise UserError("--overfit and --profile: only for trials of the image trainer")
    small = config.with_values(train_limit=batches * config.batch_size, augment="none", epochs=epochs)
    run_config = make_run_config(plan.spec, SweepStore(plan.spec.name), place, RunOptions(data_dir=data))
    check_data([small], run_config)
    devices.prepare_process(run_config.cpus)
    gpus = plan.spec.resources.gpus
    device = devices.choose_device(1.0 if gpus is None else gpus)
    return Trial(small, load_images(small.dataset, run_config.data_dir), device, compile=run_config.compile)
