"""The exact batch scripts of several places, against recorded ones in golden/.

After a meant change: `python -m tests.sweep.backends.slurm.test_batch_scripts` writes them anew; read the difference.
"""

import os
import shlex
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mixsweep.cluster import places
from mixsweep.cluster.places import Place
from mixsweep.cluster.slurm.client import batch_script, seconds_of, submit
from mixsweep.core.store.store import SweepStore
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.sweep.backends.base import find_backend
from mixsweep.sweep.backends.slurm.job_request import SlurmBackendError, group, request_for
from mixsweep.sweep.planning.forecast import RemainingWork
from mixsweep.sweep.planning.schema import Resources, SweepSpec

GOLDEN = Path(__file__).parent / "golden"

PLACES = {
    "bare": ("kind = 'slurm'", Resources(), 1),
    "academic": (
        """
        kind = "slurm"
        partition = "gpu-long,gpu-short"
        account = "dept_vision"
        qos = "normal"
        constraint = "a100|h100"
        gpus = 1
        mem = "16G"
        time = 240
        exclude = "node[03-04]"
        parallelism = 20
        setup = ["module load cuda/12.4", 'source "$HOME/my envs/torch/bin/activate"']
        environment = { WANDB_MODE = "offline", NOTE = "it's 100 %", WANDB_API_KEY = "0123456789abcdef" }
        directives = { mail-type = "END,FAIL", exclusive = true, nice = 100 }
        """,
        Resources(cpus=4),
        500,
    ),
    "typed-gpus": (
        "kind = 'slurm'\ngres = 'gpu:rtx2080:1'\npython = 'apptainer exec --nv /images/torch.sif python'\ntime = 1",
        Resources(cpus=2, gpus=1.0),
        3,
    ),
}
STORE = SweepStore("/shared/home/a/läufe mit platz/sweep")


def place_of(name: str, folder: Path) -> Place:
    text, _, _ = PLACES[name]
    (folder / "places.toml").write_text(f"[{name}]\n{text}", encoding="utf-8")
    return places.find_place(name)


def script_of(name: str, folder: Path) -> str:
    _, resources, trials = PLACES[name]
    spec = SweepSpec(name="my sweep", parts=(), metric="valid_accuracy", mode="max", resources=resources)
    work = [RemainingWork(ImageConfig(), 1)] * trials
    place = place_of(name, folder)
    assert place.slurm is not None
    if place.slurm.launch == "array":
        place = replace(place, slurm=replace(place.slurm, trials_per_task=1))
    (script,) = find_backend(place).submission(spec, work, STORE).scripts
    return script.replace(shlex.quote(sys.executable), "/venv/bin/python")


@pytest.mark.parametrize("name", PLACES)
def test_the_script_equals_the_recorded_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert script_of(name, tmp_path) == (GOLDEN / f"{name}.sh").read_text(encoding="utf-8")


def test_an_array_over_the_limit_is_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "places.toml").write_text("[c]\nkind = 'slurm'\narray_limit = 4\ntrials_per_task = 2\n")
    spec = SweepSpec(name="s", parts=(), metric="valid_accuracy", mode="max")
    work = [RemainingWork(ImageConfig(), 1)] * 13
    made = find_backend(places.find_place("c")).submission(spec, work, STORE).scripts
    arrays = [line for script in made for line in script.splitlines() if "--array" in line]
    assert arrays == ["#SBATCH --array=0-3%4", "#SBATCH --array=0-2%3"]  # seven tasks of at most two trials


def test_grouped_trials_are_each_in_one_task_and_early_ones_are_first() -> None:
    names = tuple("abcdefg")
    tasks = group(names, 3)
    assert tasks == (("a", "f"), ("b", "d"), ("c", "e", "g"))
    assert group(names, 1) == tuple((name,) for name in names)


def test_a_task_does_not_get_all_seeds_of_a_point() -> None:
    plan = [f"{point}{seed}" for seed in range(3) for point in "abcdefgh"]
    assert all(len({name[0] for name in task}) == 3 for task in group(plan, 3))


def test_a_fraction_of_a_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    slurm = place_of("bare", tmp_path).slurm
    assert slurm is not None
    with pytest.raises(SlurmBackendError, match=r"resources.gpus = 0.5: SLURM allocates whole GPUs"):
        request_for("s", slurm, Resources(gpus=0.5))


def test_the_warning_time_of_a_short_job_is_reduced() -> None:
    slurm = places.SlurmPlace(time=2, warning_seconds=120)
    script = batch_script(slurm, request_for("s", slurm, Resources()), ("module",), Path("/jobs"))
    assert "#SBATCH --signal=USR2@20" in script


def test_what_looks_like_a_secret_stands_in_a_private_file_that_the_script_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text("#!/bin/sh\necho Submitted batch job 7\n")
    sbatch.chmod(0o755)
    srun = sbatch.with_name("srun")
    srun.write_text(f'#!/bin/sh\necho "$HF_TOKEN $PROXY $FIRST $COLOUR" > {seen}\n')
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    secrets = ("hunter2 'hunter2", "http://me:hunter2@proxy", "hunter2")
    slurm = places.SlurmPlace(
        setup=(f"export FIRST_TOKEN={secrets[2]}xxxx", 'FIRST="$FIRST_TOKEN"; export FIRST'),
        environment={"HF_TOKEN": secrets[0], "PROXY": secrets[1], "COLOUR": "red"},
    )
    folder = tmp_path / "a folder" / "jobs" / "0001"
    request = request_for("s", slurm, Resources())
    assert submit(slurm, request, ("module",), folder) == "7"
    script = next(folder.glob("*_submission.sh"))
    assert "hunter2" not in script.read_text()
    assert "hunter2" not in batch_script(slurm, request, ("module",), folder)
    private = sorted(folder.glob("secret-*.sh"))
    assert [stat.S_IMODE(path.stat().st_mode) for path in private] == [0o600] * 3
    subprocess.run(["bash", str(script)], check=True)
    assert seen.read_text() == f"{secrets[0]} {secrets[1]} {secrets[2]}xxxx red\n"
    assert [path for path in folder.rglob("*") if path.suffix == ".pkl"] == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1-02:03:04", 93784),
        ("01:00:00", 3600),
        ("03:04", 184),
        ("90", 5400),
        ("UNLIMITED", None),
        ("INVALID", None),
    ],
)
def test_slurm_durations_are_parsed(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partitoin = 'x'", "places.toml: c.partitoin: unknown key; did you mean 'partition'?"),
        ("time = '1:00'", "places.toml: c.time: '1:00' is not an integer of 1 or more"),
        ("time = 0", "places.toml: c.time: 0 is not an integer of 1 or more"),
        ("setup = 'module load x'", "places.toml: c.setup: 'module load x' is not a list of strings"),
        ("environment = { A = 1 }", "places.toml: c.environment.A: 1 is not a string"),
        (
            "directives = { nice = 1.5 }",
            "places.toml: c.directives.nice: 1.5 is neither a string, a number nor true",
        ),
        ("launch = 'rai'", "places.toml: c.launch: 'rai' is not known; did you mean 'ray'?"),
        (
            "directives = { export = 'ALL,API_TOKEN=0123456789' }",
            "places.toml: c.directives.export: looks like a secret, which the queue shows; give it in environment",
        ),
        ("cpus = 3", "places.toml: c.cpus: unknown key; did you mean 'gpus'?"),
    ],
)
def test_an_invalid_option_is_one_line(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "places.toml").write_text(f"[c]\nkind = 'slurm'\n{text}\n")
    with pytest.raises(places.PlaceError) as caught:
        places.find_place("c")
    assert str(caught.value) == said


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in PLACES:
            (GOLDEN / f"{name}.sh").write_text(script_of(name, Path(folder)), encoding="utf-8")
