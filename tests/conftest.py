"""What all tests share: a cache of their own, one thread as trials have it, small trials and real processes."""

import multiprocessing
import subprocess
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import settings

from mixsweep.core.data.datasets import Images, load_images
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.core.training import device as devices
from tests.support.slurm_cluster import SlurmCluster

# Children start from a process that has imported this already, so that each takes milliseconds, not seconds.
multiprocessing.set_forkserver_preload(
    ["mixsweep.core.execution.runner", "sklearn.datasets", "torch._dynamo"]
)

# A busy machine is no failure.
settings.register_profile("mixsweep", deadline=None)
settings.load_profile("mixsweep")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _as_a_trial_computes() -> None:
    devices.prepare_process(1)


@pytest.fixture(scope="session")
def digits() -> Images:
    return load_images("digits", None)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., ImageConfig]:
    """Configs of trials that train in a few hundredths of a second."""

    def make(**values: Any) -> ImageConfig:
        small = {
            "dataset": "digits",
            "hidden": [16],
            "batch_size": 64,
            "train_limit": 256,
            "valid_limit": 100,
        }
        return ImageConfig.from_mapping(small | {"epochs": 3} | values)

    return make


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Starts real processes that share nothing with this one but files."""
    return multiprocessing.get_context("forkserver")


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    """A real SLURM of two nodes, which commands reach through this process's environment."""
    with SlurmCluster() as cluster, pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        yield cluster


@pytest.fixture
def ray_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes places of kind `ray`, each by its options."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = tmp_path / "config" / "mixsweep" / "places.toml"
    path.parent.mkdir(parents=True)

    def write(**tables: Mapping[str, Any]) -> None:
        path.write_text(tomli_w.dumps({name: {"kind": "ray", **table} for name, table in tables.items()}))

    return write


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A file system that nobody can write to."""
    mount = tmp_path / "mounted"
    mount.mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", mount], capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs mount: apt install mount, and root")
    if done.returncode:
        pytest.skip(f"needs the right to mount: run as root ({done.stderr.decode().strip()})")
    yield mount
    subprocess.run(["umount", mount], check=True)
