"""Ray clusters of several hosts: nodes that are killed or cut off, and workers that do not see the store."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from tests.support.commands import finish, infos, kill_family, start, sweep_command, trajectories, wait_until
from tests.support.ray_cluster import RayCluster, networked_cluster, session
from tests.support.ray_sweeps import nodes_at_work, sweep, write_braked, write_many

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

EIGHT = ("--limit", "8")
EIGHTS_EPOCHS = 60  # braked, 48 s


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RayCluster, Path]]:
    """Four nodes with addresses of their own, which the tests below use up, and a folder that the head alone sees."""
    hidden = tmp_path_factory.mktemp("hidden")
    with networked_cluster(1, 1, 1, 1, hidden=hidden) as made:
        yield made, hidden


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> SweepStore:
    """Eight longer trials as `--place debug` runs them."""
    folder = tmp_path_factory.mktemp("eight")
    file, _ = write_braked(folder, EIGHTS_EPOCHS)
    done = finish(sweep_command(file, folder / "runs", "debug", *EIGHT))
    assert done.returncode == 0, done.stdout
    return SweepStore(folder / "runs" / "many")


OWN_DATA = """
import numpy, torch
from mixsweep.core.data.datasets import Images
from mixsweep import register_dataset

def load(folder):
    pixels = torch.from_numpy(numpy.load(folder / "deep" / "pixels.npy"))
    labels = torch.arange(len(pixels)) % 10
    return Images(pixels[:160], labels[:160], pixels[160:], labels[160:], 10, (0.5,) * 3, (0.25,) * 3)

register_dataset("own", load)
"""


def test_data_that_only_the_drivers_node_has_comes_once_a_node_to_where_the_trials_resources_are(
    network: tuple[RayCluster, Path], ray_places: Callable[..., None], tmp_path: Path
) -> None:
    cluster, hidden = network
    token = str(cluster.token_path)
    ray_places(apart={"address": cluster.address, "token_path": token, "shared": False})
    (hidden / "data" / "deep").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (200, 3, 32, 32), dtype=np.uint8)
    np.save(hidden / "data" / "deep" / "pixels.npy", pixels)
    (tmp_path / "own.py").write_text(OWN_DATA)
    file = write_many(tmp_path, epochs=1, extra='imports = ["own.py"]')
    file.write_text(
        file.read_text().replace('"digits"', '"own"').replace("train_limit = 256\nvalid_limit = 100\n", "")
    )
    run = sweep_command(file, hidden / "runs-own", "apart", "--limit", "6", "--data", str(hidden / "data"))
    done = finish([*cluster.inside, *run, "--set", "resources.custom={away=1}"])
    assert done.returncode == 0, done.stdout
    found = infos(SweepStore(hidden / "runs-own" / "many"))
    assert [info.state for info in found] == ["completed"] * 6
    hosts = {info.attempts[0].host for info in found}
    assert not any(host.endswith(".1)") for host in hosts)  # the head has no `away`
    # One cache for all nodes of this machine, and so one copy.
    assert len(list(Path(os.environ["SWEEP_CACHE"]).glob("data-*/deep/pixels.npy"))) == 1


@pytest.mark.faults
def test_without_a_shared_folder_results_reach_the_driver_though_proxy_and_node_are_killed_and_another_is_cut_off(
    network: tuple[RayCluster, Path], eight: SweepStore, ray_places: Callable[..., None], tmp_path: Path
) -> None:
    cluster, hidden = network
    file, brake = write_braked(tmp_path, EIGHTS_EPOCHS)
    place = {
        "address": cluster.address,
        "token_path": str(cluster.token_path),
        "environment": {"BRAKE": str(brake)},
    }
    ray_places(shared=place, apart={**place, "shared": False})
    store = SweepStore(hidden / "runs" / "many")
    refused = finish([*cluster.inside, *sweep_command(file, hidden / "runs", "shared", *EIGHT)])
    assert refused.returncode == 2, refused.stdout
    assert "not visible on" in refused.stdout
    assert "shared = false" in refused.stdout

    process = start([*cluster.inside, *sweep_command(file, hidden / "runs", "apart", *EIGHT)])
    try:
        wait_until(lambda: nodes_at_work(store) == 4)
        (proxy,) = [pid for pid in session(cluster.head.pid) if _title(pid).startswith("ray::StoreProxy")]
        os.kill(proxy, signal.SIGKILL)
        cluster.kill(2)
        cluster.cut(1)
        brake.unlink()
        output, _ = process.communicate(timeout=300)
    finally:
        kill_family(process)
    assert process.returncode == 0, output
    assert trajectories(store).equals(trajectories(eight))
    _check_lost(store, 2)
    checkpoints = [f for f in store.trials() if f.has_checkpoint()]
    assert len(checkpoints) == 5  # as `keep` says, which the driver's node alone can know


@pytest.mark.faults
def test_a_node_killed_costs_its_trials_only_the_epochs_since_a_checkpoint(
    network: tuple[RayCluster, Path], eight: SweepStore, ray_places: Callable[..., None], tmp_path: Path
) -> None:
    cluster, _ = network
    file, brake = write_braked(tmp_path, EIGHTS_EPOCHS)
    place = {"address": cluster.address, "token_path": str(cluster.token_path)}
    ray_places(attach={**place, "environment": {"BRAKE": str(brake)}})
    store = SweepStore(tmp_path / "runs" / "many")
    command = sweep_command(file, tmp_path / "runs", "attach", *EIGHT)
    process = start([*cluster.inside, *command])
    try:
        wait_until(lambda: nodes_at_work(store) == 2)
        cluster.kill(0)
        brake.unlink()
        output, _ = process.communicate(timeout=300)
    finally:
        kill_family(process)
    assert process.returncode == 0, output
    assert trajectories(store).equals(trajectories(eight))
    (lost,) = _check_lost(store, 1)
    told = finish(sweep("show", lost.trial_id, "--store", str(tmp_path / "runs"), "--json"))
    assert "its node is gone" in json.loads(told.stdout)["attempts"][0]["message"]


def _check_lost(store: SweepStore, count: int) -> list[TrialInfo]:
    """So many trials were lost with their nodes, each of another one; all went on at their checkpoints."""
    lost = [info for info in infos(store) if len(info.attempts) > 1]
    assert len({info.attempts[0].host for info in lost}) == count
    for info in lost:
        assert [attempt.end for attempt in info.attempts] == ["killed", "completed"]
        assert "its node is gone" in info.attempts[0].message
    _nothing_twice(store)
    return lost


def _nothing_twice(store: SweepStore) -> None:
    """Each attempt's rows begin where its checkpoint ended, and no epoch is there twice."""
    for info in infos(store):
        rows = store.trial(info.trial_id).records().to_pylist()
        assert [row["epoch"] for row in rows] == list(range(1, EIGHTS_EPOCHS + 1))
        last = [row["epoch"] for row in rows if row["attempt"] == len(info.attempts)]
        assert last[0] == info.attempts[-1].from_epoch + 1


def _title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
