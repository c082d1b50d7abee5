"""sweep.backends.ray.job: what a job server gets of a command."""

import shutil
from pathlib import Path

import pytest
import tomli_w

from mixsweep.cluster.places import find_place
from mixsweep.cluster.ray_cluster.connection import ClusterError
from mixsweep.cluster.ray_cluster.packaging import PackagingError
from mixsweep.sweep.backends.base import RunOptions
from mixsweep.sweep.backends.ray.job import RayJobBackend, _arguments_of, _ship_command
from mixsweep.sweep.cli.arguments import duration_of
from mixsweep.sweep.planning.parse import load_spec
from mixsweep.sweep.planning.plan import make_plan
from tests.support.commands import ROOT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = Path(shutil.copytree(ROOT / "examples" / "script", tmp_path / "script"))
    place = {"kind": "ray", "address": "http://127.0.0.1:1", "store": "/runs"}
    (found / "places.toml").write_text(tomli_w.dumps({"jobs": place}))
    monkeypatch.chdir(found)
    return found


def write(folder: Path, inputs: str) -> Path:
    file = folder / "script.toml"
    file.write_text(file.read_text().replace("code = [", f'inputs = ["{inputs}"]\ncode = ['))
    return file


def test_inputs_that_its_nodes_do_not_see_are_refused(folder: Path) -> None:
    (folder / "data").mkdir()
    plan = make_plan(load_spec(write(folder, "data")))
    with pytest.raises(ClusterError, match=r"command\.inputs: 'data': place jobs is a job server") as caught:
        RayJobBackend(find_place("jobs")).check(plan, RunOptions())
    assert "\n" not in str(caught.value)
    shutil.copy(ROOT / "examples" / "script" / "script.toml", folder)
    plan = make_plan(load_spec(write(folder, str(folder / "data"))))
    RayJobBackend(find_place("jobs")).check(plan, RunOptions())


@pytest.mark.parametrize("given", ["0.2s", "1.5s", "90s", "4h", "0.00001s", "0.1d"])
def test_a_job_server_reads_the_budget_that_was_given(given: str) -> None:
    seconds = duration_of(given, "--budget")
    option, text = _arguments_of(RunOptions(budget=seconds))
    assert option == "--budget"
    assert duration_of(text, option) == seconds


def test_the_same_command_is_planned_from_what_is_shipped(folder: Path, tmp_path: Path) -> None:
    (folder / "train.py").chmod(0o755)
    plan = make_plan(load_spec(folder / "script.toml"))
    spec = plan.spec
    assert spec.command is not None
    work = tmp_path / "work"
    source = {**spec.source, **_ship_command(spec.command, spec.source, work)}
    (work / "sweep.toml").write_text(tomli_w.dumps(source))
    again = make_plan(load_spec(work / "sweep.toml"))
    assert [c.trial_id for c in again.trials] == [c.trial_id for c in plan.trials]
    assert spec.user_code is not None
    assert again.spec.user_code is not None
    assert again.spec.user_code.digest == spec.user_code.digest


def test_code_that_looks_like_a_secret_is_not_shipped(folder: Path, tmp_path: Path) -> None:
    (folder / "points.py").write_text("api_token = '0123456789abcdef'\n")
    spec = load_spec(folder / "script.toml")
    assert spec.command is not None
    with pytest.raises(PackagingError, match=r"points\.py looks like a secret and is not tracked by git"):
        _ship_command(spec.command, spec.source, tmp_path / "work")
