"""A page that says what there is to say: nothing begun, running, all failed, one trial, one seed, no spread."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mixsweep.analysis.report.report import write_report
from mixsweep.core.store.store import SweepStore
from tests.support.page import Page
from tests.support.synthetic_store import SyntheticPart, write_sweep


def sweep(
    folder: Path, seeds: int = 3, rates: Sequence[float] = (1e-3, 1e-2), **changes: Mapping[Any, Any]
) -> SweepStore:
    claims = [{"text": "1e-3 is better", "compare": "lr", "better": 1e-3, "than": "rest"}]
    part = SyntheticPart(
        name="s", space={"lr": rates}, **{"final": {1e-3: 0.6, 1e-2: 0.4}, **changes}, claims=claims
    )
    return write_sweep(folder / "s", [part], seeds=seeds, epochs=6)


def test_a_sweep_of_which_nothing_has_begun(tmp_path: Path) -> None:
    store = sweep(tmp_path)
    shutil.rmtree(store.trials_path)
    page = Page(write_report([store]))
    assert "Nothing has begun: 6 trials planned, none trained yet." in page.text
    assert "6 trials: 6 waiting." in page.text
    assert "img" not in page.tags


def test_a_sweep_that_still_runs(tmp_path: Path) -> None:
    states = {1e-3: ["completed", "running", "waiting"], 1e-2: ["interrupted", "completed", "waiting"]}
    page = Page(write_report([sweep(tmp_path, states=states)]))
    assert "Not finished: 4 of 6 trials left to train; figures and verdicts may change." in page.text
    assert "So far 2 of 6 trials finished." in page.text


@pytest.mark.parametrize(("state", "word"), [("failed", "failed"), ("diverged", "diverged")])
def test_a_sweep_of_which_all_trials_failed(tmp_path: Path, state: str, word: str) -> None:
    states = {rate: [state] * 3 for rate in (1e-3, 1e-2)}
    page = Page(write_report([sweep(tmp_path, states=states)]))
    assert f"All of its 6 trials {word}, so there is nothing to compare." in page.text
    assert "Best trial" not in page.text


def test_a_sweep_of_one_trial(tmp_path: Path) -> None:
    page = Page(write_report([sweep(tmp_path, seeds=1, rates=(1e-3,))]))
    assert "One trial: its figure has no interval, and there is nothing to compare it with." in page.text
    assert "Best trial" in page.text


def test_a_sweep_of_one_seed(tmp_path: Path) -> None:
    page = Page(write_report([sweep(tmp_path, seeds=1)]))
    assert "One seed: no interval, and no difference can be decided; 3 seeds are needed." in page.text


def test_a_metric_that_is_the_same_in_every_trial(tmp_path: Path) -> None:
    curves = {rate: [0.1] * 6 for rate in (1e-3, 1e-2)}
    page = Page(write_report([sweep(tmp_path, curves=curves)]))
    assert "Valid accuracy is 10.0 % in every completed trial." in page.text
    assert any("1e-3: 10" in text for text in page.alternatives)


def test_many_axes_of_a_constant_metric_have_no_importance(tmp_path: Path) -> None:
    space = {"lr": [1e-3, 1e-2], "dropout": [0.0, 0.5], "batch_size": [32, 64]}
    points = [
        (lr, dropout, size)
        for lr in space["lr"]
        for dropout in space["dropout"]
        for size in space["batch_size"]
    ]
    part = SyntheticPart(name="s", space=space, final={}, curves={point: [0.1, 0.1] for point in points})
    page = Page(write_report([write_sweep(tmp_path / "s", [part], seeds=2, epochs=2)]))
    assert "s-parallel" in page.ids
    assert "s-importance" not in page.ids
