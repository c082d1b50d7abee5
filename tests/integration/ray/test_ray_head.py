"""The head of a Ray cluster dies: the command says so and ends, and goes on with the next cluster."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from mixsweep.core.store.store import SweepStore
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
from tests.support.ray_cluster import RayCluster, plain_cluster, session
from tests.support.ray_sweeps import nodes_at_work, sweep, write_braked

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(600)]

TWO = ("--limit", "2")
EPOCHS = 80  # braked, 64 s
RAYS_PATIENCE = 8  # seconds, in place of its 60
BOUND = 90  # seconds until a command has ended, on whatever machine


@pytest.fixture(autouse=True)
def _short_of_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", str(RAYS_PATIENCE))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> SweepStore:
    """Two trials as `--place debug` runs them."""
    folder = tmp_path_factory.mktemp("two")
    file, _ = write_braked(folder, EPOCHS)
    done = finish(sweep_command(file, folder / "runs", "debug", *TWO))
    assert done.returncode == 0, done.stdout
    return SweepStore(folder / "runs" / "many")


def kill_processes(cluster: RayCluster, *names: str) -> None:
    """SIGKILL those of the head's processes whose command lines have one of these words; without: all of them."""
    for pid in session(cluster.head.pid):
        with suppress(ProcessLookupError, FileNotFoundError):
            words = Path(f"/proc/{pid}/cmdline").read_text()
            if not names or any(name in words for name in names):
                os.kill(pid, signal.SIGKILL)


def stop_processes(cluster: RayCluster, name: str) -> None:
    """SIGSTOP: they hold their connections and say nothing, as a machine that is cut off."""
    for pid in session(cluster.head.pid):
        with suppress(ProcessLookupError, FileNotFoundError):
            if name in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGSTOP)


def places_of(cluster: RayCluster, folder: Path) -> dict[str, dict[str, object]]:
    both = {"token_path": str(cluster.token_path), "environment": {"BRAKE": str(folder / "brake")}}
    places: dict[str, dict[str, object]] = {"attach": {"address": cluster.address, **both}}
    if cluster.dashboard_port is not None:
        jobs = {
            "address": cluster.jobs,
            "store": str(folder / "runs"),
            "python": sys.executable,
        }
        places["jobs"] = {**jobs, **both}
    return places


def at_work_with_checkpoints(store: SweepStore) -> bool:
    return nodes_at_work(store) == 2 and all(folder.has_checkpoint() for folder in store.trials())


def check_went_on(store: SweepStore, undisturbed: SweepStore) -> None:
    """The records of debug, each trial's last attempt from where the one that was killed had its checkpoint."""
    assert trajectories(store).equals(trajectories(undisturbed))
    for info in infos(store):
        assert [attempt.end for attempt in info.attempts] == ["killed", "completed"]
        rows = store.trial(info.trial_id).records().to_pylist()
        assert info.attempts[1].from_epoch > 0
        assert next(r["epoch"] for r in rows if r["attempt"] == 2) == info.attempts[1].from_epoch + 1


@pytest.mark.parametrize("silent", [False, True], ids=["killed", "cut-off"])
def test_a_driver_whose_head_is_gone_says_so_and_its_trials_go_on_at_the_next_head(
    ray_places: Callable[..., None], tmp_path: Path, two: SweepStore, silent: bool
) -> None:
    """The driver's own node lives on: it is the head's, of which only what makes it a head goes at first."""
    file, brake = write_braked(tmp_path, EPOCHS)
    run = sweep_command(file, tmp_path / "runs", "attach", *TWO)
    store = SweepStore(tmp_path / "runs" / "many")
    with plain_cluster(1, 1) as cluster:
        address = cluster.address  # its file goes with it
        ray_places(**places_of(cluster, tmp_path))
        process = start(run)
        try:
            wait_until(lambda: at_work_with_checkpoints(store))
            begun = time.monotonic()
            if silent:
                stop_processes(cluster, "gcs_server")
            else:
                kill_processes(cluster, "gcs_server", "dashboard")
            output, _ = process.communicate(timeout=BOUND)
            kill_processes(cluster)
        finally:
            kill_family(process)
        print(f"ended {time.monotonic() - begun:.1f} s after its head")
    assert process.returncode == 2, output
    lines = lines_said(output)
    assert len(lines) == 1, output
    assert lines[0].startswith(f"sweep: address {address}: the cluster's head is gone")
    assert output.endswith("run the same command again once it is back, or with another place\n")
    brake.unlink()
    with plain_cluster(1, 1) as cluster:
        ray_places(**places_of(cluster, tmp_path))
        done = finish(run)
    assert done.returncode == 0, done.stdout
    check_went_on(store, two)


def test_a_head_and_its_job_server_are_gone_and_the_same_command_submits_at_the_next(
    ray_places: Callable[..., None], tmp_path: Path, two: SweepStore
) -> None:
    file, brake = write_braked(tmp_path, EPOCHS)
    run = [*sweep("run", str(file), "--place", "jobs"), *TWO]
    store = SweepStore(tmp_path / "runs" / "many")
    with plain_cluster(1, 1, jobs=True) as cluster:
        ray_places(**places_of(cluster, tmp_path))
        process = start(run)
        try:
            wait_until(lambda: at_work_with_checkpoints(store))
            kill_processes(cluster)
            output, _ = process.communicate(timeout=BOUND)
        finally:
            kill_family(process)
    assert process.returncode == 2, output
    line = output.splitlines()[-1]
    assert line.startswith(f"sweep: address {cluster.jobs}: the cluster's head is gone")
    assert "run the same command again once it is back" in line
    assert "Traceback" not in output
    brake.unlink()
    with plain_cluster(1, 1, jobs=True) as cluster:
        ray_places(**places_of(cluster, tmp_path))
        done = finish(run)
    assert done.returncode == 0, done.stdout
    check_went_on(store, two)


def test_a_job_server_that_is_cut_off_is_not_followed_for_ever(
    ray_places: Callable[..., None], tmp_path: Path
) -> None:
    """Nothing closes the connection that the follower listens to."""
    file, _ = write_braked(tmp_path, EPOCHS)
    run = [*sweep("run", str(file), "--place", "jobs"), *TWO]
    with plain_cluster(1, jobs=True) as cluster:
        ray_places(**places_of(cluster, tmp_path))
        process = start(run)
        try:
            wait_until(lambda: bool(infos(SweepStore(tmp_path / "runs" / "many"))))
            stop_processes(cluster, "dashboard")
            output, _ = process.communicate(timeout=BOUND)
        finally:
            kill_family(process)
    assert process.returncode == 2, output
    assert "the cluster's head is gone" in output.splitlines()[-1]


@pytest.mark.parametrize("seconds", [1.5, 3.0])
def test_a_head_that_dies_while_its_driver_starts_is_one_line(
    ray_places: Callable[..., None], tmp_path: Path, seconds: float
) -> None:
    """All its processes at once, with the driver's node: where Ray ends the driver, it is said nevertheless."""
    file, _ = write_braked(tmp_path, EPOCHS)
    plan = tmp_path / "runs" / "many" / "plan.parquet"
    with plain_cluster(1) as cluster:
        ray_places(**places_of(cluster, tmp_path))
        process = start(sweep_command(file, tmp_path / "runs", "attach", *TWO))
        try:
            wait_until(plan.exists)  # the next thing is the cluster
            time.sleep(seconds)
            kill_processes(cluster)
            output, _ = process.communicate(timeout=BOUND)
        finally:
            kill_family(process)
    assert process.returncode in (1, 2), output  # 1 is Ray's
    lines = lines_said(output)
    assert len(lines) == 1, output
    assert lines[0].startswith("sweep: address ")
