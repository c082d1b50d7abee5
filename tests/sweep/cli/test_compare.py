"""`sweep compare`: two stores, two sweeps, two versions of one's own code."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.parse import load_spec
from mixsweep.sweep.planning.plan import make_plan
from mixsweep.sweep.run import run_plan
from tests.support.synthetic_store import SyntheticPart, patch_sizes, write_sweep
from tests.sweep.cli.test_app import refused, sweep

PART = SyntheticPart(
    name="lrs", space={"lr": [0.1, 0.01]}, final={0.1: 0.7, 0.01: 0.8}, base={"hidden": (8,)}
)
WALK = """
from dataclasses import dataclass
from mixsweep import field

@dataclass(frozen=True, kw_only=True)
class Config:
    rounds: int = field(2, low=1, budget=True)
    stride: float = 1.0
    seed: int = 0

class Walk:
    Config = Config
    metrics = {"height": "min"}
    def __init__(self, config, run):
        self.config, self.round = config, 0
    def train(self):
        while self.round < self.config.rounds:
            self.round += 1
            yield {"height": OFFSET + self.config.stride + self.config.seed}
    def state(self):
        return {"round": self.round}
    def restore(self, state):
        self.round = state["round"]
"""
WALK_SWEEP = """
trainable = "walk.py:Walk"
code = "pin"
seeds = 3
[space]
stride = { grid_search = [1.0, 2.0] }
"""


def test_two_stores_with_one_sweep_are_identical(tmp_path: Path) -> None:
    for name in ("before", "after"):
        write_sweep(tmp_path / name / "lrs", [PART])
    page = tmp_path / "found.md"
    done = sweep("compare", "lrs", tmp_path / "after" / "lrs", "--store", tmp_path / "before", "--out", page)
    assert done.returncode == 0, done.stderr
    assert "6 pairs of trials, 6 by id" in done.stdout
    assert done.stdout.splitlines()[-1] == "identical bit for bit: all 6 pairs of trials"
    assert page.read_text(encoding="utf-8").startswith("**Identical bit for bit: all 6 pairs of trials**")


def test_json_has_every_trial_and_what_has_failed_is_exit_code_1(tmp_path: Path) -> None:
    write_sweep(tmp_path / "a", [PART])
    write_sweep(tmp_path / "b", [replace(PART, states={0.1: ("failed", "completed", "completed")})])
    done = sweep("compare", "a", "b", "--store", tmp_path, "--json", "--margin", "0.02")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["kind"], found["margin"], len(found["trials"])) == ("undecided", 0.02, 6)
    assert [t["message"] for t in found["trials"] if t["state_b"] == "failed"] == ["bug"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("lrs", "lr"), "lr: no such sweep in STORE; did you mean 'lrs'?"),
        (("lrs", "lrs@abc"), "lrs@abc: no trial was trained by code 'abc' alone; known: 01234567"),
        (("lrs", "patch-sizes"), "lrs, patch-sizes: no trials in common: they share no value of lr"),
        (
            ("lrs", "lrs", "--metric", "valid_los"),
            "metric 'valid_los': not in the records of both; did you mean",
        ),
        (("lrs", "lrs", "--out", "x.html"), "--out x.html: unknown kind of file; allowed: .md"),
    ],
)
def test_nonsense_is_exit_code_2_and_one_line(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    write_sweep(tmp_path / "lrs", [PART])
    patch_sizes(tmp_path / "patch-sizes")
    refused(sweep("compare", *words, "--store", tmp_path), said.replace("STORE", str(tmp_path)))


def test_two_versions_of_ones_own_code_in_one_store(tmp_path: Path) -> None:
    (tmp_path / "walk.toml").write_text(WALK_SWEEP)
    for offset in (0.0, 0.5):
        (tmp_path / "walk.py").write_text(f"OFFSET = {offset}\n{WALK}")
        ran = sweep("run", "walk.toml", "--place", "debug", "--store", tmp_path / "runs", cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
    store = SweepStore(tmp_path / "runs" / "walk")
    codes: dict[str, float] = {}
    for folder in store.trials():
        info = folder.info()
        assert info is not None
        codes[info.codes[0]] = (
            folder.records()["height"].to_pylist()[-1] - info.config["stride"] - info.config["seed"]
        )
    old, new = sorted(codes, key=lambda code: codes[code])
    sides = [f"walk@{code[:8]}" for code in (old, new)]
    done = sweep("compare", *sides, "--store", store.path.parent, "--margin", "0.1")
    assert done.returncode == 0, done.stderr
    assert re.search(rf"A: {sides[0]}: 6 trials, .*your code {old[:8]}", done.stdout)
    assert "6 pairs of trials, 6 by fields and seed" in done.stdout
    assert "+0.5" in done.stdout
    again = sweep("compare", f"walk@{new[:8]}", "walk", "--store", store.path.parent)
    assert again.stdout.splitlines()[-1] == "identical bit for bit: all 6 pairs of trials"


def test_another_trainable_cannot_be_compared(tmp_path: Path) -> None:
    (tmp_path / "walk.toml").write_text(WALK_SWEEP)
    (tmp_path / "walk.py").write_text(f"OFFSET = 0\n{WALK}")
    run_plan(make_plan(load_spec(tmp_path / "walk.toml")), place="debug", store_root=tmp_path / "runs")
    write_sweep(tmp_path / "runs" / "lrs", [PART])
    refused(
        sweep("compare", "lrs", "walk", "--store", tmp_path / "runs"),
        "lrs trains images, walk trains class 'walk:Walk': there is nothing to compare",
    )


def test_exported_tables_are_compared_and_reported_as_stores_are(tmp_path: Path) -> None:
    write_sweep(tmp_path / "lrs", [PART])
    for table in ("lrs.csv", "lrs.parquet"):
        done = sweep("export", "lrs", "--store", tmp_path, "--to", tmp_path / table)
        assert (done.returncode, done.stdout) == (0, f"72 rows in {tmp_path / table}\n"), done.stderr
    done = sweep("compare", tmp_path / "lrs.csv", tmp_path / "lrs.parquet")
    assert done.stdout.splitlines()[-1] == "identical bit for bit: all 6 pairs of trials"
    done = sweep("report", tmp_path / "lrs.csv")
    assert (done.returncode, done.stdout) == (0, f"Report: {tmp_path / 'lrs-report' / 'index.html'}\n")
    (tmp_path / "lrs.csv.sweeps.json").unlink()
    refused(sweep("report", tmp_path / "lrs.csv"), "says nothing of its question and claims")
