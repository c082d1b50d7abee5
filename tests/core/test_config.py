"""core.config: what a trial may be, and that one trajectory has one identity for ever."""

import json
import random
from dataclasses import make_dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixsweep.core import registry
from mixsweep.core.config import canonical_json, option
from mixsweep.core.errors import ConfigError
from mixsweep.core.trainables.image import config as config_module
from mixsweep.core.trainables.image.config import FIELD_NAMES, ImageConfig
from mixsweep.core.trainables.image.trainer import TRAINABLE

# Frozen: a change here orphans the results of everyone who has any.
GOLDEN_IDS = [
    ({}, "44136fa355b3"),
    ({"epochs": 30}, "44136fa355b3"),
    ({"dataset": "digits", "hidden": [16], "lr": 0.1, "optimizer": "momentum"}, "9f260930b0cb"),
    ({"schedule": "cosine", "epochs": 30, "warmup_epochs": 2.5}, "40c9e52af989"),
    (
        {
            "activation": "gelu",
            "split": "leaky",
            "seed": 7,
            "precision": "bf16",
            "train_limit": 1000,
            "valid_limit": 100,
            "label_smoothing": 0.1,
            "accumulate": 4,
            "batch_size": 64,
            "weight_decay": 0,
        },
        "4ace76eb2c4a",
    ),
]

# What came later, frozen in its turn. Since 0.3 the Mixer's and the ResNet's initial weights are the course's.
GOLDEN_IDS += [
    ({"model": "resnet18", "optimizer": "adam"}, "cfc8b7dd55e0"),
    ({"model": "mixer", "patch_size": 8, "lr": 3e-4, "dropout": 0.1}, "463cac17a2c8"),
    ({"model": "resnet18", "optimizer": "adam", "init": "recipe-0.2"}, "ca5857aa902d"),
    ({"model": "mixer", "patch_size": 8, "lr": 3e-4, "dropout": 0.1, "init": "recipe-0.2"}, "c2bf3b7a39f9"),
]
GOLDEN_IDS.append(({"dataset": "digits", "lr": 0.01, "parent": "44136fa355b3@3"}, "ff23ff4e2889"))


@pytest.mark.parametrize(
    ("values", "trial_id"),
    [
        ({"model": "resnet18", "optimizer": "adam"}, "ca5857aa902d"),
        ({"model": "mixer", "patch_size": 8, "lr": 3e-4, "dropout": 0.1}, "c2bf3b7a39f9"),
        ({"model": "resnet18", "init": "torch"}, ImageConfig(model="resnet18").trial_id),
    ],
)
def test_trials_of_a_version_before_the_courses_initial_weights_keep_their_ids(
    values: dict[str, Any], trial_id: str
) -> None:
    stored = ImageConfig.from_mapping(values).to_mapping() | {"init": values.get("init", "recipe")}
    assert ImageConfig.from_store(stored).trial_id == trial_id
    new = ImageConfig.from_mapping(values)
    assert ImageConfig.from_store(new.to_mapping()) == new


CONFIG_VALUES = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(registry.BUILT_IN["model"]),
        "dataset": st.sampled_from(registry.BUILT_IN["dataset"]),
        "split": st.sampled_from(config_module.SPLITS),
        "augment": st.sampled_from(registry.BUILT_IN["augment"]),
        "activation": st.sampled_from(registry.BUILT_IN["activation"]) | st.none(),
        "hidden": st.lists(st.integers(1, 4096), min_size=1, max_size=5),
        "patch_size": st.sampled_from([1, 2, 4, 8, 16, 32]),
        "embed_dim": st.integers(1, 1024),
        "token_ratio": st.floats(0.01, 8),
        "dropout": st.floats(0, 0.99),
        "optimizer": st.sampled_from(registry.BUILT_IN["optimizer"]),
        "lr": st.floats(1e-8, 10),
        "momentum": st.floats(0, 0.9999),
        "schedule": st.sampled_from(registry.BUILT_IN["schedule"]),
        "warmup_epochs": st.floats(0, 10),
        "batch_size": st.integers(1, 64).map(lambda n: 8 * n),
        "accumulate": st.sampled_from([1, 2, 4, 8]),
        "epochs": st.integers(1, 100),
        "precision": st.sampled_from(config_module.PRECISIONS),
        "seed": st.integers(0, 2**31 - 1),
        "train_limit": st.integers(1, 50_000) | st.none(),
    },
)


@pytest.mark.parametrize(("values", "trial_id"), GOLDEN_IDS)
def test_identities_stay_what_they_were(values: dict[str, Any], trial_id: str) -> None:
    assert ImageConfig.from_mapping(values).trial_id == trial_id


@given(CONFIG_VALUES, st.randoms(use_true_random=False))
def test_identity_does_not_depend_on_the_order_of_fields(values: dict[str, Any], rng: random.Random) -> None:
    items = list(values.items())
    rng.shuffle(items)
    assert ImageConfig.from_mapping(dict(items)).trial_id == ImageConfig.from_mapping(values).trial_id


@given(CONFIG_VALUES)
def test_a_config_survives_json_and_names_itself_alike_with_every_default_spelt_out(
    values: dict[str, Any],
) -> None:
    config = ImageConfig.from_mapping(values)
    mapping = json.loads(json.dumps(config.to_mapping()))
    assert set(mapping) == set(FIELD_NAMES)
    again = ImageConfig.from_mapping(mapping)
    assert again == config
    assert again.trial_id == config.trial_id


@given(CONFIG_VALUES)
def test_the_identity_alone_rebuilds_what_shapes_the_trajectory(values: dict[str, Any]) -> None:
    config = ImageConfig.from_mapping(values)
    again = ImageConfig.from_mapping(config.identity())
    assert again.with_values(epochs=config.epochs) == config


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"lr": 1e-2}, {"lr": 0.01}),
        ({"lr": 1}, {"lr": 1.0}),
        ({"weight_decay": 0}, {"weight_decay": -0.0}),
        ({"seed": 3}, {"seed": 3.0}),
        ({"hidden": [32, 16]}, {"hidden": (32, 16)}),
        ({"activation": "relu"}, {}),
        ({"model": "mixer", "activation": "gelu"}, {"model": "mixer"}),
    ],
)
def test_two_spellings_of_one_value_are_one_trial(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert ImageConfig(**one) == ImageConfig(**other)
    assert ImageConfig(**one).trial_id == ImageConfig(**other).trial_id


@given(st.floats(1e-300, 1e300))
def test_a_float_keeps_its_identity_through_its_decimal_spelling(lr: float) -> None:
    assert ImageConfig(lr=float(f"{lr:.17g}")).trial_id == ImageConfig(lr=lr).trial_id


def test_an_identity_is_canonical_json_of_what_differs_from_the_defaults() -> None:
    config = ImageConfig(lr=1e-1, hidden=(16,))
    assert canonical_json(config.identity()) == '{"hidden":[16],"lr":0.1}'


def test_every_field_that_shapes_the_trajectory_changes_the_identity() -> None:
    other = {
        "model": "resnet18", "dataset": "digits", "split": "leaky", "augment": "none", "activation": "tanh",
        "hidden": (8,), "dropout": 0.5, "init": "torch", "optimizer": "sgd", "lr": 0.5, "weight_decay": 0.1,
        "schedule": "cosine", "warmup_epochs": 1, "batch_size": 64, "accumulate": 2, "label_smoothing": 0.1,
        "precision": "bf16", "seed": 1, "train_limit": 10, "valid_limit": 10,
        "parent": "0123456789ab@3", "pinned_code": "0123",
    }  # fmt: skip
    mixer = {"patch_size": 8, "embed_dim": 8, "blocks": 2, "token_ratio": 2, "channel_ratio": 2}
    ids = [ImageConfig().trial_id, ImageConfig(model="mixer").trial_id]
    ids += [ImageConfig.from_mapping({name: value}).trial_id for name, value in other.items()]
    ids += [
        ImageConfig.from_mapping({"model": "mixer", name: value}).trial_id for name, value in mixer.items()
    ]
    ids += [ImageConfig(optimizer="momentum", momentum=m).trial_id for m in (0.9, 0.5)]
    assert {*other, *mixer, "momentum", "epochs"} == set(FIELD_NAMES)
    assert len(set(ids)) == len(ids)


def test_epochs_are_part_of_the_identity_only_where_the_schedule_depends_on_them() -> None:
    constant = {ImageConfig(epochs=n, warmup_epochs=1).trial_id for n in (1, 15, 30)}
    cosine = {ImageConfig(epochs=n, schedule="cosine").trial_id for n in (1, 15, 30)}
    assert len(constant) == 1
    assert len(cosine) == 3


@pytest.mark.parametrize(
    ("owner", "values"),
    [
        ({"model": "mlp"}, {"patch_size": 8, "embed_dim": 64, "blocks": 2, "token_ratio": 1}),
        ({"model": "resnet18"}, {"hidden": [8], "dropout": 0.5, "channel_ratio": 2.0}),
        ({"model": "mixer"}, {"hidden": [8]}),
        ({"optimizer": "adam"}, {"momentum": 0.5}),
    ],
)
def test_a_field_without_effect_is_reset_so_that_it_makes_no_second_trial(
    owner: dict[str, Any], values: dict[str, Any]
) -> None:
    assert ImageConfig(**owner, **values) == ImageConfig(**owner)


def test_one_initialisation_under_two_names_is_one_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ImageConfig(model="mlp", init="glorot_normal") == ImageConfig(model="mlp")
    assert ImageConfig(model="mixer", init="glorot_normal") != ImageConfig(model="mixer")
    assert ImageConfig(model="resnet18", init="torch") == ImageConfig(model="resnet18")
    assert ImageConfig(model="mixer", init="course") == ImageConfig(model="mixer")
    monkeypatch.setitem(registry._registered["model"], "own", lambda config, classes: None)
    assert ImageConfig(model="own", init="torch") == ImageConfig(model="own")
    assert ImageConfig(model="own", init="glorot_normal") != ImageConfig(model="own")


def test_a_registered_model_may_use_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._registered["model"], "own", lambda config, classes: None)
    config = ImageConfig(model="own", hidden=(8,), patch_size=8, dropout=0.5)
    assert (config.hidden, config.patch_size, config.dropout) == ((8,), 8, 0.5)


@pytest.mark.parametrize(("values", "trial_id"), GOLDEN_IDS)
def test_a_field_added_later_leaves_old_identities_as_they_were(
    values: dict[str, Any], trial_id: str
) -> None:
    late = option(0.0, "strength of mixing")
    later = make_dataclass("Later", [("mixup", float, late)], bases=(ImageConfig,), frozen=True, kw_only=True)
    assert later(**values).trial_id == trial_id
    assert later(**values, mixup=0.2).trial_id != trial_id


@pytest.mark.parametrize(
    ("values", "name", "words"),
    [
        (
            {"learning_rate": 0.1},
            "learning_rate",
            ["unknown field 'learning_rate'", "allowed: model, dataset"],
        ),
        ({"patchsize": 4}, "patchsize", ["'patchsize'", "did you mean 'patch_size'?"]),
        ({"model": "resnet"}, "model", ["model = 'resnet'", "did you mean 'resnet18'?"]),
        ({"model": "vit"}, "model", ["model = 'vit'", "allowed: mlp, resnet18, mixer"]),
        ({"dataset": "cifar"}, "dataset", ["dataset = 'cifar'", "did you mean 'cifar10'?"]),
        ({"optimizer": "adma"}, "optimizer", ["optimizer = 'adma'", "did you mean 'adam'?"]),
        ({"optimizer": "lion"}, "optimizer", ["'lion'", "allowed: sgd, momentum, adam, adamw"]),
        ({"schedule": "a\nb"}, "schedule", ["'a\\nb'", "allowed: constant, cosine"]),
        ({"model": 3}, "model", ["model = 3 is not a string"]),
        ({"activation": 3}, "activation", ["activation = 3 is not a string"]),
        ({"model": None}, "model", ["model = None is not a string"]),
        ({"lr": "1e-3"}, "lr", ["lr = '1e-3' is not a number"]),
        ({"lr": True}, "lr", ["lr = True is not a number"]),
        ({"lr": None}, "lr", ["lr = None is not a number"]),
        ({"lr": float("nan")}, "lr", ["lr = nan is not a number"]),
        ({"lr": float("inf")}, "lr", ["lr = inf is not a number"]),
        ({"lr": 10**400}, "lr", ["lr = 1000", "is not a number"]),
        ({"lr": 0}, "lr", ["lr = 0 is too small", "more than 0"]),
        ({"lr": -1e-3}, "lr", ["lr = -0.001 is too small", "more than 0"]),
        ({"weight_decay": -1}, "weight_decay", ["weight_decay = -1 is too small", "0 or more"]),
        ({"dropout": 1}, "dropout", ["dropout = 1 is too large", "0.99 or less"]),
        ({"epochs": 0}, "epochs", ["epochs = 0 is too small", "1 or more"]),
        ({"epochs": 1.5}, "epochs", ["epochs = 1.5 is not an integer"]),
        ({"epochs": "15"}, "epochs", ["epochs = '15' is not an integer"]),
        ({"seed": 2**31}, "seed", ["seed = 2147483648 is too large", "2147483647 or less"]),
        ({"train_limit": 0}, "train_limit", ["train_limit = 0 is too small", "1 or more"]),
        ({"hidden": []}, "hidden", ["hidden = [] is not a list of integers"]),
        ({"hidden": 16}, "hidden", ["hidden = 16 is not a list of integers"]),
        ({"hidden": [16, 0]}, "hidden", ["hidden = 0 is too small", "1 or more"]),
        ({"hidden": ["16"]}, "hidden", ["hidden = '16' is not an integer"]),
        ({"model": "mixer", "patch_size": 5}, "patch_size", ["patch_size = 5", "1, 2, 4, 8, 16, 32"]),
        ({"accumulate": 3}, "accumulate", ["accumulate = 3 does not divide batch_size = 128"]),
    ],
)
def test_a_bad_value_is_one_line_that_names_field_value_and_what_is_allowed(
    values: dict[str, Any], name: str, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        ImageConfig.from_mapping(values)
    message = str(caught.value)
    assert caught.value.field == name
    assert "\n" not in message
    assert all(word in message for word in words), message


JUNK = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())


@given(st.sampled_from(FIELD_NAMES), JUNK)
def test_no_value_is_anything_but_a_config_or_a_config_error(name: str, value: Any) -> None:
    try:
        config = ImageConfig.from_mapping({name: value})
    except ConfigError as error:
        named = error.field
    else:
        named = name
        assert ImageConfig.from_mapping(config.to_mapping()) == config
    assert named in (name, "accumulate")  # a batch size may not suit its micro-batches


def test_a_changed_copy_is_checked_anew() -> None:
    assert ImageConfig().with_values(lr=1).lr == 1.0
    with pytest.raises(ConfigError, match="lr = 0"):
        ImageConfig().with_values(lr=0)


def test_every_field_says_what_it_means_in_one_line() -> None:
    assert all(TRAINABLE.field(name).doc and "\n" not in TRAINABLE.field(name).doc for name in FIELD_NAMES)
