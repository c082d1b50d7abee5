"""A Tune trainable that starts tasks and actors of Ray gets a Ray of its own where its process has none."""

import os
import sys
from pathlib import Path

import pytest

from mixsweep.core.store.store import SweepStore
from tests.support.commands import finish, infos
from tests.support.ray_cluster import plain_cluster
from tests.support.trials import log_text

pytestmark = pytest.mark.ray

CODE = """
import os
import signal
import ray
from ray import tune

@ray.remote
def square(x):
    return x * x

@ray.remote
class Counter:
    def __init__(self):
        self.n = 0
    def add(self):
        self.n += 1
        return self.n

def function(config):
    counter = Counter.options(num_cpus=0).remote()
    for _ in range(2):
        tune.report({
            "loss": ray.get(square.remote(config["x"])),
            "count": ray.get(counter.add.remote()),
            "cpus": ray.cluster_resources()["CPU"],
            "nodes": len(ray.nodes()),
        })

class Klass(tune.Trainable):
    def setup(self, config):
        self.on_sigterm = signal.getsignal(signal.SIGTERM)
        ray.init("auto", num_cpus=64)
        self.x, self.counter = config["x"], Counter.options(num_cpus=0).remote()
    def step(self):
        count = ray.get(self.counter.add.remote())
        assert self.on_sigterm == signal.getsignal(signal.SIGTERM)
        return {
            "loss": ray.get(square.remote(self.x)), "count": count, "cpus": ray.cluster_resources()["CPU"],
            "nodes": len(ray.nodes()), "done": count == 2,
        }
    def save_checkpoint(self, folder):
        return {}
    def load_checkpoint(self, state):
        pass
"""
FILE = """
name = "rays"
trainable = "rays.py:{name}"
metric = "loss"
mode = "min"
[fields]
x = 3
[space]
x = {{ grid_search = [2, 3] }}
[resources]
cpus = 2
"""


@pytest.mark.parametrize("name", ["function", "Klass"])
def test_tasks_and_actors_run_on_a_ray_of_the_trials_own_beside_anothers_cluster(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rays.py").write_text(CODE)
    (tmp_path / "rays.toml").write_text(FILE.format(name=name))
    with plain_cluster(1) as others:
        monkeypatch.setenv("RAY_ADDRESS", others.address)
        command = [sys.executable, "-m", "mixsweep", "run", "rays.toml", "--place", "debug"]
        done = finish(command, folder=tmp_path)
    assert done.returncode == 0, done.stdout
    store = SweepStore(tmp_path / "runs" / "rays")
    assert [info.state for info in infos(store)] == ["completed"] * 2
    for trial in store.trials():
        rows = trial.records().to_pylist()
        assert [row["count"] for row in rows] == [1, 2]  # of an actor of this trial alone
        assert {row["cpus"] for row in rows} == {2}
        assert {row["nodes"] for row in rows} == {1}
        assert ("a Ray of this trial's own instead of 'auto'" in log_text(trial)) == (name == "Klass")


def test_in_a_ray_place_they_run_in_the_resources_of_their_trial(tmp_path: Path) -> None:
    (tmp_path / "rays.py").write_text(CODE)
    (tmp_path / "rays.toml").write_text(FILE.format(name="function").replace("cpus = 2", "cpus = 1"))
    command = [sys.executable, "-m", "mixsweep", "run", "rays.toml", "--place", "local"]
    done = finish(command, folder=tmp_path)
    assert done.returncode == 0, done.stdout
    for trial in SweepStore(tmp_path / "runs" / "rays").trials():
        assert [row["count"] for row in trial.records().to_pylist()] == [1, 2]


def test_a_trainable_that_asks_nothing_of_ray_starts_none(tmp_path: Path) -> None:
    code = (
        "from ray import tune\nimport ray\n"
        "def function(config):\n    tune.report({'loss': 1.0, 'is_started': int(ray.is_initialized())})\n"
    )
    (tmp_path / "rays.py").write_text(code)
    (tmp_path / "rays.toml").write_text(FILE.format(name="function"))
    done = finish([sys.executable, "-m", "mixsweep", "run", "rays.toml", "--place", "debug"], folder=tmp_path)
    assert done.returncode == 0, done.stdout
    for trial in SweepStore(tmp_path / "runs" / "rays").trials():
        assert [row["is_started"] for row in trial.records().to_pylist()] == [0]
    assert os.environ.get("RAY_ADDRESS") is None
