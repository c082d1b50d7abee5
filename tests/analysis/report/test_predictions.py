"""The page's section on predictions: of real trials, and absent or told where they are absent or damaged."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from mixsweep.analysis.frames import load_trials
from mixsweep.analysis.report.predictions import PredictionPage, prediction_page
from mixsweep.analysis.report.report import write_report
from mixsweep.analysis.report.study import read_study
from mixsweep.analysis.report.tables import ablation_table
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.execution.runner import work
from mixsweep.core.store.store import SweepStore
from tests.support.mirrored_sweeps import TABLES, plan_sweep, train_here


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SweepStore:
    """Six trials of three learning rates."""
    small = {"seeds": 2, "space": {"lr": {"grid_search": [0.03, 0.01, 0.003]}}}
    _, made = plan_sweep(tmp_path_factory.mktemp("runs"), **small, base={**TABLES["base"], "epochs": 2})
    train_here(made)
    return made


@pytest.fixture
def copy(store: SweepStore, tmp_path: Path) -> SweepStore:
    return SweepStore(shutil.copytree(store.path, tmp_path / store.name))


def said(store: SweepStore) -> PredictionPage | None:
    """The section, with its figures' files in a folder beside the store."""
    (section,) = read_study([store.path]).sections
    out = store.path.parent / "out"
    out.mkdir(exist_ok=True)
    results = ablation_table(section.part, section.frame, section.trials)
    return prediction_page(section, results, out)


def best_trials(store: SweepStore) -> pd.DataFrame:
    trials = load_trials(store)
    means = trials.groupby("lr")["final_valid_accuracy"].mean()
    return trials[trials["lr"] == means.idxmax()]


def file_of(store: SweepStore, trial_id: str) -> Path:
    (path,) = store.trial(trial_id).path.glob("*.predictions.*")
    return path


def test_it_tells_of_the_best_value_what_its_trials_predicted(store: SweepStore) -> None:
    page = said(store)
    assert page is not None
    accuracy = best_trials(store)["final_test_accuracy"].mean()
    assert f"{100 * accuracy:.1f} % of 360 test examples are right" in page.sentence
    assert "over 2 seeds and over the examples" in page.sentence
    assert page.notes == ()
    names = ["mirrored-classes", "mirrored-confusion", "mirrored-reliability"]
    assert [drawn.name for drawn in page.figures] == names
    for drawn in page.figures:
        assert drawn.alt != drawn.caption
        assert len(re.findall(r"\d+\.\d %", drawn.alt)) > 5
    differences, wrong = page.listings
    best, others = best_trials(store)["lr"].iloc[0], load_trials(store)
    assert len(differences.table.rows) == 2
    for row in differences.table.rows:
        other = others[others["lr"] == float(row[0].removeprefix("learning rate "))]
        expected = 100 * (accuracy - other["final_test_accuracy"].mean())
        assert float(row[2].replace("−", "-")) == pytest.approx(expected, abs=0.051)
        assert best not in other["lr"].tolist()
    assert len(wrong.table.rows) == 12


def test_the_page_has_it_with_its_files(copy: SweepStore, tmp_path: Path) -> None:
    page = write_report([copy], tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert 'id="mirrored-predictions"' in text
    for name in ("classes", "confusion", "reliability"):
        assert (tmp_path / "out" / f"mirrored-{name}.png").is_file()
        assert f'id="mirrored-{name}"' in text
    for path in copy.trials_path.glob("*/*.predictions.*"):
        path.unlink()
    write_report([copy], tmp_path / "out")
    assert not (tmp_path / "out" / "mirrored-confusion.png").exists()
    assert ".parquet: gone" in page.read_text(encoding="utf-8")


def test_a_damaged_file_is_named_and_the_other_seed_is_told(copy: SweepStore) -> None:
    damaged = file_of(copy, best_trials(copy)["trial_id"].iloc[0])
    damaged.write_bytes(b"")
    page = said(copy)
    assert page is not None
    (note,) = page.notes
    assert damaged.name in note
    assert "damaged" in note
    assert "over 1 seed and over the examples" in page.sentence
    assert [row[1] for row in page.listings[0].table.rows] == ["1", "1"]


def test_where_all_of_the_best_value_are_damaged_that_alone_is_told(copy: SweepStore) -> None:
    for trial_id in best_trials(copy)["trial_id"]:
        file_of(copy, trial_id).unlink()
    page = said(copy)
    assert page is not None
    assert (page.sentence, page.figures, page.listings) == ("", [], [])
    assert len(page.notes) == 2


def test_of_many_damaged_files_a_few_are_named_and_all_are_counted(copy: SweepStore) -> None:
    for path in copy.trials_path.glob("*/*.predictions.*"):
        path.write_bytes(b"")
    page = said(copy)
    assert page is not None
    assert [": damaged" in note for note in page.notes] == [True, True, True, False]
    assert page.notes[-1].startswith("And 3 more files")


def test_a_store_that_kept_none_has_no_gap(tmp_path: Path) -> None:

    plan, made = plan_sweep(tmp_path, seeds=1, space={"lr": {"grid_search": [0.03]}})
    list(work(plan.trials, RunConfig(store=made.path, keep_predictions=False)))
    assert said(made) is None
