"""A script with the habits of published ones, as it is, in `debug` and a SLURM array: killed, and edited meanwhile."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import tomli_w

from mixsweep.core.records import concat
from mixsweep.core.store.store import SweepStore
from tests.support.commands import finish, infos, kill_family, start, wait_until
from tests.support.slurm_cluster import SlurmCluster

SCRIPT = Path(__file__).parents[1] / "support" / "published"
SWEEP = """
name = "published"
metric = "loss/valid"
mode = "min"
seeds = 2

[command]
run = "python train.py --learning_rate={rate} --seed={seed} --out_dir={trial_dir} --pause=0.05"
resume = "--init_from={checkpoint}"
code = ["train.py", "config/*.py"]
inputs = ["data", "meta.json"]

[fields]
rate = { default = 0.1, above = 0 }
seed = 0

[space]
rate = { grid_search = [0.01, 0.3] }

[[claims]]
text = "0.3 learns faster"
compare = "rate"
better = 0.3
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    folder = Path(shutil.copytree(SCRIPT, tmp_path / "their project"))
    (folder / "published.toml").write_text(SWEEP)
    return folder


def command(place: str, store: str = "runs") -> list[str]:
    return [sys.executable, "-m", "mixsweep", "run", "published.toml", "--place", place, "--store", store]


def table(store: SweepStore) -> pa.Table:
    assert [info.state for info in infos(store)] == ["completed"] * 4
    tables = [folder.records(["trial_id", "epoch", "step", "loss/valid", "lr"]) for folder in store.trials()]
    return concat(tables, tables[0].schema).sort_by([("trial_id", "ascending"), ("epoch", "ascending")])


@pytest.fixture
def expected(project: Path) -> pa.Table:
    """The table of an undisturbed run in `debug`."""
    done = finish(command("debug", "expected"), folder=project)
    assert done.returncode == 0, done.stdout
    return table(SweepStore(project / "expected" / "published"))


def processes() -> list[str]:
    """Command lines of the script's processes, its loaders among them."""
    listed = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if "train.py" in line and "--pause=0.05" in line]


@pytest.mark.faults
def test_it_is_a_trial_as_it_is_killed_or_not(project: Path, expected: pa.Table) -> None:
    assert expected.num_rows == 4 * 12
    assert expected["step"].to_pylist()[:12] == list(range(5, 61, 5))
    store = SweepStore(project / "runs" / "published")
    process = start(command("debug"), project)
    try:
        wait_until(
            lambda: (
                len(processes()) >= 3
                and any(
                    info.state == "running" and store.trial(info.trial_id).has_checkpoint()
                    for info in infos(store)
                )
            )
        )
    finally:
        kill_family(process)
    wait_until(lambda: not processes(), 15)
    assert finish(command("debug"), folder=project).returncode == 0
    assert table(store).equals(expected)
    log = next(iter(store.trials())).logs()[-1].read_text()
    assert "training a line on 60 pairs" in log
    assert "60/60" in log
    assert not processes()
    for words, said in (
        (["status"], "4 completed"),
        (["report"], "Report: "),
        (["show", infos(store)[0].trial_id], "loss/valid"),
    ):
        done = finish(
            [sys.executable, "-m", "mixsweep", words[0], *(words[1:] or ["published"])], folder=project
        )
        assert done.returncode == 0, done.stdout
        assert said in done.stdout


@pytest.mark.slurm
def test_it_is_a_task_of_an_array(project: Path, expected: pa.Table, slurm: SlurmCluster) -> None:
    (project / "places.toml").write_text(
        tomli_w.dumps({"campus": {"kind": "slurm", "time": 10, "mem": "2G"}})
    )
    store = SweepStore(project / "runs" / "published")
    process = start(command("campus"), project)
    try:
        wait_until(lambda: bool(infos(store)) and infos(store)[0].state == "running")
        (project / "train.py").write_text("raise SystemExit('edited while tasks wait')\n")
        output, _ = process.communicate(timeout=250)
    finally:
        if process.poll() is None:
            kill_family(process)
    assert process.returncode == 0, output
    assert table(store).equals(expected)
