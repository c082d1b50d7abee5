"""A forecast from a few steps of trials that a store does not know."""

from pathlib import Path

import pytest

from mixsweep.core.errors import UserError
from mixsweep.core.trainables.interface import MeasuredEpoch
from mixsweep.sweep.planning.forecast import MeasuredPace, Pace, RemainingWork, forecast, measure_plan
from mixsweep.sweep.planning.parse import parse_spec
from mixsweep.sweep.planning.plan import make_plan
from mixsweep.sweep.run import run_plan

BASE = {"dataset": "digits", "hidden": [64], "batch_size": 64, "augment": "none", "epochs": 3}
SWEEP = {
    "name": "measured",
    "base": BASE,
    "space": {"model": {"grid_search": ["mlp", "mixer"]}},
}


def test_a_kind_of_trial_that_the_store_does_not_know_is_timed_and_nothing_is_stored(tmp_path: Path) -> None:
    plan = make_plan(parse_spec(SWEEP))
    measured = measure_plan(plan, tmp_path, None)
    assert set(measured.epochs) == {"mlp", "mixer"}
    assert list(tmp_path.iterdir()) == []
    mlp, mixer = (measured.seconds_of(config) for config in plan.trials)
    assert mlp is not None and mixer is not None  # noqa: PT018
    assert 0 < mlp < mixer < 60
    work = [RemainingWork(config, config.epochs) for config in plan.trials]
    cost = forecast(work, Pace(), measured)
    assert cost.seconds == pytest.approx(3 * (mlp + mixer))
    assert cost.basis.startswith("measured now: a few steps of 2 trials, one of each kind on this ")

    run_plan(
        make_plan(parse_spec({**SWEEP, "space": {"model": {"grid_search": ["mlp"]}}})),
        place="debug",
        store_root=tmp_path,
    )
    assert set(measure_plan(plan, tmp_path, None).epochs) == {"mixer"}


def test_trials_of_a_kind_take_time_in_proportion_to_their_work() -> None:
    base = {name: value for name, value in BASE.items() if name != "hidden"}
    tables = {**SWEEP, "base": base, "space": {"hidden": {"grid_search": [[64], [128]]}}}
    small, large = make_plan(parse_spec(tables)).trials
    measured = MeasuredPace({"mlp": (small, MeasuredEpoch(2.0, None, "abacus"))})
    assert measured.seconds_of(small) == 2.0
    assert measured.seconds_of(large) == pytest.approx(4.0, rel=0.01)
    words = "measured now: a few steps of one trial on this abacus; starting them is not counted"
    assert measured.basis == words


def test_a_trial_that_cannot_be_trained_here_is_one_line() -> None:
    plan = make_plan(parse_spec({**SWEEP, "base": {"dataset": "cifar10"}}))
    with pytest.raises(UserError, match="cifar10: no data folder given"):
        measure_plan(plan, Path("nowhere"), None)


def test_a_trial_that_diverges_at_once_is_timed_by_its_only_record() -> None:
    plan = make_plan(
        parse_spec({**SWEEP, "space": {"lr": {"grid_search": [1e30]}}, "base": {**BASE, "optimizer": "sgd"}})
    )
    ((_, epoch),) = measure_plan(plan, Path("nowhere"), None).epochs.values()
    assert epoch.seconds > 0
    assert epoch.spread is None
