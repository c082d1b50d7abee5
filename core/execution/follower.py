"""The ranks above 0: train each trial that rank 0 announces, until rank 0 ends."""

from collections.abc import Mapping
from contextlib import closing

import pyarrow as pa
import torch

from mixsweep.core.config import TrialConfig
from mixsweep.core.execution.build import build_trial
from mixsweep.core.execution.rank_channel import RankChannel
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.failures import ends_process
from mixsweep.core.trainables.interface import RunningTrial
from mixsweep.core.trainables.predictions import OffersPredictions
from mixsweep.core.training import device as devices

# Broadcast by rank 0 before each epoch; at the end of the attempt it broadcasts the resulting state instead.
CONTINUE = "continue"


def attempt_message(trial_id: str, accumulate: int) -> str:
    """The message that rank 0 broadcasts when an attempt begins."""
    return f"{trial_id} {accumulate}"


def follow(configs: Mapping[str, TrialConfig], run_config: RunConfig, channel: RankChannel) -> None:
    """Train the trials that rank 0 takes, as one of the ranks above 0, until rank 0 ends.

    Args:
        configs: the trials that rank 0 may take, by id.

    Raises:
        Exception: this process's device is broken, or another rank has ended.
    """
    device = devices.choose_device(run_config.gpus, channel.ranks.local_rank)
    while message := channel.receive():
        trial_id, accumulate = message.split()
        try:
            with channel.attempt(device):
                _run(configs[trial_id], int(accumulate), run_config, device, channel)
        except BaseException as error:  # rank 0 records it
            if ends_process(error):
                raise
        finally:
            devices.release_memory(device)


def _run(
    config: TrialConfig, accumulate: int, run_config: RunConfig, device: torch.device, channel: RankChannel
) -> None:
    # In a frame of its own: after a failure the channel clears it, and with it the trial's connections.
    with closing(build_trial(config, accumulate, run_config, device, channel)) as trial:
        _train(trial, channel, run_config.keep_predictions)


def predictions_of(trial: RunningTrial, are_kept: bool) -> pa.Table | None:
    """A trial's predictions on its test set; None if they are not kept, or it has none. All ranks make this call."""
    return trial.predictions() if are_kept and isinstance(trial, OffersPredictions) else None


def _train(trial: RunningTrial, channel: RankChannel, keeps_predictions: bool) -> None:
    saved = channel.share(None)
    if saved is not None:
        trial.restore(saved)
    epochs = trial.train()
    while (message := channel.receive()) == CONTINUE:
        next(epochs, None)  # rank 0 tells how an end by itself is recorded
    if message == "completed":
        trial.test()
        predictions_of(trial, keeps_predictions)
