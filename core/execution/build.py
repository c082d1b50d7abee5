"""Build a trial for this process, the same on all ranks."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from mixsweep.core.config import TrialConfig
from mixsweep.core.execution.rank_channel import RankChannel
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.trainables.interface import Run, RunningTrial
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.core.training import device as devices


def build_trial(
    config: TrialConfig,
    accumulate: int,
    run_config: RunConfig,
    device: torch.device,
    channel: RankChannel,
    log: Callable[[str], None] = print,
    kept: Mapping[str, Path] | None = None,
) -> RunningTrial:
    """Build a trial at epoch 0, the same on all ranks.

    Args:
        log: writes a line into the trial's log; other ranks print it into their process's output.
        kept: the files that earlier attempts kept, by their paths.
    """
    devices.prepare_process(run_config.cpus)
    run = Run(
        device=device,
        data_dir=run_config.data_dir,
        accumulate=accumulate,
        compile=run_config.compile,
        rank=channel.ranks.rank,
        world_size=channel.ranks.world,
        local_rank=channel.ranks.local_rank,
        batch_norm=run_config.batch_norm,
        threads=run_config.cpus,
        log=log,
        kept=kept or {},
        until=run_config.until,
    )
    return find_trainable(config.kind).start(config, run)
