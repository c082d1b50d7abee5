"""A trial goes on with changed code where that accepts its checkpoint, and says so; else it starts again on request."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mixsweep.core.store.code_copy import patch_path
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.lease import take_lease
from mixsweep.sweep.store_check import check
from tests.support.commands import finish, infos

CODE = """
from dataclasses import dataclass
from mixsweep import field

@dataclass(frozen=True, kw_only=True)
class Config:
    rounds: int = field(1, low=1, budget=True)

class Walk:
    Config = Config
    metrics = {"height": "min"}
    def __init__(self, config, run):
        self.config, self.round = config, 0
    def train(self):
        while self.round < self.config.rounds:
            self.round += 1
            yield {"height": VERSION}
    def state(self):
        return {NAME: self.round}
    def restore(self, state):
        self.round = state[NAME]
"""
SWEEP = 'name = "walk"\ntrainable = "walk.py:Walk"\n[keep]\ncheckpoints = "all"\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "walk.toml").write_text(SWEEP)
    write(tmp_path, 1.0)
    return tmp_path


def write(project: Path, version: float, name: str = "round") -> None:
    (project / "walk.py").write_text(f"VERSION = {version}\nNAME = {name!r}\n{CODE}")


def sweep(project: Path, *words: str, code: int = 0) -> str:
    done = finish([sys.executable, "-m", "mixsweep", *words], folder=project)
    assert done.returncode == code, done.stdout
    return done.stdout


def run(project: Path, rounds: int, *words: str, code: int = 0) -> str:
    return sweep(
        project, "run", "walk.toml", "--place", "debug", "--set", f"base.rounds={rounds}", *words, code=code
    )


def heights(store: SweepStore) -> list[float]:
    (trial,) = store.trials()
    return [float(value) for value in trial.records()["height"].to_pylist()]


def test_a_trial_of_two_definitions_says_so_and_one_that_cannot_go_on_starts_again_on_request(
    project: Path,
) -> None:
    store = SweepStore(project / "runs" / "walk")
    run(project, 2)
    (info,) = infos(store)
    trial = info.trial_id
    for words in (["status", "walk"], ["show", trial]):
        assert "definitions" not in sweep(project, *words)
    write(project, 2.0)
    run(project, 3)
    assert heights(store) == [1.0, 1.0, 2.0]
    said = " ".join(sweep(project, "status", "walk").split())
    assert "of two definitions" in said
    assert "different code of yours has trained these trials: " in said
    assert len(json.loads(sweep(project, "status", "walk", "--json"))["codes"]) == 2
    assert "of two definitions: " in sweep(project, "show", trial)
    codes = json.loads(sweep(project, "show", trial, "--json"))["codes"]
    assert codes == [attempt.code for attempt in infos(store)[0].attempts]
    assert len(set(codes)) == 2

    write(project, 3.0, "steps")
    assert "1 failed" in run(project, 4, code=1)
    (info,) = infos(store)
    assert info.failure == "config"
    assert info.attempts[-1].message.startswith("ConfigError: walk:Walk.restore: KeyError: 'steps'; ")
    assert info.attempts[-1].message.endswith(f"start the trial again: --fresh {trial}")
    assert "self.round = state[NAME]" in sweep(project, "logs", trial)
    assert heights(store) == [1.0, 1.0, 2.0]

    assert "--fresh ff: no trial of the plan" in run(project, 4, "--fresh", "ff", code=2)
    run(project, 4, "--fresh", trial[:4])
    assert heights(store) == [3.0] * 4
    (info,) = infos(store)
    assert [attempt.end for attempt in info.attempts] == ["completed", "completed", "config", "completed"]
    assert info.attempts[-1].from_epoch == 0
    assert len(store.trial(trial).logs()) == 4
    assert "definitions" not in sweep(project, "status", "walk")
    assert "definitions" not in sweep(project, "show", trial)
    assert list(check(store)) == []


def test_a_plan_and_a_run_say_that_other_code_than_that_at_hand_has_trained(project: Path) -> None:
    (project / "walk.toml").write_text(
        SWEEP.replace("[keep]", "[space]\nsize = {grid_search = [1, 2]}\n[keep]")
    )
    code = CODE.replace("    rounds:", "    size: int = 1\n    rounds:")

    def write_sized(version: float) -> None:
        (project / "walk.py").write_text(f"VERSION = {version}\nNAME = 'round'\n{code}")

    def plan(rounds: int, *words: str) -> str:
        return sweep(project, "plan", "walk.toml", "--set", f"base.rounds={rounds}", *words)

    def said(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("different code of yours")]

    write_sized(1.0)
    assert said(plan(1)) == said(run(project, 1)) == said(plan(1)) == said(run(project, 1)) == []
    write_sized(2.0)
    store = SweepStore(project / "runs" / "walk")
    first = infos(store)[0].attempts[-1].code
    told = json.loads(plan(2, "--json"))["other_code"]
    assert {code: len(trials) for code, trials in told.items()} == {first: 2}
    (line,) = said(plan(2))
    assert line.startswith(f"different code of yours has trained 2 trials in the store ({first[:8]}: 2); ")
    assert said(run(project, 2, "--limit", "1")) == [line]
    second = next(info.attempts[-1].code for info in infos(store) if info.attempts[-1].code != first)
    assert line.endswith(f"the code at hand is {second[:8]}")
    assert said(plan(2)) == [line]  # one of them is of both
    write_sized(1.0)
    (line,) = said(plan(2))
    assert f"has trained 1 trial in the store ({second[:8]}: 1); the code at hand is {first[:8]}" in line


def test_each_attempt_has_the_revision_of_the_project(project: Path) -> None:
    def git(*words: str) -> str:
        person = ["-c", "user.name=A", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", "-C", project, *person, *words], check=True, capture_output=True, text=True
        ).stdout

    store = SweepStore(project / "runs" / "walk")
    run(project, 1)
    (info,) = infos(store)
    assert "your project's revision" not in sweep(project, "show", info.trial_id)
    git("init", "--quiet")
    git("add", "walk.py", "walk.toml")
    git("commit", "--quiet", "-m", "first")
    head = git("rev-parse", "HEAD").strip()
    run(project, 2)
    write(project, 2.0)
    run(project, 3)
    (info,) = infos(store)
    found = [(attempt.project_revision, attempt.project_dirty) for attempt in info.attempts]
    assert found == [("", False), (head, False), (head, True)]
    shown = sweep(project, "show", info.trial_id).splitlines()
    assert f"your project's revision: {head} (attempt 2)" in shown
    digest = info.attempts[-1].project_patch
    assert [attempt.project_patch for attempt in info.attempts] == ["", "", digest]
    patch = patch_path(store.path, digest)
    path = patch.relative_to(project)
    assert f"your project's revision: {head} with uncommitted changes ({path}) (attempt 3)" in shown
    assert patch.stat().st_mode & 0o777 == 0o600
    changed = (project / "walk.py").read_bytes()
    git("checkout", "--quiet", "walk.py")
    assert (project / "walk.py").read_bytes() != changed
    git("apply", str(patch))
    assert (project / "walk.py").read_bytes() == changed


def test_a_trial_that_is_done_starts_again_too_and_one_that_runs_does_not(project: Path) -> None:
    store = SweepStore(project / "runs" / "walk")
    run(project, 2)
    (info,) = infos(store)
    write(project, 2.0)
    run(project, 2)
    assert heights(store) == [1.0, 1.0]
    lease = take_lease(store.trial(info.trial_id).path)
    assert lease is not None
    with lease:
        assert "runs now; stop it before" in run(project, 2, "--fresh", info.trial_id, code=2)
    assert heights(store) == [1.0, 1.0]
    run(project, 2, "--fresh", info.trial_id)
    assert heights(store) == [2.0, 2.0]
    run(project, 2)
    assert len(infos(store)[0].attempts) == 2
    assert list(check(store)) == []
