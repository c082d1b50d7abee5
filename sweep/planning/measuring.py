"""The first forecast of a store: a few steps of each kind of trial that it does not know, timed on this machine."""

from pathlib import Path

from mixsweep.core.config import TrialConfig
from mixsweep.core.extras import require
from mixsweep.core.trainables.interface import MeasuredEpoch, Run
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.sweep.planning.forecast import MeasuredPace, measured_rates
from mixsweep.sweep.planning.plan import Plan

_SECONDS = 2.0  # a kind of trial


def measure_plan(plan: Plan, root: Path, data_dir: Path | None) -> MeasuredPace:
    """Train a few steps of a trial of each kind that the store does not know, and store nothing.

    Args:
        root: the folder of the sweeps.
        data_dir: the data folder on this machine.

    Raises:
        UserError: PyTorch is not installed here, or a trial cannot be trained.
    """
    require("train", what="--measure")
    from mixsweep.core.training.device import choose_device

    resources, known = plan.spec.resources, measured_rates(root).rates
    run = Run(
        device=choose_device(1 if resources.gpus is None else resources.gpus),
        data_dir=data_dir,
        threads=resources.cpus,
        compile=resources.compile,
    )
    found: dict[str, tuple[TrialConfig, MeasuredEpoch]] = {}
    for config in plan.trials:
        trainable = find_trainable(config.kind)
        group = trainable.epoch_work(config).group
        if group in found or group in known:
            continue
        trainable.check_data([config], run.data_dir)
        epoch = trainable.measure_epoch(config, run, _SECONDS)
        if epoch is not None:
            found[group] = (config, epoch)
    return MeasuredPace(found)
