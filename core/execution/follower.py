"""What all ranks do alike: build a trial, and on the ranks beside rank 0 train along until rank 0 ends."""

from collections.abc import Mapping

from mixsweep.core.config import TrialConfig
from mixsweep.core.execution.build import build_trial
from mixsweep.core.execution.rank_channel import RankChannel
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.failures import ends_process
from mixsweep.core.trainables.interface import RunningTrial
from mixsweep.core.training import device as devices

# What rank 0 tells before each epoch; otherwise the state to which the attempt has led.
CONTINUE = "go on"


def attempt_message(trial_id: str, accumulate: int) -> str:
    """What rank 0 tells at the beginning of an attempt."""
    return f"{trial_id} {accumulate}"


def follow(configs: Mapping[str, TrialConfig], run_config: RunConfig, channel: RankChannel) -> None:
    """Train what rank 0 takes, as one of its other ranks, until it ends.

    Args:
        configs: the trials that it may take, by id.

    Raises:
        Exception: what broke this process's device, or that another rank is gone.
    """
    device = devices.choose_device(run_config.gpus, channel.ranks.local_rank)
    while order := channel.receive():
        trial_id, accumulate = order.split()
        try:
            with channel.attempt(device):
                _train_along(
                    build_trial(configs[trial_id], int(accumulate), run_config, device, channel), channel
                )
        except BaseException as error:  # rank 0 knows of it, and records it
            if ends_process(error):
                raise
        finally:
            devices.release_memory(device)


def _train_along(trial: RunningTrial, channel: RankChannel) -> None:
    saved = channel.share(None)
    if saved is not None:
        trial.restore(saved)
    epochs = trial.train()
    while (word := channel.receive()) == CONTINUE:
        next(epochs)
    if word == "completed":
        trial.test()
