"""Parameters of built-in models are counted without PyTorch, and as PyTorch counts them."""

import subprocess
import sys
from typing import Any

import pytest

from mixsweep.core.models.build import build_model, count_parameters
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.core.trainables.image.costs import built_in_parameters

CONFIGS: list[dict[str, Any]] = [
    {},
    {"hidden": (7, 5), "dropout": 0.3},
    {"model": "resnet18", "activation": "silu"},
    {"model": "mixer", "patch_size": 2},
    {
        "model": "mixer",
        "patch_size": 8,
        "embed_dim": 48,
        "blocks": 3,
        "token_ratio": 0.7,
        "channel_ratio": 1.3,
    },
]


@pytest.mark.parametrize("values", CONFIGS, ids=str)
@pytest.mark.parametrize(("shape", "classes"), [((3, 32, 32), 10), ((1, 8, 8), 7)])
def test_a_built_in_model_has_as_many_as_it_is_built_with(
    values: dict[str, Any], shape: tuple[int, int, int], classes: int
) -> None:
    config = ImageConfig(**values)
    assert built_in_parameters(config, shape, classes) == count_parameters(
        build_model(config, classes, shape)
    )


def test_what_cannot_be_built_has_no_count() -> None:
    assert built_in_parameters(ImageConfig(model="mixer", patch_size=8), (3, 28, 28), 10) is None
    assert built_in_parameters(ImageConfig(model="mixer", token_ratio=1e-9), (3, 32, 32), 10) is None


def test_pytorch_is_not_imported_for_it() -> None:
    code = (
        "import sys; from mixsweep.core.trainables.kinds import find_trainable; kind = find_trainable();"
        "print(kind.parameters(kind.defaults), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3709194.0", "False"]
