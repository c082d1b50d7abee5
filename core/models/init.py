"""Initial weights, by scheme."""

from typing import Any

import torch
from torch import nn


def initialise(model: nn.Module, scheme: str, architecture: str) -> None:
    """Draw a model's initial weights from torch's global random generator.

    Args:
        scheme: `torch` keeps the weights that PyTorch's layers drew. `glorot_normal`, `glorot_uniform` and `he_normal`
            draw every weight of a linear or convolution that way, and zero the biases; norms keep 1 and 0.
            `recipe` is the course's for the built-in architectures, and `torch` for registered ones:
            Glorot-normal with zero biases in the MLP; Xavier-uniform with zero biases in the Mixer's linears;
            torchvision's in the ResNet.
        architecture: `mlp`, `resnet18`, `mixer` or a registered name.

    Sources: Glorot & Bengio 2010, eq. 16; He et al. 2015 (arXiv:1502.01852), eq. 10.
    """
    if scheme == "recipe":
        _initialise_by_recipe(model, architecture)
    elif scheme != "torch":
        for layer in _layers(model, nn.Linear, nn.modules.conv._ConvNd):
            _draw(layer.weight, scheme)
            _zero_bias(layer)


def _initialise_by_recipe(model: nn.Module, architecture: str) -> None:
    if architecture == "mlp":
        initialise(model, "glorot_normal", architecture)
    elif architecture == "mixer":
        for layer in _layers(model, nn.Linear):
            _draw(layer.weight, "glorot_uniform")
            _zero_bias(layer)
    elif architecture == "resnet18":
        for layer in _layers(model, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


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
