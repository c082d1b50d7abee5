"""What all ranks do alike: build a trial, and on the ranks beside rank 0 train along until rank 0 ends."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch

from core import data
from core import device as devices
from core.config import TrialConfig
from core.ranks import Team, ends_process
from core.setting import Setting
from core.trainer import Trial

# What rank 0 tells before each epoch; otherwise the state to which the attempt has led.
GO_ON = "go on"


def order_to_follow(trial_id: str, accumulate: int) -> str:
    """What rank 0 tells at the beginning of an attempt."""
    return f"{trial_id} {accumulate}"


def follow(configs: Mapping[str, TrialConfig], setting: Setting, team: Team) -> None:
    """Train what rank 0 takes, as one of its other ranks, until it ends.

    Args:
        configs: the trials that it may take, by id.

    Raises:
        Exception: what broke this process's device, or that another rank is gone.
    """
    device = devices.choose_device(setting.gpus, team.ranks.local_rank)
    while order := team.hear():
        trial_id, accumulate = order.split()
        try:
            with team.attempt(device):
                _train_along(build_trial(configs[trial_id], int(accumulate), setting, device, team), team)
        except BaseException as error:  # rank 0 knows of it, and records it
            if ends_process(error):
                raise
        finally:
            devices.release_memory(device)


def build_trial(
    config: TrialConfig, accumulate: int, setting: Setting, device: torch.device, team: Team
) -> Trial:
    """A trial at its beginning, the same on all ranks."""
    devices.prepare_process(setting.cpus)
    return Trial(
        config,
        _images(config.dataset, setting.data_dir, device),
        device,
        accumulate=accumulate,
        compile=setting.compile,
        ranks=team.ranks,
        batch_norm=setting.batch_norm,
    )


def _train_along(trial: Trial, team: Team) -> None:
    saved = team.share(None)
    if saved is not None:
        trial.restore(saved)
    epochs = trial.train()
    while (word := team.hear()) == GO_ON:
        next(epochs)
    if word == "completed":
        trial.test()


@lru_cache(maxsize=1)
def _images(dataset: str, data_dir: Path | None, device: torch.device) -> data.Images:
    """A data set on a device, loaded once for all trials in turn that share it."""
    return data.load_images(dataset, data_dir).to(device)
