"""`launch = "ray"`: one job of two nodes, a Ray cluster of its own over them, and nothing of it left behind."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from mixsweep.cluster import places
from mixsweep.cluster.places import Place
from mixsweep.cluster.ray_cluster.nodes import RayError, ray_node
from mixsweep.core.store.store import SweepStore
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.sweep.backends.base import find_backend
from mixsweep.sweep.backends.slurm.job_entry import MODULE as JOB_MODULE
from mixsweep.sweep.backends.slurm.job_request import SlurmBackendError, request_for
from mixsweep.sweep.backends.slurm.submissions import submissions
from mixsweep.sweep.planning.forecast import RemainingWork
from mixsweep.sweep.planning.schema import Resources, SweepSpec
from tests.support.commands import (
    ROOT,
    finish,
    infos,
    kill_family,
    start,
    sweep_command,
    trajectories,
    wait_until,
    write_sweep,
)
from tests.support.slurm_cluster import SlurmCluster

PLACE = """
[cluster]
kind = "slurm"
partition = "debug"
time = 10
launch = "ray"
nodes = 2
"""


@dataclass(frozen=True)
class Process:
    pid: int
    words: str
    environment: dict[str, str]


def processes() -> Iterator[Process]:
    """What runs on this machine and was started by this user."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            pairs = os.fsdecode((path / "environ").read_bytes()).split("\0")
            words = os.fsdecode((path / "cmdline").read_bytes()).replace("\0", " ").strip()
            yield Process(int(path.name), words, dict(pair.split("=", 1) for pair in pairs if "=" in pair))


def processes_of(job: str) -> list[Process]:
    """A job's, Ray's own and its workers included: all of them inherit the job's environment."""
    mine = {"SLURM_CONF": os.environ["SLURM_CONF"], "SLURM_JOB_ID": job}
    return [p for p in processes() if mine.items() <= p.environment.items()]


def wait_until_gone(job: str) -> None:
    """SLURM calls a job ended a moment before its last process has."""
    wait_until(lambda: not processes_of(job), 60)


def ray_folders(found: list[Process]) -> set[Path]:
    """The private folders of the Ray nodes among these processes."""
    paths = [p.environment.get("RAY_AUTH_TOKEN_PATH") for p in found]
    return {Path(path).parent for path in paths if path}


def job_of(store: SweepStore) -> str:
    (job,) = {s.job_id for s in submissions(store) if s.job_id}
    return job


def is_at_work(store: SweepStore, trials: int = 1) -> bool:
    """Whether so many trials are running that have records."""
    running = [i for i in infos(store) if i.state == "running"]
    return sum(store.trial(i.trial_id).records().num_rows > 0 for i in running) >= trials


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], SweepStore]:
    """The sweep of so many epochs as `--place debug` runs it."""
    made: dict[int, SweepStore] = {}

    def run(epochs: int) -> SweepStore:
        if epochs not in made:
            folder = tmp_path_factory.mktemp("undisturbed")
            done = finish(sweep_command(write_sweep(folder, epochs), folder / "runs", "debug"))
            assert done.returncode == 0, done.stdout
            made[epochs] = SweepStore(folder / "runs" / "small")
        return made[epochs]

    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: SlurmCluster) -> Path:
    """A folder, and a place named `cluster`."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    config = tmp_path / "config" / "mixsweep"
    config.mkdir(parents=True)
    (config / "places.toml").write_text(PLACE)
    return tmp_path


@pytest.mark.slurm
@pytest.mark.timeout(600)
@pytest.mark.ray
def test_a_job_of_two_nodes_gives_the_records_of_debug_and_leaves_no_ray_process_or_folder(
    folder: Path, slurm: SlurmCluster, undisturbed: Callable[[int], SweepStore]
) -> None:
    store = SweepStore(folder / "runs" / "small")
    process = start(sweep_command(write_sweep(folder, 20), folder / "runs", "cluster"))
    try:
        wait_until(lambda: is_at_work(store))
        job = job_of(store)
        seen = processes_of(job)
        output, _ = process.communicate(timeout=200)
    finally:
        kill_family(process)
    assert process.returncode == 0, output
    programs = [Path(p.words.partition(" ")[0]).name for p in seen]
    assert programs.count("gcs_server") == 1
    assert programs.count("raylet") == 2  # one a node
    folders = ray_folders(seen)
    assert len(folders) == 2
    wait_until(lambda: job not in slurm.jobs(), 60)
    wait_until_gone(job)
    assert not any(path.exists() for path in folders)
    assert not list(store.path.glob("jobs/*/*.ray"))  # where it was, and its token

    assert trajectories(store).equals(trajectories(undisturbed(20)))
    attempts = [attempt for info in infos(store) for attempt in info.attempts]
    assert len(attempts) == 6
    assert {attempt.job for attempt in attempts} == {job}
    assert {attempt.host for attempt in attempts} == {"n1", "n2"}
    assert {attempt.threads for attempt in attempts} == {1}


@pytest.mark.slurm
@pytest.mark.timeout(600)
@pytest.mark.ray
def test_two_such_jobs_on_one_machine_at_once_do_not_meet(
    folder: Path, slurm: SlurmCluster, undisturbed: Callable[[int], SweepStore]
) -> None:
    stores = [SweepStore(folder / name / "small") for name in ("a", "b")]
    file = write_sweep(folder, 20)
    commands = [start(sweep_command(file, store.path.parent, "cluster")) for store in stores]
    try:
        wait_until(lambda: all(is_at_work(store) for store in stores), 200)
        found = [processes_of(job_of(store)) for store in stores]
        ends = [command.communicate(timeout=250)[0] for command in commands]
    finally:
        for command in commands:
            kill_family(command)
    assert [command.returncode for command in commands] == [0, 0], ends
    wait_until(lambda: not slurm.jobs(), 60)
    for store, seen in zip(stores, found):
        assert len(ray_folders(seen)) == 2
        assert trajectories(store).equals(trajectories(undisturbed(20)))
        attempts = [attempt for info in infos(store) for attempt in info.attempts]
        assert {attempt.job for attempt in attempts} == {job_of(store)}
        assert {attempt.host for attempt in attempts} == {"n1", "n2"}
        assert {attempt.end for attempt in attempts} == {"completed"}
        wait_until_gone(job_of(store))
    assert not ray_folders(found[0]) & ray_folders(found[1])


@pytest.mark.faults
@pytest.mark.slurm
@pytest.mark.timeout(600)
@pytest.mark.ray
def test_a_warned_job_leaves_its_trials_at_a_safe_point_requeues_itself_and_goes_on(
    folder: Path, slurm: SlurmCluster, undisturbed: Callable[[int], SweepStore]
) -> None:
    store = SweepStore(folder / "runs" / "small")
    process = start(sweep_command(write_sweep(folder, 20), folder / "runs", "cluster"))
    try:
        wait_until(lambda: is_at_work(store, 2))
        job = job_of(store)
        slurm.scancel("--signal=USR2", job)  # as before preemption, and before the time limit
        wait_until(lambda: slurm.jobs().get(job) == "PENDING", 60)
        wait_until_gone(job)
        assert {info.state for info in infos(store)} <= {"interrupted", "completed"}
        slurm.release(job)
        output, _ = process.communicate(timeout=250)
    finally:
        kill_family(process)
    assert process.returncode == 0, output
    assert slurm.job(job)["Restarts"] == "1"
    attempts = [attempt for info in infos(store) for attempt in info.attempts]
    assert {attempt.job for attempt in attempts} == {job}  # itself, not a new one
    ends = [attempt.end for attempt in attempts]
    assert 1 <= ends.count("preempted") <= 2  # those at work, one a node
    assert set(ends) == {"preempted", "completed"}
    assert all(attempt.from_epoch > 0 for info in infos(store) for attempt in info.attempts[1:])
    assert trajectories(store).equals(trajectories(undisturbed(20)))
    wait_until(lambda: job not in slurm.jobs(), 60)
    wait_until_gone(job)


@pytest.mark.faults
@pytest.mark.slurm
@pytest.mark.timeout(600)
@pytest.mark.ray
def test_a_killed_head_takes_its_cluster_with_it_and_the_sweep_goes_on_in_a_new_job(
    folder: Path, slurm: SlurmCluster, undisturbed: Callable[[int], SweepStore]
) -> None:
    store = SweepStore(folder / "runs" / "small")
    process = start(sweep_command(write_sweep(folder, 20), folder / "runs", "cluster"))
    try:
        wait_until(lambda: is_at_work(store, 2))
        job = job_of(store)
        seen = processes_of(job)
        folders = ray_folders(seen)
        ours = [p for p in seen if p.words.startswith(f"{sys.executable} -u -m {JOB_MODULE}")]
        (head,) = [p for p in ours if p.environment["SLURM_PROCID"] == "0"]
        os.kill(head.pid, signal.SIGKILL)
        wait_until(lambda: job not in slurm.jobs(), 60)
        wait_until_gone(job)
        for path in folders:
            shutil.rmtree(path, ignore_errors=True)  # the killed one's: nobody was left to remove it
        output, _ = process.communicate(timeout=250)
    finally:
        kill_family(process)
    assert process.returncode == 0, output
    assert trajectories(store).equals(trajectories(undisturbed(20)))
    assert len({attempt.job for info in infos(store) for attempt in info.attempts}) == 2


@pytest.mark.faults
@pytest.mark.slurm
@pytest.mark.timeout(600)
@pytest.mark.ray
def test_a_cancelled_job_leaves_no_process_or_folder_and_its_trials_resumable(
    folder: Path, slurm: SlurmCluster
) -> None:
    store = SweepStore(folder / "runs" / "small")
    done = finish(sweep_command(write_sweep(folder, 200), folder / "runs", "cluster", "--detach"))
    assert done.returncode == 0, done.stdout
    wait_until(lambda: is_at_work(store, 2))
    job = job_of(store)
    folders = ray_folders(processes_of(job))
    slurm.scancel(job)  # SIGTERM to all processes, SIGKILL five seconds later
    wait_until(lambda: job not in slurm.jobs(), 60)
    wait_until_gone(job)
    assert len(folders) == 2
    for path in folders:
        if path.exists():  # SIGKILL came first, on a busy machine: then the next node to start removes it
            os.utime(path, (0, 0))
    with ray_node(1, 0):
        assert not any(path.exists() for path in folders)
    # Ray may end a worker before it has said that it was preempted.
    assert {info.state for info in infos(store)} <= {"interrupted", "lost"}
    assert {attempt.end for info in infos(store) for attempt in info.attempts} <= {"preempted", ""}


@pytest.mark.ray
def test_nodes_of_one_cluster_share_a_machine_in_private_folders_and_end_with_their_contexts() -> None:
    with ray_node(1, 0) as head:
        with ray_node(1, 0, join=head.cluster_address) as other:
            folders = [head.folder, other.folder]
            assert head.cluster_address == other.cluster_address
            for path in folders:
                assert stat.S_IMODE(path.stat().st_mode) == 0o700
                assert len(str(max(path.rglob("plasma_store"), key=lambda p: len(str(p))))) < 108
            stranger = _client(head.cluster_address.address, token="0" * 64)
            assert "InvalidAuthToken" in stranger
            assert "nodes 2" in _client(head.cluster_address.address, head.cluster_address.token)
        head.check()  # the other one's end is not its own
    assert not any(path.exists() for path in folders)
    assert not [p for p in processes() if any(str(path) in p.words for path in folders)]


def _client(address: str, token: str) -> str:
    """What a process says that connects to a cluster with a token; it is given some seconds where it is not let in."""
    code = (
        f"import ray; ray.init(address={address!r}, logging_level='ERROR'); print('nodes', len(ray.nodes()))"
    )
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    words = [sys.executable, "-W", "ignore", "-c", code]
    process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = ""
    assert process.stdout is not None
    for line in process.stdout:
        said += line
        if "InvalidAuthToken" in line or "nodes" in line:
            break
    process.kill()
    process.communicate()
    return said


@pytest.mark.ray
def test_a_node_whose_starter_is_killed_ends_too() -> None:
    code = (
        "import time\nfrom mixsweep.cluster.ray_cluster.nodes import ray_node\n"
        "with ray_node(1, 0) as node:\n    print(node.folder, flush=True)\n    time.sleep(600)\n"
    )
    words = [sys.executable, "-c", code]
    starter = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    folder = Path(starter.stdout.readline().strip())

    def left() -> list[Process]:
        token = str(folder / "token")
        return [p for p in processes() if p.environment.get("RAY_AUTH_TOKEN_PATH") == token]

    assert len(left()) >= 3
    starter.kill()
    starter.communicate()
    wait_until(lambda: not left(), 30)
    assert folder.exists()
    os.utime(folder, (0, 0))  # what was made within the last minute may be somebody's who is about to lock it
    with ray_node(1, 0) as other:
        assert not folder.exists()
        os.utime(other.folder, (0, 0))
        with ray_node(1, 0):
            assert other.token_path.exists()  # old, but its starter lives


@pytest.mark.ray
def test_a_ray_that_does_not_start_is_told_in_one_line_with_its_last_words() -> None:
    with pytest.raises(RayError, match=r"Ray ended on .*: .*\S") as caught, ray_node(-1, 0):
        pass
    assert "\n" not in str(caught.value)


def test_a_node_is_asked_for_what_its_trials_need_at_once(tmp_path: Path) -> None:
    slurm = places.SlurmPlace(launch="ray", nodes=2, trials_per_node=4)
    spec = SweepSpec(
        name="s", parts=(), metric="valid_accuracy", mode="max", resources=Resources(cpus=3, gpus=1)
    )
    backend = find_backend(Place(name="one", kind="slurm", slurm=slurm))
    work = [RemainingWork(ImageConfig(), 1)] * 100
    (script,) = backend.submission(spec, work, SweepStore(tmp_path)).scripts
    lines = script.splitlines()
    for line in ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=12", "--gpus-per-node=4"):
        assert f"#SBATCH {line}" in lines
    assert not [line for line in lines if "--array" in line]
    assert "--kill-on-bad-exit=1" in script


def test_trials_in_turn_are_no_option_of_a_ray_cluster() -> None:
    slurm = places.SlurmPlace(launch="ray", trials_per_task=3)
    with pytest.raises(
        SlurmBackendError,
        match=r"trials_per_task: only with launch = 'array'; with 'ray' set trials_per_node",
    ):
        request_for("s", slurm, Resources())
