"""Places of kind `ray`: a real cluster of several nodes, attached to or through its job server, and what dies."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.store import SweepStore, TrialInfo
from tests.places import ROOT, finish, kill_family, start, sweep_command, trajectories, wait_until
from tests.ray_cluster import RayCluster, networked_cluster, plain_cluster, session

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

SWEEP = """
name = "many"
seeds = 4
{extra}
[base]
model = "mlp"
dataset = "digits"
hidden = [16]
batch_size = 64
train_limit = 256
valid_limit = 100
epochs = {epochs}
[space]
activation = {{ grid_search = ["relu", "tanh", "sigmoid"] }}
lr = {{ grid_search = [1e-2, 1e-3] }}
"""
TRIALS = 24
EPOCHS = 4
LONG = 300  # epochs of trials that are still at work when something happens to them

Run = Callable[..., list[str]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """Three nodes with one CPU each, and a job server."""
    with plain_cluster(1, 1, 1) as made:
        yield made


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> SweepStore:
    """The sweep as `--place debug` runs it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = finish(sweep_command(write_many(folder), folder / "runs", "debug"))
    assert done.returncode == 0, done.stdout
    return SweepStore(folder / "runs" / "many")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes places; each by its options."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = tmp_path / "config" / "mixsweep" / "places.toml"
    path.parent.mkdir(parents=True)

    def write(**tables: Mapping[str, Any]) -> None:
        import tomli_w

        path.write_text(tomli_w.dumps({name: {"kind": "ray", **table} for name, table in tables.items()}))

    return write


@pytest.fixture
def here(cluster: RayCluster, places: Callable[..., None], tmp_path: Path) -> Path:
    """A folder, and the places `attach` and `jobs` of the cluster."""
    token = str(cluster.token_path)
    places(
        attach={"address": cluster.address, "token_path": token},
        jobs={
            "address": cluster.jobs,
            "token_path": token,
            "store": str(tmp_path / "runs"),
            "python": sys.executable,
        },
    )
    return tmp_path


def write_many(folder: Path, epochs: int = EPOCHS, extra: str = "") -> Path:
    path = folder / "many.toml"
    path.write_text(SWEEP.format(epochs=epochs, extra=extra), encoding="utf-8")
    return path


def sweep(*words: str) -> list[str]:
    return [sys.executable, "-m", "sweep", *words]


def infos(store: SweepStore) -> list[TrialInfo]:
    return [info for trial in store.trials() if (info := trial.info())]


def states(store: SweepStore) -> list[str]:
    return [info.state for info in infos(store)]


def test_24_trials_on_three_nodes_give_the_records_of_debug(here: Path, undisturbed: SweepStore) -> None:
    done = finish(sweep_command(write_many(here), here / "runs", "attach"))
    assert done.returncode == 0, done.stdout
    store = SweepStore(here / "runs" / "many")
    assert trajectories(store).num_rows == TRIALS * EPOCHS
    assert trajectories(store).equals(trajectories(undisturbed))
    nodes = {attempt.job.partition("@")[2] for info in infos(store) for attempt in info.attempts}
    assert len(nodes) == 3


def test_a_job_is_detached_followed_asked_stopped_and_resumed(here: Path) -> None:
    """From terminals that do not see the store; it is looked at here only to know when."""
    run = sweep("run", str(write_many(here, LONG)), "--place", "jobs")
    store = SweepStore(here / "runs" / "many")
    done = finish([*run, "--detach"])
    assert done.returncode == 0, done.stdout
    assert "Submitted as job mixsweep-many-1." in done.stdout
    follower = start(run)
    try:
        wait_until(lambda: states(store).count("running") == 3)
        asked = finish(sweep("status", "many", "--place", "jobs", "--json"))
        standing = json.loads(asked.stdout)
        assert len(standing["trials"]) == TRIALS
        assert standing["counts"]["running"] == 3
        stopped = finish(sweep("stop", "many", "--place", "jobs"))
        assert "asked 3 running trials to stop" in stopped.stdout
        output, _ = follower.communicate(timeout=120)
    finally:
        kill_family(follower)
    assert follower.returncode == 130, output
    assert "Job mixsweep-many-1 runs this sweep already; following it." in output
    assert "Stopped at a safe point" in output
    assert set(states(store)) <= {"interrupted", "completed"}
    log = finish(sweep("logs", "many", "--place", "jobs"))
    assert "Stopped at a safe point" in log.stdout

    before = {info.trial_id: info.epoch for info in infos(store)}
    again = finish([*run, "--limit", "3"])
    assert again.returncode == 0, again.stdout
    assert "Submitted as job mixsweep-many-2." in again.stdout
    went_on = [info for info in infos(store) if len(info.attempts) == 2]
    assert len(went_on) == 3
    assert all(i.state == "completed" and i.attempts[1].from_epoch == before[i.trial_id] for i in went_on)


def test_a_users_own_job_submit_gives_the_records_of_debug_with_a_model_of_their_own_beside_it(
    here: Path, cluster: RayCluster, undisturbed: SweepStore
) -> None:
    # What is shipped lies in a folder of its own, as a user's project does.
    from cluster.cargo import stage

    project = here / "project"
    stage(project, ())
    write_many(project)
    (project / "places.toml").write_text('[here]\nkind = "ray"\n')
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(cluster.token_path),
    }
    words = [
        sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", cluster.jobs,
        "--working-dir", ".", "--",
        sys.executable, "-m", "sweep", "run", "many.toml", "--place", "here", "--store", str(here / "runs"),
    ]  # fmt: skip
    done = subprocess.run(
        words, cwd=project, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert trajectories(SweepStore(here / "runs" / "many")).equals(trajectories(undisturbed))


def test_a_models_file_travels_with_the_job(here: Path) -> None:
    (here / "mine.py").write_text(
        "import torch\nfrom core.registry import register_model\n"
        "def build(config, classes):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, classes))\n"
        'register_model("mine", build)\n'
    )
    file = write_many(here, epochs=1, extra='imports = ["mine.py"]')
    text = file.read_text().replace('model = "mlp"', 'model = "mine"').replace("hidden = [16]\n", "")
    file.write_text(text.replace('activation = { grid_search = ["relu", "tanh", "sigmoid"] }\n', ""))
    done = finish(sweep("run", str(file), "--place", "jobs", "--limit", "2"))
    assert done.returncode == 0, done.stdout
    assert states(SweepStore(here / "runs" / "many")) == ["completed"] * 2


@pytest.mark.parametrize(
    ("place", "more", "words"),
    [
        ("attach", ["--set", "resources.cpus=9"], "a trial asks for 9 CPUs; no node has that: 3 with 1 CPU"),
        (
            "attach",
            ["--set", "resources.custom={tpu=1}"],
            "1 CPU, 1 tpu; no node has that: 3 with 1 CPU, 0 tpu",
        ),
        ("attach", ["--set", 'resources.memory="9000G"'], "9000.0 GiB of memory; no node has that"),
        (
            "attach",
            ["--set", "resources.gpus=0.5"],
            "1 CPU, 0.5 GPUs; no node has that: 3 with 1 CPU, 0 GPUs",
        ),
        ("wrong", [], "nobody answers there"),
        ("wrong_jobs", [], "nobody answers there"),
        ("bad_token", [], "the cluster takes another token; set token_path"),
        ("bad_token_jobs", [], "the cluster takes another token; set token_path"),
    ],
)
def test_what_cannot_run_is_one_line_within_seconds(
    cluster: RayCluster,
    places: Callable[..., None],
    tmp_path: Path,
    place: str,
    more: list[str],
    words: str,
) -> None:
    bad = tmp_path / "bad"
    bad.write_text("0123456789abcdef" * 4)
    right, wrong = {"token_path": str(cluster.token_path)}, {"token_path": str(bad)}
    jobs = {"store": "/nowhere/runs"}
    places(
        attach={"address": cluster.address, **right},
        wrong={"address": "127.0.0.1:9", **right},
        wrong_jobs={"address": "http://127.0.0.1:9", **right, **jobs},
        bad_token={"address": cluster.address, **wrong},
        bad_token_jobs={"address": cluster.jobs, **wrong, **jobs},
    )
    words_of_run = ["run", str(write_many(tmp_path)), "--place", place, *more]
    if not place.endswith("jobs"):
        words_of_run += ["--store", str(tmp_path / "runs")]
    begun = time.monotonic()
    done = finish(sweep(*words_of_run))
    assert done.returncode == 2, done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert words in done.stdout
    assert time.monotonic() - begun < 30  # seconds on an idle machine; tests share theirs


def test_the_doctor_says_what_a_cluster_has(here: Path) -> None:
    near = finish(sweep("doctor", "--place", "attach", "--json"))
    assert {"name": "cluster", "state": "ok"}.items() <= json.loads(near.stdout)[0].items()
    assert json.loads(near.stdout)[0]["found"] == "3 nodes with 3 CPUs, 0 GPUs"
    far = finish(sweep("doctor", "--place", "jobs", "--json"))
    assert [check["state"] for check in json.loads(far.stdout)] == ["ok"]


def test_what_is_too_large_for_ray_is_refused_with_its_largest_files_before_anything_is_sent(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_max_grpc_message_size", "100000")  # Ray's own limit, as a user may set it
    done = finish(sweep("run", str(write_many(here)), "--place", "jobs"))
    assert done.returncode == 2, done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert "MiB would be shipped, Ray takes 0.1 MiB; the largest: " in done.stdout
    assert not (here / "runs").exists()


EIGHT = ("--limit", "8")
EIGHTS_EPOCHS = 60


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
    done = finish(sweep_command(write_many(folder, EIGHTS_EPOCHS), folder / "runs", "debug", *EIGHT))
    assert done.returncode == 0, done.stdout
    return SweepStore(folder / "runs" / "many")


OWN_DATA = """
import numpy, torch
from core.data import Images
from core.registry import register_dataset

def load(folder):
    pixels = torch.from_numpy(numpy.load(folder / "deep" / "pixels.npy"))
    labels = torch.arange(len(pixels)) % 10
    return Images(pixels[:160], labels[:160], pixels[160:], labels[160:], 10, (0.5,) * 3, (0.25,) * 3)

register_dataset("own", load)
"""


def test_data_that_only_the_drivers_node_has_comes_once_a_node_to_where_the_trials_resources_are(
    network: tuple[RayCluster, Path], places: Callable[..., None], tmp_path: Path
) -> None:
    cluster, hidden = network
    token = str(cluster.token_path)
    places(apart={"address": cluster.address, "token_path": token, "shared": False})
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
def test_without_a_shared_folder_all_comes_to_the_drivers_node_though_keeper_and_node_are_killed_and_another_is_cut_off(
    network: tuple[RayCluster, Path], eight: SweepStore, places: Callable[..., None], tmp_path: Path
) -> None:
    cluster, hidden = network
    place = {"address": cluster.address, "token_path": str(cluster.token_path)}
    places(shared=place, apart={**place, "shared": False})
    file = write_many(tmp_path, EIGHTS_EPOCHS)
    store = SweepStore(hidden / "runs" / "many")
    refused = finish([*cluster.inside, *sweep_command(file, hidden / "runs", "shared", *EIGHT)])
    assert refused.returncode == 2, refused.stdout
    assert "not seen on" in refused.stdout
    assert "shared = false" in refused.stdout

    process = start([*cluster.inside, *sweep_command(file, hidden / "runs", "apart", *EIGHT)])
    try:
        wait_until(lambda: _nodes_at_work(store) == 4)
        (keeper,) = [pid for pid in session(cluster.head.pid) if _title(pid).startswith("ray::Keeper")]
        os.kill(keeper, signal.SIGKILL)
        cluster.kill(2)
        cluster.cut(1)
        output, _ = process.communicate(timeout=300)
    finally:
        kill_family(process)
    assert process.returncode == 0, output
    assert trajectories(store).equals(trajectories(eight))
    _check_lost(store, 2)
    checkpoints = [f for f in store.trials() if f.checkpoint_path.exists()]
    assert len(checkpoints) == 5  # as `keep` says, which the driver's node alone can know


@pytest.mark.faults
def test_a_node_killed_costs_its_trials_only_the_epochs_since_a_checkpoint(
    network: tuple[RayCluster, Path], eight: SweepStore, places: Callable[..., None], tmp_path: Path
) -> None:
    cluster, _ = network
    places(attach={"address": cluster.address, "token_path": str(cluster.token_path)})
    store = SweepStore(tmp_path / "runs" / "many")
    command = sweep_command(write_many(tmp_path, EIGHTS_EPOCHS), tmp_path / "runs", "attach", *EIGHT)
    process = start([*cluster.inside, *command])
    try:
        wait_until(lambda: _nodes_at_work(store) == 2)
        cluster.kill(0)
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


def _nodes_at_work(store: SweepStore) -> int:
    running = [info for info in infos(store) if info.state == "running"]
    return len({i.attempts[-1].job for i in running if store.trial(i.trial_id).records().num_rows > 0})


def test_the_checkout_is_the_root_of_what_is_shipped() -> None:
    from cluster.cargo import ROOT as SHIPPED

    assert SHIPPED == ROOT
