"""A trainable of an installed package: its version is recorded, and a change of it is said."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixsweep.core.store.store import SweepStore
from tests.support.commands import infos

CLASS = """
from dataclasses import dataclass
from mixsweep import field

@dataclass(frozen=True, kw_only=True)
class Config:
    rounds: int = field(1, low=1, budget=True)
    seed: int = 0

class Walk:
    Config = Config
    metrics = {"height": "min"}
    def __init__(self, config, run):
        self.config, self.round = config, 0
    def train(self):
        while self.round < self.config.rounds:
            self.round += 1
            yield {"height": self.round}
    def state(self):
        return {"round": self.round}
    def restore(self, state):
        self.round = state["round"]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    package = tmp_path / "site-packages" / "strolls"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "walk.py").write_text(CLASS)
    release(tmp_path, "1.0")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "walk.toml").write_text(
        'name = "walk"\nseeds = 2\ntrainable = "strolls.walk:Walk"\n'
    )
    return tmp_path


def release(project: Path, version: str) -> None:
    info = project / "site-packages" / "strolls.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: strolls\nVersion: {version}\n")
    (info / "top_level.txt").write_text("strolls\n")


def sweep(project: Path, *words: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(project / "site-packages"), "COLUMNS": "300"}
    command = [sys.executable, "-m", "mixsweep", *words]
    done = subprocess.run(
        command, cwd=project / "mine", env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_another_version_of_the_package_is_said_by_plan_and_run(project: Path) -> None:
    sweep(project, "run", "walk.toml", "--place", "debug", "--limit", "1")
    store = SweepStore(project / "mine" / "runs" / "walk")
    (first,) = {info.attempts[-1].code for info in infos(store) if info.attempts}
    kept = store.path / "code" / first
    assert (kept / "installed.txt").read_text() == "strolls 1.0\n"
    assert (kept / "strolls" / "walk.py").read_text() == CLASS
    assert "different code" not in sweep(project, "plan", "walk.toml", "--place", "debug")
    release(project, "1.1")
    line = f"has trained 1 trial in the store ({first[:8]} of strolls 1.0: 1); the code at hand is "
    for command in (("plan",), ("run", "--limit", "1")):
        said = sweep(project, command[0], "walk.toml", "--place", "debug", *command[1:])
        assert line in said
        assert " of strolls 1.1" in said
