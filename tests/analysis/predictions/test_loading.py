"""Predictions out of a store that real trials wrote."""

import shutil
from pathlib import Path

import pytest

import mixsweep
from mixsweep.core.errors import UserError
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.execution.runner import work
from mixsweep.core.store.store import SweepStore
from tests.support.mirrored_sweeps import TABLES, plan_sweep, train_here


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SweepStore:
    """Four trials of two learning rates."""
    small = {"seeds": 2, "space": {"lr": {"grid_search": [0.03, 0.01]}}}
    _, made = plan_sweep(tmp_path_factory.mktemp("runs"), **small, base={**TABLES["base"], "epochs": 2})
    train_here(made)
    return made


def test_a_row_is_what_a_trial_predicted_for_an_example(store: SweepStore) -> None:
    frame = mixsweep.load_predictions(store.path)
    assert list(frame) == ["sweep", "trial_id", "index", "label", "prediction", "confidence"]
    assert len(frame) == 4 * 360
    found = (frame["label"] == frame["prediction"]).groupby(frame["trial_id"]).mean()
    expected = mixsweep.load_trials(store.path).set_index("trial_id")["final_test_accuracy"]
    assert found.to_dict() == pytest.approx(expected.to_dict())
    (one,) = set(mixsweep.load_predictions(store.path, trial_ids=[frame["trial_id"][0]])["trial_id"])
    assert one == frame["trial_id"][0]


def test_a_damaged_file_is_named_in_a_warning_and_costs_its_trial_alone(
    store: SweepStore, tmp_path: Path
) -> None:
    copy = SweepStore(shutil.copytree(store.path, tmp_path / "copy"))
    (path, *_) = sorted(copy.trials_path.glob("*/*.predictions.*"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.warns(UserWarning, match=f"{path.name}: damaged"):
        frame = mixsweep.load_predictions(copy.path)
    assert set(frame["trial_id"]) == set(copy.trial_names()) - {path.parent.name}


def test_trials_as_arrays_are_those_asked_for_and_nothing_else(store: SweepStore, tmp_path: Path) -> None:
    first, second, *_ = store.trial_names()
    found = mixsweep.prediction_set(store.path, [second, first])
    assert found.trial_ids == (second, first)
    assert found.prediction.shape == (2, 360)
    trials = mixsweep.load_trials(store.path).set_index("trial_id")["final_test_accuracy"]
    assert found.is_right.mean(1).tolist() == pytest.approx([trials[second], trials[first]])
    with pytest.raises(UserError, match="trial 0123 has no predictions"):
        mixsweep.prediction_set(store.path, [first, "0123"])
    copy = SweepStore(shutil.copytree(store.path, tmp_path / "copy"))
    (path,) = copy.trial(first).path.glob("*.predictions.*")
    path.unlink()
    with pytest.raises(UserError, match=f"{path.name}: gone"):
        mixsweep.prediction_set(copy.path, [first])


def test_a_store_without_any_gives_an_empty_table(tmp_path: Path) -> None:
    small = {"seeds": 1, "space": {"lr": {"grid_search": [0.03]}}, "keep": {"predictions": False}}
    plan, made = plan_sweep(tmp_path, **small)
    list(work(plan.trials, RunConfig(store=made.path, keep_predictions=plan.spec.keep_predictions)))
    frame = mixsweep.load_predictions(made.path)
    assert (len(frame), "confidence" in frame) == (0, True)
