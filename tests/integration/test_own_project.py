"""A researcher's project with packages named as our folders are: its model trains alike in every kind of place.

The project has its own `core/`, `analysis/`, `cluster/`, `sweep.py` and `utils.py`; its registered model imports two of
them. Commands are typed in its folder.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import tomli_w

from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.backends.slurm.submissions import submissions
from tests.support.commands import infos, trajectories, wait_until
from tests.support.ray_cluster import plain_cluster
from tests.support.slurm_cluster import SlurmCluster

MODEL = """
from torch import nn
from mixsweep import register_model
from core.blocks import hidden_layer   # the project's own core/
import utils                           # and its own utils.py
import analysis, cluster, sweep        # and the others

def build(config, classes):
    width = analysis.WIDTH + cluster.WIDTH + sweep.WIDTH
    return nn.Sequential(nn.Flatten(), hidden_layer(3072, width), utils.activation(), nn.Linear(width, classes))

register_model("ours", build)
"""

FILES = {
    "pyproject.toml": "[project]\nname = 'thesis'\nversion = '0'\n",
    "models/ours.py": MODEL,
    "core/__init__.py": "",
    "core/blocks.py": "from torch import nn\ndef hidden_layer(a, b):\n    return nn.Linear(a, b)\n",
    "analysis/__init__.py": "WIDTH = 8\n",
    "cluster/__init__.py": "WIDTH = 4\n",
    "sweep.py": "WIDTH = 4\n",
    "utils.py": "from torch import nn\ndef activation():\n    return nn.ReLU()\n",
}

SWEEP = {
    "name": "thesis",
    "imports": ["../models/ours.py"],
    "base": {
        "model": "ours", "dataset": "digits", "batch_size": 64, "train_limit": 256, "valid_limit": 100, "epochs": 3,
    },
    "space": {"lr": {"grid_search": [1e-2, 1e-3]}},
}  # fmt: skip

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "thesis with a space"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    (root / "sweeps").mkdir()
    (root / "sweeps" / "thesis.toml").write_text(tomli_w.dumps(SWEEP))
    return root


@pytest.fixture
def run(project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`sweep run` in the project's folder, as one who has only installed mixsweep types it."""
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def run(place: str, *words: str, program: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
        program = program or (str(Path(sys.executable).with_name("sweep")),)
        command = [*program, "run", "sweeps/thesis.toml", "--place", place, *words]
        return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=240)

    return run


def records_of(done: "subprocess.CompletedProcess[str]", store: Path) -> pa.Table:
    """What was trained, of a command that went well."""
    assert done.returncode == 0, done.stdout + done.stderr
    found = trajectories(SweepStore(store / "thesis"))
    assert found.num_rows == 2 * 3
    return found


@pytest.fixture
def expected(run: Run, project: Path) -> pa.Table:
    """The records of `debug`."""
    return records_of(run("debug", "--store", "expected"), project / "expected")


def test_in_this_process_by_the_program_and_by_the_module(
    run: Run, project: Path, expected: pa.Table
) -> None:
    done = run("debug", "--store", "again", program=(sys.executable, "-m", "mixsweep"))
    assert records_of(done, project / "again").equals(expected)


@pytest.mark.ray
def test_on_a_ray_of_this_machine(run: Run, project: Path, expected: pa.Table) -> None:
    assert records_of(run("local"), project / "runs").equals(expected)


@pytest.mark.ray
def test_on_a_ray_cluster_as_its_driver_and_as_a_job(
    run: Run, project: Path, expected: pa.Table, ray_places: Callable[..., None], tmp_path: Path
) -> None:
    with plain_cluster(1, 1, jobs=True) as cluster:
        token = {"token_path": str(cluster.token_path)}
        store = tmp_path / "far"
        ray_places(
            attach={"address": cluster.address, **token},
            far={"address": cluster.address, "shared": False, **token},
            jobs={"address": cluster.jobs, "store": str(store), "python": sys.executable, **token},
        )
        assert records_of(run("attach"), project / "runs").equals(expected)
        assert records_of(run("far", "--store", "unshared"), project / "unshared").equals(expected)
        assert records_of(run("jobs"), store).equals(expected)


@pytest.mark.slurm
@pytest.mark.parametrize("launch", ["array", "ray"])
def test_as_tasks_of_an_array_and_on_ray_inside_one_job(
    launch: str, run: Run, project: Path, expected: pa.Table, slurm: SlurmCluster
) -> None:
    place = {"kind": "slurm", "launch": launch, "time": 10, "mem": "4G"}
    (project / "places.toml").write_text(tomli_w.dumps({"campus": place}))
    assert records_of(run("campus"), project / "runs").equals(expected)


@pytest.mark.slurm
@pytest.mark.parametrize("launch", ["array", "ray"])
def test_tasks_that_wait_train_what_was_submitted_whatever_is_edited_meanwhile(
    launch: str, run: Run, project: Path, expected: pa.Table, slurm: SlurmCluster
) -> None:
    subprocess.run(["git", "init", "--quiet", project], check=True)
    waits = {"directives": {"begin": "now+1hour"}}
    place = {"kind": "slurm", "launch": launch, "time": 10, "mem": "4G", **waits}
    (project / "places.toml").write_text(tomli_w.dumps({"campus": place}))
    submitted = run("campus", "--detach")
    assert submitted.returncode == 0, submitted.stdout
    blocks = project / "core" / "blocks.py"
    blocks.write_text(FILES["core/blocks.py"].replace("nn.Linear(a, b)", "nn.Linear(a, b, bias=False)"))
    (project / "models" / "ours.py").write_text("raise RuntimeError('half an edit')\n")
    store = SweepStore(project / "runs" / "thesis")
    (job,) = {submission.job_id for submission in submissions(store)}
    slurm.scontrol("update", f"JobId={job}", "StartTime=now")
    wait_until(lambda: [info.state for info in infos(store)] == ["completed"] * 2, 200)
    assert trajectories(store).equals(expected)
    codes = {attempt.code for info in infos(store) for attempt in info.attempts}
    assert [path.name for path in (store.path / "code").iterdir() if path.is_dir()] == list(codes)


def test_no_process_of_a_sweep_has_our_checkout_on_its_path(run: Run, project: Path) -> None:
    spy = "import sys\nopen('paths.txt', 'a').write('\\n'.join(sys.path) + '\\n')\n"
    (project / "utils.py").write_text(spy + FILES["utils.py"])
    assert run("debug").returncode == 0
    paths = (project / "paths.txt").read_text().splitlines()
    checkout = Path(__file__).parents[2]
    assert paths[0] == str(project)
    assert not [path for path in paths if path and os.path.realpath(path) == str(checkout)]
