"""Files that a trial puts into `run.artifacts` are listed by `sweep show` and checked by `sweep doctor`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mixsweep.core.store.integrity import check_trial
from mixsweep.core.store.store import SweepStore
from tests.support.commands import finish
from tests.support.ray_cluster import plain_cluster

CODE = """
from dataclasses import dataclass
from mixsweep import field

@dataclass(frozen=True, kw_only=True)
class Config:
    rounds: int = field(2, low=1, budget=True)

class Draw:
    Config = Config
    metrics = {"height": "min"}
    def __init__(self, config, run):
        self.config, self.run, self.round = config, run, 0
    def train(self):
        while self.round < self.config.rounds:
            self.round += 1
            for number in range(12):
                (self.run.artifacts / f"{self.round}-{number:02d}.txt").write_text("x" * 1500)
            yield {"height": self.round}
    def state(self):
        return {"round": self.round}
    def restore(self, state):
        self.round = state["round"]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "draw.py").write_text(CODE)
    (tmp_path / "draw.toml").write_text('name = "draw"\ntrainable = "draw.py:Draw"\n')
    return tmp_path


def sweep(project: Path, *words: str) -> str:
    done = finish([sys.executable, "-m", "mixsweep", *words], folder=project)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_kept_files_are_listed_with_their_sizes(project: Path) -> None:
    sweep(project, "run", "draw.toml", "--place", "debug")
    (trial,) = SweepStore(project / "runs" / "draw").trials()
    kept = trial.kept_files()
    assert len(kept) == 24
    shown = sweep(project, "show", trial.trial_id).splitlines()
    assert (
        f"kept files: 24, 35.2 KiB in {Path('runs/draw/trials') / trial.trial_id}/1.artifacts."
        in "\n".join(shown)
    )
    listed = [line for line in shown if line.startswith("    1.46 KiB  ")]
    assert [line.split()[-1] for line in listed] == list(kept)[:20]
    assert "  and 4 more; all with --json" in shown
    told = json.loads(sweep(project, "show", trial.trial_id, "--json"))["artifacts"]
    assert [(one["file"], one["bytes"]) for one in told] == [(name, 1500) for name in kept]
    assert (project / told[0]["path"]).read_text() == "x" * 1500
    assert "all files are as they have to be" in sweep(project, "doctor", "--store", "runs")
    (project / told[0]["path"]).write_text("y")
    done = finish([sys.executable, "-m", "mixsweep", "doctor", "--store", "runs"], folder=project)
    assert "these are not the files that the trial kept" in " ".join(done.stdout.split())


@pytest.mark.ray
def test_kept_files_come_from_nodes_that_see_no_store_and_go_to_those_that_train_further(
    project: Path, ray_places: Callable[..., None]
) -> None:
    with plain_cluster(1, 1) as cluster:
        ray_places(far={"address": cluster.address, "shared": False, "token_path": str(cluster.token_path)})
        sweep(project, "run", "draw.toml", "--place", "far")
        (trial,) = SweepStore(project / "runs" / "draw").trials()
        first = {name: path.read_bytes() for name, path in trial.kept_files().items()}
        assert len(first) == 24
        sweep(project, "run", "draw.toml", "--place", "far", "--set", "base.rounds=3")
    found = {name: path.read_bytes() for name, path in trial.kept_files().items()}
    assert len(found) == 36
    assert first.items() < found.items()
    assert len(trial.listing().artifacts) == 1
    assert list(check_trial(trial)) == []
