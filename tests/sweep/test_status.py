"""sweep.status and sweep.status_reader: how a sweep stands, read from its store alone."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from mixsweep.core import registry
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.execution.runner import work
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.parse import parse_spec
from mixsweep.sweep.planning.plan import Plan, make_plan, save_plan
from mixsweep.sweep.status import SweepStatus
from mixsweep.sweep.status_reader import StatusReader

TABLES: dict[str, Any] = {
    "name": "small",
    "question": "Which learning rate?",
    "metric": "valid_accuracy",
    "base": {"dataset": "digits", "hidden": [16], "batch_size": 32, "augment": "none", "epochs": 3},
    "space": {"lr": {"grid_search": [0.001, 0.01, 1e-6, 0.003]}},
}


def planned(root: Path, **changes: Any) -> tuple[Plan, SweepStore]:
    plan = make_plan(parse_spec({**TABLES, **changes}))
    store = SweepStore(root / plan.spec.name)
    save_plan(plan, store)
    return plan, store


def read_status(store: SweepStore) -> SweepStatus:
    return StatusReader(store).read()


def broken_model(config: Any, classes: int) -> Any:
    raise ValueError("this [model] is broken [/]")


def test_a_sweep_that_has_not_begun_waits(tmp_path: Path) -> None:
    _, store = planned(tmp_path)
    status = read_status(store)
    assert status.counts == {"waiting": 4}
    assert (status.epochs_done, status.epochs_total, status.best, status.seconds_left) == (0, 12, None, None)
    assert status.question == "Which learning rate?"


def test_counts_best_progress_and_failures_are_those_of_the_store(tmp_path: Path) -> None:
    registry.register_model("status-broken", broken_model)
    plan, store = planned(tmp_path)
    first, second, poor, _ = plan.trials
    run_config = RunConfig(store=store.path)
    for _ in work([first, poor], run_config):
        pass
    paused = iter(["", "interrupted"])  # asked before the trial, then after its first epoch
    for _ in work([second], run_config, pause=lambda: next(paused, "interrupted")):
        pass
    status = read_status(store)
    assert status.counts == {"completed": 2, "interrupted": 1, "waiting": 1}
    assert (status.epochs_done, status.epochs_total) == (7, 12)
    by_id = {trial.trial_id: trial for trial in status.trials}
    assert [t.trial_id for t in status.trials] == [c.trial_id for c in plan.trials]
    assert (by_id[second.trial_id].epoch, by_id[second.trial_id].label) == (1, "lr=0.01 seed=42")
    last = store.trial(first.trial_id).records().to_pylist()[-1]
    assert by_id[first.trial_id].value == last["valid_accuracy"]
    assert status.best is not None
    assert status.best.trial_id == first.trial_id  # 1e-3, not the 1e-6; nor the one that is half done
    # What is left is 2 + 3 epochs like those that were measured, and what two trials take beside theirs.
    rows = store.records().to_pylist()
    seconds = [row["train_seconds"] + row["valid_seconds"] for row in rows]
    extras = []
    for trial_id in (first.trial_id, poor.trial_id):
        epochs = sum(s for row, s in zip(rows, seconds) if row["trial_id"] == trial_id)
        extras.append(by_id[trial_id].device_seconds - epochs)
    assert status.seconds_left is not None
    low, high = (5 * s + sum(extras) for s in (min(seconds), max(seconds)))
    assert low * 0.99 <= status.seconds_left <= high * 1.01

    plan, store = planned(tmp_path, base={**TABLES["base"], "model": "status-broken"}, name="broken")
    for _ in work([plan.trials[0]], RunConfig(store=store.path)):
        pass
    status = read_status(store)
    assert (status.counts, status.failures) == ({"failed": 1, "waiting": 3}, {"bug": 1})
    assert status.trials[0].message == "ValueError: this [model] is broken [/]"
    assert status.best is None
    json.dumps(status.to_mapping(), allow_nan=False)


def test_the_best_of_a_loss_is_the_smallest(tmp_path: Path) -> None:
    plan, store = planned(tmp_path, metric="valid_loss")
    for _ in work(plan.trials[1:3], RunConfig(store=store.path)):
        pass
    best = read_status(store).best
    assert best is not None
    assert best.trial_id == plan.trials[1].trial_id


def test_a_diverged_trial_counts_as_done_and_is_never_the_best(tmp_path: Path) -> None:
    base = {**TABLES["base"], "optimizer": "sgd", "hidden": [64, 64, 64]}
    plan, store = planned(tmp_path, base=base, space={"lr": {"grid_search": [1e30, 0.01]}})
    for _ in work([plan.trials[0]], RunConfig(store=store.path)):
        pass
    status = read_status(store)
    assert status.counts == {"diverged": 1, "waiting": 1}
    assert (status.epochs_done, status.epochs_total, status.best) == (3, 6, None)


def test_more_epochs_make_a_completed_trial_wait_and_a_narrower_space_leaves_others(tmp_path: Path) -> None:
    plan, store = planned(tmp_path)
    for _ in work([plan.trials[0]], RunConfig(store=store.path)):
        pass
    planned(tmp_path, base={**TABLES["base"], "epochs": 5})
    status = read_status(store)
    assert status.counts == {"waiting": 4}
    assert (status.epochs_done, status.epochs_total) == (3, 20)
    planned(tmp_path, space={"lr": {"grid_search": [0.5]}})
    status = read_status(store)
    assert (status.counts, status.others) == ({"waiting": 1}, 1)


def test_a_half_made_store_can_be_read(tmp_path: Path) -> None:
    plan, store = planned(tmp_path)
    store.trial(plan.trials[0].trial_id).path.mkdir()
    (store.trials_path / ".beside").mkdir()
    assert read_status(store).counts == {"waiting": 4}
    (store.trial(plan.trials[1].trial_id).path).mkdir()
    (store.trial(plan.trials[1].trial_id).path / ".1.json.0a1b").write_text('{"tri')
    (store.trial(plan.trials[1].trial_id).path / "1.log").write_text("")
    assert read_status(store).counts == {"waiting": 4}
    (store.path / "metrics.parquet").unlink(missing_ok=True)
    assert read_status(store).epochs_done == 0


def test_a_reader_needs_no_file_that_registers_a_users_model(tmp_path: Path) -> None:
    """The user's file may be gone, or on another machine; what the store holds is read all the same."""
    (tmp_path / "mine.py").write_text(
        "from torch import nn\nfrom mixsweep import register_model\n"
        "register_model('gone-model', lambda c, k: nn.Sequential(nn.Flatten(), nn.Linear(3072, k)))\n"
    )
    base = {**TABLES["base"], "model": "gone-model", "epochs": 1}
    (tmp_path / "own.toml").write_text(tomli_w.dumps({**TABLES, "imports": ["mine.py"], "base": base}))
    sweep = [sys.executable, "-m", "mixsweep"]
    store = ["--store", str(tmp_path / "runs")]
    subprocess.run(
        [*sweep, "run", str(tmp_path / "own.toml"), "--place", "debug", *store], check=True, timeout=120
    )
    (tmp_path / "mine.py").unlink()
    table = tmp_path / "table.csv"
    for command in (
        ["status", "small"],
        ["status"],
        ["export", "small", "--to", str(table)],
        ["plan", "demo"],
    ):
        done = subprocess.run([*sweep, *command, *store], capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, ""), command
    assert len(table.read_text().splitlines()) == 1 + 4
    trial = next(SweepStore(tmp_path / "runs" / "small").trials()).trial_id
    done = subprocess.run([*sweep, "show", trial, *store], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "gone-model" in done.stdout


WRITER = """
import sys, torch
from pathlib import Path
from mixsweep.core.execution.runner import work
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.sweep.planning.plan import read_plan, trials_of
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.compaction import compact
store = SweepStore(Path(sys.argv[1]))
trials = trials_of(read_plan(store))
for info in work(trials, RunConfig(store=store.path)):
    compact(store)
"""


@pytest.mark.timeout(240)
def test_a_reader_follows_a_sweep_that_another_process_writes(tmp_path: Path) -> None:
    plan, store = planned(tmp_path, base={**TABLES["base"], "epochs": 6})
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(store.path)])
    reader = StatusReader(store)
    seen: list[SweepStatus] = []
    try:
        while writer.poll() is None:
            seen.append(reader.read())
            time.sleep(0.05)
    finally:
        writer.kill()
        writer.wait()
    seen.append(reader.read())
    progress = [status.epochs_done for status in seen]
    assert progress == sorted(progress)
    assert len(set(progress)) > 5  # it was read while it ran, many times
    assert any(status.counts.get("running") == 1 for status in seen)
    assert any(status.seconds_left for status in seen)
    assert seen[-1].counts == {"completed": len(plan.trials)}
    assert seen[-1].epochs_done == seen[-1].epochs_total == 24
