"""`sweep show` and `sweep run --trial`: what anyone needs to run a trial again, and that it is exactly it that runs."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from mixsweep.core.store.code_copy import patch_path
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.folder import TrialFolder
from tests.support.commands import ROOT, finish
from tests.support.mirrored_sweeps import TABLES, plan_sweep, rows_of, train
from tests.support.trials import change_info


def test_a_trial_is_shown_with_its_code_and_run_again_alone_and_equal(tmp_path: Path) -> None:
    small = {"seeds": 1, "space": {"lr": {"grid_search": [0.03, 0.01]}}}
    plan, store = plan_sweep(tmp_path / "runs", **small, base={**TABLES["base"], "epochs": 2})
    assert train(store) == 0
    wanted = plan.trials[1].trial_id
    folder = store.trial(wanted)
    patch = patch_path(store.path, "0123456789abcdef")  # as a run of changed code leaves it
    patch.parent.mkdir(exist_ok=True)
    patch.write_text("--- a/core/training/loss.py\n")
    begun = folder.info()
    assert begun is not None
    change_info(folder, replace(begun, provenance={**begun.provenance, "patch": "0123456789abcdef"}))
    show = [sys.executable, "-m", "mixsweep", "show", wanted, "--store", str(tmp_path / "runs")]
    text = finish(show).stdout
    info = folder.info()
    assert info is not None
    assert f"revision: {info.provenance['revision']}" in text
    assert f"patch on that revision: {patch}" in text
    assert "dirty: " in text
    kept = folder.predictions()
    assert kept is not None
    assert f"predictions: 360 examples, {kept.accuracy:.2%} right" in text
    values = json.loads(finish([*show, "--json"]).stdout)
    assert values["patch"] == str(patch)

    (command,) = [line for line in text.splitlines() if line.startswith("to run this trial again: ")]
    words = command.partition(": ")[2].split()
    assert words[:2] == ["sweep", "run"]
    words = [sys.executable, "-m", "mixsweep", *words[1:-1], str(tmp_path / "again"), "--place", "debug"]
    assert finish(words).returncode == 0
    again = SweepStore(tmp_path / "again" / store.name)
    assert [one.trial_id for one in again.trials()] == [wanted]
    same = ("epoch", "step", "train_loss", "valid_loss", "train_accuracy", "valid_accuracy")
    first, second = rows_of(store)[wanted], rows_of(again)[wanted]
    assert [[row[n] for n in same] for row in first] == [[row[n] for n in same] for row in second]


def test_a_run_of_changed_code_keeps_a_patch_that_makes_that_code_again(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout

    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout: there is no revision to differ from")
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    for clone in (mine, theirs):
        git("clone", "--quiet", str(ROOT), str(clone))
    changed = mine / "core" / "training" / "loss.py"
    changed.write_text(changed.read_text() + "\n# an idea of tonight: größer\n")
    _, store = plan_sweep(tmp_path / "runs", seeds=1, base={**TABLES["base"], "epochs": 1})
    file = store.path / "sweep.toml"
    command = [sys.executable, "-m", "mixsweep", "run", str(file), "--place", "debug", "--limit", "1"]
    run = partial(
        subprocess.run,
        cwd=mine,
        env=os.environ | {"PYTHONPATH": str(mine)},
        check=True,
    )
    run([*command, "--store", str(store.path.parent)])
    git("-C", str(mine), "checkout", "--quiet", "core/training/loss.py")
    run([*command, "--store", str(store.path.parent)])

    dirty, clean = (folder for folder in sorted(store.trials(), key=begun_at) if folder.info())
    info = dirty.info()
    assert info is not None
    assert info.provenance["dirty"]
    git("-C", str(theirs), "checkout", "--quiet", info.provenance["revision"])
    git("-C", str(theirs), "apply", str(patch_path(store.path, info.provenance["patch"])))
    assert (theirs / "core" / "training" / "loss.py").read_text().endswith("\n# an idea of tonight: größer\n")
    without = clean.info()
    assert without is not None
    assert not without.provenance["patch"]
    (patch,) = (store.path / "code").iterdir()
    assert patch.stat().st_mode & 0o777 == 0o600


def begun_at(folder: TrialFolder) -> str:
    info = folder.info()
    return info.attempts[0].started_at if info else ""
