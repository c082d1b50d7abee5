"""`sweep show` and `sweep run --trial`: what anyone needs to run a trial again, and that it is exactly it that runs."""

import json
import subprocess
import sys
from pathlib import Path

from core import provenance
from core.store import SweepStore
from tests.mirroring import TABLES, plan_sweep, rows_of, train
from tests.places import ROOT, finish


def test_a_trial_is_shown_with_its_code_and_run_again_alone_and_equal(tmp_path: Path) -> None:
    small = {"seeds": 1, "space": {"lr": {"grid_search": [0.03, 0.01]}}}
    plan, store = plan_sweep(tmp_path / "runs", **small, base={**TABLES["base"], "epochs": 2})
    assert train(store) == 0
    wanted = plan.trials[1].trial_id
    folder = store.trial(wanted)
    folder.patch_path.write_text("--- a/core/loss.py\n")  # as a run of changed code leaves it
    show = [sys.executable, "-m", "sweep", "show", wanted, "--store", str(tmp_path / "runs")]
    text = finish(show).stdout
    info = folder.info()
    assert info is not None
    assert f"revision: {info.provenance['revision']}" in text
    assert f"patch on that revision: {folder.patch_path}" in text
    assert "dirty: " in text
    values = json.loads(finish([*show, "--json"]).stdout)
    assert values["patch"] == str(folder.patch_path)

    (command,) = [line for line in text.splitlines() if line.startswith("to run exactly it again: ")]
    words = command.partition(": ")[2].split()
    assert words[:2] == ["sweep", "run"]
    words = [sys.executable, "-m", *words[:-1], str(tmp_path / "again"), "--place", "debug"]
    assert finish(words).returncode == 0
    again = SweepStore(tmp_path / "again" / store.name)
    assert [one.trial_id for one in again.trials()] == [wanted]
    same = ("epoch", "step", "train_loss", "valid_loss", "train_accuracy", "valid_accuracy")
    first, second = rows_of(store)[wanted], rows_of(again)[wanted]
    assert [[row[n] for n in same] for row in first] == [[row[n] for n in same] for row in second]


def test_the_patch_of_changed_code_is_kept_whole_or_cut_with_a_word(tmp_path: Path) -> None:
    done = subprocess.run(["git", "-C", ROOT, "diff", "HEAD"], capture_output=True, text=True, check=False)
    provenance.patch.cache_clear()
    text = provenance.patch()
    if done.returncode == 0 and len(done.stdout) < 200_000:
        assert text.strip() == done.stdout.strip()
    else:
        assert text == "" or "# cut: the whole patch" in text
    provenance.patch.cache_clear()
