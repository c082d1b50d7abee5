"""Sweep files whose trials are commands: the example, and typical mistakes, each of which is one line."""

import shutil
from pathlib import Path

import pytest

from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.parse import load_spec
from mixsweep.sweep.planning.plan import make_plan, save_plan
from mixsweep.sweep.planning.schema import SpecError, SweepSpec
from tests.support.commands import ROOT

EXAMPLE = ROOT / "examples" / "script"
TEXT = (EXAMPLE / "script.toml").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLE, tmp_path / "script"))


def load(folder: Path, text: str = TEXT) -> SweepSpec:
    (folder / "script.toml").write_text(text, encoding="utf-8")
    return load_spec(folder / "script.toml")


def test_the_example_is_planned_and_its_code_is_kept(folder: Path) -> None:
    spec = load(folder)
    assert (spec.metric, spec.mode, spec.seeds) == ("valid_loss", "min", (0, 1, 2))
    plan = make_plan(spec)
    assert len(plan.trials) == 9
    assert plan.trials[0].identity() == {
        "trainable": f"command {spec.command.table.run}", "degree": 1, "lr": 0.2, "normalise": False, "seed": 0,
    }  # type: ignore[union-attr]  # fmt: skip
    store = SweepStore(folder / "runs" / "script")
    save_plan(plan, store)
    (kept,) = [path for path in (store.path / "code").iterdir() if path.is_dir()]
    assert sorted(path.name for path in kept.iterdir()) == ["points.py", "train.py"]
    again = load_spec(store.path / "sweep.toml")
    assert [c.trial_id for c in make_plan(again).trials] == [c.trial_id for c in plan.trials]


MISTAKES: dict[str, tuple[tuple[str, str], str]] = {
    "a placeholder without a field": (("{degree}", "{degre}"), "command.run: {degre} in 'python train.py"),
    "a brace that is not closed": (("--lr {lr}", "--lr {lr"), "a single '{'; write '{{' for a brace"),
    "a program that is not found": (("python train.py", "pyhton train.py"), "'pyhton' is neither a program here nor"),
    "no command": (('run = "python', 'runs = "python'), "command.runs: unknown key; did you mean 'run'?"),
    "no metric": (('metric = "valid_loss"\n', ""), "metric: missing: name the metric of the command to compare"),
    "no mode": (('mode = "min"\n', ""), "metric: missing: name the metric of the command to compare, and its mode"),
    "code that is not there": (('"points.py"]', '"point.py"]'), "command.code: 'point.py' names no file below"),
    "inputs that are not there": (
        ("code = [", 'inputs = ["data"]\ncode = ['), "command.inputs: 'data': no such file or folder below",
    ),
    "no way to read records": (
        ("code = [", 'metrics = "lines"\ncode = ['), "command.metrics: 'lines' is none of 'json-lines', 'csv:FILE'",
    ),
    "a pattern outside of the trial's folder": (
        ("code = [", 'keep = ["../*"]\ncode = ['), "command.keep: '../*' is not a pattern of files in {trial_dir}",
    ),
    "a field without a default": (
        ("lr = 0.2", "lr = { low = 0 }"), "fields.lr: has no default",
    ),
    "a field out of range": (("default = 3, low = 1", "default = 0, low = 1"), "degree = 0 is too small"),
    "a field that is a table of nothing": (("lr = 0.2", "lr = { defualt = 0.2 }"), "fields.lr.defualt: unknown key"),
    "a reserved name": (("lr = 0.2", "lr = 0.2\nepoch = 3"), "fields: field 'epoch': the name is reserved"),
    "seeds without a seed": (("\nseed = 0", ""), "{seed} in 'python train.py"),
    "a trainable": (('mode = "min"', 'mode = "min"\ntrainable = "train.py:X"'), "a command or a trainable, not both"),
    "a secret that the store would keep": (
        ("code = [", 'env = { KEY = "3f9a01bc77de4452" }\ncode = ['), "command.env.KEY: looks like a secret",
    ),
    "fields without a command": (("[command]", "[command_]"), "command_: unknown key; did you mean 'command'?"),
    "a misspelt field": (("degree = { grid", "degre = { grid"), "space.degre: unknown field; did you mean 'degree'?"),
    "a population of commands": (
        ("seeds = 3", '[search]\nalgorithm = "pbt"\nmutate = ["lr"]'),
        "command.run: with pbt it has to name the field with budget = true",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_typical_mistake_is_one_line(folder: Path, mistake: str) -> None:
    (before, after), said = MISTAKES[mistake]
    assert before in TEXT
    with pytest.raises(SpecError) as caught:
        load(folder, TEXT.replace(before, after, 1))
    assert str(caught.value).startswith(str(folder / "script.toml"))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
