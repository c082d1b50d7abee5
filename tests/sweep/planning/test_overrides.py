"""What a file or `--set` says and no trial would feel is refused; so is a plan of more trials than a store holds."""

import time
from typing import Any

import pytest

from mixsweep.sweep.planning.parse import load_spec, parse_spec
from mixsweep.sweep.planning.plan import make_plan
from mixsweep.sweep.planning.schema import MOST_TRIALS, SpecError
from mixsweep.sweep.presets.catalog import preset_names

LRS = {"lr": {"grid_search": [0.1, 0.01]}}
PARTS = [
    {"name": "a", "base": {"model": "mlp", "epochs": 2}, "space": LRS},
    {"name": "b", "base": {"model": "mixer", "epochs": 3}, "space": LRS},
]


def refusal(source: dict[str, Any]) -> str:
    with pytest.raises(SpecError) as caught:
        make_plan(parse_spec(source))
    return str(caught.value)


@pytest.mark.parametrize("preset", preset_names())
def test_every_value_of_a_preset_has_an_effect(preset: str) -> None:
    assert make_plan(load_spec(preset)).trials


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            "base.epochs=2",
            "base.epochs: has no effect: every part sets its own; set parts.0.base.epochs, parts.1",
        ),
        ("base.model=mlp", "base.model: has no effect: every part sets its own; set parts.0.base.model"),
        ("base.model=resnet19", "base.model: model = 'resnet19' is not known; did you mean 'resnet18'?"),
        ("base.epochs=0", "base.epochs: epochs = 0 is too small"),
        ("parts.0.base.patch_size=8", "parts[0].base.patch_size: has no effect on any trial"),
    ],
)
def test_a_setting_that_every_part_overrides_is_refused_and_the_key_that_works_is_named(
    setting: str, said: str
) -> None:
    with pytest.raises(SpecError) as caught:
        make_plan(load_spec("demo", [setting]))
    assert said in str(caught.value)


def test_the_key_that_is_named_works() -> None:
    plan = make_plan(load_spec("demo", ["parts.0.base.epochs=2"]))
    assert {row.config.epochs for row in plan.rows if row.part == "activations"} == {2}


def test_a_value_that_the_spaces_of_all_parts_override_is_refused() -> None:
    assert "base.lr: has no effect: every part sets its own; set parts.0.space.lr" in refusal(
        {"name": "x", "base": {"lr": 0.5}, "parts": PARTS}
    )


def test_a_value_that_some_part_feels_is_taken() -> None:
    plan = make_plan(parse_spec({"name": "x", "base": {"patch_size": 8, "dropout": 0.1}, "parts": PARTS}))
    assert {row.config["patch_size"] for row in plan.rows if row.part == "b"} == {8}


def test_a_value_whose_condition_no_trial_meets_is_refused() -> None:
    source = {"name": "x", "base": {"model": "resnet18", "patch_size": 8}, "space": LRS}
    assert "base.patch_size: has no effect on any trial: it counts for model = mixer only" in refusal(source)
    source = {"name": "x", "base": {"dropout": 0.5}, "space": LRS, "when": {"dropout": {"optimizer": "sgd"}}}
    assert "base.dropout: has no effect on any trial: it counts for" in refusal(source)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ({"space": {"lr": {"loguniform": [1e-4, 1e-1]}}, "samples": 10**8}, 10**8),
        (
            {
                "space": {"lr": {"uniform": [0.1, 0.2]}, "batch_size": {"grid_search": [1, 2]}},
                "samples": 10**5,
            },
            2 * 10**5,
        ),
        (
            {
                "space": {
                    name: {"grid_search": [n / 100 for n in range(1, 99)]}
                    for name in ("lr", "weight_decay", "label_smoothing", "warmup_epochs")
                },
                "seeds": 10_000,
            },
            98**4 * 10_000,
        ),
        ({"space": {"lr": {"uniform": [0.1, 0.2]}}, "search": {"trials": 10**12}}, 10**12),
    ],
)
def test_more_trials_than_a_store_holds_are_refused_before_anything_is_expanded(
    source: dict[str, Any], count: int
) -> None:
    begun = time.monotonic()
    assert f"{count} trials are too many; allowed: {MOST_TRIALS} in one sweep" in refusal(
        {"name": "x", **source}
    )
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (f"base.batch_size={2**63}", "--set base.batch_size: the integer does not fit into 64 bits"),
        ("seeds=0x" + "f" * 6000, "--set seeds: the integer does not fit into 64 bits"),
        (f"seeds=[{10**40}]", "[0]: the integer does not fit into 64 bits"),
        (
            f"base.epochs={10**300}.0",
            "base.epochs: epochs = 1e+300 is too large; allowed: 9223372036854775807",
        ),
    ],
)
def test_an_integer_beyond_64_bits_is_one_line(setting: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec("learning-rates", [setting])
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300
