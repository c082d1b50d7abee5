"""sweep.backends.slurm.job_entry: what a batch script starts, from the files of a submission to the store."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mixsweep.cluster.places import Place, SlurmPlace
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.backends.slurm.job_request import job_module
from mixsweep.sweep.backends.slurm.submissions import (
    Submission,
    save_submission,
    save_token,
    save_trials,
    submission_folder,
)
from mixsweep.sweep.planning.parse import load_spec
from mixsweep.sweep.planning.plan import make_plan, save_plan
from mixsweep.sweep.runtime.worker import make_worker_spec

SWEEP = """
name = "entered"
[base]
model = "mlp"
dataset = "digits"
hidden = [8]
train_limit = 64
batch_size = 32
[space]
lr = { grid_search = [0.1, 0.2] }
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def store(tmp_path: Path) -> SweepStore:
    """A store with one submission, an array of two tasks."""
    return submitted(tmp_path)


def submitted(folder: Path, ranks: int = 1) -> SweepStore:
    path = folder / "entered.toml"
    path.write_text(SWEEP)
    plan = make_plan(load_spec(str(path)))
    store = SweepStore(folder / "a store" / "entered")
    save_plan(plan, store)
    run_config = RunConfig(store=store.path, place="campus", ranks=ranks)
    submission = Submission(
        submission_id="0001",
        place="campus",
        tasks=tuple((config.trial_id,) for config in plan.trials),
        worker=make_worker_spec(plan, run_config).to_mapping(),
    )
    save_trials(store, "0001", plan.trials)
    save_submission(store, submission)
    return store


def enter(store: SweepStore, task: int, **variables: str) -> "subprocess.Popen[str]":
    """Start what the batch script of the submission starts, as the scheduler would."""
    slurm = Place(name="campus", kind="slurm", slurm=SlurmPlace()).slurm
    assert slurm is not None
    outside = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    job = {
        "SUBMITIT_EXECUTOR": "slurm",
        "SLURM_JOB_ID": "100",
        "SLURM_ARRAY_JOB_ID": "100",
        "SLURM_ARRAY_TASK_ID": str(task),
    }
    return subprocess.Popen(
        [sys.executable, "-u", "-m", *job_module(slurm, store, "0001")],
        env=outside | job | variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def states(store: SweepStore) -> list[str]:
    return sorted(info.state for folder in store.trials() if (info := folder.info()))


def test_each_task_trains_its_own_trials_and_no_pickle_is_there(store: SweepStore) -> None:
    for task in (0, 1):
        process = enter(store, task)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        assert states(store) == ["completed"] * (task + 1)
    assert [path.name for path in submission_folder(store, "0001").iterdir() if path.suffix == ".pkl"] == []


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_warning_within_the_start_is_kept_until_the_task_can_act_on_it(
    store: SweepStore, number: signal.Signals
) -> None:
    with enter(store, 0, PYTHONVERBOSE="1") as process:
        assert process.stdout is not None
        for line in process.stdout:  # until the imports that take seconds
            if "import 'mixsweep.core.store" in line:
                break
        process.send_signal(number)
        rest = process.stdout.read()
    assert process.returncode == 1
    assert "preempted: not requeued" in rest  # there is no scheduler here


def test_a_submission_without_the_token_of_its_ranks_says_so_in_a_line(tmp_path: Path) -> None:
    store = submitted(tmp_path, ranks=2)
    process = enter(store, 0, SLURM_NTASKS="2", SLURM_PROCID="0")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert output.startswith("sweep: jobs/0001/token: ")
    assert output.count("\n") == 1
    save_token(store, "0001")
    assert (submission_folder(store, "0001") / "token").stat().st_mode & 0o777 == 0o600


def test_two_ranks_meet_by_the_token_and_train_one_trial(tmp_path: Path) -> None:
    store = submitted(tmp_path, ranks=2)
    save_token(store, "0001")
    world = {"SLURM_NTASKS": "2", "SLURM_JOB_NUM_NODES": "1"}
    processes = [
        enter(store, 0, **world, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), SLURM_NODEID="0")
        for rank in (0, 1)
    ]
    outputs = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert states(store) == ["completed"]


def test_a_submission_that_is_not_yet_visible_is_waited_for(store: SweepStore) -> None:
    folder = submission_folder(store, "0001")
    hidden = folder.rename(folder.with_name("hidden"))
    process = enter(store, 0)
    time.sleep(4)
    hidden.rename(folder)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert states(store) == ["completed"]
