"""What all ranks do alike: build a trial, and on the ranks beside rank 0 train along until rank 0 ends."""

from collections.abc import Mapping

from mixsweep.core.config import TrialConfig
from mixsweep.core.execution.build import build_trial
from mixsweep.core.execution.rank_channel import Team
from mixsweep.core.execution.run_config import Setting
from mixsweep.core.failures import ends_process
from mixsweep.core.training import device as devices
from mixsweep.core.training.trainer import Trial

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


def _train_along(trial: Trial, team: Team) -> None:
    saved = team.share(None)
    if saved is not None:
        trial.restore(saved)
    epochs = trial.train()
    while (word := team.hear()) == GO_ON:
        next(epochs)
    if word == "completed":
        trial.test()
