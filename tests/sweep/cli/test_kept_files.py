"""Files that a trial puts into `run.artifacts` are listed by `sweep show` and checked by `sweep doctor`."""

import json
import sys
from pathlib import Path

from mixsweep.core.store.store import SweepStore
from tests.support.commands import finish

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


def sweep(project: Path, *words: str) -> str:
    done = finish([sys.executable, "-m", "mixsweep", *words], folder=project)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_kept_files_are_listed_with_their_sizes(tmp_path: Path) -> None:
    (tmp_path / "draw.py").write_text(CODE)
    (tmp_path / "draw.toml").write_text('name = "draw"\ntrainable = "draw.py:Draw"\n')
    sweep(tmp_path, "run", "draw.toml", "--place", "debug")
    (trial,) = SweepStore(tmp_path / "runs" / "draw").trials()
    kept = trial.kept_files()
    assert len(kept) == 24
    shown = sweep(tmp_path, "show", trial.trial_id).splitlines()
    assert (
        f"kept files: 24, 35.2 KiB in {Path('runs/draw/trials') / trial.trial_id}/1.artifacts."
        in "\n".join(shown)
    )
    listed = [line for line in shown if line.startswith("    1.46 KiB  ")]
    assert [line.split()[-1] for line in listed] == list(kept)[:20]
    assert "  and 4 more; all with --json" in shown
    told = json.loads(sweep(tmp_path, "show", trial.trial_id, "--json"))["artifacts"]
    assert [(one["file"], one["bytes"]) for one in told] == [(name, 1500) for name in kept]
    assert (tmp_path / told[0]["path"]).read_text() == "x" * 1500
    assert "all files are as they have to be" in sweep(tmp_path, "doctor", "--store", "runs")
    (tmp_path / told[0]["path"]).write_text("y")
    done = finish([sys.executable, "-m", "mixsweep", "doctor", "--store", "runs"], folder=tmp_path)
    assert "these are not the files that the trial kept" in " ".join(done.stdout.split())
