"""Sweep files with a trainable of Ray Tune: the documentation's, those that Ray ships, and typical mistakes."""

import re
from pathlib import Path

import pytest

from mixsweep.sweep.cli.wandb_sweeps import definition, trial_for
from mixsweep.sweep.planning.parse import load_spec
from mixsweep.sweep.planning.plan import make_plan
from mixsweep.sweep.planning.schema import SpecError, SweepSpec
from mixsweep.sweep.search.tpe import suggest
from tests.support.commands import ROOT

PAGE = (ROOT / "docs" / "how-to" / "ray-tune-trainables.md").read_text(encoding="utf-8")
CODE, FILE = (re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[1] for kind in ("python", "toml"))  # type: ignore[index]


def load(folder: Path, code: str = CODE, text: str = FILE) -> SweepSpec:
    (folder / "descent.py").write_text(code, encoding="utf-8")
    (folder / "descent.toml").write_text(text, encoding="utf-8")
    return load_spec(folder / "descent.toml")


def test_the_pages_class_and_function_are_planned(tmp_path: Path) -> None:
    spec = load(tmp_path)
    assert (spec.metric, spec.mode, spec.trainable.budget) == ("loss", "min", "steps")
    plan = make_plan(spec)
    assert {config["lr"] for config in plan.trials} == {0.02, 0.1, 0.4}
    assert plan.trials[0].identity()["trainable"] == "tune descent:Descent"
    assert spec.source["trainable"] == f"{tmp_path / 'descent.py'}:Descent"
    function = load(tmp_path, text=FILE.replace(":Descent", ":descent"))
    assert function.kind != spec.kind
    assert {c.trial_id for c in make_plan(function).trials}.isdisjoint(c.trial_id for c in plan.trials)


def test_a_trainable_without_a_seed_is_searched_and_run_by_wandb(tmp_path: Path) -> None:
    plan = make_plan(load(tmp_path))
    assert "seed" not in definition(plan, "descent.toml", tmp_path, "p")
    assert trial_for(plan, ["--lr=0.1"]) == plan.trials[1]
    tables, _, _ = FILE.replace("grid_search = [0.02, 0.1, 0.4]", "uniform = [0.02, 0.4]").partition(
        "[[claims]]"
    )
    spec = load(tmp_path, text=f'{tables}[search]\nalgorithm = "tpe"\ntrials = 2\n')
    config = suggest(spec, 0, [], lambda trial_id: False)
    assert config is not None
    assert 0.02 <= config["lr"] <= 0.4


def test_the_resolved_file_makes_the_same_plan(tmp_path: Path) -> None:
    spec = load(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "sweep.toml").write_text(spec.to_toml(), encoding="utf-8")
    again = load_spec(tmp_path / "elsewhere" / "sweep.toml")
    assert [c.trial_id for c in make_plan(again).trials] == [c.trial_id for c in make_plan(spec).trials]


def test_one_of_an_installed_package_is_named_by_its_module(tmp_path: Path) -> None:
    named = "ray.tune.examples.pbt_example:PBTBenchmarkExample"
    text = FILE.replace("descent.py:Descent", named).replace('metric = "loss"', 'metric = "mean_accuracy"')
    spec = load(tmp_path, text=text)
    assert (spec.imports, spec.project, spec.source["trainable"]) == ((), "", named)
    assert make_plan(spec).trials[0].identity()["trainable"] == f"tune {named}"


MISTAKES: dict[str, tuple[tuple[str, str], str]] = {
    "no fields": (("[fields]", "[base]"), "fields: missing: the keys of config with their defaults, like lr = 1e-3"),
    "no metric": (('metric = "loss"\n', ""), "metric: missing: name the metric of its results"),
    "no mode": (('mode = "min"\n', ""), "metric: missing: name the metric of its results"),
    "a mode's name": (('mode = "min"', 'mode = "mim"'), "mode: 'mim' is not known; did you mean 'min'?"),
    "no such file": (("descent.py:", "decent.py:"), "decent.py: no such file"),
    "no such class": ((":Descent", ":Decent"), "has no Decent; did you mean 'Descent'?"),
    "a function without config": (
        ("def descent(config):", "def Descent():"), "descent:Descent: cannot be called with `config` alone (too many",
    ),
    "a function of more": (("def descent(config):", "def Descent(config, x):"), "(missing a required argument: 'x')"),
    "a class that is neither": (
        ("Descent(tune.Trainable)", "Descent"),
        "fields: descent:Descent is neither a ray.tune.Trainable nor a function; a class of one's own has them",
    ),
    "a number": (("def descent(", "Descent = 3\n\n\ndef descent("), "fields: descent:Descent is neither"),
    "no step": (("def step", "def stop_"), "trainable: descent:Descent: has no method step"),
    "no load": (
        ("def load_checkpoint", "def load"),
        "trainable: descent:Descent: has a method save_checkpoint and no load_checkpoint",
    ),
    "an error in the file": (("from ray import tune\n", "from ray import tuen\n"), "'descent.py': ImportError: cannot"),
    "no such module": (
        ('"descent.py:Descent"', '"ray.tune.examplse.x:Y"'), "'ray.tune.examplse.x': ModuleNotFoundError: No",
    ),
    "not a name": (('"descent.py:Descent"', '"descent:De scent"'), "is not like 'file.py:Class' or 'package"),
    "a misspelt field": (("[space]\nlr", "[space]\nrl"), "space.rl: unknown field"),
    "a field in a field": (("[fields]\n", '[fields]\n"lr/x" = 1\n'), "fields: field 'lr/x': a part of its name"),
    "epochs, not marked": (
        ("steps = { default = 20, budget = true }", "epochs = 3"),
        "fields: field 'epochs': mark it as the budget, budget = true, or rename it",
    ),
    "a reserved field": (("[fields]\n", "[fields]\nparent = 1\n"), "fields: field 'parent': the name is reserved"),
    "seeds without a seed": (("[fields]", "seeds = 3\n[fields]"), "seeds: 3: the trainable has no field `seed`"),
    "fields of nothing": (('trainable = "descent.py:Descent"\n', ""), "fields: are those of a [command] or a Ray Tune"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_typical_mistake_is_one_line(tmp_path: Path, mistake: str) -> None:
    (before, after), said = MISTAKES[mistake]
    assert before in CODE + FILE
    with pytest.raises(SpecError) as caught:
        make_plan(load(tmp_path, CODE.replace(before, after), FILE.replace(before, after)))
    assert str(caught.value).startswith(str(tmp_path / "descent.toml"))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_of_the_project_is_named_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "descent_of_project.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SpecError, match=r"is a file of this project; write 'descent_of_project.py:…'"):
        load(tmp_path, text=FILE.replace("descent.py:", "descent_of_project:"))


def test_a_population_needs_checkpoints(tmp_path: Path) -> None:
    search = '\n[search]\nalgorithm = "pbt"\npopulation = 4\ninterval_epochs = 2\n'
    code = re.sub(r"    def save_checkpoint.*?\n\n\n", "\n", CODE, count=1, flags=re.DOTALL)
    assert "save_checkpoint" not in code
    with pytest.raises(SpecError, match="has no method save_checkpoint, and a population continues from"):
        load(tmp_path, code, FILE + search)
