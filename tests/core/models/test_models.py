"""core.models.build: exact sizes, and the same logits as torchvision's and timm's models with the same weights."""

import math
from typing import Any

import pytest
import torch
from timm.models.mlp_mixer import MlpMixer
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock as TorchvisionBlock
from torchvision.models.resnet import ResNet as TorchvisionResNet

from mixsweep.core import registry
from mixsweep.core.errors import ConfigError
from mixsweep.core.models.build import activation, build_model, count_parameters
from mixsweep.core.trainables.image.config import ACTIVATIONS, INITS, ImageConfig


def built(seed: int = 0, classes: int = 10, **values: Any) -> Any:
    torch.manual_seed(seed)
    return build_model(ImageConfig.from_mapping(values), classes)


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({"model": "mlp"}, 3_709_194),
        ({"model": "resnet18"}, 11_173_962),
        ({"model": "mixer", "patch_size": 2}, 2_376_458),
        ({"model": "mixer", "patch_size": 4}, 2_188_298),
        ({"model": "mixer", "patch_size": 8}, 2_175_818),
        ({"model": "mixer", "patch_size": 16}, 2_310_938),
    ],
)
def test_parameters_are_counted_to_the_last_one(values: dict[str, Any], count: int) -> None:
    assert count_parameters(built(**values)) == count


@pytest.mark.parametrize("model", ["mlp", "resnet18", "mixer"])
@pytest.mark.parametrize("classes", [2, 10])
def test_logits_have_a_column_a_class(model: str, classes: int) -> None:
    logits = built(model=model, classes=classes)(images(3))
    assert (logits.dtype, tuple(logits.shape)) == (torch.float32, (3, classes))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_resnet_gives_torchvisions_logits_with_torchvisions_weights(mode: str) -> None:
    torch.manual_seed(5)
    theirs = TorchvisionResNet(TorchvisionBlock, [2, 2, 2, 2], num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    theirs.train()
    theirs(torch.randn(16, 3, 32, 32))  # running statistics that differ from 0 and 1
    ours = built(model="resnet18")
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.train(mode == "train")
    ours.train(mode == "train")
    torch.testing.assert_close(ours(images()), theirs(images()), atol=1e-5, rtol=1e-5)
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("patch_size", [4, 16])
def test_mixer_gives_timms_logits_with_timms_weights(patch_size: int) -> None:
    torch.manual_seed(5)
    theirs = MlpMixer(num_classes=10, img_size=32, patch_size=patch_size, num_blocks=4, embed_dim=256)
    for parameter in theirs.parameters():  # timm's zero biases and head would hide a wrong place
        nn.init.normal_(parameter, std=0.05)
    renamed = {
        "stem.proj": "patch_embed",
        "norm1": "norm_tokens",
        "mlp_tokens.fc1": "tokens.0",
        "mlp_tokens.fc2": "tokens.3",
        "norm2": "norm_channels",
        "mlp_channels.fc1": "channels.0",
        "mlp_channels.fc2": "channels.3",
    }
    state = {}
    for name, value in theirs.state_dict().items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        state[name] = value
    ours = built(model="mixer", patch_size=patch_size, dropout=0.3)
    ours.load_state_dict(state, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images()), theirs.eval()(images()), atol=1e-4, rtol=1e-4)


def test_mixers_first_token_weights_have_a_row_a_unit_and_a_column_a_patch() -> None:
    state = built(model="mixer", embed_dim=512, blocks=1).state_dict()
    assert tuple(state["blocks.0.tokens.0.weight"].shape) == (256, 64)


def test_mlp_is_linear_maps_with_the_activation_between() -> None:
    model = built(model="mlp", activation="tanh", hidden=[20, 7])
    linears = [layer for layer in model if isinstance(layer, nn.Linear)]
    x = images().flatten(1)
    for layer in linears[:-1]:
        x = torch.tanh(x @ layer.weight.T + layer.bias)
    expected = x @ linears[-1].weight.T + linears[-1].bias
    torch.testing.assert_close(model(images()), expected)
    assert [layer.out_features for layer in linears] == [20, 7, 10]


def test_dropout_acts_in_train_mode_only_and_adds_no_parameter() -> None:
    for model in ("mlp", "mixer"):
        dropped = built(model=model, dropout=0.5)
        assert count_parameters(dropped) == count_parameters(built(model=model))
        assert not torch.equal(dropped(images()), dropped(images()))
        dropped.eval()
        assert torch.equal(dropped(images()), dropped(images()))
    assert not any(isinstance(layer, nn.Dropout) for layer in built(model="mlp").modules())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_equal_torchs_functions(name: str) -> None:
    x = torch.linspace(-5, 5, 101)
    expected = {"identity": lambda x: x, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
    function = expected.get(name) or getattr(F, name)
    assert torch.equal(activation(name)(x), function(x))


@pytest.mark.parametrize("model", ["mlp", "resnet18", "mixer"])
def test_the_configs_activation_is_the_only_one_in_the_model(model: str) -> None:
    kinds = {type(activation(name)) for name in ACTIVATIONS} - {nn.Identity}
    for name, kind in (("silu", nn.SiLU), ("elu", nn.ELU)):
        found = {type(layer) for layer in built(model=model, activation=name).modules()} & kinds
        assert found == {kind}


def expected_std(scheme: str, weight: torch.Tensor) -> float:
    receptive = math.prod(weight.shape[2:])
    fan_out, fan_in = weight.shape[0] * receptive, weight.shape[1] * receptive
    return {
        "glorot": math.sqrt(2 / (fan_in + fan_out)),
        "he_in": math.sqrt(2 / fan_in),
        "he_out": math.sqrt(2 / fan_out),
        "torch": math.sqrt(1 / (3 * fan_in)),  # uniform within ±1/√fan_in
    }[scheme]


def kurtosis(weight: torch.Tensor) -> float:
    """3 for a normal distribution, 1.8 for a uniform one."""
    centred = weight.double() - weight.double().mean()
    return (centred.pow(4).mean() / centred.pow(2).mean() ** 2).item()


NORMAL, UNIFORM = 3.0, 1.8


@pytest.mark.parametrize(
    ("model", "init", "layer", "scheme", "shape"),
    [
        ("mlp", "recipe", "1", "glorot", NORMAL),
        ("mlp", "glorot_uniform", "1", "glorot", UNIFORM),
        ("mlp", "he_normal", "1", "he_in", NORMAL),
        ("mlp", "torch", "1", "torch", UNIFORM),
        ("mixer", "recipe", "blocks.0.channels.0", "glorot", UNIFORM),
        ("mixer", "recipe", "patch_embed", "he_in", NORMAL),
        ("mixer", "recipe-0.2", "blocks.0.channels.0", "glorot", UNIFORM),
        ("mixer", "recipe-0.2", "patch_embed", "torch", UNIFORM),
        ("mixer", "glorot_normal", "patch_embed", "glorot", NORMAL),
        ("resnet18", "recipe", "layer4.0.conv1", "torch", UNIFORM),
        ("resnet18", "recipe-0.2", "layer4.0.conv1", "he_out", NORMAL),
        ("resnet18", "recipe", "fc", "torch", UNIFORM),
        ("resnet18", "he_normal", "layer4.0.conv1", "he_in", NORMAL),
        ("resnet18", "torch", "layer4.0.conv1", "torch", UNIFORM),
    ],
)
def test_weights_are_drawn_from_the_distribution_asked_for(
    model: str, init: str, layer: str, scheme: str, shape: float
) -> None:
    weight = built(model=model, init=init).state_dict()[f"{layer}.weight"]
    assert weight.std().item() == pytest.approx(expected_std(scheme, weight), rel=0.03)
    assert abs(weight.mean().item()) < 4 * weight.std().item() / math.sqrt(weight.numel())
    assert kurtosis(weight) == pytest.approx(shape, rel=0.06)


@pytest.mark.parametrize("model", ["mlp", "resnet18", "mixer"])
@pytest.mark.parametrize("init", INITS)
def test_biases_begin_at_zero_where_the_scheme_says_so_and_norms_at_one(model: str, init: str) -> None:
    if (model, init) in (("mlp", "course"), ("mlp", "recipe-0.2"), ("resnet18", "course")):
        with pytest.raises(ConfigError, match=f"init = '{init}' is not for model = '{model}'"):
            built(model=model, init=init)
        return
    for layer in built(model=model, init=init).modules():
        if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm):
            assert torch.all(layer.weight == 1)
            assert torch.all(layer.bias == 0)
        elif isinstance(layer, nn.Linear):
            keeps_torchs = init == "torch" or (init in ("recipe", "recipe-0.2") and model == "resnet18")
            assert bool(layer.bias.any()) == keeps_torchs


@pytest.mark.parametrize("model", ["mlp", "resnet18", "mixer"])
def test_the_random_state_alone_decides_the_weights(model: str) -> None:
    first, again, other = (built(seed, model=model).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_registered_model_is_built_and_keeps_its_own_initial_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(registry._registered, "model", {})

    def build(config: ImageConfig, classes: int) -> nn.Module:
        linear = nn.Linear(3072, classes)
        nn.init.constant_(linear.weight, config.dropout)
        return nn.Sequential(nn.Flatten(), linear)

    registry.register_model("flat", build)
    assert torch.all(built(model="flat", dropout=0.25, classes=7)[1].weight == 0.25)
    assert not torch.all(built(model="flat", dropout=0.25, init="he_normal")[1].weight == 0.25)

    registry.register_model("broken", lambda config, classes: None)
    with pytest.raises(ConfigError, match=r"'broken'.* returned a NoneType"):
        built(model="broken")


@pytest.mark.parametrize("ratio", ["token_ratio", "channel_ratio"])
def test_a_mixer_without_hidden_units_is_refused(ratio: str) -> None:
    with pytest.raises(ConfigError, match=f"{ratio} = 0.01 leaves no hidden unit"):
        built(model="mixer", embed_dim=32, **{ratio: 0.01})  # type: ignore[arg-type]
