"""sweep init, schema, --version: what a person meets first, in an empty folder."""

import json
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

import mixsweep
from mixsweep.core.errors import UserError
from mixsweep.sweep.cli.starter import write_starter
from mixsweep.sweep.planning.json_schema import places_schema, sweep_file_schema
from mixsweep.sweep.planning.parse import load_spec, preset_names
from mixsweep.sweep.planning.plan import make_plan
from mixsweep.sweep.planning.schema import PART_KEYS, TABLES
from tests.sweep.cli.test_app import refused, sweep


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_file_that_init_writes_plans_and_says_what_comes_next(empty: Path) -> None:
    done = sweep("init", cwd=empty)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Wrote my-sweep.toml. Next: sweep plan my-sweep.toml\n"
    planned = sweep("plan", "my-sweep.toml", "--json", cwd=empty)
    assert len(json.loads(planned.stdout)["trials"]) == 9
    refused(sweep("plan", "my-sweep", cwd=empty), "did you mean 'my-sweep.toml'?")


def test_the_file_that_init_writes_explains_every_table_and_runs_on_digits(empty: Path) -> None:
    (path,) = write_starter("erste", None)
    assert path == Path("erste.toml")
    text = path.read_text(encoding="utf-8")
    for table in {*PART_KEYS, *TABLES} - {"name", "question", "samples", "claims"}:
        assert f"[{table}]" in text
    assert "[[claims]]" in text
    assert "[[parts]]" in text
    spec = load_spec(path)
    assert spec.name == "erste"
    assert {config.dataset for config in make_plan(spec).trials} == {"digits"}
    assert list(Draft202012Validator(sweep_file_schema()).iter_errors(tomllib.loads(text))) == []


def test_init_writes_a_trainable_that_runs_as_it_is(empty: Path) -> None:
    done = sweep("init", "my curve-2", "--trainable", cwd=empty)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Wrote my curve-2.toml and my_curve_2.py. Next: sweep plan 'my curve-2.toml'\n"
    ran = sweep("run", "my curve-2.toml", "--place", "debug", "--set", "base.rounds=4", cwd=empty)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "9 trials: 9 completed" in ran.stdout
    refused(sweep("init", "my curve-2", "--trainable", cwd=empty), "my curve-2.toml: exists already")
    refused(
        sweep("init", "other", "--trainable", "--from", "demo", cwd=empty), "--trainable: not with --from"
    )


def test_what_the_comments_of_that_file_offer_can_be_written_so(empty: Path) -> None:
    text = write_starter(None, None)[0].read_text(encoding="utf-8")
    keys = "activation|gpus|patch_size|rule|grace_epochs|reduction_factor"
    more, count = re.subn(rf"^# (\[(when|stopping)\]$|({keys}) = )", r"\1", text, flags=re.MULTILINE)
    assert count == 8
    Path("more.toml").write_text(more, encoding="utf-8")
    spec = load_spec("more.toml")
    assert spec.stopping is not None
    assert spec.resources.gpus == 0.5
    assert len(make_plan(spec).trials) == 2 * 9
    assert spec.parts[0].when == {"patch_size": {"model": "mixer"}}


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_is_copied_with_its_comments_under_a_new_name(preset: str, empty: Path) -> None:
    (path,) = write_starter("copied", preset)
    original = load_spec(preset)
    assert original.path is not None
    ours, theirs = path.read_text().splitlines(), original.path.read_text().splitlines()
    assert [pair for pair in zip(ours, theirs) if pair[0] != pair[1]] == [
        ('name = "copied"', f'name = "{preset}"')
    ]
    spec = load_spec(path)
    assert spec.name == "copied"
    assert [c.trial_id for c in make_plan(spec).trials] == [c.trial_id for c in make_plan(original).trials]
    assert write_starter(None, preset) == [Path(f"{preset}.toml")]


def test_init_never_overwrites_and_a_wrong_name_is_one_line(empty: Path) -> None:
    Path("mine.toml").write_text("name = 'precious'")
    refused(sweep("init", "mine", cwd=empty), "mine.toml: exists already; give another name: sweep init NAME")
    assert Path("mine.toml").read_text() == "name = 'precious'"
    for name in ("a/b", "..", ".hidden", 'quo"te', "a\nb", "x" * 300):
        with pytest.raises(UserError, match="not a sweep's name"):
            write_starter(name, None)
    with pytest.raises(UserError, match="--from activation: no such preset; did you mean 'activations'"):
        write_starter(None, "activation")
    assert [path.name for path in empty.iterdir()] == ["mine.toml"]


def test_schema_prints_what_editors_read(empty: Path) -> None:
    assert json.loads(sweep("schema", cwd=empty).stdout) == sweep_file_schema()
    assert json.loads(sweep("schema", "--places", cwd=empty).stdout) == places_schema()


def test_version_says_ours_and_those_that_matter_and_imports_none_of_them(empty: Path) -> None:
    done = sweep("--version", cwd=empty)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first == f"mixsweep {mixsweep.__version__}"
    assert f"torch {version('torch')}, " in second
    assert f"ray {version('ray')}, " in second
