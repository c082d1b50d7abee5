"""A study of several stores: sweeps of one name keep apart, and trials that they share are told of each."""

import re
from pathlib import Path

import pytest

from mixsweep.analysis.frames import load, load_trials, of_part, parts
from mixsweep.analysis.report.report import write_report
from mixsweep.core.errors import UserError
from mixsweep.core.store.store import SweepStore
from tests.support.page import Page
from tests.support.synthetic_store import SyntheticPart, write_sweep

RATES = [1e-4, 1e-3, 1e-2]


def rates(folder: Path, best: float, failed: float | None = None) -> SweepStore:
    part = SyntheticPart(
        name="rates",
        question="Which rate?",
        space={"lr": RATES},
        final={rate: 0.8 if rate == best else 0.5 for rate in RATES},
        states={} if failed is None else {failed: ["failed"] * 3},
    )
    return write_sweep(folder / "rates", [part], epochs=3)


def test_two_sweeps_of_one_name_keep_apart(tmp_path: Path) -> None:
    stores = rates(tmp_path / "june", 1e-3), rates(tmp_path / "july", 1e-2)
    page = Page(write_report(stores, tmp_path / "out"))
    first, second = page.text.split("What did not finish")[1].split("Which rate?")[1:3]
    assert "Sweep rates (june)." in first
    assert "1e-3 is best" in first
    assert "Sweep rates (july)." in second
    assert "1e-2 is best" in second
    assert "1e-3 is best" not in second
    assert "18 trials: 18 completed." in page.text
    assert len(page.ids) == len(set(page.ids))


def test_frames_say_which_store_a_row_is_of(tmp_path: Path) -> None:
    stores = rates(tmp_path / "june", 1e-3), rates(tmp_path / "july", 1e-2)
    frame, trials = load(*stores), load_trials(*stores)
    for store, best in zip(stores, (1e-3, 1e-2)):
        (part,) = parts(store)
        mine = of_part(part, trials)
        assert set(mine["sweep_folder"]) == {str(store.path)}
        assert len(mine) == 9
        assert mine.groupby("lr")["final_valid_accuracy"].mean().idxmax() == best
        assert len(of_part(part, frame)) == 27


def test_a_trial_that_two_sweeps_share_is_told_of_each(tmp_path: Path) -> None:
    stores = rates(tmp_path / "june", 1e-3, failed=1e-4), rates(tmp_path / "july", 1e-3, failed=1e-4)
    page = Page(write_report(stores, tmp_path / "out"))
    failures = page.text.split("a sweep's own")[0].split("What did not finish")[-1]
    assert failures.count("rates (june)") == failures.count("rates (july)") == 3
    assert re.search(r"host\s*node1\s*18", page.text)


def test_a_sweep_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    store = rates(tmp_path / "june", 1e-3)
    with pytest.raises(UserError, match="given twice; name each sweep once"):
        write_report([store, str(store.path)])
