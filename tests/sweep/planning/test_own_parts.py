"""Sweep files with registered parts: the example's, and typical mistakes, each of which is one line."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from mixsweep.core import registry
from mixsweep.sweep.planning.parse import load_spec, parse_spec
from mixsweep.sweep.planning.plan import make_plan
from mixsweep.sweep.planning.schema import SpecError, SweepSpec
from mixsweep.sweep.search.tpe import point_of, refit, suggest
from tests.support.commands import ROOT

EXAMPLE = ROOT / "examples" / "own-cnn"


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_registered", "_recalled"):
        table: dict[str, Any] = getattr(registry, name)
        monkeypatch.setattr(registry, name, {part: type(values)() for part, values in table.items()})
    monkeypatch.setattr(registry, "_forms", {})


def load(folder: Path, code: tuple[str, str] = ("", ""), *settings: str) -> SweepSpec:
    """The example's sweep file, with a part of its code replaced."""
    assert code[0] in (EXAMPLE / "own_cnn.py").read_text(encoding="utf-8")
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
    text = (folder / "own_cnn.py").read_text(encoding="utf-8")
    (folder / "own_cnn.py").write_text(text.replace(*code) if code[0] else text, encoding="utf-8")
    return load_spec(folder / "own-cnn.toml", settings)


def test_the_examples_fields_are_planned(tmp_path: Path) -> None:
    spec = load(tmp_path)
    plan = make_plan(spec)
    assert len(plan.trials) == 18
    assert {(config["width"], config["kernel_size"]) for config in plan.trials} == {
        (width, size) for width in (2, 8, 16) for size in (3, 5)
    }
    assert {(config["decay_share"], config["beta"], config["augment"]) for config in plan.trials} == {
        (0.3, 0.9, "none")
    }
    assert spec.trainable.parameters(plan.trials[0].to_mapping()) == 2 * 10 + 4 * 19 + 10 * 197
    assert spec.source["kind"] == spec.kind != "image"


def test_two_files_that_register_one_name_are_one_line(tmp_path: Path) -> None:
    load(tmp_path)
    shutil.copy(tmp_path / "own_cnn.py", tmp_path / "other.py")
    file = tmp_path / "own-cnn.toml"
    file.write_text(file.read_text().replace('"own_cnn.py"', '"own_cnn.py", "other.py"'))
    with pytest.raises(
        SpecError, match=r"imports: .*own_cnn\.py and .*other\.py both register \w+ '"
    ) as caught:
        load_spec(file)
    assert "\n" not in str(caught.value)


def test_a_sweep_has_the_fields_of_the_parts_that_it_names_whatever_else_is_registered(
    tmp_path: Path,
) -> None:
    own = load(tmp_path)

    def other(shape: Any, classes: int, *, width: float = 0.5, depth: int = 2) -> None: ...

    registry.register_model("other", other)
    assert load_spec(tmp_path / "own-cnn.toml").kind == own.kind
    (tmp_path / "plain.toml").write_text(
        '[base]\ndataset = "digits"\n[space]\nlr = { grid_search = [0.1] }\n'
    )
    assert load_spec(tmp_path / "plain.toml").kind == "image"


def test_the_resolved_file_makes_the_same_plan(tmp_path: Path) -> None:
    spec = load(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "sweep.toml").write_text(spec.to_toml(), encoding="utf-8")
    again = load_spec(tmp_path / "elsewhere" / "sweep.toml")
    assert [c.trial_id for c in make_plan(again).trials] == [c.trial_id for c in make_plan(spec).trials]


MISTAKES: dict[str, tuple[tuple[str, str], tuple[str, ...], str]] = {
    "a field's name": (("", ""), ("base.widht=3",), "base.widht: unknown field; did you mean 'width'?"),
    "a field's type": (
        ("", ""),
        ("space.width.grid_search=[1.5]",),
        "space.width: width = 1.5 is not an integer",
    ),
    "a field's bound": (("", ""), ("space.width.grid_search=[0]",), "space.width: width = 0 is too small"),
    "a model's name": (("", ""), ("base.model=cmn",), "base.model: model = 'cmn' is not known; did you mean 'cnn'?"),
    "an optimizer's name": (("", ""), ("base.optimizer=lino",), "'lino' is not known; did you mean 'lion'?"),
    "no default": (
        ("kernel_size: int = 3", "kernel_size: int"),
        (),
        "imports: model 'cnn': its parameter 'kernel_size' has no default",
    ),
    "a built-in field": (
        ("beta: float = 0.9", "momentum: float = 0.9"),
        (),
        "imports: optimizer 'lion': its parameter 'momentum' is a built-in field",
    ),
    "a file that fails": (
        ("import mixsweep", "import mixsweeep"),
        (),
        "imports: 'own_cnn.py': ModuleNotFoundError: No module named 'mixsweeep'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_typical_mistake_is_one_line(mistake: str, tmp_path: Path) -> None:
    code, settings, message = MISTAKES[mistake]
    with pytest.raises(SpecError, match=re.escape(message)) as raised:
        load(tmp_path, code, *settings)
    assert "\n" not in str(raised.value)


def test_patches_must_divide_the_images_of_a_registered_set(tmp_path: Path) -> None:
    spec = load(
        tmp_path,
        ("", ""),
        "base.model=mixer",
        "base.patch_size=8",
        "claims=[]",
        "space={weight_decay={grid_search=[0.1]}}",
    )
    with pytest.raises(
        SpecError, match="patch_size = 8 does not divide the image side 28; allowed: 1, 2, 4, 7, 14, 28"
    ):
        make_plan(spec)


def narrow(shape: registry.Shape, classes: int, *, width: int = 16) -> None: ...
def wide(shape: registry.Shape, classes: int, *, width: int = 32) -> None: ...


def shared(**tables: Any) -> dict[str, Any]:
    """A sweep file over two models that share a field, each with a default of its own."""
    registry.register_model("narrow", narrow)
    registry.register_model("wide", wide)
    rest = {"model": {"grid_search": ["narrow", "wide"]}, "lr": {"grid_search": [0.1, 0.2]}}
    return {"name": "shared", "base": {"dataset": "digits"}, "space": rest, **tables}


def points(file: dict[str, Any], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(config[name] for name in names) for config in make_plan(parse_spec(file)).trials]


def test_a_shared_field_counts_as_the_default_of_the_part_in_use() -> None:
    assert points(shared(derive={"batch_size": "2 * width"}), "model", "batch_size")[1:3] == [
        ("narrow", 32), ("wide", 64),
    ]  # fmt: skip
    assert points(shared(when={"lr": {"width": 32}}), "model", "lr") == [
        ("narrow", 0.001), ("wide", 0.1), ("wide", 0.2),
    ]  # fmt: skip
    excluded = shared(combine={"exclude": [{"width": 32, "lr": 0.1}]})
    assert points(excluded, "model", "lr") == [("narrow", 0.1), ("narrow", 0.2), ("wide", 0.2)]
    with pytest.raises(SpecError, match=r"combine\.exclude\[0\]: matches no point"):
        points(shared(combine={"exclude": [{"width": 17}]}))
    with pytest.raises(SpecError, match=r"combine\.exclude\[0\]: matches no point: width is 16 in all"):
        points(shared(combine={"exclude": [{"width": 32}]}, space={"model": {"grid_search": ["narrow"]}}))


def test_a_search_counts_a_shared_field_as_the_default_of_the_part_in_use() -> None:
    space = {"model": {"choice": ["narrow", "wide"]}, "lr": {"uniform": [0.1, 0.2]}}
    spec = parse_spec(
        shared(space=space, when={"lr": {"width": 32}}, search={"algorithm": "tpe", "trials": 9})
    )
    found = [suggest(spec, number, [], lambda trial_id: False) for number in range(8)]
    seen = {(c["model"], c["lr"] == 0.001) for c in found if c is not None and refit(spec, c) == c}
    assert seen == {("narrow", True), ("wide", False)}
    assert all(c is not None and point_of(spec.parts[0], c) is not None for c in found)
