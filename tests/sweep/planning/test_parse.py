"""sweep.planning.parse: every kind of bad input is one line that says where it stands and what is allowed."""

import math
import sys
import tomllib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.sweep.planning.parse import load_spec, parse_spec, preset_names
from mixsweep.sweep.planning.plan import make_plan
from mixsweep.sweep.planning.schema import SpecError
from mixsweep.sweep.planning.space import DISTRIBUTIONS

GOOD: dict[str, Any] = {
    "name": "good",
    "question": "Which learning rate?",
    "metric": "valid_loss",
    "seeds": 2,
    "base": {"model": "mixer", "epochs": 2, "patch_size": 4},
    "space": {"lr": {"grid_search": [0.1, 0.01]}},
    "when": {"patch_size": {"model": "mixer"}},
    "stopping": {"rule": "asha", "grace_epochs": 2, "reduction_factor": 4},
    "claims": [{"text": "0.1 is best", "compare": "lr", "better": 0.1, "than": "rest"}],
    "keep": {"checkpoints": "best:2"},
    "resources": {"cpus": 1, "gpus": 0, "compile": False},
}
PARTS: dict[str, Any] = {
    "name": "two",
    "base": {"dataset": "digits"},
    "parts": [
        {"name": "one", "base": {"model": "mlp"}, "space": {"lr": {"grid_search": [0.1, 0.01]}}},
        {"name": "other", "base": {"model": "mixer"}, "space": {"patch_size": {"grid_search": [4, 8]}}},
    ],
}
OWN_MODEL = """
from torch import nn
from mixsweep import register_model

register_model({name!r}, lambda config, classes: nn.Sequential(nn.Flatten(), nn.Linear(3072, classes)))
"""


def changed(path: str, value: Any, spec: Mapping[str, Any] = GOOD) -> dict[str, Any]:
    """A sweep file's tables with one dotted key set."""
    tables = deepcopy(dict(spec))
    *folders, last = path.split(".")
    at: Any = tables
    for folder in folders:
        at = at[int(folder)] if isinstance(at, list) else at.setdefault(folder, {})
    at[int(last) if isinstance(at, list) else last] = value
    return tables


def complaint(tables: Mapping[str, Any], folder: Path) -> str:
    """What load_spec, then make_plan, says of a file with these tables."""
    path = folder / "sweep.toml"
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        make_plan(load_spec(path))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


MISSPELT = [
    ("metrik", "valid_loss", "metrik: ", "'metric'"),
    ("base.wieght_decay", 0.1, "base.wieght_decay: ", "'weight_decay'"),
    ("base.epoch", 3, "base.epoch: ", "'epochs'"),
    ("space.patchsize", {"grid_search": [4]}, "space.patchsize: ", "'patch_size'"),
    ("space.lr", {"gridsearch": [0.1]}, "space.lr: ", "'grid_search'"),
    ("when.patchsize", {"model": "mixer"}, "when.patchsize: ", "'patch_size'"),
    ("when.patch_size", {"modl": "mixer"}, "when.patch_size.modl: ", "'model'"),
    ("stopping.grace_epoch", 1, "stopping.grace_epoch: ", "'grace_epochs'"),
    ("stopping.rule", "ashaa", "stopping.rule: ", "'asha'"),
    ("claims.0.beter", 0.1, "claims[0].beter: ", "'better'"),
    ("claims.0.compare", "lrr", "claims[0].compare: ", "'lr'"),
    ("keep.checkpoint", "all", "keep.checkpoint: ", "'checkpoints'"),
    ("resources.cpu", 1, "resources.cpu: ", "'cpus'"),
    ("metric", "valid_acuracy", "metric: ", "'valid_accuracy'"),
    ("mode", "maxx", "mode: ", "'max'"),
    ("base.model", "resnet81", "base.model: ", "'resnet18'"),
    ("base.dataset", "cifar-10", "base.dataset: ", "'cifar10'"),
    ("base.optimizer", "adm", "base.optimizer: ", "'adam'"),
    ("base.activation", "rellu", "base.activation: ", "'relu'"),
    ("space.model", {"grid_search": ["mlp", "mixr"]}, "space.model: ", "'mixer'"),
]


@pytest.mark.parametrize(("path", "value", "where", "near"), MISSPELT, ids=[m[0] for m in MISSPELT])
def test_a_misspelt_name_is_answered_with_its_place_and_the_nearest_one(
    path: str, value: Any, where: str, near: str, tmp_path: Path
) -> None:
    message = complaint(changed(path, value), tmp_path)
    assert message.startswith(where)
    assert near in message


WRONG = [
    ("name", 3, "name: 3 is not a string"),
    ("name", "a/b", "name: 'a/b' is not a folder name"),
    ("name", "..", "name: '..' is not a folder name"),
    ("name", "a\nb", "name: 'a\\nb' is not a folder name"),
    ("name", "long" * 100, "is not a folder name"),
    ("question", ["why"], "question: ['why'] is not a string"),
    ("metric", 1, "metric: 1 is not a string"),
    ("base", 3, "base: 3 is not a table"),
    ("base", [1], "base: [1] is not a table"),
    ("space", "lr", "space: 'lr' is not a table"),
    ("when", 1, "when: 1 is not a table"),
    ("when.patch_size", {}, "when.patch_size: {} is not like"),
    ("when.patch_size", 4, "when.patch_size: 4 is not like"),
    ("when.patch_size", {"model": "mixr"}, "when.patch_size.model: model = 'mixr' is not known"),
    ("stopping", "asha", "stopping: 'asha' is not a table"),
    ("stopping.grace_steps", 9, "stopping.grace_steps: with unit = 'epoch' write grace_epochs"),
    ("stopping.unit", "step", "stopping.grace_epochs: with unit = 'step' write grace_steps"),
    ("stopping.unit", "steps", "stopping.unit: 'steps' is not known; did you mean 'step'?"),
    ("stopping.grace_epochs", 0, "stopping.grace_epochs: 0 is not an integer of 1 or more"),
    ("stopping.grace_epochs", 1.5, "stopping.grace_epochs: 1.5 is not an integer"),
    ("stopping.reduction_factor", 1, "stopping.reduction_factor: 1 is not a number"),
    ("stopping.reduction_factor", math.inf, "stopping.reduction_factor: inf is not a number"),
    ("stopping.reduction_factor", math.nan, "stopping.reduction_factor: nan is not a number"),
    ("stopping.reduction_factor", "3", "stopping.reduction_factor: '3' is not a number"),
    ("keep", "all", "keep: 'all' is not a table"),
    ("keep.checkpoints", "best:0", "keep.checkpoints: 'best:0' is not known; allowed: all, none, best:N"),
    ("keep.checkpoints", 5, "keep.checkpoints: 5 is not a string"),
    ("resources", 1, "resources: 1 is not a table"),
    ("resources.cpus", 0, "resources.cpus: 0 is not an integer of 1 or more"),
    ("resources.cpus", True, "resources.cpus: True is not an integer"),
    ("resources.gpus", -1, "resources.gpus: -1 is not a number"),
    ("resources.gpus", math.inf, "resources.gpus: inf is not a number"),
    ("resources.memory", "4", "resources.memory: '4' is not a size like 512M or 4G"),
    ("resources.custom", {"tpu": 0}, "resources.custom.tpu: 0 is not a number above 0"),
    ("resources.compile", 1, "resources.compile: 1 is neither true nor false"),
    ("samples", 0, "samples: 0 is not an integer of 1 or more"),
    ("search_seed", -1, "search_seed: -1 is not an integer of 0 or more"),
    ("seeds", 0, "seeds: 0 replicas; allowed: 1"),
    ("seeds", 20260101, "seeds: 20260101 replicas; allowed: 1 to 10000, or a list of seeds: [20260101]"),
    ("seeds", True, "seeds: True is neither"),
    ("seeds", "3", "seeds: '3' is neither"),
    ("seeds", [], "seeds: [] is empty or names a seed twice"),
    ("seeds", [1, 1], "seeds: [1, 1] is empty or names a seed twice"),
    ("seeds", [1, 1.0], "seeds: [1, 1.0] is empty or names a seed twice"),
    ("seeds", [-1], "seeds: seed = -1 is too small; allowed: 0 or more"),
    ("seeds", ["a"], "seeds: seed = 'a' is not an integer"),
    ("base.seed", "a", "base.seed: seed = 'a' is not an integer"),
    ("base.seed", 2**31 - 1, "seeds: seed = 2147483648 is too large"),
    ("imports", "mine.py", "imports: 'mine.py' is not a list of strings"),
    ("imports", ["gone.py"], "imports: 'gone.py': FileNotFoundError"),
    ("imports", ["nul\0l.py"], "imports: 'nul\\x00l.py': ValueError"),
    ("base.lr", "fast", "base.lr: lr = 'fast' is not a number"),
    ("base.lr", 0, "base.lr: lr = 0 is too small; allowed: more than 0"),
    ("base.lr", math.nan, "base.lr: lr = nan is not a number"),
    ("base.epochs", 1.5, "base.epochs: epochs = 1.5 is not an integer"),
    ("base.hidden", [], "base.hidden: hidden = [] is not a list of integers"),
    ("base.hidden", 64, "base.hidden: hidden = 64 is not a list of integers"),
    ("base.patch_size", 5, "base.patch_size: patch_size = 5 does not divide the image side 32; allowed: 1"),
    ("space.patch_size", {"grid_search": [4, 5]}, "space.patch_size: patch_size = 5 does not divide"),
    ("space.patch_size", {"randint": [3, 9]}, "space.patch_size: patch_size = 3 does not divide"),
    ("space.patch_size", {"randint": [4, 64]}, "space.patch_size: patch_size = 63 does not divide"),
    ("space.seed", {"grid_search": [1, 2]}, "space.seed: write `seeds = N` instead"),
    ("space.lr", [0.1, 0.01], "space.lr: [0.1, 0.01] is not like { grid_search = [1, 2] }; allowed: grid_"),
    ("space.lr", {}, "space.lr: {} is not like"),
    ("space.lr", {"grid_search": [1], "choice": [1]}, "is not like"),
    ("space.lr", {"grid_search": []}, "space.lr: grid_search = [] is not a list of one value or more"),
    ("space.lr", {"grid_search": 0.1}, "space.lr: grid_search = 0.1 is not a list"),
    ("space.lr", {"grid_search": [0.1, "fast"]}, "space.lr: lr = 'fast' is not a number"),
    ("space.lr", {"gaussian": [0, 1]}, "unknown distribution 'gaussian'; allowed: grid_search, choice"),
    ("space.lr", {"uniformly": [0, 1]}, "unknown distribution 'uniformly'; did you mean 'uniform'?"),
    ("space.lr", {"uniform": [0.1]}, "space.lr: uniform = [0.1] is not [low, high]"),
    ("space.lr", {"uniform": [0.2, 0.1]}, "space.lr: uniform = [0.2, 0.1]: low is not below high"),
    ("space.lr", {"uniform": ["a", 1]}, "space.lr: uniform = ['a', 1] is not [low, high]"),
    ("space.lr", {"uniform": [0.1, math.inf]}, "space.lr: uniform = [0.1, inf]: not all are finite"),
    ("space.lr", {"loguniform": [0, 1]}, "space.lr: loguniform = [0, 1]: low must be above 0"),
    ("space.lr", {"quniform": [0.1, 1, 0]}, "q must be above 0 and divide low and high"),
    ("space.lr", {"quniform": [0.1, 1, 0.3]}, "q must be above 0 and divide low and high"),
    ("space.lr", {"qloguniform": [0.1, 1]}, "space.lr: qloguniform = [0.1, 1] is not [low, high, q]"),
    ("space.epochs", {"randint": [1.5, 3]}, "space.epochs: randint = [1.5, 3]: both must be integers"),
    ("space.lr", {"randn": [0.1, -1]}, "space.lr: randn = [0.1, -1]: sd must be above 0"),
    ("space.momentum", {"uniform": [0.5, 2]}, "space.momentum: momentum = 2 is too large"),
    ("claims", "lr", "claims: write [[claims]] tables"),
    ("claims", [1], "claims: write [[claims]] tables"),
    ("claims.0.text", 1, "claims[0].text: 1 is not a string"),
    ("claims.0.compare", "epochs", "claims[0].compare: 'epochs' is not known; allowed: lr"),
    ("claims.0.better", 0.3, "claims[0].better: 0.3 is not in space.lr: [0.1, 0.01]"),
    ("claims.0.than", [0.01, 0.3], "claims[0].than: 0.3 is not in space.lr: [0.1, 0.01]"),
    ("claims.0.better", "fast", "claims[0].better: lr = 'fast' is not a number"),
    ("claims.0.better", "rest", "claims[0].better: lr = 'rest' is not a number"),
    ("claims.0.best", 0.1, "claims[0].best: not with better: a claim makes one statement; write another"),
    ("claims.0.within", 0.1, "claims[0].within: not with better; it goes with alike"),
    ("claims.0.metric", "valid_acuracy", "claims[0].metric: 'valid_acuracy' is not known; did you mean"),
    ("claims.0.primary", "yes", "claims[0].primary: 'yes' is neither true nor false"),
    ("claims.0.error", "pooled by day", "claims[0].error: 'pooled by day' is not known; did you mean 'pooled'"),
    ("claims.0.mode", "most", "claims[0].mode: 'most' is not known"),
    ("error", "shared", "error: 'shared' is not known; allowed: own, pooled"),
    ("claims", [{"compare": "lr", "alike": [0.1, 0.01]}], "claims[0].within: missing: the margin"),
    ("claims", [{"compare": "lr", "alike": [0.1], "within": 1}], "claims[0].alike: [0.1] is one value"),
    ("claims", [{"compare": "lr", "alike": "all", "within": 0}], "claims[0].within: 0 is not above 0"),
    ("claims", [{"compare": "lr", "best": [0.1]}], "claims[0].best: [0.1] is a list; one value is the best"),
    ("claims", [{"compare": "lr", "best": 0.3}], "claims[0].best: 0.3 is not in space.lr: [0.1, 0.01]"),
    ("claims", [{"compare": "lr", "best": 0.1, "than": 0.01}], "claims[0].than: not with best; it goes with better"),
    ("claims", [{"compare": "lr", "monotone": "up"}], "claims[0].monotone: 'up' is not known"),
    ("claims", [{"compare": "lr", "worse": []}], "claims[0].worse: is empty"),
    ("claims", [{"compare": "lr", "faster": 0.1, "metric": "valid_loss"}],
     "claims[0].metric: 'valid_loss' is not a metric of seconds"),
    ('"a\nb', 1, "unknown key"),
    ("parts", [{}], "space: belongs inside each of [[parts]]"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "said"), WRONG, ids=[f"{path!r}={str(value)[:24]!r}" for path, value, _ in WRONG]
)
def test_a_wrong_value_is_one_line_with_the_file_the_field_and_the_value(
    path: str, value: Any, said: str, tmp_path: Path
) -> None:
    assert said in complaint(changed(path, value), tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("parts", [], "parts: write one [[parts]] table or more"),
        ("parts", 3, "parts: write one [[parts]] table or more"),
        ("parts.1.name", "one", "parts: two parts have the same name among ['one', 'one']"),
        ("parts.1.nam", "x", "parts[1].nam: unknown key; did you mean 'name'?"),
        ("parts.1.base", 3, "parts[1].base: 3 is not a table"),
        ("parts.1.base.epoch", 3, "parts[1].base.epoch: unknown field; did you mean 'epochs'?"),
        ("parts.1.base.seed", 3, "parts[1].base.seed: write it in [base], so that seeds are paired"),
        ("parts.1.space.patch_size.grid_search", [4, 5], "parts[1].space.patch_size: patch_size = 5"),
        ("parts.0.claims", [{"compare": "lr"}], "parts[0].claims[0].better: missing"),
        ("parts.0.claims", [{"better": 1}], "parts[0].claims[0].compare: '' is not known; allowed: lr"),
        ("parts.0.seeds", 3, "parts[0].seeds: unknown key"),
        ("base.lrr", 3, "base.lrr: unknown field; did you mean 'lr'?"),
    ],
)
def test_a_wrong_part_is_named_by_its_number(path: str, value: Any, said: str, tmp_path: Path) -> None:
    assert said in complaint(changed(path, value, PARTS), tmp_path)


def test_a_base_seed_beside_a_list_of_seeds_is_refused_since_it_would_do_nothing(tmp_path: Path) -> None:
    tables = changed("seeds", [1, 2]) | {"base": {**GOOD["base"], "seed": 7}}
    assert "base.seed: 7 is not used, since `seeds` lists the seeds" in complaint(tables, tmp_path)


def test_a_rule_over_several_questions_is_refused_since_their_trials_would_compete(tmp_path: Path) -> None:
    assert "stopping: not with [[parts]]" in complaint({**PARTS, "stopping": {"rule": "asha"}}, tmp_path)


def test_a_field_that_is_fixed_and_varied_at_once_is_refused(tmp_path: Path) -> None:
    tables = changed("space.patch_size", {"grid_search": [4, 8]})
    assert "space.patch_size: is in [base] too" in complaint(tables, tmp_path)


def test_a_draw_that_is_no_trial_is_named_with_its_point(tmp_path: Path) -> None:
    tables = changed("space", {"patch_size": {"randint": [2, 9]}}) | {"samples": 40, "claims": []}
    del tables["base"]["patch_size"]
    message = complaint(tables, tmp_path)
    assert "does not divide the image side 32" in message
    assert "(at patch_size = " in message


def test_fields_that_must_agree_are_checked_together_and_not_against_defaults(tmp_path: Path) -> None:
    spec = parse_spec(changed("base", {"batch_size": 96, "accumulate": 3}) | {"when": {}})
    assert make_plan(spec).trials[0].accumulate == 3
    message = complaint(changed("base", {"batch_size": 100, "accumulate": 3}) | {"when": {}}, tmp_path)
    assert "accumulate = 3 does not divide batch_size = 100" in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name = ", "not a TOML file: Invalid value (at end of document)"),
        (b"seeds = 1\nseeds = 2", "not a TOML file: Cannot overwrite a value (at "),
        (b"seeds = " + b"9" * 5000, "not a TOML file: an integer does not fit into 64 bits"),
        (b"x = " + b"[" * 20_000, "not a TOML file: "),
        (b"name = '\xff\xfe'", "not a TOML file: 'utf-8' codec can't decode byte 0xff"),
        ("name = 'x'".encode("utf-16"), "not a TOML file: "),
        (bytes(range(256)), "not a TOML file: "),
    ],
)
def test_a_file_that_is_no_toml_is_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert str(caught.value).startswith(f"{path}: {said}")
    assert len(str(caught.value).splitlines()) == 1


def test_an_empty_file_is_one_trial_of_the_recipe_and_a_byte_order_mark_is_passed_over(
    tmp_path: Path,
) -> None:
    (tmp_path / "empty.toml").write_text("")
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbfname = 'marked'\n")
    assert len(make_plan(load_spec(tmp_path / "empty.toml")).trials) == 1
    assert load_spec(tmp_path / "bom.toml").name == "marked"


def test_what_is_no_file_is_one_line(tmp_path: Path) -> None:
    for name, said in [
        (str(tmp_path), "a folder; name a sweep file in it"),
        (str(tmp_path / "gone.toml"), "no such sweep file or preset; allowed: activations"),
        ("learning-rate", "no such sweep file or preset; did you mean 'learning-rates'?"),
        ("x" * 5000, "no sweep file or preset"),
        ("nul\0l", "no such sweep file or preset"),
        ("", "a folder"),
    ]:
        with pytest.raises(SpecError) as caught:
            load_spec(name)
        assert said in str(caught.value), name
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that exists and cannot be read: /proc's")
def test_a_file_that_cannot_be_read_is_one_line() -> None:
    with pytest.raises(SpecError, match="/proc/self/mem: cannot be read: Input/output error"):
        load_spec("/proc/self/mem")


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("base.epochs=7", "epochs", 7),
        (" base.epochs = 7 ", "epochs", 7),
        ("base.lr=1e-3", "lr", 0.001),
        ("base.model=mlp", "model", "mlp"),
        ('base.model="mlp"', "model", "mlp"),
        ("base.hidden=[8, 8]", "hidden", (8, 8)),
    ],
)
def test_a_setting_goes_over_the_file(setting: str, field: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(tomli_w.dumps({"base": {"model": "mlp", "lr": 0.5}}))
    assert getattr(make_plan(load_spec(path, [setting])).trials[0], field) == value


def test_settings_reach_lists_parts_and_tables_that_the_file_lacks(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(tomli_w.dumps(PARTS))
    spec = load_spec(
        path,
        ["seeds=[3, 4]", "parts.1.base.epochs=2", "keep.checkpoints='all'", "name=zwei",
         "parts.0.space.lr={grid_search=[0.5]}", "base.epochs=9", "base.epochs=8"],
    )  # fmt: skip
    assert (spec.name, spec.seeds, spec.keep_checkpoints) == ("zwei", (3, 4), "all")
    assert spec.keep_predictions
    assert not load_spec(path, ["keep.predictions=false"]).keep_predictions
    assert [part.base["epochs"] for part in spec.parts] == [8, 2]
    assert spec.parts[0].space == {"lr": {"grid_search": [0.5]}}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("base.epochs", "--set base.epochs: not KEY=VALUE"),
        ("=3", "--set =3: not KEY=VALUE"),
        ("", "not KEY=VALUE"),
        ("base.epochs=", "base.epochs: epochs = '' is not an integer"),
        ("base.epochs=two", "base.epochs: epochs = 'two' is not an integer"),
        ("base.epoch=2", "base.epoch: unknown field; did you mean 'epochs'?"),
        ("epochs=2", "epochs: unknown key"),
        ("base=2", "base: 2 is not a table"),
        ("base.lr.x=2", "--set base.lr.x=2: 'lr' is not a table"),
        ("base..lr=2", "base.: unknown field"),
        (".=2", "unknown key"),
        ("parts.5.name=x", "--set parts.5.name=x: '5' is not a table"),
        ("parts.one.name=x", "--set parts.one.name=x: 'one' is not a table"),
        ("parts.².name=x", "'²' is not a table"),
        ("parts.0=x", "--set parts.0=x: '0' is not a key of a table"),
        ("base.hidden=[8", "base.hidden: hidden = '[8' is not a list"),
        ("base.lr=2024-01-01", "base.lr: lr = datetime.date(2024, 1, 1) is not a number"),
        ("base.lr=" + "9" * 5000, "does not fit into 64 bits"),
        ("base.lr=" + "[" * 20_000, "nested too deeply"),
        ("seeds=0", "seeds: 0 replicas"),
    ],
)
def test_a_wrong_setting_is_one_line(setting: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(tomli_w.dumps(changed("base.lr", 0.1, PARTS)))
    with pytest.raises(SpecError) as caught:
        load_spec(path, [setting])
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def as_stored(tables: Mapping[str, Any], path: Path, settings: tuple[str, ...] = ()) -> None:
    """The file that a sweep is run from and the one that the store keeps are the same sweep."""
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
    spec = load_spec(path, settings)
    again = parse_spec(tomllib.loads(spec.to_toml()))
    assert replace(again, path=spec.path) == spec
    assert make_plan(again).rows == make_plan(spec).rows


def test_the_resolved_file_parses_back_to_an_equal_spec(tmp_path: Path) -> None:
    as_stored(GOOD, tmp_path / "a.toml")
    as_stored({}, tmp_path / "named by its file.toml")
    as_stored(PARTS, tmp_path / "b.toml", ("parts.0.base.epochs=3", "seeds=[5, 1]", "base.hidden=[8]"))
    as_stored(changed("question", "ünïcode \x7f\t\"'\\ 問"), tmp_path / "c.toml")
    for name in preset_names():
        spec = load_spec(name)
        assert replace(parse_spec(tomllib.loads(spec.to_toml())), path=spec.path) == spec


def test_a_users_model_is_found_from_its_sweep_files_folder_however_that_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "mein ordner 'ü' $(x) 問"
    folder.mkdir()
    name = "own model ü"
    (folder / "my models.py").write_text(OWN_MODEL.format(name=name), encoding="utf-8")
    tables = {"imports": ["my models.py"], "base": {"model": name}}
    as_stored(tables, folder / "own.toml")
    spec = load_spec(folder / "own.toml")
    assert spec.imports == (str(folder / "my models.py"),)
    assert make_plan(spec).trials[0].model == name


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("raise ValueError('first\\nsecond')", "ValueError: first"),
        ("def broken(:", "SyntaxError: "),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("from mixsweep import register_model\nregister_model('mlp', None)", "'mlp' is a built-in name"),
    ],
)
def test_a_users_file_that_fails_is_one_line(code: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(code)
    message = complaint({"imports": ["mine.py"]}, tmp_path)
    assert message.startswith("imports: 'mine.py': ")
    assert said in message


KEYS = st.one_of(
    st.sampled_from([*GOOD, "parts", "samples", "search_seed", "imports", "reaches", "cost"]),
    st.sampled_from(
        [*find_trainable().field_names, *DISTRIBUTIONS, "rule", "grace_epochs", "cpus", "compare", "better"]
    ),
    st.text(max_size=4),
)
LEAVES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-3, 70),
    st.floats(),
    st.text(max_size=5),
    st.dates(),
    st.sampled_from(["mixer", "mlp", "rest", "asha", "lr", "adam", *find_trainable().objectives]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
UNHURRIED = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=150)


def only_spec_errors(tables: Mapping[str, Any]) -> None:
    said = ""
    try:
        spec = parse_spec(tables)
        if spec.parts[0].samples == 1 and len(spec.parts) == len(spec.seeds) == 1:
            make_plan(spec)
    except SpecError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1


@UNHURRIED
@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_no_tables_whatever_raise_anything_but_a_spec_error(tables: dict[str, Any]) -> None:
    only_spec_errors(tables)


PLACES = [
    *(f"{key}" for key in GOOD),
    *(f"base.{name}" for name in find_trainable().field_names),
    *(f"space.{name}" for name in find_trainable().field_names),
    *(f"space.lr.{name}" for name in DISTRIBUTIONS),
    "when.patch_size.model", "when.hidden.hidden", "stopping.rule", "stopping.grace_epochs", "claims.0",
    "claims.0.compare", "claims.0.better", "claims.0.than", "keep.checkpoints", "resources.gpus",
    "combine", "combine.zip", "combine.exclude", "derive", "derive.weight_decay", "derive.batch_size",
]  # fmt: skip


@UNHURRIED
@given(st.sampled_from(PLACES), VALUES)
@example("space", {"lr": {"quniform": [0.1, 1.0, 0.3]}})
@example("space", {"dropout": {"randn": [0.0, 1.0]}})
@example("space", {"activation": {"randn": [0.0, 1.0]}})
@example("base.seed", 3.0)
def test_one_odd_value_in_a_good_file_raises_nothing_but_a_spec_error(path: str, value: Any) -> None:
    tables = changed(path, value)
    if path.startswith("space.lr."):
        tables["space"] = {"lr": {path.rpartition(".")[2]: value}}
        tables["claims"] = []
    only_spec_errors(tables)


@pytest.mark.parametrize("init", ["recipe-0.2", "course"])
def test_initial_weights_of_one_model_may_stand_in_its_base(init: str) -> None:
    plan = make_plan(parse_spec(changed("base.init", init)))
    assert {config["init"] for config in plan.trials} == {init}


def test_of_a_field_of_lists_a_list_is_one_value_of_a_claim() -> None:
    tables = changed("space", {"hidden": {"grid_search": [[128, 64], [32]]}})
    for claimed in ({"best": [128, 64]}, {"better": [128, 64], "than": [32]}, {"better": [[128, 64]]}):
        spec = parse_spec(tables | {"claims": [{"compare": "hidden", **claimed}]})
        assert getattr(spec.parts[0].claims[0], next(iter(claimed))) == ([128, 64],)
    with pytest.raises(SpecError, match=r"is a list; one value is the best"):
        parse_spec(tables | {"claims": [{"compare": "hidden", "best": [[128, 64]]}]})
