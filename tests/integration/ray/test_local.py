"""The `local` place: a real Ray on this machine, its death, and the same command again."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from mixsweep.core.store.store import SweepStore
from tests.support.commands import (
    ROOT,
    finish,
    kill_family,
    start,
    sweep_command,
    trajectories,
    wait_until,
    write_sweep,
)
from tests.support.trials import log_text, stopped_at_rungs

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> SweepStore:
    """The sweep as `--place debug` runs it, to its end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = finish(sweep_command(write_sweep(folder), folder / "runs", "debug"))
    assert done.returncode == 0, done.stdout
    return SweepStore(folder / "runs" / "small")


def test_local_gives_bit_for_bit_the_records_of_debug(undisturbed: SweepStore, tmp_path: Path) -> None:
    done = finish(sweep_command(write_sweep(tmp_path), tmp_path / "runs", "local"))
    assert done.returncode == 0, done.stdout
    store = SweepStore(tmp_path / "runs" / "small")
    assert trajectories(store).num_rows == 36
    assert trajectories(store).equals(trajectories(undisturbed))


def test_sigkill_of_driver_and_workers_then_the_same_command_gives_the_same_table(
    undisturbed: SweepStore, tmp_path: Path
) -> None:
    command = sweep_command(write_sweep(tmp_path), tmp_path / "runs", "local")
    store = SweepStore(tmp_path / "runs" / "small")
    process = start(command)
    # In the middle: some trials have ended, one or two are at work, others wait.
    wait_until(lambda: sum(_ended(store)) >= 2 and _running(store) >= 1)
    assert kill_family(process) > 2  # the driver, Ray's own processes, the workers
    ended_before = {f.trial_id: f.info() for f in store.trials() if (i := f.info()) and i.ended}
    assert 2 <= len(ended_before) < 6

    done = finish(command)
    assert done.returncode == 0, done.stdout
    assert trajectories(store).equals(trajectories(undisturbed))
    for trial_id, before in ended_before.items():
        assert store.trial(trial_id).info() == before  # finished trials were not touched again
    for folder in store.trials():
        info = folder.info()
        assert info is not None
        starts = [attempt.from_epoch for attempt in info.attempts]
        assert starts == sorted(starts)
        assert len(info.attempts) <= 2


def test_a_killed_worker_is_replaced_and_its_trial_continues(undisturbed: SweepStore, tmp_path: Path) -> None:
    process = start(sweep_command(write_sweep(tmp_path), tmp_path / "runs", "local"))
    store = SweepStore(tmp_path / "runs" / "small")
    try:
        wait_until(lambda: _running(store) >= 1)
        victim = next(i for f in store.trials() if (i := f.info()) and i.state == "running")
        os.kill(victim.attempts[-1].pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=200)
    finally:
        kill_family(process)
    assert process.returncode == 0, output
    assert trajectories(store).equals(trajectories(undisturbed))
    again = store.trial(victim.trial_id).info()
    assert again is not None
    assert [attempt.end for attempt in again.attempts] == ["killed", "completed"]


def test_first_interrupt_stops_at_a_safe_point_and_the_same_command_goes_on(
    undisturbed: SweepStore, tmp_path: Path
) -> None:
    command = sweep_command(write_sweep(tmp_path), tmp_path / "runs", "local")
    store = SweepStore(tmp_path / "runs" / "small")
    process = start(command)
    wait_until(lambda: _running(store) >= 1)
    os.killpg(process.pid, signal.SIGINT)  # a terminal's Ctrl-C reaches the whole group
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 130, output
    assert "run the same command again to resume" in " ".join(output.split())
    assert not _running(store)
    assert sum(_ended(store)) < 6
    done = finish(command)
    assert done.returncode == 0, done.stdout
    assert trajectories(store).equals(trajectories(undisturbed))
    ends = {attempt.end for folder in store.trials() if (i := folder.info()) for attempt in i.attempts}
    assert ends <= {"completed", "interrupted"}  # nothing was cut off in the middle of an epoch


def test_a_failing_trial_does_not_end_the_sweep(tmp_path: Path) -> None:
    plugin = tmp_path / "breaks.py"
    plugin.write_text(
        "from mixsweep import register_model\n"
        "def build(config, classes):\n    raise RuntimeError('a bug of mine')\n"
        "register_model('breaks', build)\n"
    )
    file = write_sweep(tmp_path, epochs=1)
    text = file.read_text().replace('activation = { grid_search = ["relu", "tanh", "sigmoid"] }', "")
    text = text.replace('model = "mlp"\n', "")
    file.write_text(f'imports = ["breaks.py"]\n{text}model = {{ grid_search = ["mlp", "breaks"] }}\n')
    done = finish(sweep_command(file, tmp_path / "runs", "local"))
    assert done.returncode == 1, done.stdout
    store = SweepStore(tmp_path / "runs" / "small")
    states = sorted(info.state for folder in store.trials() if (info := folder.info()))
    assert states == ["completed", "completed", "failed", "failed"]
    failed = next(info for folder in store.trials() if (info := folder.info()) and info.state == "failed")
    assert [attempt.end for attempt in failed.attempts] == ["bug", "bug"]  # tried once more, then terminal
    assert "a bug of mine" in log_text(store.trial(failed.trial_id))


def test_a_trial_that_fits_nowhere_is_refused_at_once(tmp_path: Path) -> None:
    file = write_sweep(tmp_path, extra="\n[resources]\ncpus = 4096\n")
    done = finish(sweep_command(file, tmp_path / "runs", "local"), timeout=60)
    assert done.returncode == 2
    assert "a trial asks for 4096 CPUs" in done.stdout


def test_a_stopping_rule_decides_in_ray_workers_and_its_decisions_are_recorded(tmp_path: Path) -> None:
    rule = '\n[stopping]\nrule = "asha"\ngrace_epochs = 1\nreduction_factor = 2\n'
    file = write_sweep(tmp_path, epochs=8, extra=rule)
    done = finish(sweep_command(file, tmp_path / "runs", "local"))
    assert done.returncode == 0, done.stdout
    store = SweepStore(tmp_path / "runs" / "small")
    states = [info.state for folder in store.trials() if (info := folder.info())]
    assert "stopped" in states
    assert "completed" in states
    stopped = {f.trial_id for f in store.trials() if (info := f.info()) and info.state == "stopped"}
    assert stopped_at_rungs(store) == stopped


def test_tpe_searches_over_a_command(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples" / "script", tmp_path / "script")
    file = tmp_path / "script" / "script.toml"
    head, _, _ = file.read_text().replace("seeds = 3\n", "").partition("[space]")
    file.write_text(
        f"{head}[space]\nlr = {{ loguniform = [0.01, 0.5] }}\n"
        '[search]\nalgorithm = "tpe"\ntrials = 3\nstartup_trials = 1\n'
    )
    done = finish(sweep_command(file, tmp_path / "runs", "local"))
    assert done.returncode == 0, done.stdout
    store = SweepStore(tmp_path / "runs" / "script")
    assert _ended(store) == [True] * 3
    assert len({row["lr"] for row in store.plan().to_pylist()}) == 3


MEMBER = """
import argparse, json, os, pathlib, time
parser = argparse.ArgumentParser()
for name, kind in (("lr", float), ("epochs", int), ("out", pathlib.Path), ("resume", pathlib.Path)):
    parser.add_argument(f"--{name}", type=kind)
args = parser.parse_args()
loss, first = json.loads(args.resume.read_text()) if args.resume else (1.0, 1)
for epoch in range(first, args.epochs + 1):
    loss *= 1 - args.lr
    print(json.dumps({"epoch": epoch, "loss": loss}), flush=True)
    (args.out / "new").write_text(json.dumps([loss, epoch + 1]))
    os.replace(args.out / "new", args.out / "checkpoint")
time.sleep(0.5)  # its end comes after its last record
"""
MEMBERS = """
name = "members"
metric = "loss"
mode = "min"
[command]
run = "python train.py --lr {lr} --epochs {epochs} --out {trial_dir}"
resume = "--resume {checkpoint}"
[fields]
lr = { default = 0.1, low = 0.0, high = 0.9, mutable = true }
epochs = { default = 8, budget = true }
[space]
lr = { uniform = [0.01, 0.5] }
[search]
algorithm = "pbt"
population = 3
interval_epochs = 3
mutate = ["lr"]
quantile = 0.4
"""


def test_commands_are_members_of_a_population(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(MEMBER)
    file = tmp_path / "members.toml"
    file.write_text(MEMBERS)
    done = finish(sweep_command(file, tmp_path / "runs", "local"))
    assert done.returncode == 0, done.stdout
    store = SweepStore(tmp_path / "runs" / "members")
    plan = store.plan().to_pylist()
    ended = {trial.trial_id: info.state for trial in store.trials() if (info := trial.info())}
    assert sorted(ended.values()) == ["completed"] * 3 + ["stopped"] * (len(plan) - 3)
    heirs = [row for row in plan if row["parent"]]
    assert heirs
    for row in plan:
        records = store.trial(row["trial_id"]).records().sort_by("epoch").to_pylist()
        loss, first = 1.0, 1
        if row["parent"]:
            parent, _, epoch = row["parent"].partition("@")
            first = int(epoch) + 1
            before = {one["epoch"]: one["loss"] for one in store.trial(parent).records().to_pylist()}
            loss = before[int(epoch)]
        assert [one["epoch"] for one in records] == list(range(first, first + len(records)))
        for one in records:
            loss *= 1 - row["lr"]
            assert one["loss"] == pytest.approx(loss, rel=1e-12)


def _ended(store: SweepStore) -> list[bool]:
    return [info.ended for folder in store.trials() if (info := folder.info())]


def _running(store: SweepStore) -> int:
    infos = [folder.info() for folder in store.trials()]
    return sum(info is not None and info.state == "running" for info in infos)
