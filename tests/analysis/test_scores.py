"""Which record of a trial counts is the same everywhere: status, tables, claims, the model in W&B, retention, TPE."""

import math
from pathlib import Path

import pytest

from mixsweep.analysis.frames import load, load_trials, parts, read_sweep
from mixsweep.analysis.inference.claims import evaluate_claims
from mixsweep.analysis.inference.comparisons import final_figures
from mixsweep.analysis.report.methods import methods
from mixsweep.analysis.report.report import write_report
from mixsweep.analysis.report.tables import ablation_table, ablation_text, trial_table
from mixsweep.analysis.wandb_mirror.artifacts import best_model
from mixsweep.core.errors import UserError
from mixsweep.core.store.retention import Retention
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.parse import parse_spec
from mixsweep.sweep.search.tpe import read_result
from mixsweep.sweep.status_reader import StatusReader
from tests.support.synthetic_store import SyntheticPart, write_sweep
from tests.support.trials import write_checkpoint

# 0.01 peaks early and falls; 0.001 is better at the end.
CURVES = {1e-2: [0.5, 0.9, 0.6, 0.4], 1e-3: [0.2, 0.3, 0.6, 0.7]}
CLAIM = {"text": "1e-3 is best", "compare": "lr", "better": 1e-3, "than": "rest"}


def sweep_of(path: Path, score: str, curves: dict[float, list[float | None]] | None = None) -> SweepStore:
    part = SyntheticPart(
        name="peaks", space={"lr": list(CURVES)}, final={}, claims=[CLAIM, {**CLAIM, "metric": "valid_loss"}],
        curves=curves or CURVES,
    )  # fmt: skip
    return write_sweep(path / "peaks", [part], epochs=4, score=score)


def test_a_test_metric_is_that_of_the_last_record_where_the_best_counts(tmp_path: Path) -> None:
    store = sweep_of(tmp_path, "best")
    (part,) = parts(store)
    frame, trials = load(store), load_trials(store)
    at_end = frame["epoch"] == frame.groupby("trial_id")["epoch"].transform("max")
    tested = frame.assign(test_accuracy=frame["valid_accuracy"].where(at_end))
    assert final_figures(part, "test_accuracy", tested, trials).tolist() == trials["last"].tolist()


@pytest.mark.parametrize(
    ("score", "figures"),
    [("", {1e-2: 0.4, 1e-3: 0.7}), ("last", {1e-2: 0.4, 1e-3: 0.7}), ("best", {1e-2: 0.9, 1e-3: 0.7})],
)
def test_every_reader_takes_the_same_record(tmp_path: Path, score: str, figures: dict[float, float]) -> None:
    store = sweep_of(tmp_path, score)
    (part,) = parts(store)
    frame, trials = load(store), load_trials(store)
    best = max(figures, key=lambda lr: figures[lr])

    finals = trials.groupby("lr")["final_valid_accuracy"].first().to_dict()
    assert finals == figures
    assert trials.groupby("lr")["last"].first().to_dict() == {1e-2: 0.4, 1e-3: 0.7}
    table = ablation_table(part, frame, trials)
    assert dict(zip(table["lr"], table["final_mean"])) == pytest.approx(figures)
    assert trial_table(part, trials)["lr"].iloc[0] == best
    (compared,) = evaluate_claims(part, frame, trials)[0].comparisons
    assert compared.difference is not None
    assert compared.difference.interval.mean == pytest.approx(figures[1e-3] - figures[1e-2])

    status = StatusReader(store).read()
    assert {trial.value for trial in status.trials} == set(figures.values())
    assert {trial.epoch for trial in status.trials} == {4}
    assert status.best is not None
    assert status.best.value == max(figures.values())
    assert status.to_mapping()["score"] == (score or "last")

    spec = parse_spec(
        {"name": "peaks", "space": {"lr": {"choice": list(CURVES)}}, "search": {"trials": 2}}
        | ({"score": score} if score else {})
    )
    for folder in store.trials():
        info = folder.info()
        assert info is not None
        result = read_result(info.config, info, store, spec, True)
        assert result.value == figures[info.config["lr"]]

    for folder in store.trials():
        info = folder.info()
        assert info is not None
        Retention("best:3", spec.metric, spec.mode, spec.score).apply(store, info)
    (listing,) = (store.path / "kept").iterdir()
    assert listing.name == ("valid_accuracy-max-best" if score == "best" else "valid_accuracy-max")
    kept = {name.name.partition("_")[0] for name in listing.iterdir()}
    assert {folder.info().config["lr"] for folder in store.trials() if folder.trial_id in kept} == {best}  # type: ignore[union-attr]


def test_another_metric_is_taken_from_the_record_that_counts(tmp_path: Path) -> None:
    store = sweep_of(tmp_path, "best")
    frame, trials = load(store), load_trials(store)
    one = frame[(frame["lr"] == 1e-2) & (frame["replica"] == 0)].set_index("epoch")["valid_loss"]
    assert trials[(trials["lr"] == 1e-2) & (trials["replica"] == 0)]["final_valid_loss"].item() == one[2]
    (part,) = parts(store)
    (compared,) = evaluate_claims(part, frame, trials)[1].comparisons
    losses = trials.pivot(index="replica", columns="lr", values="final_valid_loss")
    assert compared.difference is not None
    assert compared.difference.interval.mean == pytest.approx((losses[1e-3] - losses[1e-2]).mean())


def test_tests_are_those_of_the_last_record(tmp_path: Path) -> None:
    finals = [
        load_trials(sweep_of(tmp_path / score, score))["final_test_accuracy"].tolist()
        for score in ("last", "best")
    ]
    assert finals[0] == finals[1]
    assert not any(map(math.isnan, finals[0]))


def test_a_last_record_without_the_metric_does_not_hide_the_one_before(tmp_path: Path) -> None:
    store = sweep_of(tmp_path, "last", {1e-2: [0.5, 0.9, 0.6, None], 1e-3: [0.2, 0.3, 0.65, 0.7]})
    frame, trials = load(store), load_trials(store)
    assert trials.groupby("lr")["final_valid_accuracy"].first().to_dict() == {1e-2: 0.6, 1e-3: 0.7}
    assert {trial.value for trial in StatusReader(store).read().trials} == {0.6, 0.7}
    (part,) = parts(store)
    (compared,) = evaluate_claims(part, frame, trials)[0].comparisons
    assert compared.difference is not None
    assert compared.difference.interval.mean == pytest.approx(0.1)


def test_a_report_says_which_record_counts(tmp_path: Path) -> None:
    last, best = sweep_of(tmp_path / "one", "last"), sweep_of(tmp_path / "two", "best")
    assert "The final figure is that of the last epoch." in " ".join(methods([read_sweep(last)]))
    assert "The figure of a trial is that of its best epoch (score = 'best')" in " ".join(
        methods([read_sweep(best)])
    )
    assert "The final figure" not in " ".join(methods([read_sweep(best)]))
    page = write_report([best.path]).read_text(encoding="utf-8")
    assert "Valid accuracy at each trial&#39;s best epoch" in page
    assert "best valid accuracy" in page
    assert "final valid accuracy" not in page
    (part,) = parts(best)
    text = ablation_text(part, ablation_table(part, load(best), load_trials(best)))
    assert "at its best epoch" not in text.header
    assert len(text.header) == len(text.numeric) == len(text.rows[0])


@pytest.mark.parametrize(("score", "lr", "value"), [("last", 1e-3, 0.7), ("best", 1e-2, 0.9)])
def test_the_model_that_wandb_gets_is_that_of_the_trial_whose_record_counts(
    tmp_path: Path, score: str, lr: float, value: float
) -> None:
    store = sweep_of(tmp_path, score)
    for folder in store.trials():
        write_checkpoint(folder, {"epoch": 4})
    model = best_model(store)
    assert model is not None
    assert model.metadata["valid_accuracy"] == value
    assert model.metadata["config"]["lr"] == lr
    assert model.metadata["test_accuracy"] is not None


def test_another_score_is_refused() -> None:
    with pytest.raises(UserError, match=r"score: 'bst' is not known; did you mean 'best'\?"):
        parse_spec({"name": "x", "score": "bst"})
