"""tests.support.slurm_cluster: a real SLURM that does what SLURM does, meets no other, and leaves nothing behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import wait_until
from tests.support.slurm_cluster import SlurmCluster

pytestmark = pytest.mark.slurm

SLEEP = f"{sys.executable} -c 'import time; time.sleep(60)'"
FILL = f"{sys.executable} -c 'import time; held = b\"x\" * 300_000_000; time.sleep(60)'"


def submit(cluster: SlurmCluster, command: str, *words: str) -> str:
    return cluster.sbatch("--output=/dev/null", *words, "--wrap", command)


def wait_for_state(cluster: SlurmCluster, job: str, state: str) -> None:
    wait_until(lambda: cluster.job(job)["JobState"] == state, 60)


def files_end(folder: Path, count: int) -> list[str]:
    """What so many jobs wrote, in the order of the files' names."""
    wait_until(lambda: sum(path.read_text().endswith("\n") for path in folder.iterdir()) == count, 60)
    return [path.read_text().strip() for path in sorted(folder.iterdir())]


def test_a_job_of_two_nodes_runs_on_both_and_one_of_its_processes_can_be_killed(slurm: SlurmCluster) -> None:
    job = submit(slurm, f"srun --kill-on-bad-exit {SLEEP}", "--nodes=2", "--ntasks-per-node=1")
    wait_until(lambda: all(len(slurm.steps_of(job, node)) == 1 for node in slurm.nodes), 60)
    assert len(slurm.steps_of(job)) == 2
    subprocess.run(["kill", "-9", str(slurm.steps_of(job, "n2")[0])], check=True)
    wait_for_state(slurm, job, "FAILED")
    assert slurm.job(job)["Reason"] == "NonZeroExitCode"
    assert slurm.steps_of(job) == []


def test_each_task_of_an_array_runs_once(slurm: SlurmCluster, tmp_path: Path) -> None:
    slurm.sbatch("--array=0-3", f"--output={tmp_path}/%a", "--wrap", "echo task $SLURM_ARRAY_TASK_ID")
    assert files_end(tmp_path, 4) == ["task 0", "task 1", "task 2", "task 3"]


def test_a_requeued_task_starts_again_once_it_is_released_and_what_begins_later_still_waits(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    later = submit(slurm, "true", "--begin=now+1hour")
    note = f'echo "$SLURM_RESTART_COUNT" > {tmp_path}/$SLURM_ARRAY_TASK_ID'
    array = submit(slurm, f'{note}; [ "$SLURM_RESTART_COUNT" ] || exec {SLEEP}', "--array=5-6")
    tasks = [f"{array}_5", f"{array}_6"]
    wait_until(lambda: all(slurm.steps_of(task) for task in tasks), 60)
    for task in tasks:
        slurm.scontrol("requeue", task)
    wait_until(lambda: all(slurm.jobs().get(task) == "PENDING" for task in tasks), 60)
    slurm.release(tasks[0])
    wait_for_state(slurm, tasks[0], "COMPLETED")
    assert slurm.jobs() == {later: "PENDING", tasks[1]: "PENDING"}
    slurm.release_all()
    wait_for_state(slurm, tasks[1], "COMPLETED")
    assert slurm.jobs() == {later: "PENDING"}
    assert [(tmp_path / name).read_text() for name in "56"] == ["1\n", "1\n"]
    slurm.scancel(later)


def test_a_job_over_its_memory_is_killed_and_one_under_it_is_not(slurm: SlurmCluster) -> None:
    over = submit(slurm, FILL, "--mem=100")
    under = submit(slurm, FILL, "--mem=1000")
    wait_for_state(slurm, over, "FAILED")
    assert slurm.job(over)["ExitCode"] == "0:9"
    assert slurm.jobs() == {under: "RUNNING"}
    slurm.scancel(under)


def test_a_time_over_the_partitions_is_refused(slurm: SlurmCluster) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        submit(slurm, "true", "--partition=short", "--time=2")
    assert "Requested time limit is invalid" in caught.value.stderr


def test_a_job_of_the_lower_partition_makes_room_and_is_requeued(slurm: SlurmCluster) -> None:
    low = submit(slurm, f"exec {SLEEP}", "--partition=scavenge", "--nodes=2", "--exclusive")
    wait_for_state(slurm, low, "RUNNING")
    high = submit(slurm, "true", "--nodes=2", "--exclusive")
    wait_for_state(slurm, high, "COMPLETED")
    wait_for_state(slurm, low, "PENDING")
    assert slurm.job(low)["Restarts"] == "1"
    slurm.scancel(low)


def test_a_job_of_a_node_that_is_set_down_is_requeued(slurm: SlurmCluster) -> None:
    job = submit(slurm, f"exec {SLEEP}", "--nodelist=n2")
    wait_for_state(slurm, job, "RUNNING")
    slurm.scontrol("update", "NodeName=n2", "State=DOWN", "Reason=test")
    wait_for_state(slurm, job, "PENDING")
    assert slurm.job(job)["Restarts"] == "1"
    slurm.scancel(job)


@pytest.mark.faults
def test_a_node_that_dies_is_noticed_its_job_requeued_and_the_node_comes_back() -> None:
    with SlurmCluster(SlurmdTimeout=10) as cluster:
        job = submit(cluster, f"exec {SLEEP}", "--nodelist=n2")
        wait_until(lambda: bool(cluster.steps_of(job, "n2")), 60)
        cluster.kill_node("n2")
        assert cluster.steps_of(job) == []
        wait_for_state(cluster, job, "PENDING")
        assert (
            cluster.sinfo("--noheader", "--nodes=n2", "--partition=debug", "--format=%T").strip() == "down*"
        )
        cluster.start_node("n2")
        cluster.release(job)
        wait_until(lambda: bool(cluster.steps_of(job, "n2")), 60)
        assert cluster.job(job)["Restarts"] == "1"


def test_two_clusters_at_once_do_not_meet_and_leave_no_process_and_no_folder() -> None:
    with SlurmCluster(nodes=1) as one, SlurmCluster(nodes=1) as other:
        assert submit(one, f"srun {SLEEP}") == "1"
        assert submit(other, f"srun {SLEEP}") == "1"
        wait_until(lambda: bool(one.steps_of("1") and other.steps_of("1")), 60)
        assert not set(one.steps_of("1")) & set(other.steps_of("1"))
        assert {one.job("1")["NodeList"], other.job("1")["NodeList"]} == {"n1"}
        one.scancel("1")
        wait_until(lambda: one.jobs() == {}, 60)
        assert other.jobs() == {"1": "RUNNING"}
    for cluster in (one, other):
        assert not cluster.folder.exists()
        assert processes_that_know(cluster.folder) == []


def processes_that_know(folder: Path) -> list[str]:
    """The command lines of all processes of this machine in whose words or environment a folder is."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
            if bytes(folder) in words + (process / "environ").read_bytes():
                found.append(words.replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_a_cluster_that_cannot_start_says_which_daemon_ended_and_leaves_nothing() -> None:
    cluster = SlurmCluster(SelectType="select/none_such")
    with pytest.raises(RuntimeError, match=r"(?s)slurmctld ended: .*none_such"), cluster:
        pass
    assert not cluster.folder.exists()
    assert processes_that_know(cluster.folder) == []


def test_with_accounting_an_unknown_account_is_refused_and_sacct_knows_what_ended() -> None:
    with SlurmCluster(nodes=1, accounting=True) as cluster:
        with pytest.raises(subprocess.CalledProcessError) as caught:
            submit(cluster, "true", "--account=none_such")
        assert "Invalid account or account/partition combination specified" in caught.value.stderr
        job = submit(cluster, "exit 3", "--account=spare")
        columns = ("--allocations", "--noheader", "--parsable2", "--format=account,state,exitcode")
        wait_until(lambda: cluster.run("sacct", *columns, f"--jobs={job}") == "spare|FAILED|3:0\n", 60)
