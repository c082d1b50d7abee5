"""Places of kind `ray`: a real cluster of several nodes, connected to directly or by its job server, and failures."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
from tests.support.ray_cluster import RayCluster, plain_cluster
from tests.support.ray_sweeps import nodes_at_work, states, sweep, write_braked, write_many

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

TRIALS = 24
EPOCHS = 4
LONG = 60  # epochs of trials that are still at work when something happens to them: braked, 208 s


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """Three nodes with one CPU each, and a job server."""
    with plain_cluster(1, 1, 1, jobs=True) as made:
        yield made


@pytest.fixture(scope="module")
def undisturbed_with_brake(tmp_path_factory: pytest.TempPathFactory) -> SweepStore:
    """The sweep of the braked model as `--place debug` runs it, with the brake off."""
    folder = tmp_path_factory.mktemp("undisturbed-with-brake")
    file, _ = write_braked(folder, EPOCHS)
    done = finish(sweep_command(file, folder / "runs", "debug"))
    assert done.returncode == 0, done.stdout
    return SweepStore(folder / "runs" / "many")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> SweepStore:
    """The sweep as `--place debug` runs it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = finish(sweep_command(write_many(folder, EPOCHS), folder / "runs", "debug"))
    assert done.returncode == 0, done.stdout
    return SweepStore(folder / "runs" / "many")


@pytest.fixture
def here(cluster: RayCluster, ray_places: Callable[..., None], tmp_path: Path) -> Path:
    """A folder, and the places `attach` and `jobs` of the cluster."""
    both = {"token_path": str(cluster.token_path), "environment": {"BRAKE": str(tmp_path / "brake")}}
    ray_places(
        attach={"address": cluster.address, **both},
        jobs={
            "address": cluster.jobs,
            "store": str(tmp_path / "runs"),
            "python": sys.executable,
            **both,
        },
    )
    return tmp_path


def nodes_of(store: SweepStore) -> set[str]:
    """The nodes on which its trials were attempted."""
    return {attempt.job.partition("@")[2] for info in infos(store) for attempt in info.attempts}


def test_24_trials_on_three_nodes_give_the_records_of_debug(
    here: Path, undisturbed_with_brake: SweepStore
) -> None:
    file, brake = write_braked(here, EPOCHS)
    store = SweepStore(here / "runs" / "many")
    process = start(sweep_command(file, here / "runs", "attach"))
    try:
        wait_until(lambda: len(nodes_of(store)) == 3)
        brake.unlink()
        output, _ = process.communicate(timeout=240)
    finally:
        kill_family(process)
    assert process.returncode == 0, output
    assert trajectories(store).num_rows == TRIALS * EPOCHS
    assert trajectories(store).equals(trajectories(undisturbed_with_brake))


def test_a_job_is_detached_followed_asked_stopped_and_resumed(here: Path) -> None:
    """From terminals that do not see the store; it is looked at here only to know when."""
    file, brake = write_braked(here, LONG)
    run = sweep("run", str(file), "--place", "jobs")
    store = SweepStore(here / "runs" / "many")
    done = finish([*run, "--detach"])
    assert done.returncode == 0, done.stdout
    assert "Submitted as job mixsweep-many-1." in done.stdout
    follower = start(run)
    try:
        wait_until(lambda: states(store).count("running") == 3)
        asked = finish(sweep("status", "many", "--place", "jobs", "--json"))
        status = json.loads(asked.stdout)
        assert len(status["trials"]) == TRIALS
        assert status["counts"]["running"] == 3
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

    brake.unlink()
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
    from mixsweep.cluster.ray_cluster.packaging import stage

    project = here / "project"
    stage(project, ())
    write_many(project, EPOCHS)
    (project / "places.toml").write_text('[here]\nkind = "ray"\n')
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(cluster.token_path),
    }
    words = [
        sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", cluster.jobs,
        "--working-dir", ".", "--",
        sys.executable, "-m", "mixsweep", "run", "many.toml", "--place", "here", "--store", str(here / "runs"),
    ]  # fmt: skip
    done = subprocess.run(
        words, cwd=project, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert trajectories(SweepStore(here / "runs" / "many")).equals(trajectories(undisturbed))


def test_a_models_file_travels_with_the_job(here: Path) -> None:
    (here / "mine.py").write_text(
        "import torch\nfrom mixsweep import register_model\n"
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
        ("wrong", [], "nothing answers there"),
        ("wrong_jobs", [], "nothing answers there"),
        ("bad_token", [], "the cluster expects another token; set token_path"),
        ("bad_token_jobs", [], "the cluster expects another token; set token_path"),
    ],
)
def test_what_cannot_run_is_one_line_within_seconds(
    cluster: RayCluster,
    ray_places: Callable[..., None],
    tmp_path: Path,
    place: str,
    more: list[str],
    words: str,
) -> None:
    bad = tmp_path / "bad"
    bad.write_text("0123456789abcdef" * 4)
    right, wrong = {"token_path": str(cluster.token_path)}, {"token_path": str(bad)}
    jobs = {"store": "/nowhere/runs"}
    ray_places(
        attach={"address": cluster.address, **right},
        wrong={"address": "127.0.0.1:9", **right},
        wrong_jobs={"address": "http://127.0.0.1:9", **right, **jobs},
        bad_token={"address": cluster.address, **wrong},
        bad_token_jobs={"address": cluster.jobs, **wrong, **jobs},
    )
    words_of_run = ["run", str(write_many(tmp_path, EPOCHS)), "--place", place, *more]
    if not place.endswith("jobs"):
        words_of_run += ["--store", str(tmp_path / "runs")]
    begun = time.monotonic()
    done = finish(sweep(*words_of_run))
    assert done.returncode == 2, done.stdout
    assert len(lines_said(done.stdout)) == 1
    assert words in done.stdout
    assert time.monotonic() - begun < 30  # seconds on an idle machine; tests share theirs


def test_the_doctor_says_what_a_cluster_has(here: Path) -> None:
    near = finish(sweep("doctor", "--place", "attach", "--json"))
    assert {"name": "cluster", "state": "ok"}.items() <= json.loads(near.stdout)[0].items()
    assert json.loads(near.stdout)[0]["found"] == "3 nodes with 3 CPUs, 0 GPUs"
    far = finish(sweep("doctor", "--place", "jobs", "--json"))
    assert [(c["name"], c["state"]) for c in json.loads(far.stdout)] == [("cluster", "ok"), ("extras", "ok")]


def test_a_driver_that_is_killed_leaves_trials_that_the_same_command_takes_on(here: Path) -> None:
    file, brake = write_braked(here, LONG)
    run = sweep_command(file, here / "runs", "attach", "--limit", "3")
    store = SweepStore(here / "runs" / "many")
    process = start(run)
    wait_until(lambda: nodes_at_work(store) == 3)
    kill_family(process)
    wait_until(lambda: "running" not in states(store))  # Ray ends the workers of a driver that is gone
    brake.unlink()
    done = finish(run)
    assert done.returncode == 0, done.stdout
    assert [[a.end for a in info.attempts] for info in infos(store)] == [["killed", "completed"]] * 3
    for info in infos(store):
        rows = store.trial(info.trial_id).records().to_pylist()
        assert [row["epoch"] for row in rows] == list(range(1, LONG + 1))


def test_what_is_too_large_for_ray_is_refused_with_its_largest_files_before_anything_is_sent(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_max_grpc_message_size", "100000")  # Ray's own limit, as a user may set it
    (here / "mine.py").touch()
    (here / "weights.bin").write_bytes(bytes(200_000))  # of the project that the sweep imports from
    file = write_many(here, EPOCHS, extra='imports = ["mine.py"]')
    done = finish(sweep("run", str(file), "--place", "jobs"))
    assert done.returncode == 2, done.stdout
    assert len(lines_said(done.stdout)) == 1
    assert "MiB would be shipped, Ray's limit is 0.1 MiB; the largest: weights.bin (0.2 MiB)" in done.stdout
    assert not (here / "runs").exists()


SEARCH = """
name = "search"
[base]
dataset = "digits"
hidden = [16]
batch_size = 64
train_limit = 256
valid_limit = 100
epochs = 2
[space]
lr = { loguniform = [1e-4, 1e-1] }
[search]
algorithm = "tpe"
trials = 4
"""


def test_a_search_runs_on_the_cluster_and_needs_a_store_that_all_nodes_see(
    here: Path, cluster: RayCluster, ray_places: Callable[..., None]
) -> None:
    file = here / "search.toml"
    file.write_text(SEARCH)
    done = finish(sweep_command(file, here / "runs", "attach"))
    assert done.returncode == 0, done.stdout
    store = SweepStore(here / "runs" / "search")
    assert states(store) == ["completed"] * 4
    assert all("@" in attempt.job for info in infos(store) for attempt in info.attempts)
    ray_places(far={"address": cluster.address, "token_path": str(cluster.token_path), "shared": False})
    refused = finish(sweep_command(file, here / "far", "far"))
    assert refused.returncode == 2
    assert "place far has no store that all nodes see" in refused.stdout


RESNET = """
name = "resnet"
[base]
model = "resnet18"
dataset = "digits"
batch_size = 8
train_limit = 16
valid_limit = 12
lr = 1e-4
epochs = 2
"""

# Relative deviation of losses, from the order of floating-point sums; see test_ranks.
TOLERANCE = 2e-3


def with_ranks(text: str, ranks: int) -> str:
    return f"{text}[resources]\nranks = {ranks}\nnodes = {ranks}\n"


def test_a_resnet_of_two_ranks_over_two_nodes_is_trained_as_by_one(here: Path) -> None:
    file = here / "resnet.toml"
    file.write_text(RESNET)
    done = finish(sweep_command(file, here / "alone", "debug"))
    assert done.returncode == 0, done.stdout
    file.write_text(with_ranks(RESNET, 2))
    done = finish(sweep_command(file, here / "runs", "attach"))
    assert done.returncode == 0, done.stdout
    together = SweepStore(here / "runs" / "resnet")
    (info,) = infos(together)
    assert [(attempt.ranks, attempt.end) for attempt in info.attempts] == [(2, "completed")]
    one, two = (
        trajectories(store).to_pylist() for store in (SweepStore(here / "alone" / "resnet"), together)
    )
    assert [row["epoch"] for row in two] == [row["epoch"] for row in one] == [1, 2]
    for row, other in zip(one, two):
        for name in ("train_loss", "valid_loss"):
            assert other[name] == pytest.approx(row[name], rel=TOLERANCE)
    assert two[-1]["test_loss"] == pytest.approx(one[-1]["test_loss"], rel=TOLERANCE)


RANKS = """
name = "ranks"
[base]
dataset = "digits"
hidden = [16]
batch_size = 64
train_limit = 256
valid_limit = 100
epochs = 60
"""


def test_a_rank_that_is_killed_is_started_again_with_its_peers_and_more_than_fit_are_refused(
    here: Path,
) -> None:
    file = here / "ranks.toml"
    file.write_text(with_ranks(RANKS, 4))
    refused = finish(sweep_command(file, here / "runs", "attach"))
    assert refused.returncode == 2
    assert "a trial asks for 4 ranks with 1 CPU; 3 fit" in refused.stdout
    file.write_text(with_ranks(RANKS, 2))
    store = SweepStore(here / "runs" / "ranks")
    process = start(sweep_command(file, here / "runs", "attach"))
    try:
        wait_until(lambda: store.records().num_rows >= 3)
        (info,) = infos(store)
        os.kill(info.attempts[0].pid, signal.SIGKILL)  # all nodes are of this machine
        output, _ = process.communicate(timeout=180)
    finally:
        kill_family(process)
    assert process.returncode == 0, output
    (info,) = infos(store)
    assert info.state == "completed"
    assert [attempt.end for attempt in info.attempts] == ["killed", "completed"]
    assert info.attempts[1].from_epoch > 0
