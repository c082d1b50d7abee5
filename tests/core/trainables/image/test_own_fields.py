"""Registered parts of an image trial: their fields, what they are called with, and images of any shape."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn

from mixsweep.core import registry
from mixsweep.core.data.datasets import Images
from mixsweep.core.errors import ConfigError
from mixsweep.core.failures import DataError
from mixsweep.core.models.build import build_model
from mixsweep.core.store.definitions import learn_kind, save_definition
from mixsweep.core.trainables import kinds
from mixsweep.core.trainables.field_types import field
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.core.trainables.image.own_fields import check_fields, definition_of_parts
from mixsweep.core.trainables.image.trainer import TRAINABLE, ImageTrainer
from mixsweep.core.trainables.interface import Run
from mixsweep.core.training.optim import build_optimizer, learning_rate

CPU = torch.device("cpu")
SHAPE = (1, 12, 20)


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_registered", "_recalled"):
        table: dict[str, Any] = getattr(registry, name)
        monkeypatch.setattr(registry, name, {part: type(values)() for part, values in table.items()})
    monkeypatch.setattr(registry, "_forms", {})
    monkeypatch.setattr(kinds, "_declared", {})


def linear(
    shape: registry.Shape,
    classes: int,
    *,
    width: int = field(4, low=1, doc="units"),
    bias: bool = True,
    activation: Callable[[], nn.Module],
) -> nn.Module:
    pixels = shape[0] * shape[1] * shape[2]
    return nn.Sequential(
        nn.Flatten(), nn.Linear(pixels, width), activation(), nn.Linear(width, classes, bias)
    )


def images(data_dir: Path | None, *, count: int = 64, valid: bool = False) -> Images:
    """Images whose left half is brighter in class 1."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 2
    pixels = torch.randint(0, 128, (count, *SHAPE), generator=generator)
    pixels[:, :, :, : SHAPE[2] // 2] += 100 * labels[:, None, None, None]
    made = pixels.to(torch.uint8)
    own = {"valid_images": made[:10], "valid_labels": labels[:10]} if valid else {}
    return Images(
        train_images=made,
        train_labels=labels,
        test_images=made[:20],
        test_labels=labels[:20],
        classes=2,
        mean=(0.4,),
        std=(0.2,),
        **own,
    )


def scaled(images_BCHW: torch.Tensor, generator: torch.Generator, *, strength: float = 0.5) -> torch.Tensor:
    factors = 1 - strength * torch.rand(len(images_BCHW), generator=generator)
    return images_BCHW * factors[:, None, None, None].to(images_BCHW.device)


class Doubled(nn.Module):
    def __init__(self, slope: float = 2.0):
        super().__init__()
        self.slope = slope

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.slope * x


def doubled(*, slope: float = 2.0) -> nn.Module:
    return Doubled(slope)


def falling(step: int, steps: int, *, power: float = 1.0) -> float:
    return (1 - step / steps) ** power


def sgd_with_sign(parameters: Any, *, lr: float, weight_decay: float, rho: float = 0.5) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr, momentum=rho, weight_decay=weight_decay)


def everything() -> set[tuple[str, str]]:
    return {(part, name) for part, name, _ in registry.registrations()}


def register_all() -> ImageTrainer:
    registry.register_model("linear", linear)
    registry.register_dataset("halves", images, shape=SHAPE, classes=2, augment="none")
    registry.register_optimizer("with-sign", sgd_with_sign)
    registry.register_schedule("falling", falling)
    registry.register_activation("doubled", doubled)
    registry.register_augmentation("scaled", scaled)
    definition = definition_of_parts(everything())
    assert definition is not None
    found = kinds.declare(definition)
    assert isinstance(found, ImageTrainer)
    return found


ALL = {
    "model": "linear", "dataset": "halves", "optimizer": "with-sign", "schedule": "falling",
    "activation": "doubled", "augment": "scaled", "batch_size": 16, "epochs": 3, "lr": 0.05,
}  # fmt: skip


def train(trainer: ImageTrainer, **values: Any) -> list[dict[str, Any]]:
    trial = trainer.start(trainer.config({**ALL, **values}), Run(device=CPU))
    own = [trainer.trajectory_columns.index(name) for name in ("train_loss", "valid_loss", "lr")]
    names = [trainer.trajectory_columns[position] for position in own]
    return [{name: record[name] for name in names} for record in trial.train()] + [dict(trial.test())]


def test_keyword_only_parameters_are_typed_fields_of_a_trial() -> None:
    trainer = register_all()
    assert trainer.field_names[: len(TRAINABLE.fields)] == TRAINABLE.field_names
    own = {spec.name: spec for spec in trainer.fields[len(TRAINABLE.fields) :]}
    assert list(own) == ["width", "bias", "count", "valid", "rho", "power", "slope", "strength"]
    assert (own["width"].type, own["width"].low, own["width"].doc) == (int, 1, "units")
    assert own["width"].applies == {"model": ("linear",)}
    with pytest.raises(ConfigError, match="width = 0 is too small; allowed: 1 or more"):
        trainer.check_value("width", 0)
    with pytest.raises(ConfigError, match=r"unknown field 'widht'; did you mean 'width'\?"):
        trainer.config({**ALL, "widht": 3})
    assert trainer.is_effective("width", {**trainer.defaults, **ALL})
    assert not trainer.is_effective("width", {**trainer.defaults, **ALL, "model": "mlp"})


def test_a_trial_of_registered_parts_alone_trains_and_learns_alike_each_time() -> None:
    trainer = register_all()
    first = train(trainer)
    assert first == train(trainer)
    assert first[-2]["train_loss"] < first[0]["train_loss"]
    assert [round(row["lr"] / 0.05, 3) for row in first[:3]] == [
        0.778,
        0.444,
        0.111,
    ]  # each epoch's last step
    for name, other in {
        "width": 5, "bias": False, "rho": 0.1, "power": 2.0, "slope": 1.0, "strength": 0.1, "count": 60, "valid": True,
    }.items():  # fmt: skip
        assert train(trainer, **{name: other})[:2] != first[:2], name


def test_fields_of_the_parts_in_use_are_all_in_an_identity_and_others_are_not() -> None:
    trainer = register_all()
    identity = trainer.config(ALL).identity()
    own = {"width": 4, "bias": True, "count": 64, "valid": False, "rho": 0.5, "power": 1.0, "slope": 2.0}
    assert identity.items() >= own.items()
    assert identity["strength"] == 0.5
    assert identity["epochs"] == 3  # a registered schedule depends on the budget
    plain = {"dataset": "digits", "hidden": [16], "epochs": 2}
    assert trainer.config(plain).identity() == ImageConfig.from_mapping(plain).identity()
    assert trainer.config({**plain, "width": 9}).trial_id == ImageConfig.from_mapping(plain).trial_id
    assert trainer.config({**ALL, "width": 5}).trial_id != trainer.config(ALL).trial_id


def test_a_part_without_fields_leaves_the_kind_and_the_ids_as_they_were() -> None:
    registry.register_model("old", lambda config, classes: nn.Linear(config.embed_dim, classes))
    registry.register_optimizer("adamax", torch.optim.Adamax)
    assert definition_of_parts(everything()) is None
    config = TRAINABLE.config({"model": "old", "optimizer": "adamax"})
    assert config.identity() == {"model": "old", "optimizer": "adamax"}
    made = build_optimizer(ImageConfig(optimizer="adamax", lr=0.3), [nn.Parameter(torch.zeros(2))])
    assert isinstance(made, torch.optim.Adamax)
    assert made.param_groups[0]["lr"] == 0.3


def test_a_store_is_read_without_the_files_that_registered_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = register_all()
    config = trainer.config({**ALL, "width": 7, "slope": 3.0})
    assert trainer.definition is not None
    save_definition(tmp_path, trainer.definition)
    for part in registry.BUILT_IN:
        monkeypatch.setitem(registry._registered, part, {})
    monkeypatch.setattr(registry, "_forms", {})
    monkeypatch.setattr(kinds, "_declared", {})
    learn_kind(tmp_path, config.kind)
    again = kinds.find_trainable(config.kind).config_from_store(config.to_mapping())
    assert again.trial_id == config.trial_id
    assert again["width"] == 7
    assert isinstance(again, ImageConfig)
    for build, part in (
        (lambda: build_model(again, 2, SHAPE), "activation"),
        (lambda: build_optimizer(again, [nn.Parameter(torch.zeros(1))]), "optimizer"),
        (lambda: learning_rate(again, 0, 4), "schedule"),
    ):
        with pytest.raises(ConfigError, match=f"{part} = '.*': the file that registers it is not imported"):
            build()


def test_a_config_travels_to_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    config = register_all().config({**ALL, "width": 7})
    content = pickle.dumps(config)
    monkeypatch.setattr(kinds, "_declared", {})
    again = pickle.loads(content)
    assert (again.trial_id, again.kind, again["width"]) == (config.trial_id, config.kind, 7)
    assert again.with_values(width=8).trial_id != config.trial_id


def test_two_models_may_share_a_field_each_with_its_own_default() -> None:
    def wide(shape: registry.Shape, classes: int, *, width: int = field(32, low=1)) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(240, width), nn.Linear(width, classes))

    registry.register_model("wide", wide)
    trainer = register_all()
    assert trainer.config({**ALL, "model": "wide"})["width"] == 32
    assert trainer.config(ALL)["width"] == 4


def with_built_in(shape: Any, classes: int, *, dropout: float = 0.5) -> None: ...
def without_default(shape: Any, classes: int, *, width: int) -> None: ...
def without_type(shape: Any, classes: int, *, width=3) -> None: ...  # type: ignore[no-untyped-def]
def of_another_type(shape: Any, classes: int, *, width: dict = {}) -> None: ...  # type: ignore[type-arg]  # noqa: B006
def with_reserved(shape: Any, classes: int, *, epoch: int = 1) -> None: ...
def with_a_plans_column(shape: Any, classes: int, *, part: int = 1) -> None: ...
def with_an_attribute(shape: Any, classes: int, *, kind: str = "a") -> None: ...
def with_bad_default(shape: Any, classes: int, *, width: int = field(0, low=1)) -> None: ...
def with_choice(shape: Any, classes: int, *, pool: Literal["max", "mean"] = "sum") -> None: ...  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (with_built_in, "'dropout' is a built-in field; leave out its default to get the field's value, or rename it"),
        (without_default, "'width' has no default"),
        (without_type, "'width' has no type; write width: int = …"),
        (of_another_type, "'width': type dict is none of int, float"),
        (with_reserved, "'epoch' has a reserved name"),
        (with_a_plans_column, "'part' has a reserved name"),
        (with_an_attribute, "'kind' has a reserved name"),
        (with_bad_default, "'width': its default: width = 0 is too small"),
        (with_choice, "'pool': its default: pool = 'sum' is not known"),
    ],
)  # fmt: skip
def test_a_parameter_that_cannot_be_a_field_is_named_in_one_line(
    build: Callable[..., Any], message: str
) -> None:
    registry.register_model("wrong", build)
    with pytest.raises(ConfigError, match=r"^model 'wrong': its parameter ") as raised:
        definition_of_parts(everything())
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_parts_of_different_sorts_do_not_share_a_field() -> None:
    registry.register_schedule("falling", falling)
    registry.register_activation("powered", lambda *, power=1.0: nn.Identity())
    with pytest.raises(ConfigError, match="has no type"):
        definition_of_parts(everything())

    def powered(*, power: float = 1.0) -> nn.Module:
        return nn.Identity()

    registry.register_activation("powered", powered)
    with pytest.raises(
        ConfigError, match="'power' is of another kind than that of schedule 'falling'; rename"
    ):
        definition_of_parts(everything())


def test_a_worker_refuses_parts_that_have_changed_since_the_sweep_was_submitted() -> None:
    definition = register_all().definition
    assert definition is not None
    check_fields(definition)

    def changed(step: int, steps: int, *, power: int = 1) -> float:
        return 1.0

    registry.register_schedule("falling", changed)
    with pytest.raises(ConfigError, match="field 'power' of schedule 'falling' is not what the sweep was"):
        check_fields(definition)


def test_a_checkpoint_that_a_changed_model_refuses_is_a_line_and_says_what_to_do() -> None:
    trainer = register_all()
    state = trainer.start(trainer.config(ALL), Run(device=CPU)).state()

    def changed(
        shape: registry.Shape, classes: int, *, width: int = field(4, low=1), bias: bool = True
    ) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(240, width + 1), nn.Linear(width + 1, classes, bias))

    registry.register_model("linear", changed)
    config = trainer.config(ALL)
    with pytest.raises(
        ConfigError, match=f"model = 'linear': its code .* --fresh {config.trial_id}$"
    ) as raised:
        trainer.start(config, Run(device=CPU)).restore(state)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("model", ["mlp", "resnet18", "mixer"])
def test_built_in_models_take_the_shape_and_the_classes_of_the_data(model: str) -> None:
    trainer = register_all()
    config = trainer.config({**ALL, "model": model, "patch_size": 4, "activation": "relu", "hidden": [8]})
    made = build_model(config, 2, SHAPE).eval()
    assert made(torch.zeros(3, *SHAPE)).shape == (3, 2)
    values = config.to_mapping()
    assert trainer.parameters(values) == sum(p.numel() for p in made.parameters())
    (first, second), rest = [row["train_loss"] for row in train(trainer, **values)[:2]], None
    assert rest is None
    assert torch.isfinite(torch.tensor([first, second])).all()


def test_patches_must_divide_the_images_of_the_data() -> None:
    trainer = register_all()
    trainer.check_value("patch_size", 4)
    with pytest.raises(
        ConfigError, match="patch_size = 8 does not divide the images of 12×20; allowed: 1, 2, 4"
    ):
        trainer.config({**ALL, "model": "mixer", "patch_size": 8})


def test_a_data_set_has_its_own_augmentation_unless_a_trial_names_one() -> None:
    trainer = register_all()
    left_out = {name: value for name, value in ALL.items() if name != "augment"}
    assert trainer.config(left_out)["augment"] == "none"
    assert trainer.config({**left_out, "augment": "flip_crop"})["augment"] == "flip_crop"
    assert trainer.config({**left_out, "dataset": "cifar10"})["augment"] == "flip_resized_crop"


@pytest.mark.parametrize("augment", ["flip_crop", "flip_resized_crop"])
def test_built_in_augmentations_take_images_that_are_not_square(augment: str) -> None:
    assert train(register_all(), augment=augment)[-2]["train_loss"] > 0


def wrong_images() -> Iterator[tuple[dict[str, Any], str]]:
    whole = images(None)
    yield (
        {"train_images": whole.train_images[:, :, :, :4]},
        "not torch.uint8 [count, 1, 12, 20]; register_dataset",
    )
    yield {"mean": (0.4,) * 3}, "are not 1 numbers each"
    yield {"classes": 3}, "3 classes, but it is registered with 2"
    yield {"valid_images": whole.train_images}, "valid_images and valid_labels are not both torch tensors"


@pytest.mark.parametrize(("values", "message"), list(wrong_images()))
def test_images_of_another_form_than_registered_are_refused(values: dict[str, Any], message: str) -> None:
    trainer = register_all()
    made = Images(**{**vars(images(None)), **values})
    registry.register_dataset("halves", lambda data_dir: made, shape=SHAPE, classes=2)
    plain = TRAINABLE.config({"dataset": "halves", "batch_size": 16})
    assert trainer.definition is not None
    with pytest.raises(DataError) as raised:
        TRAINABLE.start(plain, Run(device=CPU, data_dir=Path(str(len(message)))))
    assert message in str(raised.value)


def test_own_valid_images_are_the_valid_part_and_all_others_are_trained_on() -> None:
    trainer = register_all()
    trial: Any = trainer.start(trainer.config({**ALL, "valid": True}), Run(device=CPU))
    assert (len(trial._train), len(trial._valid)) == (64, 10)
    with pytest.raises(ConfigError, match="split = 'leaky': halves has valid images of its own"):
        trainer.start(trainer.config({**ALL, "valid": True, "split": "leaky"}), Run(device=CPU))


def test_an_augmentation_that_returns_another_shape_is_named() -> None:
    registry.register_augmentation("half", lambda images, generator: images[:, :, ::2])
    trainer = register_all()
    with pytest.raises(
        ConfigError, match=r"augment = 'half': it returned \[16, 1, 6, 20\], not images of shape"
    ):
        train(trainer, augment="half")


@pytest.mark.parametrize(
    "register",
    [
        registry.register_model, registry.register_optimizer, registry.register_schedule,
        registry.register_activation, registry.register_augmentation, registry.register_dataset,
    ],
)  # fmt: skip
def test_a_built_in_name_is_not_taken(register: Callable[..., None]) -> None:
    part = register.__name__.removeprefix("register_").replace("augmentation", "augment")
    with pytest.raises(ValueError, match="is a built-in name; choose another"):
        register(registry.BUILT_IN[part][0], print)
