"""Optimizers and learning rate schedules."""

import inspect
import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from mixsweep.core.errors import ConfigError
from mixsweep.core.registry import registered
from mixsweep.core.trainables.image.config import OPTIMIZERS, ImageConfig
from mixsweep.core.trainables.image.own_fields import call_part


def build_optimizer(config: ImageConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of a trial, over parameters that are already on their device.

    `sgd`, `momentum` and `adam` add weight_decay · weight to the gradient (L2); `adamw` decays the weights
    separately from the update (Loshchilov & Hutter 2017, arXiv:1711.05101).

    Raises:
        ConfigError: a registered one's file is not imported, or it made no optimizer.
    """
    _spare_the_compiler()
    parameters = list(parameters)
    if config.optimizer not in OPTIMIZERS:
        return _registered_optimizer(config, parameters)
    # Fused: one pass over each tensor instead of a dozen, with the same bits from run to run.
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    if config.optimizer in ("sgd", "momentum"):
        momentum = config.momentum if config.optimizer == "momentum" else 0.0
        return torch.optim.SGD(
            parameters, config.lr, momentum=momentum, weight_decay=config.weight_decay, fused=fused
        )
    rule = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return rule(parameters, config.lr, weight_decay=config.weight_decay, fused=fused)


def plain_step(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """The update of an optimizer, as a function that does not import PyTorch's compiler.

    The `step` of PyTorch's own optimizers is wrapped in one that tells the compiler where to break a graph; importing
    the compiler takes longer than training a small model. Another's `step` is left as it is.
    """
    if not type(optimizer).__module__.startswith("torch.optim."):
        return optimizer.step
    step = inspect.unwrap(type(optimizer).step)

    @torch.no_grad()
    def update() -> None:
        step(optimizer)

    return update


def _spare_the_compiler() -> None:
    """Let an optimizer's methods run as they are, without importing PyTorch's compiler to be excluded from it.

    They look for this attribute before they import it. Where a version of PyTorch does not, it is imported.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        method = inspect.unwrap(getattr(torch.optim.Optimizer, name))
        if not hasattr(method, "__dynamo_disable"):
            method.__dynamo_disable = method


def _registered_optimizer(config: ImageConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    build = registered("optimizer", config.optimizer)
    if build is None:
        raise ConfigError(
            f"optimizer = {config.optimizer!r}: the file that registers it is not imported", "optimizer"
        )
    made = call_part("optimizer", config, build, parameters, lr=config.lr, weight_decay=config.weight_decay)
    if not isinstance(made, torch.optim.Optimizer):
        raise ConfigError(
            f"optimizer = {config.optimizer!r}: it made a {type(made).__name__}, not a torch.optim.Optimizer",
            "optimizer",
        )
    return made


def learning_rate(config: ImageConfig, step: int, steps_per_epoch: int) -> float:
    """The learning rate of optimizer step number `step`, counted from 0.

    It rises linearly to `lr` over the warm-up, from lr / warm-up steps at the first step; then it is constant, or
    decays along a half cosine to 0 at the end of the last epoch (Loshchilov & Hutter 2016, arXiv:1608.03983, eq. 5),
    or follows a registered schedule.

    Raises:
        ConfigError: a registered schedule's file is not imported.
    """
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return config.lr * (step + 1) / warmup_steps
    if config.schedule == "constant":
        return config.lr
    falling_steps = config.epochs * steps_per_epoch - warmup_steps
    if config.schedule != "cosine":
        factor = registered("schedule", config.schedule)
        if factor is None:
            raise ConfigError(
                f"schedule = {config.schedule!r}: the file that registers it is not imported", "schedule"
            )
        return config.lr * float(call_part("schedule", config, factor, step - warmup_steps, falling_steps))
    done = min(1.0, (step - warmup_steps) / max(1, falling_steps))
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of the next steps."""
    for group in optimizer.param_groups:
        group["lr"] = lr
