"""sweep.planning.json_schema: what an editor is told agrees with what the program reads and refuses."""

import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mixsweep.cluster.places import PlaceError, find_place
from mixsweep.sweep.planning.json_schema import places_schema, sweep_file_schema
from mixsweep.sweep.planning.parse import PRESETS, parse_spec, preset_names
from mixsweep.sweep.planning.schema import SpecError
from tests.support.commands import ROOT
from tests.sweep.planning import test_parse
from tests.sweep.planning.test_parse import KEYS, PARTS, UNHURRIED, VALUES, changed

SCRIPT = ROOT / "examples" / "script" / "script.toml"
OWN_CNN = ROOT / "examples" / "own-cnn" / "own-cnn.toml"
CHAR_GPT = ROOT / "examples" / "char-gpt" / "char-gpt.toml"
SWEEPS = Draft202012Validator(sweep_file_schema())
PLACES = Draft202012Validator(places_schema())
WRONG_PLACES = [
    "[x]\nkind = 'locl'\n",
    "[x]\ncpus = 1\n",
    "[x]\nkind = []\n",
    "[x]\nkind = 'local'\ncpu = 1\n",
    "[local]\ncpus = -1\n",
    "[local]\ncpus = true\n",
    "[local]\ngpus = 0.5\n",
    "[local]\ndata = 3\n",
    "local = 3\n",
    "[it]\nkind = 'ray'\nmemory = '4 GB'\n",
    "[it]\nkind = 'ray'\nresources = { a100 = 0 }\n",
    "[it]\nkind = 'ray'\nshared = 'no'\n",
    "[it]\nkind = 'ray'\nstor = '/runs'\n",
    "[it]\nkind = 'slurm'\ntime = 0\n",
    "[it]\nkind = 'slurm'\nlaunch = 'arry'\n",
    "[it]\nkind = 'slurm'\nsetup = 'module load cuda'\n",
    "[it]\nkind = 'slurm'\nenvironment = { A = 1 }\n",
    "[it]\nkind = 'slurm'\naddress = 'auto'\n",
]

EXAMPLES = [
    (page.name, number, block)
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for number, block in enumerate(
        re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    )
]

# What a schema cannot know, and `sweep plan` says: registered names and files, what several keys make together,
# what divides what, and numbers that are not finite.
BEYOND_A_SCHEMA = [
    ("imports", ["gone.py"]),
    ("imports", ["nul\0l.py"]),
    ("name", "a\nb"),
    ("base.seed", 2**31 - 1),
    ("claims.0.compare", "epochs"),
    ("claims.0.better", 0.3),
    ("claims.0.better", "fast"),
    ("claims.0.better", "rest"),
    ("claims.0.than", [0.01, 0.3]),
    ("claims", [{"compare": "lr", "best": 0.3}]),
    ("claims", [{"compare": "lr", "best": [0.1]}]),
    ("claims", [{"compare": "lr", "faster": 0.1, "metric": "valid_loss"}]),
    ("base.patch_size", 5),
    ("space.patch_size", {"grid_search": [4, 5]}),
    ("space.patch_size", {"randint": [3, 9]}),
    ("space.patch_size", {"randint": [4, 64]}),
    ("space.lr", {"uniform": [0.2, 0.1]}),
    ("space.lr", {"quniform": [0.1, 1, 0.3]}),
    ("space.lr", {"uniform": [0.1, math.inf]}),
    ("stopping.reduction_factor", math.inf),
    ("stopping.reduction_factor", math.nan),
    ("resources.gpus", math.inf),
    ("base.lr", math.nan),
]


def problems(validator: Draft202012Validator, tables: Mapping[str, Any]) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(tables)]


def test_both_are_schemas_that_say_what_every_key_means() -> None:
    for validator in (SWEEPS, PLACES):
        Draft202012Validator.check_schema(validator.schema)
        assert validator.schema["$schema"].endswith("2020-12/schema")
    others = SWEEPS.schema["else"]
    top = others["else"]["properties"]
    branches = (others["else"], others["then"], SWEEPS.schema["then"])
    assert all(key["description"] for branch in branches for key in branch["properties"].values())
    fields = SWEEPS.schema["$defs"]["fields"]
    assert fields["lr"] == {
        "description": "peak learning rate",
        "type": "number",
        "exclusiveMinimum": 0,
        "default": 0.001,
    }
    assert fields["model"]["enum"] == fields["model"]["examples"] == ["mlp", "resnet18", "mixer"]
    assert "parent" not in fields
    assert "asynchronous" not in str(top["stopping"])  # one line a key, not the class's prose


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_fits(name: str) -> None:
    assert problems(SWEEPS, tomllib.loads((PRESETS / f"{name}.toml").read_text(encoding="utf-8"))) == []


def test_a_sweep_of_a_trainable_of_ones_own_has_any_fields_and_metrics_but_the_same_keys() -> None:
    example = tomllib.loads(CHAR_GPT.read_text(encoding="utf-8"))
    assert problems(SWEEPS, example) == []
    script = tomllib.loads(SCRIPT.read_text(encoding="utf-8"))
    assert problems(SWEEPS, script) == []
    assert problems(SWEEPS, script | {"command": {"runs": "x"}})
    assert problems(SWEEPS, script | {"command": {"run": "x", "metrics": "lines"}})
    assert problems(SWEEPS, example | {"sedes": 3})
    assert problems(SWEEPS, example | {"trainable": "char_gpt"})
    assert problems(SWEEPS, {name: value for name, value in example.items() if name != "trainable"})


def test_a_sweep_with_imports_may_name_registered_parts_and_their_fields() -> None:
    example = tomllib.loads(OWN_CNN.read_text(encoding="utf-8"))
    assert problems(SWEEPS, example) == []
    assert problems(SWEEPS, example | {"sedes": 3})
    assert problems(SWEEPS, example | {"metric": "accuracy"})
    assert problems(SWEEPS, {name: value for name, value in example.items() if name != "imports"})


def test_the_files_of_the_other_tests_fit() -> None:
    assert problems(SWEEPS, test_parse.GOOD) == []
    assert problems(SWEEPS, PARTS) == []
    assert problems(SWEEPS, {}) == []


@pytest.mark.parametrize(("page", "number", "text"), EXAMPLES, ids=[f"{p}-{n}" for p, n, _ in EXAMPLES])
def test_every_example_of_the_documentation_fits(page: str, number: int, text: str) -> None:
    tables = tomllib.loads(text)
    is_places = any(isinstance(table, dict) and "kind" in table for table in tables.values())
    assert problems(PLACES if is_places else SWEEPS, tables) == []


def test_the_documentation_has_examples_of_both() -> None:
    assert len(EXAMPLES) >= 6
    assert {"README.md", "sweep-files.md", "search.md", "ray.md", "slurm.md"} <= {
        page for page, _, _ in EXAMPLES
    }


def test_what_parsing_refuses_the_schema_refuses_but_for_what_it_cannot_know() -> None:
    wrong = [row[:2] for row in (*test_parse.MISSPELT, *test_parse.WRONG)]
    passed = [(path, value) for path, value in wrong if not problems(SWEEPS, changed(path, value))]
    assert sorted(map(repr, passed)) == sorted(map(repr, BEYOND_A_SCHEMA))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("parts", []),
        ("parts", 3),
        ("parts.1.nam", "x"),
        ("parts.1.base", 3),
        ("parts.1.base.epoch", 3),
        ("parts.1.base.seed", 3),
        ("parts.0.claims", [{"compare": "lr"}]),
        ("parts.0.claims", [{"better": 1}]),
        ("parts.0.seeds", 3),
        ("space", {"lr": {"grid_search": [0.1]}}),
        ("stopping", {"rule": "asha"}),
        ("search", {}),
        ("base.parent", "0123456789ab@3"),
    ],
)
def test_what_no_part_may_have_is_refused(path: str, value: Any) -> None:
    assert problems(SWEEPS, changed(path, value, PARTS))


@pytest.mark.parametrize(
    ("search", "fits"),
    [
        ({}, True),
        ({"trials": 4, "startup_trials": 0}, True),
        ({"algorithm": "pbt", "mutate": ["lr"]}, True),
        ({"algorithm": "pbt"}, False),
        ({"algorithm": "pbt", "mutate": []}, False),
        ({"algorithm": "pbt", "mutate": ["epochs"]}, False),
        ({"algorithm": "pbt", "mutate": ["lr"], "trials": 4}, False),
        ({"algorithm": "pbt", "mutate": ["lr"], "quantile": 0.6}, False),
        ({"algorithm": "tpe", "population": 4}, False),
        ({"population": 4}, False),
        ({"algorithm": "bohb"}, False),
        ({"trials": 0}, False),
    ],
)
def test_each_search_has_its_own_keys(search: dict[str, Any], fits: bool) -> None:
    tables = {"search": search, "space": {"lr": {"uniform": [0.1, 0.2]}}}
    assert (problems(SWEEPS, tables) == []) is fits
    if fits:
        parse_spec({"name": "x", **tables})
    else:
        with pytest.raises(SpecError):
            parse_spec({"name": "x", **tables})


@pytest.mark.parametrize("text", WRONG_PLACES)
def test_a_wrong_place_is_refused_by_both(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(PLACES, tomllib.loads(text))
    (tmp_path / "places.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlaceError):
        find_place(next(iter(tomllib.loads(text))))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[local]\ncpus = 8\n[big]\nkind = 'local'\ngpus = 4\ndata = '~/images'\n",
        "[local]\nkind = 'slurm'\ntime = 5\n",
        "[far]\nkind = 'ray'\naddress = 'http://head:8265'\nstore = '/runs'\nresources = { a100 = 1 }\n",
        "[campus]\nkind = 'slurm'\nlaunch = 'ray'\ndirectives = { mail-type = 'FAIL', hold = true, nice = 3 }\n",
    ],
)
def test_places_that_can_be_used_fit(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "places.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    for name in tomllib.loads(text):
        find_place(name)
    assert problems(PLACES, tomllib.loads(text)) == []


@UNHURRIED
@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_no_file_that_parses_is_marked_in_the_editor(tables: dict[str, Any]) -> None:
    accepted_by_both(tables)


@UNHURRIED
@given(st.sampled_from(test_parse.PLACES), VALUES)
def test_no_odd_value_that_parses_is_marked_in_the_editor(path: str, value: Any) -> None:
    accepted_by_both(changed(path, value))


def accepted_by_both(tables: Mapping[str, Any]) -> None:
    try:
        parse_spec({"name": "x", **tables})
    except SpecError:
        return
    assert problems(SWEEPS, tables) == []
