"""Nothing outside the built-in kind knows its fields or metrics: a sweep of quite other trials goes all the way."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mixsweep.analysis.frames import load, load_trials, parts
from mixsweep.analysis.inference.claims import answer, evaluate_claims
from mixsweep.analysis.report.report import write_report
from mixsweep.analysis.wandb_mirror.artifacts import best_model
from mixsweep.analysis.wandb_mirror.payload import run_content
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.execution.runner import work
from mixsweep.core.store.compaction import compact
from mixsweep.core.store.retention import Retention
from mixsweep.core.store.store import SweepStore
from mixsweep.core.trainables import kinds
from mixsweep.sweep.planning.forecast import RemainingWork, forecast, measured_rates
from mixsweep.sweep.planning.parse import parse_spec
from mixsweep.sweep.planning.plan import Plan, make_plan, read_plan, save_plan
from mixsweep.sweep.planning.schema import SpecError
from mixsweep.sweep.search.asha import make_decide
from mixsweep.sweep.status_reader import StatusReader

FILE: dict[str, Any] = {
    "name": "walks",
    "seeds": 3,
    "base": {"rounds": 9},
    "space": {"rate": {"grid_search": [0.1, 0.4]}, "start": {"grid_search": [[1.0], [2.0, 3.0]]}},
    "stopping": {"rule": "asha", "grace_epochs": 2},
    "claims": [{"text": "faster is lower", "compare": "rate", "better": 0.4}],
}


@pytest.fixture
def _toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(os, "fsync", lambda file: None)  # hundreds of small files, and none has to last
    monkeypatch.setitem(kinds._MODULES, kinds.BUILT_IN, "tests.support.toy_trainable")
    kinds.load_built_in.cache_clear()
    yield
    kinds.load_built_in.cache_clear()


def run(plan: Plan, store: SweepStore, **changes: Any) -> None:
    spec = plan.spec
    run_config = RunConfig(
        store=store.path,
        retention=Retention("best:2", spec.metric, spec.mode),
        checkpoint_share=1.0,
        **changes,
    )
    decide = make_decide(
        spec.stopping, store, spec.metric, spec.mode, {c.trial_id: c.epochs for c in plan.trials}
    )
    list(work(plan.trials, run_config, decide=decide))


@pytest.mark.usefixtures("_toys")
def test_a_sweep_of_other_trials_is_planned_run_judged_and_reported(tmp_path: Path) -> None:
    plan = make_plan(parse_spec(FILE | {"stopping": {"grace_epochs": 9}}))
    assert (plan.spec.metric, plan.spec.mode, len(plan.trials)) == ("height", "min", 12)
    store = SweepStore(tmp_path / "walks")
    save_plan(plan, store)
    assert [row.config for row in read_plan(store)] == [row.config for row in plan.rows]
    work_left = [RemainingWork(config, config.epochs) for config in plan.trials]
    assert forecast(work_left, measured_rates(tmp_path)).seconds == 12 * 9 * 1.5
    run(plan, store)

    status = StatusReader(store).read()
    assert status.counts == {"completed": 12}
    assert status.best is not None
    assert status.energy_joules is None
    table = store.records()
    assert table.schema.names == ["trial_id", "epoch", "step", "height", "seconds", "attempt", "recorded_at"]
    assert table.num_rows == 12 * 9
    compact(store)
    assert store.records().num_rows == 12 * 9

    frame, trials, (part,) = load(store), load_trials(store), parts(store)
    assert set(part.axes) == {"rate", "start"}
    assert trials["final_height"].notna().all()
    assert set(trials["parameters"]) == {1.0, 2.0}
    (verdict,) = evaluate_claims(part, frame, trials)
    assert verdict.kind == "supported"
    assert "height" in answer(part, frame, trials)
    page = write_report([store]).read_text()
    assert "walk one round" in page
    assert "Heights are those of a parabola." in page
    assert "accuracy" not in page.partition("How they were computed")[0]

    info = store.trial(plan.trials[0].trial_id).info()
    assert info is not None
    content = run_content(store, info, "", {}, "height", "min")
    assert content.tags == ("completed",)
    assert "best_height" in content.summary
    model = best_model(store)
    assert model is not None
    assert model.metadata["height"] == min(trials["final_height"])


@pytest.mark.usefixtures("_toys")
def test_other_trials_are_stopped_extended_and_refused_like_the_built_in_ones(tmp_path: Path) -> None:
    plan = make_plan(parse_spec(FILE))
    store = SweepStore(tmp_path / "walks")
    save_plan(plan, store)
    run(plan, store, stopping=True)
    counts = StatusReader(store).read().counts
    assert set(counts) == {"completed", "stopped"}

    without_a_rule = {key: value for key, value in FILE.items() if key != "stopping"}
    longer = make_plan(parse_spec(without_a_rule | {"base": {"rounds": 12}}))
    assert {c.trial_id for c in longer.trials} == {c.trial_id for c in plan.trials}
    save_plan(longer, store)
    run(longer, store)
    assert StatusReader(store).read().epochs_done == 12 * 12
    assert {info.provenance["dimensions"] for f in store.trials() if (info := f.info())} == {1, 2}

    for change, said in (
        ({"base": {"epochs": 2}}, "base.epochs: unknown field; allowed: rate, start, rounds, seed, parent"),
        ({"metric": "valid_loss"}, "metric: 'valid_loss' is not known; allowed: height"),
        ({"base": {"rounds": 0}}, "base.rounds: rounds = 0 is too small; allowed: 1 or more"),
        ({"base": {"start": 1.0}}, "base.start: start = 1.0 is not a list of numbers"),
    ):
        with pytest.raises(SpecError) as error:
            parse_spec({"name": "walks", **change})
        assert said in str(error.value)
