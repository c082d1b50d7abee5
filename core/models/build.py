"""The architectures, built from a trial's config."""

from collections.abc import Callable
from functools import partial

from torch import nn

from mixsweep.core.errors import ConfigError
from mixsweep.core.models.init import initialise
from mixsweep.core.models.mixer import Mixer
from mixsweep.core.models.mlp import MLP
from mixsweep.core.models.resnet import ResNet18
from mixsweep.core.registry import Shape, registered
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.core.trainables.image.own_fields import call_part, takes_shape

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "identity": nn.Identity,
}


def build_model(config: ImageConfig, classes: int, shape: Shape = (3, 32, 32)) -> nn.Module:
    """Build a trial's model, with initial weights drawn from torch's global random generator.

    The module takes normalised float32 images [batch, *shape] and returns logits [batch, classes].

    Raises:
        ConfigError: a hidden width of the Mixer is 0, its patches do not divide the images, or a registered builder
            did not return a module.
    """
    act = activation_maker(config)
    channels, height, width = shape
    build = registered("model", config.model)
    model: nn.Module
    if build is not None:
        first = shape if takes_shape(build) else config
        model = call_part("model", config, build, first, classes, instead={"activation": act})
        if not isinstance(model, nn.Module):
            raise ConfigError(
                f"model = {config.model!r}: its builder returned a {type(model).__name__}, not an nn.Module",
                "model",
            )
    elif config.model == "mlp":
        model = MLP(config.hidden, classes, act, config.dropout, inputs=channels * height * width)
    elif config.model == "resnet18":
        model = ResNet18(classes, act, channels)
    elif config.model == "mixer":
        for name in ("token_ratio", "channel_ratio"):
            ratio = getattr(config, name)
            if int(ratio * config.embed_dim) < 1:
                raise ConfigError(
                    f"{name} = {ratio} leaves no hidden unit at embed_dim = {config.embed_dim}", name
                )
        if height % config.patch_size or width % config.patch_size:
            raise ConfigError(
                f"patch_size = {config.patch_size} does not divide images of {height}×{width}", "patch_size"
            )
        model = Mixer(
            config.patch_size,
            config.embed_dim,
            config.blocks,
            config.token_ratio,
            config.channel_ratio,
            classes,
            act,
            config.dropout,
            shape,
        )
    else:
        raise ConfigError(f"model = {config.model!r}: the file that registers it is not imported", "model")
    initialise(model, config.init, config.model)
    return model


def activation(name: str) -> nn.Module:
    """The built-in nonlinearity of that name.

    Raises:
        KeyError: there is none; configs have been checked before.
    """
    return _ACTIVATIONS[name]()


def activation_maker(config: ImageConfig) -> Callable[[], nn.Module]:
    """What makes a trial's nonlinearity, built in or registered.

    Raises:
        ConfigError: the file that registers it is not imported.
    """
    name = str(config.activation)
    if name in _ACTIVATIONS:
        return _ACTIVATIONS[name]
    make = registered("activation", name)
    if make is None:
        raise ConfigError(f"activation = {name!r}: the file that registers it is not imported", "activation")
    return partial(call_part, "activation", config, make)


def count_parameters(module: nn.Module) -> int:
    """The number of trainable parameters of a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
