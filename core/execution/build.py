"""Build a trial for this process, the same on all ranks."""

from functools import lru_cache
from pathlib import Path

import torch

from mixsweep.core.config import TrialConfig
from mixsweep.core.data import datasets
from mixsweep.core.execution.rank_channel import RankChannel
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.training import device as devices
from mixsweep.core.training.trainer import Trial


def build_trial(
    config: TrialConfig, accumulate: int, run_config: RunConfig, device: torch.device, channel: RankChannel
) -> Trial:
    """A trial at its beginning, the same on all ranks."""
    devices.prepare_process(run_config.cpus)
    return Trial(
        config,
        _images(config.dataset, run_config.data_dir, device),
        device,
        accumulate=accumulate,
        compile=run_config.compile,
        ranks=channel.ranks,
        batch_norm=run_config.batch_norm,
    )


@lru_cache(maxsize=1)
def _images(dataset: str, data_dir: Path | None, device: torch.device) -> datasets.Images:
    """A data set on a device, loaded once for all trials in turn that share it."""
    return datasets.load_images(dataset, data_dir).to(device)
