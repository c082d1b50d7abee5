"""sweep.planning.forecast: multiply-adds counted by PyTorch itself, rates measured in a real store."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mixsweep.core import registry
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.execution.runner import work
from mixsweep.core.models.build import build_model
from mixsweep.core.store.store import SweepStore
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.core.trainables.image.costs import ROUGH_RATES, epoch_macs, forward_macs
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.sweep.planning.forecast import (
    Pace,
    RemainingWork,
    extras_of,
    forecast,
    measured_rates,
    rates_of,
)
from mixsweep.sweep.planning.parse import parse_spec
from mixsweep.sweep.planning.plan import make_plan, save_plan

TINY = {"dataset": "digits", "hidden": [16], "batch_size": 32, "augment": "none", "epochs": 2}


@pytest.mark.parametrize(
    "values",
    [
        {"model": "mlp"},
        {"model": "mlp", "hidden": (7,)},
        {"model": "resnet18"},
        {"model": "mixer"},
        {"model": "mixer", "patch_size": 8, "embed_dim": 96, "blocks": 3, "token_ratio": 0.3},
        {"model": "mixer", "patch_size": 2, "embed_dim": 32, "blocks": 1, "channel_ratio": 1.7},
    ],
    ids=lambda values: " ".join(str(v) for v in values.values()),
)
def test_forward_macs_are_half_the_flops_that_pytorch_counts(values: dict[str, Any]) -> None:
    config = ImageConfig(**values)
    model = build_model(config, 10).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 32, 32))
    assert forward_macs(config) == counter.get_total_flops() / 2


def test_an_epoch_is_its_train_images_and_a_limit_shortens_it() -> None:
    one = forward_macs(ImageConfig())
    assert one is not None
    assert epoch_macs(ImageConfig()) == 45_000 * one
    assert epoch_macs(ImageConfig(train_limit=500)) == 500 * one
    assert epoch_macs(ImageConfig(train_limit=10**6)) == 45_000 * one
    assert epoch_macs(ImageConfig(dataset="digits")) == 1_137 * one


def test_a_model_that_only_the_user_knows_is_forecast_once_it_has_been_trained() -> None:
    registry.register_model("forecast-own", lambda config, classes: torch.nn.Identity())
    own = ImageConfig(model="forecast-own")
    assert forward_macs(own) is epoch_macs(own) is None
    cost = forecast([RemainingWork(ImageConfig(), 1), RemainingWork(own, 1)], Pace({"mlp": 1e9}))
    assert cost.seconds is None
    assert "no record of model 'forecast-own' on 'cifar10' yet; run one trial" in cost.basis
    cost = forecast([RemainingWork(own, 6)], Pace({"forecast-own on cifar10": 0.5}))
    assert cost.seconds == 12
    registry.register_dataset("forecast-images", lambda data_dir: None, shape=(1, 4, 4))
    known = ImageConfig(dataset="forecast-images")
    assert forecast([RemainingWork(known, 1)], Pace({"mlp": 1e9})).seconds is None
    assert forecast([RemainingWork(known, 1)], Pace({"mlp on forecast-images": 2.0})).seconds == 0.5


def test_a_forecast_is_work_over_rate_and_says_what_it_rests_on() -> None:
    config = ImageConfig(dataset="digits")
    work_of_one = epoch_macs(config)
    assert work_of_one is not None
    measured = forecast([RemainingWork(config, 3), RemainingWork(config, 1)], Pace({"mlp": 2e9}))
    assert measured.seconds == pytest.approx(4 * work_of_one / 2e9)
    assert measured.basis == "from this store's own records"
    rough = forecast([RemainingWork(config, 3)], Pace({"mixer": 2e9}))
    assert rough.seconds == pytest.approx(3 * work_of_one / ROUGH_RATES["mlp"])
    assert rough.basis.startswith("rough")
    assert forecast([], Pace()).seconds == 0
    bf16 = config.with_values(precision="bf16")
    assert forecast([RemainingWork(bf16, 3)], Pace({"mlp": 2e9})).basis.startswith("rough")
    of_bf16 = forecast([RemainingWork(bf16, 3)], Pace({"mlp/bf16": 2e9}))
    assert of_bf16.seconds == pytest.approx(3 * work_of_one / 2e9)
    with_extras = forecast(
        [RemainingWork(config, 6, trials=2)], Pace({"mlp": 2e9}, {"mlp": 5.0, "mixer": 9.0})
    )
    assert with_extras.seconds == pytest.approx(6 * work_of_one / 2e9 + 2 * 5.0)


def test_rates_are_measured_from_the_records_of_every_sweep_of_a_store(tmp_path: Path) -> None:
    measured: list[float] = []
    extras: list[float] = []
    for name in ("one", "two"):
        plan = make_plan(parse_spec({"name": name, "base": TINY, "space": {"lr": {"choice": [0.01]}}}))
        store = SweepStore(tmp_path / name)
        save_plan(plan, store)
        list(work([plan.trials[0]], RunConfig(store=store.path)))
        macs = epoch_macs(plan.trials[0])
        seconds = [row["train_seconds"] + row["valid_seconds"] for row in store.records().to_pylist()]
        assert macs is not None
        assert len(seconds) == 2
        rate = rates_of(store.records(), store.trainable, {plan.trials[0].trial_id: plan.trials[0]})["mlp"]
        assert rate == pytest.approx(sum(macs / s for s in seconds) / 2)
        measured.append(rate)
        info = store.trial(plan.trials[0].trial_id).info()
        assert info is not None
        (attempt,) = info.attempts
        wall = datetime.fromisoformat(attempt.ended_at) - datetime.fromisoformat(attempt.started_at)
        extras.append(wall.total_seconds() - sum(seconds))
    (tmp_path / "not a sweep").mkdir()
    save_plan(plan, SweepStore(tmp_path / "planned, not begun"))
    pace = measured_rates(tmp_path)
    assert pace.rates == pytest.approx({"mlp": sum(measured) / 2})
    assert pace.extras == pytest.approx({"mlp": sum(extras) / 2})
    assert min(extras) > 0
    assert measured_rates(tmp_path / "gone") == Pace()


def test_only_trials_whose_wall_time_is_known_tell_what_comes_beside_their_epochs() -> None:
    mlp, mixer = ImageConfig(), ImageConfig(model="mixer")
    rows = {
        "trial_id": ["a", "a", "b", "c"],
        "train_seconds": [2.0, 2, 3, 1],
        "valid_seconds": [0.5, 0.5, 1, 1],
    }
    configs = {"a": mlp, "b": mlp, "c": mixer}
    assert extras_of(pa.table(rows), find_trainable(), configs, {"a": 7.0, "b": 4.5, "gone": 9.0}) == {
        "mlp": 1.25
    }
