"""Optimizers and learning rate schedules."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from mixsweep.core.trainables.image_config import ImageConfig


def build_optimizer(config: ImageConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of a trial, over parameters that are already on their device.

    `sgd`, `momentum` and `adam` add weight_decay · weight to the gradient (L2); `adamw` decays the weights
    separately from the update (Loshchilov & Hutter 2017, arXiv:1711.05101).
    """
    parameters = list(parameters)
    # Fused: one pass over each tensor instead of a dozen, with the same bits from run to run.
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    if config.optimizer in ("sgd", "momentum"):
        momentum = config.momentum if config.optimizer == "momentum" else 0.0
        return torch.optim.SGD(
            parameters, config.lr, momentum=momentum, weight_decay=config.weight_decay, fused=fused
        )
    rule = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return rule(parameters, config.lr, weight_decay=config.weight_decay, fused=fused)


def learning_rate(config: ImageConfig, step: int, steps_per_epoch: int) -> float:
    """The learning rate of optimizer step number `step`, counted from 0.

    It rises linearly to `lr` over the warm-up, from lr / warm-up steps at the first step; then it is constant, or
    decays along a half cosine to 0 at the end of the last epoch (Loshchilov & Hutter 2016, arXiv:1608.03983, eq. 5).
    """
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return config.lr * (step + 1) / warmup_steps
    if config.schedule == "constant":
        return config.lr
    falling_steps = config.epochs * steps_per_epoch - warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, falling_steps))
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of the next steps."""
    for group in optimizer.param_groups:
        group["lr"] = lr
