"""Sweep files with a trainable of one's own: the tutorial's, and typical mistakes, each of which is one line."""

import re
from pathlib import Path

import pytest

from mixsweep.sweep.planning.parse import load_spec
from mixsweep.sweep.planning.plan import make_plan
from mixsweep.sweep.planning.schema import SpecError, SweepSpec
from tests.support.commands import ROOT

TUTORIAL = (ROOT / "docs" / "tutorial" / "your-own-training.md").read_text(encoding="utf-8")
CLASS, FILE = (re.search(rf"```{kind}\n(.*?)```", TUTORIAL, re.DOTALL)[1] for kind in ("python", "toml"))  # type: ignore[index]


def load(folder: Path, code: str = CLASS, text: str = FILE) -> SweepSpec:
    (folder / "walk.py").write_text(code, encoding="utf-8")
    (folder / "walk.toml").write_text(text, encoding="utf-8")
    return load_spec(folder / "walk.toml")


def test_the_tutorials_class_is_planned(tmp_path: Path) -> None:
    spec = load(tmp_path)
    assert (spec.metric, spec.mode, spec.seeds) == ("loss", "min", (0, 1, 2))
    plan = make_plan(spec)
    assert len(plan.trials) == 9
    assert {config["lr"] for config in plan.trials} == {0.05, 0.1, 0.4}
    assert spec.source["trainable"] == f"{tmp_path / 'walk.py'}:Walk"
    assert spec.source["kind"] == spec.kind


def test_the_resolved_file_makes_the_same_plan(tmp_path: Path) -> None:
    spec = load(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "sweep.toml").write_text(spec.to_toml(), encoding="utf-8")
    again = load_spec(tmp_path / "elsewhere" / "sweep.toml")
    assert [c.trial_id for c in make_plan(again).trials] == [c.trial_id for c in make_plan(spec).trials]


MISTAKES: dict[str, tuple[tuple[str, str], str]] = {
    "no file": (("walk.py:Walk", "wlak.py:Walk"), "trainable: 'wlak.py': FileNotFoundError: "),
    "no class": (("walk.py:Walk", "walk.py:Wakl"), "has no Wakl; did you mean 'Walk'?"),
    "not a path and a class": (("walk.py:Walk", "walk.Walk"), "'walk.Walk' is not like 'file.py:Class'"),
    "no method": (("def state", "def stat"), "trainable: walk:Walk: has no method state"),
    "no yield": (
        ('yield {"loss": self.weights.square().mean()}', "pass"),
        "trainable: walk:Walk.train: yields nothing; write `yield {'loss': loss}` once a record",
    ),
    "no default": (
        ('width: int = field(8, low=1, doc="units")', 'width: int = field(low=1, doc="units")'),
        "trainable: walk:Walk.Config.width: has no default",
    ),
    "another type": (
        ("width: int = field(8, low=1", "width: dict = field(8, low=1"),
        "trainable: walk:Walk.Config.width: type dict is none of int, float, str, bool, tuple[int, ...] or one of "
        "them with | None",
    ),
    "not frozen": (
        ("(frozen=True, kw_only=True)", "(kw_only=True)"),
        "trainable: walk:Walk.Config: not frozen; write @dataclass(frozen=True, kw_only=True)",
    ),
    "an error in the file": (("import torch\n", "import troch\n"), "'walk.py': ModuleNotFoundError: No module"),
    "a misspelt field": (("\nlr =", "\nlrr ="), "space.lrr: unknown field; did you mean 'lr'?"),
    "a metric that nobody declares": (
        ("seeds = 3", 'seeds = 3\nmetric = "los"'),
        "metric: 'los' is not declared by the trainable; give its mode too; did you mean 'loss'?",
    ),
    "seeds without a seed": (("    seed: int = 0\n", ""), "seeds: 3: the trainable has no field `seed`"),
    "a budget of no record": (("seeds = 3", "seeds = 3\nbase.rounds = 0"), "base.rounds: rounds = 0 is too small"),
    "a metric of a reserved name": (
        ('metrics = {"loss": "min"}', 'metrics = {"epoch": "min"}'),
        "trainable: walk:Walk: metric 'epoch': the name is reserved or not a text",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_typical_mistake_is_one_line(tmp_path: Path, mistake: str) -> None:
    (before, after), said = MISTAKES[mistake]
    assert before in CLASS + FILE
    with pytest.raises(SpecError) as caught:
        load(tmp_path, CLASS.replace(before, after), FILE.replace(before, after))
    assert str(caught.value).startswith(str(tmp_path / "walk.toml"))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_metric_that_the_class_does_not_declare_can_be_compared(tmp_path: Path) -> None:
    spec = load(tmp_path, text=FILE.replace("seeds = 3", 'seeds = 3\nmetric = "noise"\nmode = "max"'))
    assert (spec.metric, spec.mode) == ("noise", "max")
    assert spec.trainable.objectives == ("loss", "noise")
    undeclared = CLASS.replace('metrics = {"loss": "min"}', "metrics = {}")
    spec = load(tmp_path, undeclared, FILE.replace("seeds = 3", 'seeds = 3\nmetric = "loss"\nmode = "min"'))
    assert spec.trainable.objectives == ("loss",)
    assert len(spec.trainable.panels) == 1


UNDECLARED_CLAIM = '\n[[claims]]\ncompare = "lr"\nbest = 0.1\nmetric = "f1"\n'


def test_a_claim_on_a_metric_that_nobody_declares_needs_its_mode(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"claims\[1\].metric: 'f1' is not declared"):
        load(tmp_path, text=FILE + UNDECLARED_CLAIM)
    spec = load(tmp_path, text=FILE + UNDECLARED_CLAIM + 'mode = "max"\n')
    assert [(claim.metric, claim.mode) for claim in spec.parts[0].claims[1:]] == [("f1", "max")]
    for metric in ("loss", "seconds", "parameters"):
        spec = load(tmp_path, text=FILE + UNDECLARED_CLAIM.replace("f1", metric))
        assert spec.parts[0].claims[1].metric == metric


def test_project_is_of_use_with_a_trainable(tmp_path: Path) -> None:
    spec = load(tmp_path, text=FILE.replace("seeds = 3", 'seeds = 3\nproject = "."'))
    assert spec.project == str(tmp_path)
    assert spec.imports == (str(tmp_path / "walk.py"),)
