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


GUARDED = """
import os, stat, subprocess, sys
import ray
from ray import tune

CLIENT = "import ray; ray.init(address={!r}, logging_level='ERROR'); print('nodes', len(ray.nodes()), flush=True)"

def says(address, **changes):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN_PATH"}
    words = [sys.executable, "-W", "ignore", "-c", CLIENT.format(address)]
    process = subprocess.Popen(
        words, env={**environment, **changes}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for line in process.stdout:
        if "InvalidAuthToken" in line or "nodes" in line:
            break
    process.kill()
    process.communicate()
    return line

def function(config):
    ray.init()
    path, address = os.environ["RAY_AUTH_TOKEN_PATH"], ray.get_runtime_context().gcs_address
    tune.report({
        "loss": config["x"],
        "mode": stat.S_IMODE(os.stat(path).st_mode),
        "token": int(open(path).read()[:12], 16),
        "refused": int("InvalidAuthToken" in says(address, RAY_AUTH_TOKEN="0" * 64)),
        "let_in": int("nodes" in says(address, RAY_AUTH_TOKEN_PATH=path)),
    })
"""


def test_a_ray_of_a_trials_own_lets_in_only_who_has_its_token_and_leaves_none_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rays.py").write_text(GUARDED)
    (tmp_path / "rays.toml").write_text(FILE.format(name="function"))
    monkeypatch.setenv("HOME", "/proc")  # nothing can be written there
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    done = finish([sys.executable, "-m", "mixsweep", "run", "rays.toml", "--place", "debug"], folder=tmp_path)
    assert done.returncode == 0, done.stdout
    rows = [
        row
        for trial in SweepStore(tmp_path / "runs" / "rays").trials()
        for row in trial.records().to_pylist()
    ]
    assert [(row["mode"], row["refused"], row["let_in"]) for row in rows] == [(0o600, 1, 1)] * 2
    assert len({row["token"] for row in rows}) == 2


def test_the_environment_is_as_before_after_a_trial_and_a_mode_that_is_set_stays(tmp_path: Path) -> None:
    code = """
import os
import ray
import torch
from types import SimpleNamespace
from mixsweep.sweep.trainables.private_ray import private_ray
run = SimpleNamespace(threads=1, device=torch.device("cpu"), log=print)
def seen():
    return {name: value for name, value in os.environ.items() if name.startswith(("RAY_AD", "RAY_AU"))}
def is_guarded():
    return ray._raylet.get_authentication_mode() == ray._raylet.AuthenticationMode.TOKEN
for given in ({"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled"}):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        os.environ.pop(name, None)
    os.environ.update(given)
    before = is_guarded()
    with private_ray(run):
        ray.init()
        print(is_guarded(), "RAY_AUTH_TOKEN_PATH" in os.environ)
    print(seen() == given, before, is_guarded())
"""
    done = finish([sys.executable, "-c", code], folder=tmp_path)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines() == ["True True", "True False False", "False False", "True False False"]
