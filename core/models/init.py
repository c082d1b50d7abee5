"""Initial weights, by scheme."""

from typing import Any

import torch
from torch import nn


def initialise(model: nn.Module, scheme: str, architecture: str) -> None:
    """Draw a model's initial weights from torch's global random generator.

    Args:
        scheme: `torch` keeps the weights that PyTorch's layers drew. `glorot_normal`, `glorot_uniform` and `he_normal`
            draw every weight of a linear or convolution that way, and zero the biases; norms keep 1 and 0.
            `recipe` is Glorot-normal with zero biases in the MLP, and `torch` for registered architectures. `course` is
            the course's for the Mixer: its linears Xavier-uniform, its patch embedding Kaiming-normal (fan in, gain
            √2), all biases zero. The course's ResNet is as `torch` leaves it. `recipe-0.2` is what versions before 0.3
            drew: the Mixer's patch embedding as PyTorch does, the ResNet's convolutions Kaiming-normal by fan out.
        architecture: `mlp`, `resnet18`, `mixer` or a registered name.

    Sources: Glorot & Bengio 2010, eq. 16; He et al. 2015 (arXiv:1502.01852), eq. 10.
    """
    if scheme == "course":
        _draw_all(model, "glorot_uniform", nn.Linear)
        _draw_all(model, "he_normal", nn.Conv2d)
    elif scheme == "recipe" and architecture == "mlp":
        initialise(model, "glorot_normal", architecture)
    elif scheme == "recipe-0.2" and architecture == "mixer":
        _draw_all(model, "glorot_uniform", nn.Linear)
    elif scheme == "recipe-0.2":
        for layer in _layers(model, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    elif scheme not in ("torch", "recipe"):
        _draw_all(model, scheme, nn.Linear, nn.modules.conv._ConvNd)


def _draw_all(model: nn.Module, scheme: str, *kinds: type[nn.Module]) -> None:
    """Draw the weights of all layers of these kinds, and zero their biases."""
    for layer in _layers(model, *kinds):
        _draw(layer.weight, scheme)
        _zero_bias(layer)


def _draw(weight: torch.Tensor, scheme: str) -> None:
    if scheme == "glorot_normal":
        nn.init.xavier_normal_(weight)
    elif scheme == "glorot_uniform":
        nn.init.xavier_uniform_(weight)
    elif scheme == "he_normal":
        nn.init.kaiming_normal_(weight, nonlinearity="relu")
    else:
        raise ValueError(f"init = {scheme!r} is not known")


def _layers(model: nn.Module, *kinds: type[nn.Module]) -> list[Any]:
    return [layer for layer in model.modules() if isinstance(layer, kinds)]


def _zero_bias(layer: Any) -> None:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
