"""analysis.wandb_mirror: the files that a trial keeps are an artifact of its own run, once per content."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mixsweep.analysis.report.report import write_report
from mixsweep.analysis.wandb_mirror.payload import run_id_of
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.folder import TrialFolder
from tests.support.commands import finish
from tests.support.mirrored_sweeps import CLEAN, inspect, unassigned
from tests.support.wandb_server import WandbServer

CODE = """
from dataclasses import dataclass
from mixsweep import field

@dataclass(frozen=True, kw_only=True)
class Config:
    rounds: int = field(2, low=1, budget=True)
    keeps: bool = True

class Draw:
    Config = Config
    metrics = {"height": "min"}
    def __init__(self, config, run):
        self.config, self.run, self.round = config, run, 0
    def train(self):
        while self.round < self.config.rounds:
            self.round += 1
            if self.config.keeps:
                (self.run.artifacts / "samples").mkdir(exist_ok=True)
                (self.run.artifacts / "samples" / f"{self.round}.txt").write_text("x" * self.round)
            yield {"height": self.round - self.config.keeps / 2}
    def state(self):
        return {"round": self.round}
    def restore(self, state):
        self.round = state["round"]
"""
SWEEP = 'name = "draw"\ntrainable = "draw.py:Draw"\n[space]\nkeeps = { grid_search = [true, false] }\n'


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of a trial that keeps files and one that keeps none, completed."""
    root = tmp_path_factory.mktemp("drawn")
    (root / "draw.py").write_text(CODE)
    (root / "draw.toml").write_text(SWEEP)
    run(root)
    return root


def run(root: Path, *more: str) -> None:
    done = finish(
        [sys.executable, "-m", "mixsweep", "run", "draw.toml", "--place", "debug", *more], folder=root
    )
    assert done.returncode == 0, done.stdout


def mirror(root: Path, *more: str, **environment: str) -> list[str]:
    """The lines of `sweep mirror`."""
    command = [sys.executable, "-m", "mixsweep", "mirror", "draw", *more]
    done = subprocess.run(
        command,
        cwd=root,
        env=CLEAN | unassigned(root) | environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout.splitlines()


def keeper(root: Path) -> tuple[TrialFolder, dict[str, bytes]]:
    """The trial that keeps files, and these."""
    (found,) = [trial for trial in SweepStore(root / "runs" / "draw").trials() if trial.kept_files()]
    return found, {name: path.read_bytes() for name, path in found.kept_files().items()}


def logged(root: Path) -> dict[str, dict[str, Any]]:
    """By offline run, its artifact of kept files."""
    found = {}
    for path in (root / "runs" / "draw" / "wandb").glob("offline-run-*/*.wandb"):
        for record in inspect(path):
            if record["type"] == "artifact" and record["artifact"]["type"] == "files":
                found[path.stem.removeprefix("run-")] = record["artifact"]
    return found


def copies(root: Path, run_id: str) -> dict[str, bytes]:
    (folder,) = (root / "runs" / "draw" / "wandb" / "artifacts" / run_id).iterdir()
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.txt")}


def test_offline_the_kept_files_are_in_their_trials_run(trained: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(trained, root)
    assert mirror(root, "--offline")[0] == "W&B: 2 runs, 2 of them pushed, 4 epochs."
    assert logged(root) == {}  # files may be large: only on demand
    assert mirror(root, "--offline", "--artifacts")[:2] == [
        "W&B: 2 runs, 1 of them pushed, 2 epochs.",
        "Artifacts: 3, 3 of them pushed.",
    ]
    trial, kept = keeper(root)
    run_id = run_id_of("draw", trial.trial_id)
    assert set(logged(root)) == {run_id}
    assert logged(root)[run_id]["name"] == f"{run_id}-files"
    assert {entry["path"] for entry in logged(root)[run_id]["manifest"]["contents"]} == set(kept)
    assert copies(root, run_id) == kept == {"samples/1.txt": b"x", "samples/2.txt": b"xx"}
    # Neither the same command nor one without the option writes anything.
    assert mirror(root, "--offline", "--artifacts")[1] == "Artifacts: 3, 0 of them pushed."
    assert mirror(root, "--offline")[0] == "W&B: 2 runs, 0 of them pushed, 0 epochs."
    assert set(logged(root)) == {run_id}

    run(root, "--set", "base.rounds=3")
    assert mirror(root, "--offline", "--artifacts")[1] == "Artifacts: 3, 3 of them pushed."
    assert copies(root, run_id) == keeper(root)[1]
    assert len(copies(root, run_id)) == 3


def test_online_the_server_has_each_content_once(trained: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(trained, root)
    trial, kept = keeper(root)
    name = f"{run_id_of('draw', trial.trial_id)}-files"
    with WandbServer() as server:
        mirror(root, **server.environment())
        assert server.artifacts.versions == []
        for pushed in (3, 0):
            lines = mirror(root, "--artifacts", **server.environment())
            assert lines[1] == f"Artifacts: 3, {pushed} of them pushed."
            assert server.artifacts.files(name) == kept
        run(root, "--set", "base.rounds=3")
        mirror(root, "--artifacts", **server.environment())
        assert server.artifacts.files(name) == keeper(root)[1]
        assert [one.name for one in server.artifacts.versions].count(name) == 2
        assert server.unknown == []


def test_kept_files_that_are_damaged_are_not_pushed_and_their_trials_epochs_are(
    trained: Path, tmp_path: Path
) -> None:
    root = tmp_path / "project"
    shutil.copytree(trained, root)
    trial, _ = keeper(root)
    trial.kept_files()["samples/1.txt"].write_text("y")
    command = [sys.executable, "-m", "mixsweep", "mirror", "draw", "--offline", "--artifacts"]
    done = finish(command, folder=root)
    assert done.returncode == 1
    counts = re.search(r"W&B: 2 runs, (\d+) of them pushed, (\d+) epochs\.", done.stdout)
    assert counts is not None
    assert int(counts[2]) == 2 * int(counts[1]) >= 4  # a trial with a trouble may be pushed again
    told = " ".join(done.stdout.split())
    assert f"1 runs or artifacts were not pushed ({trial.trial_id}: " in told
    assert "these are not the files that the trial kept" in told
    assert logged(root) == {}


def test_the_report_says_what_the_best_trial_keeps(trained: Path) -> None:
    trial, _ = keeper(trained)
    page = write_report([trained / "runs" / "draw"], trained / "page").read_text()
    assert f"It keeps 2 files (3 B); sweep show {trial.trial_id} lists them." in page
