"""Trainables that nobody here wrote: a class and a function of `ray.tune.examples`, unchanged, swept with a claim."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import tomli_w

from mixsweep.core.records import concat
from mixsweep.core.store.store import SweepStore
from tests.support.commands import finish, infos
from tests.support.slurm_cluster import SlurmCluster

SWEEP = """
name = "shipped"
question = "Which rate climbs?"
trainable = "ray.tune.examples.{trainable}"
metric = "mean_accuracy"
mode = "max"
seeds = 6

[fields]
lr = 1e-3
steps = {{ default = 60, budget = true }}
seed = 0

[space]
lr = {{ grid_search = [1e-3, 1e-2] }}

[[claims]]
text = "a rate of 0.001 climbs, one of 0.01 does not"
compare = "lr"
better = 1e-3
"""

TRAINABLES = ["pbt_example:PBTBenchmarkExample", "pbt_function:pbt_function"]


@pytest.fixture(params=TRAINABLES)
def sweep(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Runs a command of the sweep's folder, with a home folder of its own; returns what it prints."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "shipped.toml").write_text(SWEEP.format(trainable=request.param))

    def run(*words: str) -> str:
        done = finish([sys.executable, "-m", "mixsweep", *words], folder=tmp_path)
        assert done.returncode == 0, done.stdout
        assert not (tmp_path / "home" / "ray_results").exists()
        return str(done.stdout)

    return run


def table(store: SweepStore) -> pa.Table:
    assert [info.state for info in infos(store)] == ["completed"] * 12
    tables = [folder.records() for folder in store.trials()]
    found = concat(tables, tables[0].schema).sort_by([("trial_id", "ascending"), ("epoch", "ascending")])
    return found.drop_columns(["seconds", "recorded_at"])


@pytest.fixture
def expected(sweep: Callable[..., str], tmp_path: Path) -> pa.Table:
    """The table of the sweep in `debug`."""
    sweep("run", "shipped.toml", "--place", "debug", "--store", "expected")
    return table(SweepStore(tmp_path / "expected" / "shipped"))


def test_in_debug_its_claim_is_tested(sweep: Callable[..., str], expected: pa.Table, tmp_path: Path) -> None:
    assert expected.num_rows == 12 * 60
    assert {"mean_accuracy", "cur_lr", "optimal_lr", "q_err"} <= set(expected.column_names)
    assert not {"done", "pid", "date"} & set(expected.column_names)
    shutil.copytree(tmp_path / "expected", tmp_path / "runs")
    sweep("report", "shipped")
    page = (tmp_path / "runs" / "shipped" / "report" / "index.html").read_text()
    assert re.search(r"a rate of 0\.001 climbs[^\n]*class=\"verdict supported\"", page)


@pytest.mark.ray
def test_on_a_ray_of_this_machine(sweep: Callable[..., str], expected: pa.Table, tmp_path: Path) -> None:
    sweep("run", "shipped.toml", "--place", "local")
    assert table(SweepStore(tmp_path / "runs" / "shipped")).equals(expected)


@pytest.mark.slurm
def test_as_tasks_of_an_array(
    sweep: Callable[..., str], expected: pa.Table, tmp_path: Path, slurm: SlurmCluster
) -> None:
    places = {"campus": {"kind": "slurm", "time": 10, "mem": "4G"}}
    (tmp_path / "places.toml").write_text(tomli_w.dumps(places))
    sweep("run", "shipped.toml", "--place", "campus")
    assert table(SweepStore(tmp_path / "runs" / "shipped")).equals(expected)
