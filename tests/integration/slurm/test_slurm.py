"""The `slurm` place on a real scheduler of two nodes: arrays, requeues, kills, refusals, and nobody to drive."""

import json
import os
import signal
from pathlib import Path

import pytest

from mixsweep import load
from mixsweep.cluster.slurm.client import query_final_states, query_tasks
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from tests.support.commands import (
    finish,
    infos,
    kill_family,
    lines_said,
    start,
    sweep_command,
    trajectories,
    wait_until,
)
from tests.support.slurm_cluster import SlurmCluster
from tests.support.trials import log_text, stopped_at_rungs

pytestmark = pytest.mark.slurm

# The study's question about patch sizes in miniature, on real images.
PATCH_SIZES = """
name = "patches"
question = "Which patch size?"
seeds = 3
[base]
model = "mixer"
dataset = "digits"
embed_dim = 16
blocks = 1
batch_size = 64
epochs = {epochs}
[space]
patch_size = {{ grid_search = [{patches}] }}
"""
# The time of a trial by the clock, not by how busy the machine is: seconds a step, none in `debug`.
SLOW_MODEL = """
import os, time
from torch import nn
from mixsweep import register_model

class Pause(nn.Module):
    def forward(self, x):
        if self.training:
            time.sleep(float(os.environ.get("STEP_SECONDS", "0")))
            bytearray(int(os.environ.get("STEP_BYTES", "0")))
            if os.environ.get("SLURMD_NODENAME") == os.environ.get("BROKEN_NODE", "none"):
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return x

def build(config, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 16), nn.ReLU(), Pause(), nn.Linear(16, classes))

register_model("slow", build)
"""
SLOW = """
name = "patches"
imports = ["slow_model.py"]
seeds = {seeds}
[base]
model = "slow"
dataset = "digits"
batch_size = 64
epochs = {epochs}
[space]
lr = {{ grid_search = [1e-3, 1e-2] }}
"""
PLACE = """
[cluster]
kind = "slurm"
partition = "debug"
time = 10
trials_per_task = 1
environment = { STEP_SECONDS = "0.04" }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: SlurmCluster) -> Path:
    """A folder whose name needs quoting everywhere, and a place named `cluster`."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    write_place(tmp_path, PLACE)
    folder = tmp_path / "Läufe mit Platz"
    folder.mkdir()
    return folder


def write_place(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config" / "mixsweep" / "places.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_sweep(folder: Path, epochs: int = 3, patches: str = "2, 4, 8, 16", extra: str = "") -> Path:
    path = folder / "patches.toml"
    path.write_text(PATCH_SIZES.format(epochs=epochs, patches=patches) + extra, encoding="utf-8")
    return path


def write_slow_sweep(folder: Path, epochs: int, seeds: int) -> None:
    (folder / "slow_model.py").write_text(SLOW_MODEL)
    (folder / "patches.toml").write_text(SLOW.format(epochs=epochs, seeds=seeds))


def command(folder: Path, place: str = "cluster", *more: str) -> list[str]:
    return sweep_command(folder / "patches.toml", folder / place, place, *more)


def store_of(folder: Path, place: str = "cluster") -> SweepStore:
    return SweepStore(folder / place / "patches")


def running(store: SweepStore, epochs: int = 1) -> list[TrialInfo]:
    """Trials at work that have so many epochs in the store."""
    found = [i for i in infos(store) if i.state == "running"]
    return [i for i in found if store.trial(i.trial_id).records().num_rows >= epochs]


def finish_with_releases(words: list[str], slurm: SlurmCluster, seconds: float = 240) -> str:
    """Run a command to its end; requeued jobs, which wait two minutes by SLURM's own rule, are let go at once."""
    process = start(words)
    try:
        wait_until(lambda: slurm.release_all() or process.poll() is not None, seconds)
        output, _ = process.communicate()
    finally:
        if process.poll() is None:
            kill_family(process)
    assert process.returncode == 0, output
    return output


def undisturbed(folder: Path) -> SweepStore:
    done = finish(command(folder, "debug"))
    assert done.returncode == 0, done.stdout
    return store_of(folder, "debug")


LONG = {"epochs": 12, "seeds": 3}  # six trials, with 17 steps an epoch


@pytest.fixture(scope="module")
def undisturbed_long(tmp_path_factory: pytest.TempPathFactory) -> SweepStore:
    """The longer sweep as `--place debug` runs it, to its end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_slow_sweep(folder, **LONG)
    return undisturbed(folder)


def test_twelve_trials_over_two_nodes_give_bit_for_bit_the_records_of_debug_and_a_report(
    folder: Path, slurm: SlurmCluster
) -> None:
    write_sweep(folder)
    done = finish(command(folder))
    assert done.returncode == 0, done.stdout
    assert "Submitted 12 tasks as job" in done.stdout
    store = store_of(folder)
    assert trajectories(store).num_rows == 36
    assert trajectories(store).equals(trajectories(undisturbed(folder)))
    attempts = [attempt for info in infos(store) for attempt in info.attempts]
    assert len(attempts) == 12
    assert {attempt.host for attempt in attempts} == {"n1", "n2"}
    jobs = {attempt.job for attempt in attempts}
    assert len(jobs) == 12  # one array, a task a trial
    assert len({job.partition("_")[0] for job in jobs}) == 1
    report = finish(
        [*sweep_command(Path(), folder, "")[:3], "report", "patches", "--store", str(folder / "cluster")]
    )
    assert report.returncode == 0, report.stdout
    assert (store.path / "report" / "index.html").stat().st_size > 10_000
    again = finish(command(folder))
    assert again.returncode == 0
    assert "Submitted" not in again.stdout
    assert [a for info in infos(store) for a in info.attempts] == attempts


def test_short_trials_share_tasks_as_the_plan_says_and_give_the_records_of_debug(
    folder: Path, tmp_path: Path, slurm: SlurmCluster
) -> None:
    write_place(tmp_path, PLACE.replace("trials_per_task = 1\n", ""))
    write_sweep(folder)
    plan = finish([*command(folder)[:3], "plan", *command(folder)[4:]])
    done = finish(command(folder))
    assert done.returncode == 0, done.stdout
    slots = len(slurm.nodes) * slurm.cpus
    each = 12 // slots
    assert f"{each} trials a task: a trial takes about" in plan.stdout
    assert f"and {slots} tasks can run at once" in plan.stdout
    assert f"Submitted {slots} tasks as job" in done.stdout
    store = store_of(folder)
    assert trajectories(store).equals(trajectories(undisturbed(folder)))
    assert len({attempt.job for info in infos(store) for attempt in info.attempts}) == slots


@pytest.mark.faults
def test_requeue_scancel_a_killed_step_and_a_killed_command_then_the_same_command_gives_the_same_table(
    folder: Path, slurm: SlurmCluster, undisturbed_long: SweepStore
) -> None:
    write_slow_sweep(folder, **LONG)
    store = store_of(folder)
    process = start(command(folder))
    disturbed: list[TrialInfo] = []

    def next_victim() -> TrialInfo:
        known = {info.trial_id for info in disturbed}

        def found() -> list[TrialInfo]:
            return [info for info in running(store, epochs=2) if info.trial_id not in known]

        wait_until(lambda: bool(found()), 120)
        disturbed.append(found()[0])
        return disturbed[-1]

    try:
        os.kill(next_victim().attempts[-1].pid, signal.SIGKILL)
        slurm.scontrol("requeue", next_victim().attempts[-1].job)
        slurm.scancel(next_victim().attempts[-1].job)
    finally:
        kill_family(process)
    finish_with_releases(command(folder), slurm)
    assert trajectories(store).equals(trajectories(undisturbed_long))
    by_id = {info.trial_id: info for info in infos(store)}
    killed, requeued, cancelled = (by_id[info.trial_id] for info in disturbed)
    assert [attempt.end for attempt in killed.attempts] == ["killed", "completed"]
    assert [attempt.end for attempt in requeued.attempts] == ["preempted", "completed"]
    assert [attempt.end for attempt in cancelled.attempts] == ["preempted", "completed"]
    assert requeued.attempts[0].job == requeued.attempts[1].job  # the same task, back from the queue
    assert cancelled.attempts[0].job != cancelled.attempts[1].job  # submitted anew
    assert killed.attempts[0].job != killed.attempts[1].job
    for info in by_id.values():
        assert_trained_once(store, info)


def assert_trained_once(store: SweepStore, info: TrialInfo) -> None:
    """Each epoch was trained once, but for those after the last checkpoint of an attempt that was cut off."""
    trained: list[list[int]] = []
    for line in log_text(store.trial(info.trial_id)).splitlines():
        words = line.split()
        if "attempt" in words and "from" in words:
            trained.append([])
        if "epoch" in words and "train" in words:
            trained[-1].append(int(words[words.index("epoch") + 1].split("/")[0]))
    assert len(trained) == len(info.attempts)
    for attempt, epochs in zip(info.attempts, trained):
        assert epochs == list(range(attempt.from_epoch + 1, attempt.from_epoch + 1 + len(epochs)))
    for before, after in zip(trained, info.attempts[1:]):
        if before:
            assert before[-1] - after.from_epoch <= 2, info


def test_a_rule_stops_poor_trials_of_an_array_with_no_driver_running(
    folder: Path, slurm: SlurmCluster
) -> None:
    rule = '[stopping]\nrule = "asha"\ngrace_epochs = 1\nreduction_factor = 2\n'
    write_sweep(folder, epochs=8, patches="4, 16", extra=rule)
    done = finish(command(folder, "cluster", "--detach"))
    assert done.returncode == 0, done.stdout
    assert "The jobs keep running; follow them with: sweep status" in done.stdout
    store = store_of(folder)
    wait_until(lambda: not slurm.jobs(), 200)
    states = [info.state for info in infos(store)]
    assert sorted(set(states)) == ["completed", "stopped"]
    assert len(states) == 6
    assert stopped_at_rungs(store) == {info.trial_id for info in infos(store) if info.state == "stopped"}
    followed = finish(command(folder))  # nothing is left: the same command only says so
    assert followed.returncode == 0
    assert "Submitted" not in followed.stdout


@pytest.mark.faults
def test_a_task_that_runs_out_of_time_requeues_itself_and_goes_on_bit_for_bit(
    folder: Path, tmp_path: Path, slurm: SlurmCluster
) -> None:
    write_place(tmp_path, PLACE.replace("time = 10", "time = 1"))
    write_slow_sweep(folder, epochs=75, seeds=1)  # a minute and more
    finish_with_releases(command(folder), slurm)
    store = store_of(folder)
    for info in infos(store):
        ends = [attempt.end for attempt in info.attempts]
        assert ends[-1] == "completed"
        assert set(ends[:-1]) == {"timeout"}  # it left in time, and was never killed
        starts = [attempt.from_epoch for attempt in info.attempts]
        assert starts[1] >= 20  # most of a job's minute was used
        assert starts == sorted(set(starts))
        assert len({attempt.job for attempt in info.attempts}) == 1  # requeued, not submitted anew
        assert_trained_once(store, info)
    assert trajectories(store).equals(trajectories(undisturbed(folder)))


@pytest.mark.faults
def test_a_preempted_task_is_requeued_and_goes_on_bit_for_bit(
    folder: Path, tmp_path: Path, slurm: SlurmCluster, undisturbed_long: SweepStore
) -> None:
    write_place(tmp_path, PLACE.replace('"debug"', '"scavenge"'))
    write_slow_sweep(folder, **LONG)
    store = store_of(folder)
    assert finish(command(folder, "cluster", "--detach")).returncode == 0
    wait_until(lambda: len(running(store)) >= 2, 120)
    important = slurm.sbatch(
        "--partition=debug", "--nodes=2", "--exclusive", "--time=1", "--output=/dev/null", "--wrap", "sleep 2"
    )
    wait_until(lambda: important not in slurm.jobs(), 120)
    finish_with_releases(command(folder), slurm)
    assert trajectories(store).equals(trajectories(undisturbed_long))
    preempted = [info for info in infos(store) if info.attempts[0].end == "preempted"]
    assert len(preempted) >= 2
    for info in infos(store):
        assert len({attempt.job for attempt in info.attempts}) == 1  # the scheduler's own requeue
        assert_trained_once(store, info)


@pytest.mark.faults
def test_a_task_killed_for_memory_is_tried_in_smaller_micro_batches_then_failed(
    folder: Path, tmp_path: Path, slurm: SlurmCluster
) -> None:
    options = 'mem = "1G"\nenvironment = { STEP_SECONDS = "3", STEP_BYTES = "3000000000" }\n'
    write_place(tmp_path, PLACE.partition("environment")[0] + options)
    write_slow_sweep(folder, epochs=1, seeds=1)
    done = finish(command(folder, "cluster", "--limit", "1"))
    assert done.returncode == 1, done.stdout
    (info,) = infos(store_of(folder))
    assert info.state == "failed"
    assert [attempt.end for attempt in info.attempts] == ["oom"] * 4
    assert [attempt.accumulate for attempt in info.attempts] == [1, 2, 4, 8]
    assert "OUT_OF_MEMORY" in info.attempts[-1].message


@pytest.mark.faults
def test_a_trial_whose_device_breaks_goes_back_into_the_queue_for_another_node(
    folder: Path, tmp_path: Path, slurm: SlurmCluster
) -> None:
    write_place(tmp_path, PLACE.partition("environment")[0] + 'environment = { BROKEN_NODE = "n1" }\n')
    write_slow_sweep(folder, epochs=2, seeds=1)
    words = command(folder, "cluster", "--limit", "1")
    assert finish([*words, "--detach"]).returncode == 0
    # Outside a test there are two minutes for it.
    wait_until(lambda: "ExcNodeList=n1" in slurm.scontrol("show", "job"), 120)
    finish_with_releases(words, slurm)
    (info,) = infos(store_of(folder))
    assert [(attempt.end, attempt.host) for attempt in info.attempts] == [("node", "n1"), ("completed", "n2")]
    assert len({attempt.job for attempt in info.attempts}) == 1


def test_a_stop_cancels_what_waits_of_this_sweep_alone_and_the_same_command_goes_on(
    folder: Path, tmp_path: Path, slurm: SlurmCluster, undisturbed_long: SweepStore
) -> None:
    write_place(tmp_path, PLACE + "parallelism = 2\n")
    stranger = slurm.sbatch("--wrap", "sleep 600", "--begin", "now+1hour", "--output=/dev/null")
    write_slow_sweep(folder, **LONG)
    store = store_of(folder)
    assert finish(command(folder, "cluster", "--detach")).returncode == 0
    wait_until(lambda: len(running(store)) >= 1, 120)
    status = finish([*command(folder)[:3], "status", "patches", "--store", str(folder / "cluster")])
    assert "queue: " in status.stdout
    stopped = finish([*command(folder)[:3], "stop", "patches", "--store", str(folder / "cluster")])
    assert stopped.returncode == 0, stopped.stdout
    wait_until(lambda: set(slurm.jobs()) == {stranger}, 60)
    assert {info.state for info in infos(store)} <= {"interrupted", "completed"}
    slurm.scancel(stranger)
    write_place(tmp_path, PLACE)
    done = finish(command(folder))
    assert done.returncode == 0, done.stdout
    assert trajectories(store).equals(trajectories(undisturbed_long))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ('partition = "gpu-lnog"', "sweep: scontrol show partition gpu-lnog: "),
        ("time = 100", "sweep: time = 100 minutes: partition debug has MaxTime=01:00:00"),
        ('constraint = "a100"', "sweep: sbatch: "),
        ('mem = "900G"', "sweep: sbatch: "),
        ('exclude = "n99"', "sweep: sbatch: "),
    ],
)
def test_what_the_scheduler_refuses_is_said_once_in_its_words_and_nothing_is_left(
    options: str, said: str, folder: Path, tmp_path: Path, slurm: SlurmCluster
) -> None:
    key = options.split()[0]
    kept = [line for line in PLACE.splitlines() if not line.startswith(f"{key} ")]
    write_place(tmp_path, "\n".join([*kept, options]))
    write_sweep(folder)
    jobs = store_of(folder).path / "jobs"
    (jobs / "0001").mkdir(parents=True)
    (jobs / "0001" / "7_0_submitted.pkl").touch()  # of an earlier command
    done = finish(command(folder))
    assert done.returncode == 2, done.stdout
    (line,) = lines_said(done.stdout)
    assert line.startswith(said)
    assert not slurm.jobs()
    assert [path.name for path in jobs.rglob("*")] == ["0001", "7_0_submitted.pkl"]


def test_jobs_of_a_command_that_was_killed_before_it_knew_their_ids_are_found_again(
    folder: Path, slurm: SlurmCluster
) -> None:
    write_sweep(folder, epochs=1, patches="16")
    assert finish(command(folder, "cluster", "--detach")).returncode == 0
    path = store_of(folder).path / "jobs" / "0001" / "submission.json"
    job_id = json.loads(path.read_text())["job_id"]
    path.write_text(path.read_text().replace(f'"job_id": "{job_id}"', '"job_id": ""'))
    again = finish(command(folder))
    assert again.returncode == 0, again.stdout
    assert "Submitted" not in again.stdout
    assert json.loads(path.read_text())["job_id"] == job_id
    assert [len(info.attempts) for info in infos(store_of(folder))] == [1, 1, 1]


def test_a_submit_from_inside_a_job_inherits_nothing_of_it(folder: Path, slurm: SlurmCluster) -> None:
    write_sweep(folder, epochs=1, patches="16")
    script = folder / "outer.sh"
    words = " ".join(f"'{word}'" for word in command(folder, "cluster", "--detach"))
    script.write_text(f"#!/bin/bash\ncd '{Path(__file__).parents[3]}'\n{words} > '{folder}/outer.txt' 2>&1\n")
    slurm.sbatch(
        "--ntasks=2", "--cpus-per-task=2", "--nodes=2", "--time=3", "--output=/dev/null", str(script)
    )
    wait_until(lambda: not slurm.jobs(), 200)
    assert (folder / "outer.txt").read_text().count("Submitted 3 tasks") == 1
    store = store_of(folder)
    assert [info.state for info in infos(store)] == ["completed"] * 3
    assert {attempt.threads for info in infos(store) for attempt in info.attempts} == {1}
    assert len(load(store.path)) == 3


def test_two_ranks_over_two_nodes_train_as_one(folder: Path, tmp_path: Path, slurm: SlurmCluster) -> None:
    # The nodes' names are those of the scheduler alone here; on a cluster they are host names.
    write_place(tmp_path, PLACE.replace('STEP_SECONDS = "0.04"', 'MASTER_ADDR = "127.0.0.1"'))
    write_sweep(folder, epochs=2, patches="8")
    alone = trajectories(undisturbed(folder)).to_pandas()
    write_sweep(folder, epochs=2, patches="8", extra="[resources]\nranks = 2\nnodes = 2\n")
    done = finish(command(folder))
    assert done.returncode == 0, done.stdout
    store = store_of(folder)
    together = trajectories(store).to_pandas()
    assert list(together["trial_id"]) == list(alone["trial_id"])
    for column in ("train_loss", "valid_loss", "train_accuracy", "valid_accuracy"):
        assert together[column].to_numpy() == pytest.approx(alone[column].to_numpy(), rel=1e-4, abs=1e-4)
    for info in infos(store):
        assert info.attempts[-1].ranks == 2
        assert len(list(store.path.glob(f"jobs/*/{info.attempts[-1].job}_*_log.out"))) == 2


def test_what_was_accepted_but_can_never_start_is_cancelled_whole(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SlurmCluster(EnforcePartLimits="NO") as cluster:
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        write_place(tmp_path, PLACE + "directives = { time = 100 }\n")
        write_sweep(folder)
        done = finish(command(folder))
        assert done.returncode == 2, done.stdout
        assert "can never start: PartitionTimeLimit (squeue); cancelled" in " ".join(done.stdout.split())
        assert not cluster.jobs()


def test_with_accounting_a_missing_account_is_refused_and_forgotten_jobs_are_known(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SlurmCluster(accounting=True, MinJobAge=2) as cluster:
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        write_place(tmp_path, PLACE + 'account = "nobody"\n')
        write_sweep(folder)
        done = finish(command(folder))
        assert done.returncode == 2, done.stdout
        (line,) = lines_said(done.stdout)
        assert line.startswith("sweep: sbatch: ")
        assert line.count("Invalid account") == 1
        assert not cluster.jobs()
        assert not list(store_of(folder).path.glob("jobs/*"))

        job = cluster.sbatch("--wrap", "sleep 60", "--output=/dev/null")
        array = cluster.sbatch("--wrap", "true", "--output=/dev/null", "--array=0-1")
        cluster.scancel(job)
        wait_until(lambda: not query_tasks([job, array]), 60)
        wait_until(
            lambda: (
                query_final_states([job, array])
                == {job: "CANCELLED", f"{array}_0": "COMPLETED", f"{array}_1": "COMPLETED"}
            ),
            30,
        )
