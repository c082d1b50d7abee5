"""A person's own project, with folders and files named as ours are, runs its registered model: neither is mixed up."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mixsweep.core.store.store import SweepStore
from tests.support.installed import Installed

# A project whose names are all ours, too; its model is made of files of its own.
FILES = {
    "core/__init__.py": "",
    "core/blocks.py": "from torch import nn\n\ndef head(width, classes):\n    return nn.Linear(width, classes)\n",
    "analysis/__init__.py": "raise RuntimeError('the project\\'s analysis was imported')\n",
    "cluster/__init__.py": "raise RuntimeError('the project\\'s cluster was imported')\n",
    "sweep.py": "raise RuntimeError('the project\\'s sweep.py was imported')\n",
    "utils.py": "WIDTH = 12\n",
    "experiments/model.py": """
import utils
from core.blocks import head
from torch import nn

from mixsweep import register_model


def build(config, classes):
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, utils.WIDTH), head(utils.WIDTH, classes)
    )


register_model("ours", build)
""",
    "experiments/own.toml": """
imports = ["model.py"]
seeds = 2
[base]
dataset = "digits"
model = "ours"
epochs = 1
train_limit = 64
valid_limit = 32
batch_size = 32
""",
}


@pytest.fixture(scope="module")
def full(install: Callable[..., Installed]) -> Installed:
    return install("all")


@pytest.fixture(params=["a git repository", "a pyproject.toml", "neither"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A project's folder; without a mark of its root, that is where the sweep file lies."""
    folder = tmp_path / "project"
    for name, text in FILES.items():
        path = folder / (name.removeprefix("experiments/") if request.param == "neither" else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if request.param == "a git repository":
        subprocess.run(["git", "init", "--quiet", folder], check=True)
    if request.param == "a pyproject.toml":
        (folder / "pyproject.toml").touch()
    return folder


@pytest.mark.parametrize("place", ["debug", pytest.param("local", marks=pytest.mark.ray)])
@pytest.mark.parametrize("program", ["sweep", "python -m mixsweep"])
@pytest.mark.parametrize("installed", ["editable", "wheel"])
def test_a_project_with_our_names_runs_its_own_model(
    full: Installed, project: Path, installed: str, program: str, place: str
) -> None:
    python = Path(sys.executable) if installed == "editable" else full.python
    command = [python.with_name("sweep")] if program == "sweep" else [python, "-m", "mixsweep"]
    (file,) = project.rglob("own.toml")
    done = full.run(
        [*command, "run", file.relative_to(project), "--place", place, "--store", "runs"], project
    )
    assert done.returncode == 0, done.stdout + done.stderr
    infos = [trial.info() for trial in SweepStore(project / "runs" / "own").trials()]
    assert [info is not None and info.state for info in infos] == ["completed", "completed"]
