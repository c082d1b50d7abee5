"""sweep.origin: another sweep file of the same name does not take a sweep over, and a new store is announced."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.backends.base import Callbacks, RunError, RunOptions
from mixsweep.sweep.planning.parse import load_spec, parse_spec
from mixsweep.sweep.planning.plan import make_plan
from mixsweep.sweep.run import run_plan

TEXT = """
name = "lr"
question = "Which learning rate?"
[base]
dataset = "digits"
augment = "none"
hidden = [8]
batch_size = 64
train_limit = 128
valid_limit = 64
epochs = 1
[space]
lr = {{ grid_search = {values} }}
"""


def write(folder: Path, values: list[float], name: str = "lr.toml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").touch()
    (folder / name).write_text(TEXT.format(values=values))
    return folder / name


def run(file: Path, root: Path, *settings: str) -> list[str]:
    """Run one trial of a sweep file; return what was said."""
    said: list[str] = []
    options = RunOptions(store_root=root, limit=1, raise_errors=True)
    callbacks = Callbacks(say=said.append)
    assert (
        run_plan(
            make_plan(load_spec(file, settings)), place="debug", options=options, callbacks=callbacks
        ).exit_code
        == 0
    )
    return said


def test_another_file_without_a_common_trial_is_refused_with_both_files_and_the_way(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", [0.1]), write(tmp_path / "b", [0.2])
    run(first, tmp_path / "runs")
    kept = (tmp_path / "runs" / "lr" / "sweep.toml").read_bytes()
    with pytest.raises(RunError) as caught:
        run(second, tmp_path / "runs")
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    for words in (str(first), str(second), "no trial in common", "name = ", "--store"):
        assert words in said
    assert (tmp_path / "runs" / "lr" / "sweep.toml").read_bytes() == kept
    run(second, tmp_path / "runs", "name=other")
    run(second, tmp_path / "elsewhere")


def test_the_same_file_may_change_in_any_way(tmp_path: Path) -> None:
    file = write(tmp_path / "a", [0.1])
    run(file, tmp_path / "runs")
    write(tmp_path / "a", [0.2, 0.3])
    run(file, tmp_path / "runs")
    run(file, tmp_path / "runs", "base.weight_decay=0.1")
    kept = tmp_path / "runs" / "lr" / "sweep.toml"
    run(kept, tmp_path / "runs", "base.weight_decay=0.2")


def test_another_file_that_shares_a_trial_goes_on_with_the_sweep(tmp_path: Path) -> None:
    run(write(tmp_path / "a", [0.1]), tmp_path / "runs")
    wider = write(tmp_path / "b", [0.1, 0.2])
    run(wider, tmp_path / "runs")
    write(tmp_path / "b", [0.3])
    run(wider, tmp_path / "runs")  # the sweep is this file's now


def test_a_moved_project_and_one_copied_with_its_store_go_on(tmp_path: Path) -> None:
    run(write(tmp_path / "a", [0.1]), tmp_path / "runs")
    (tmp_path / "a").rename(tmp_path / "moved")
    run(write(tmp_path / "moved", [0.2]), tmp_path / "runs")
    run(write(tmp_path / "c", [0.1]), tmp_path / "c" / "runs")
    shutil.copytree(tmp_path / "c", tmp_path / "copy")
    run(write(tmp_path / "copy", [0.2]), tmp_path / "copy" / "runs")


def test_a_plan_without_a_file_and_a_store_without_an_origin_are_never_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a", [0.1])
    run(file, tmp_path / "runs")
    spec = load_spec(write(tmp_path / "b", [0.2]))
    options = RunOptions(store_root=tmp_path / "runs", limit=1)
    run_plan(make_plan(replace(parse_spec(spec.source), path=None)), place="debug", options=options)
    (tmp_path / "runs" / "lr" / "origin.json").unlink()
    run(write(tmp_path / "c", [0.3]), tmp_path / "runs")
    (tmp_path / "runs" / "lr" / "origin.json").write_bytes(b"\xff{")
    run(write(tmp_path / "d", [0.4]), tmp_path / "runs")


def test_a_new_store_is_announced_once_with_the_one_that_has_the_sweep_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "project", [0.1, 0.2])
    root = tmp_path / "project" / "runs"
    monkeypatch.chdir(tmp_path / "project")
    assert run(file, Path("runs")) == [f"A new store begins at {root}."]
    assert run(file, Path("runs")) == []
    assert SweepStore(root / "lr").exists()
    (tmp_path / "project" / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "deep" / "er")
    begun = Path.cwd() / "runs"
    words = f"A new store begins at {begun}; {root} has a sweep lr already: --store {root}."
    assert run(file, Path("runs")) == [words]
    monkeypatch.chdir(tmp_path)
    assert run(file, Path("runs")) == [
        f"A new store begins at {tmp_path / 'runs'}; {root} has a sweep lr already: --store {root}."
    ]
