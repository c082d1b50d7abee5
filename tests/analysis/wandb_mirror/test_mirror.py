"""analysis.wandb_mirror.mirror: what W&B holds is what the store holds, offline and online, whatever comes between."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mixsweep.analysis.wandb_mirror.mirror import Mirror, once
from mixsweep.analysis.wandb_mirror.payload import run_content, run_id_of
from mixsweep.analysis.wandb_mirror.sinks import OfflineSink
from mixsweep.core.store.store import SweepStore
from tests.support.commands import ROOT, kill_family, start, sweep_command, wait_until
from tests.support.mirrored_sweeps import (
    CLEAN,
    TABLES,
    as_wandb_has_it,
    files_of,
    mirror,
    offline_runs,
    plan_sweep,
    rows_of,
    train,
    train_here,
    unassigned,
)
from tests.support.wandb_server import KEY, Faults, WandbServer

WRONG_KEY = KEY[:-1] + "f"


def expected(store: SweepStore) -> dict[str, list[dict[str, object]]]:
    return {run_id_of(store.name, trial_id): rows for trial_id, rows in rows_of(store).items()}


def name_of_trial(run_id: str) -> str:
    return run_id.rpartition("-")[2]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """24 trials, two of them killed and resumed: the store after the first kill, and at the end."""
    half, whole = tmp_path_factory.mktemp("half"), tmp_path_factory.mktemp("whole")
    plan, store = plan_sweep(half)
    first, second = plan.trials[7].trial_id, plan.trials[15].trial_id
    assert train(store, first, 2) == -signal.SIGKILL
    shutil.copytree(half, whole, dirs_exist_ok=True)
    store = SweepStore(whole / store.name)
    assert train(store, second, 3) == -signal.SIGKILL
    assert train(store) == 0
    infos = [info for folder in store.trials() if (info := folder.info())]
    assert [info.state for info in infos] == ["completed"] * 24
    assert sorted(info.trial_id for info in infos if len(info.attempts) == 2) == sorted([first, second])
    return half, whole


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four trials, completed: for what needs no more."""
    root = tmp_path_factory.mktemp("trained")
    space = {"lr": {"grid_search": [0.03, 0.01]}, "activation": {"grid_search": ["tanh"]}}
    _, store = plan_sweep(root, seeds=2, space=space)
    train_here(store)
    return root


@pytest.mark.faults
def test_offline_in_two_stretches_wandb_reads_every_epoch_of_24_trials_once_as_the_store_has_them(
    killed: tuple[Path, Path], tmp_path: Path
) -> None:
    half, whole = killed
    root = tmp_path / "runs"
    shutil.copytree(half, root)
    store = SweepStore(root / "mirrored")
    folder = store.path / "wandb"
    done = mirror(root, "--offline")
    assert (done.returncode, done.stderr) == (0, "")
    # Seven trials of four epochs, and of the killed one what its newest checkpoint has.
    assert re.match(r"W&B: 8 runs, 8 of them pushed, (28|29|30) epochs\.\n", done.stdout), done.stdout
    shutil.copytree(whole, root, dirs_exist_ok=True)  # the sweep has gone on meanwhile
    done = mirror(root, "--offline")
    # 16 new ones, and what the one that was killed has had since, or all of it if an epoch was trained again.
    assert re.match(r"W&B: 24 runs, 17 of them pushed, (66|67|68) epochs\.\n", done.stdout), done.stdout
    held = {run_id: as_wandb_has_it(rows) for run_id, rows in offline_runs(folder).items()}
    assert len(held) == 24
    assert all([row["epoch"] for row in rows] == [1, 2, 3, 4] for rows in held.values())
    assert held == expected(store)

    before = files_of(folder)
    done = mirror(root, "--offline")
    assert done.stdout.startswith("W&B: 24 runs, 0 of them pushed, 0 epochs.\n"), done.stdout
    assert files_of(folder) == before

    for path in folder.glob("*/mirror.json"):  # the cursor, which is derived
        path.unlink()
    next(folder.glob("offline-run-*")).joinpath("mirror.json").write_text("{damaged")
    shutil.rmtree(sorted(folder.glob("offline-run-*"))[3])
    assert mirror(root, "--offline").returncode == 0
    assert {run_id: as_wandb_has_it(rows) for run_id, rows in offline_runs(folder).items()} == held


def test_a_mirror_killed_between_two_moves_leaves_nothing_that_the_next_one_cannot_mend(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, tmp_path / "runs")
    store = SweepStore(tmp_path / "runs" / "mirrored")
    info = next(store.trials()).info()
    assert info is not None
    target = OfflineSink(tmp_path / "wandb", "p")
    content = run_content(store, info, "one", {}, "valid_accuracy", "max")
    shorter = replace(content, rows=content.rows[:2])
    assert target.push(shorter) == 2
    rename = os.rename

    def dies_before_the_second_move(source: Path, goal: Path) -> None:
        if ".writing-" in str(source):
            raise KeyboardInterrupt
        rename(source, goal)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", dies_before_the_second_move)
        with pytest.raises(KeyboardInterrupt):
            target.push(content)
    assert not target.is_current(content)
    assert target.push(content) == 4
    assert target.is_current(content)
    assert [len(rows) for rows in offline_runs(tmp_path / "wandb").values()] == [4]
    assert [path.name for path in (tmp_path / "wandb").iterdir()] == [target.path_of(content).name]


def test_a_run_says_what_wandb_groups_and_compares_by(trained: Path, tmp_path: Path) -> None:
    store = SweepStore(trained / "mirrored")
    (info,) = [
        info
        for folder in store.trials()
        if (info := folder.info()) and info.config.lr == 0.01 and info.config.seed == 43
        if info.config.activation == "tanh"
    ]
    place = {"part": "mirrored", "point": 5, "replica": 1}
    run = run_content(store, info, "lr=0.01 seed=43", place, "valid_loss", "min")
    assert run.run_id == f"mirrored-{info.trial_id}"
    assert (run.group, run.name) == ("mirrored", "lr=0.01 seed=43")
    assert run.tags == ("mlp", "digits", "completed")
    assert run.config["hidden"] == "16-8"
    assert run.config["lr"] == 0.01
    assert run.config["replica"] == 1
    assert all(isinstance(value, str | int | float | None) for value in run.config.values())
    losses = [row["valid_loss"] for row in run.rows]
    assert run.summary["best_valid_loss"] == min(losses)
    assert run.summary["best_valid_loss_epoch"] == 1 + losses.index(min(losses))
    assert run.summary["valid_loss"] == losses[-1]
    last = store.trial(info.trial_id).records().to_pylist()[-1]
    assert run.summary["test_accuracy"] == last["test_accuracy"] is not None
    assert run.summary["state"] == "completed"
    assert run_id_of("other", info.trial_id) != run.run_id  # a sweep that shares the trial has its own run


@pytest.mark.faults
def test_online_with_refusals_and_a_restart_the_server_holds_what_the_store_holds(
    killed: tuple[Path, Path], tmp_path: Path
) -> None:
    half, whole = killed
    root = tmp_path / "runs"
    shutil.copytree(half, root)
    store = SweepStore(root / "mirrored")
    faults = Faults(refuse=0.2, limit=0.03, hang=0.01, hang_seconds=1.0, after_taking=True)
    with WandbServer(faults) as server:
        done = mirror(root, environment=server.environment())
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(server.runs) == 8
        shutil.copytree(whole, root, dirs_exist_ok=True)
        command = [sys.executable, "-m", "mixsweep", "mirror", "mirrored", "--store", str(root)]
        process = subprocess.Popen(
            command, cwd=ROOT, env=CLEAN | server.environment(), stdout=subprocess.PIPE, text=True
        )
        wait_until(lambda: len(server.runs) >= 14)
        server.stop()
        time.sleep(2)
        server.start()
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        assert server.counts["refuse"] > 10
        assert server.counts["limit"] > 0
        assert server.unknown == []
        assert {name: as_wandb_has_it(run.history) for name, run in server.runs.items()} == expected(store)
        for run in server.runs.values():
            assert (run.group, run.exit_code) == ("mirrored", 0)
            last = store.trial(name_of_trial(run.name)).records().to_pylist()[-1]
            assert run.summary["test_accuracy"] == last["test_accuracy"] is not None
            assert run.summary["valid_loss"] == last["valid_loss"]

        server.faults = Faults()
        streams = server.counts["file_stream"]
        done = mirror(root, environment=server.environment())
        assert done.stdout == "W&B: 24 runs, 0 of them pushed, 0 epochs.\n", done.stdout + done.stderr
        assert server.counts["file_stream"] == streams


def test_online_only_what_is_new_is_sent_and_a_lost_cursor_or_run_is_made_good(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    small = {"seeds": 1, "space": {"lr": {"grid_search": [0.03, 0.01]}}}
    plan, store = plan_sweep(root, **small)
    train_here(store)
    with WandbServer() as server:
        assert "2 of them pushed, 8 epochs" in mirror(root, environment=server.environment()).stdout
        plan_sweep(root, **small, base={**TABLES["base"], "epochs": 6})
        train_here(store)
        assert "2 of them pushed, 4 epochs" in mirror(root, environment=server.environment()).stdout
        assert {name: as_wandb_has_it(run.history) for name, run in server.runs.items()} == expected(store)
        shutil.rmtree(store.path / "mirror")
        assert "2 of them pushed, 12 epochs" in mirror(root, environment=server.environment()).stdout
        server.runs.pop(run_id_of("mirrored", plan.trials[0].trial_id))
        assert "1 of them pushed, 6 epochs" in mirror(root, environment=server.environment()).stdout
        assert {name: as_wandb_has_it(run.history) for name, run in server.runs.items()} == expected(store)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "no API key"),
        ({"WANDB_API_KEY": WRONG_KEY}, "refuses the API key"),
        ({"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}, "no answer"),
    ],
)
def test_what_keeps_wandb_from_being_used_is_one_line(
    trained: Path, tmp_path: Path, environment: dict[str, str], words: str
) -> None:
    shutil.copytree(trained, tmp_path / "runs")
    with WandbServer() as server:
        environment = {"WANDB_BASE_URL": server.url} | environment
        done = mirror(tmp_path / "runs", environment=environment)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("sweep: W&B: ")
    assert words in line


def test_a_folder_that_cannot_be_written_is_one_line(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "runs")
    (tmp_path / "runs" / "mirrored" / "wandb").write_text("a file where a folder belongs")
    done = mirror(tmp_path / "runs", "--offline")
    assert (done.returncode, done.stderr) == (1, "")
    (line,) = [line for line in done.stdout.splitlines() if "were not pushed" in line]
    assert "File exists" in line


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "no API key"),
        ({"WANDB_API_KEY": WRONG_KEY}, "refuses the API key"),
        ({"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}, "no answer"),
    ],
    ids=["no key", "a wrong key", "a dead server"],
)
def test_a_sweep_with_a_mirror_ends_as_without_one_where_wandb_cannot_be_used(
    tmp_path: Path, environment: dict[str, str], words: str
) -> None:
    command = sweep_command(_small_file(tmp_path), tmp_path / "runs", "debug", "--mirror")
    with WandbServer() as server:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=CLEAN | unassigned(tmp_path) | {"WANDB_BASE_URL": server.url} | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert server.runs == {}
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "2 trials: 2 completed" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if "W&B" in line]
    assert line.startswith("W&B: ")
    assert words in line
    assert line.endswith("The trials continue without a mirror.")
    infos = [folder.info() for folder in SweepStore(tmp_path / "runs" / "small").trials()]
    assert [info and info.state for info in infos] == ["completed"] * 2


@pytest.mark.faults
def test_run_with_a_mirror_outlives_its_server_and_the_server_has_all_at_the_end(tmp_path: Path) -> None:
    file = _small_file(tmp_path, epochs=40)
    store = SweepStore(tmp_path / "runs" / "small")
    with WandbServer() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        process = start(sweep_command(file, tmp_path / "runs", "debug", "--mirror"))
        try:
            wait_until(lambda: bool(server.runs))
            output, _ = process.communicate(timeout=120)
        except BaseException:
            kill_family(process)
            raise
    assert process.returncode == 0, output
    held = {name: as_wandb_has_it(run.history) for name, run in server.runs.items()}
    assert held == {run_id_of("small", trial_id): rows for trial_id, rows in rows_of(store).items()}
    assert {len(rows) for rows in held.values()} == {40}


def test_a_trial_whose_files_have_not_changed_is_not_read_again(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, tmp_path / "runs")
    store = SweepStore(tmp_path / "runs" / "mirrored")
    one = Mirror([(store, OfflineSink(tmp_path / "wandb", "p"))], lambda store: {})
    assert once(one).changed == 4
    monkeypatch.setattr(
        "mixsweep.analysis.wandb_mirror.mirror.run_content", lambda *words: pytest.fail("it was read")
    )
    assert one.run().runs == 4


def _small_file(folder: Path, epochs: int = 2) -> Path:
    path = folder / "small.toml"
    base = {"dataset": "digits", "hidden": [8], "batch_size": 64, "train_limit": 128, "epochs": epochs}
    lines = [f"{name} = {json.dumps(value)}" for name, value in base.items()]
    path.write_text(
        "\n".join(['name = "small"', "[base]", *lines, "[space]", "lr = { grid_search = [0.1, 0.01] }", ""])
    )
    return path


def test_names_that_w_and_b_does_not_allow_have_run_ids_of_their_own() -> None:
    names = ["a-b", "a b", "a%b", "a  b", "é", "ü", "x" * 100, "x" * 101, "x" * 102]
    ids = [run_id_of(name, "0123456789ab") for name in names]
    assert len(set(ids)) == len(names)
    assert ids[0] == "a-b-0123456789ab"  # a plain name keeps the id that it has always had
    assert all(len(run_id) <= 128 for run_id in ids)


def test_a_run_that_the_server_refuses_costs_that_run_alone(tmp_path: Path) -> None:
    plan, store = plan_sweep(tmp_path, seeds=1)
    chosen = [config.trial_id for config in plan.trials[:2]]
    for trial_id in chosen:
        train_here(store, trial_id)
    server = WandbServer()
    server.start()
    try:
        environment = server.environment()
        assert mirror(tmp_path, environment=environment).returncode == 0
        mine, theirs = (run_id_of(store.name, trial_id) for trial_id in chosen)
        server.forbidden, kept = (
            {mine},
            server.runs.pop(theirs),
        )  # one is refused, the other has to be pushed again
        done = mirror(tmp_path, environment=environment)
        assert (done.returncode, done.stderr) == (1, "")
        assert f"1 runs or artifacts were not pushed ({server.url} refuses this run (403))" in done.stdout
        assert len(server.runs[theirs].history) == len(kept.history) > 0
        wrong = mirror(tmp_path, environment=environment | {"WANDB_API_KEY": WRONG_KEY})
        assert (wrong.returncode, wrong.stdout) == (2, "")
        assert "refuses the API key" in wrong.stderr
        assert len(wrong.stderr.splitlines()) == 1
    finally:
        server.stop()
