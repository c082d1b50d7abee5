"""sweep.cli.views.live_view and sweep.status_reader: what a person sees in 80 columns, and how little is read."""

import dataclasses
import io
import json
import math
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console

from mixsweep.core import records
from mixsweep.core.store import trial_index
from mixsweep.core.store.compaction import compact
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.folder import TrialFolder
from mixsweep.core.store.trial.lease import take_lease
from mixsweep.sweep.cli.views import live_view
from mixsweep.sweep.cli.views.live_view import (
    costs_table,
    live_picture,
    sparkline,
    trials_table,
    trials_to_list,
)
from mixsweep.sweep.status_reader import StatusReader
from tests.support.commands import ROOT
from tests.support.synthetic_store import SyntheticPart, give_energy, write_sweep
from tests.support.trials import change_info, write_trial


@pytest.fixture
def store(tmp_path: Path) -> SweepStore:
    part = SyntheticPart(
        name="large",
        base={"model": "mlp"},
        space={"lr": [1e-3 * n for n in range(1, 21)], "activation": ["relu", "tanh"]},
        final={(1e-3 * n, "relu"): 0.1 + 0.01 * n for n in range(1, 21)},
        states={
            (1e-3, "tanh"): ("failed",) * 3,
            (2e-3, "tanh"): ("interrupted",) * 3,
            (3e-3, "tanh"): ("waiting",) * 3,
            (4e-3, "tanh"): ("diverged",) * 3,
        },
    )
    return write_sweep(tmp_path / "large", [part], seeds=3)


def test_a_compacted_sweep_is_told_from_its_derived_files_and_as_from_the_trials_own(
    store: SweepStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = StatusReader(store).read()
    assert before.counts == {"completed": 108, "failed": 3, "interrupted": 3, "waiting": 3, "diverged": 3}
    compact(store)
    read: list[str] = []
    summarize = trial_index._summarize
    monkeypatch.setattr(trial_index, "_summarize", lambda f: read.append(f.trial_id) or summarize(f))
    monkeypatch.setattr(TrialFolder, "records", None)  # all are in the compacted table
    after = StatusReader(store).read()
    assert after.to_mapping() == before.to_mapping()
    open_ones = {t.trial_id for t in before.trials if t.state == "interrupted"}
    assert set(read) == open_ones  # the others are in the index
    monkeypatch.undo()

    # What a derived file says counts no more once the trial's own has changed, or where it is damaged.
    changed = next(folder for folder in store.trials() if folder.trial_id == before.trials[0].trial_id)
    info = changed.info()
    assert info is not None
    change_info(changed, dataclasses.replace(info, state="stopped"))
    assert StatusReader(store).read().counts["stopped"] == 1
    (store.path / "trial-index.json").write_text("{]")
    (store.path / "metrics.parquet").write_bytes(b"PAR1")
    assert StatusReader(store).read().counts["stopped"] == 1


def test_time_left_has_a_range_and_curves_are_those_of_the_best(store: SweepStore) -> None:
    status = StatusReader(store).read()
    assert status.seconds_left_range is not None
    low, high = status.seconds_left_range
    assert low <= (status.seconds_left or 0) <= high
    # 3 interrupted at epoch 4 of 12 and 3 waiting: 60 epochs of about 5 s and 0.23 s of validation, and six times
    # what a trial of 149 s takes beside its 12 epochs of 67.48 s together, the slow first one among them.
    assert 60 * 5.2 * 0.99 <= low - 6 * (149 - 67.48) <= 60 * 5.25
    for epoch, trials in ((3, 9), (9, 2)):
        rung = store.path / "rungs" / "valid_accuracy-max" / str(epoch)
        rung.mkdir(parents=True)
        for n in range(trials):
            (rung / f"{n:012x}_0.5_continue").touch()
    assert StatusReader(store).read().rungs == {3: 9, 9: 2}
    assert len(status.curves) == 5
    best = max((t.value or 0.0) for t in status.trials if not math.isnan(t.value or 0.0))
    assert next(iter(status.curves.values()))[-1] == best
    assert status.device_seconds == pytest.approx(108 * (5 + 12 * 12) + 3 * 5 + 3 * 53 + 3 * 29)
    json.dumps(status.to_mapping(), allow_nan=False)


def test_what_trials_took_is_told_by_trial_and_by_value(store: SweepStore) -> None:
    give_energy(store, 7200.0)
    status = StatusReader(store).read()
    whole = 5 + 12 * 12
    by_id = {trial.trial_id: trial for trial in status.trials}
    assert by_id[status.best.trial_id].device_seconds == whole  # type: ignore[union-attr]
    assert by_id[status.best.trial_id].energy_joules == 12 * 7200  # type: ignore[union-attr]
    relu, tanh = (status.costs["activation"][value] for value in ("relu", "tanh"))
    assert (relu.trials, tanh.trials) == (60, 57)  # three wait
    assert relu.device_seconds == pytest.approx(60 * whole)
    assert relu.energy_joules == 60 * 12 * 7200
    assert tanh.device_seconds == pytest.approx(48 * whole + 3 * 5 + 3 * 53 + 3 * 29)
    assert sum(cost.device_seconds for cost in status.costs["lr"].values()) == status.device_seconds
    assert json.loads(json.dumps(status.to_mapping()))["costs"]["activation"]["relu"]["trials"] == 60
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(costs_table(status))
    assert "activation=relu" in console.export_text()
    console.print(trials_table(status.trials[:1], status.metric, with_cost=True))
    assert "24 Wh" in console.export_text()


def test_nobody_knows_how_long_a_lost_attempt_lasted_and_a_running_one_counts_for_each_rank(
    store: SweepStore,
) -> None:
    lost, running = (store.trial(trial.trial_id) for trial in StatusReader(store).read().trials[:2])
    hour = records.now() - timedelta(hours=1)
    for folder in (lost, running):
        info = folder.info()
        assert info is not None
        begun = dataclasses.replace(
            info.attempts[0], started_at=hour.isoformat(), ended_at="", end="", ranks=2
        )
        change_info(folder, dataclasses.replace(info, state="running", attempts=(begun,)))
    lease = take_lease(running.path)
    assert lease is not None
    with lease:
        status = StatusReader(store).read()
    assert [trial.state for trial in status.trials[:2]] == ["lost", "running"]
    assert status.trials[0].device_seconds == 0
    assert 7200 <= status.trials[1].device_seconds <= 7200 + 120


def test_of_very_many_trials_those_that_run_or_failed_and_the_best_get_a_row(
    store: SweepStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = StatusReader(store).read()
    assert trials_to_list(status) == list(status.trials)
    monkeypatch.setattr(live_view, "_MOST_ROWS", 10)
    rows = trials_to_list(status)
    assert [trial.state for trial in rows] == ["failed"] * 3 + ["completed"] * 7
    values = sorted((t.value or 0.0 for t in status.trials if t.state == "completed"), reverse=True)
    assert [trial.value for trial in rows[3:]] == values[:7]


def test_the_live_view_fits_80_columns(store: SweepStore) -> None:
    status = dataclasses.replace(
        StatusReader(store).read(), seconds_left_range=(60.0, 7200.0), rungs={3: 90, 9: 30}
    )
    console = Console(width=80, record=True, force_terminal=True, file=io.StringIO())
    console.print(live_picture(status))
    text = console.export_text()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "failures: 3 bug" in text
    assert "█" in text
    assert "about 13 min left (60 s to 2.0 h)" in text
    assert "rungs: epoch 3: 90, epoch 9: 30" in text


def test_a_sparkline_rises_with_its_values_and_marks_what_is_no_number() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 0, 7, 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 0, 7, 7], 0, 7, 2) == "▁█"
    assert sparkline([1.0, math.nan], 0, 1, 2) == "█x"
    assert sparkline([3.0], 3, 3, 10) == "█"


def test_status_is_plain_when_piped_and_json_for_machines(store: SweepStore) -> None:
    command = [sys.executable, "-m", "mixsweep", "status", "large", "--store", str(store.path.parent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout
    assert "of the best against epochs" in done.stdout
    done = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True, check=True)
    values = json.loads(done.stdout)
    assert values["failures"] == {"bug": 3}
    assert len(values["trials"]) == 120
    assert values["seconds_left_range"][0] <= values["seconds_left"] <= values["seconds_left_range"][1]


def test_a_standing_is_read_without_pandas_torch_or_ray(store: SweepStore) -> None:
    compact(store)
    changed = next(iter(store.trials()))
    info = changed.info()
    assert info is not None
    write_trial(changed, info, records.from_table(changed.records()))
    code = (
        "import sys, mixsweep.sweep.cli.app; from mixsweep.core.store.store import SweepStore; "
        "from mixsweep.sweep.status_reader import StatusReader; "
        f"StatusReader(SweepStore({str(store.path)!r})).read().to_mapping(); "
        "print(sorted({'pandas', 'torch', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
