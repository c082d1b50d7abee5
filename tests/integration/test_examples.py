"""The examples in every kind of place, killed in the middle: classes, scripts, registered parts.

Without a rule the tables are those of an undisturbed run in `debug`, bit for bit.
"""

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
import tomli_w

from mixsweep.core.records import concat
from mixsweep.core.store.store import SweepStore
from tests.support.commands import finish, infos, kill_family, start, wait_until
from tests.support.ray_cluster import plain_cluster
from tests.support.slurm_cluster import SlurmCluster
from tests.support.trials import stopped_at_rungs

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True)
class Example:
    """A sweep file in a folder of `examples/` of its name, and settings that make it small enough to be tested."""

    name: str
    settings: tuple[str, ...]
    metrics: tuple[str, ...]
    records: int  # of each of its four trials
    code: str  # the file that trains
    folder: str = ""  # where it has another name


CHAR_GPT = Example(
    "char-gpt",
    ("base.steps=4", "base.rounds=8", "space.width.grid_search=[8, 32]", "base.batch_size=4", "seeds=2"),
    ("bits_per_char", "train_bits_per_char"),
    8,
    "char_gpt.py",
)
SCRIPT = Example(
    "script",
    (
        "command.run=python train.py --degree {degree} --lr {lr} --seed {seed} --out {trial_dir} --steps 6000",
        "space.degree.grid_search=[1, 3]",
        "seeds=2",
    ),
    ("valid_loss", "train_loss"),
    300,
    "train.py",
)
SKLEARN = Example(
    "sklearn",
    ("base.trees=300", "space.depth.grid_search=[2, 8]", "seeds=2"),
    ("rmse", "r2"),
    1,
    "boosting.py",
)
TUNE_CLASS = Example(
    "spirals-class",
    ("base.rounds=24", 'space={"model/width" = { grid_search = [2, 24] }}', "seeds=2"),
    ("valid/loss", "train/loss"),
    24,
    "spirals.py",
    folder="ray-tune",
)
TUNE_FUNCTION = replace(TUNE_CLASS, name="spirals-function")


OWN_CNN = Example(
    "own-cnn",
    (
        "base.epochs=8", "base.train_limit=200", "base.valid_limit=50", "space.width.grid_search=[2, 4]",
        "space.kernel_size.grid_search=[3]", "claims=[]", "seeds=2",
    ),
    ("valid_accuracy", "valid_loss", "train_loss"),
    8,
    "own_cnn.py",
)  # fmt: skip


# In `debug` each example is tested; elsewhere one that changes with the day. `make examples` has all everywhere.
ALL = (CHAR_GPT, SCRIPT, OWN_CNN, SKLEARN, TUNE_CLASS, TUNE_FUNCTION)
OF_TODAY = ALL if os.environ.get("EXAMPLES") == "all" else (ALL[date.today().toordinal() % len(ALL)],)


def name_of(example: Example) -> str:
    return example.name


@pytest.fixture(params=ALL, ids=name_of)
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Example:
    """Each example; `python` is the one of these tests."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    found: Example = request.param
    return found


@pytest.fixture
def project(example: Example, tmp_path: Path) -> Path:
    """A copy of the example, in a folder whose name needs quoting."""
    return Path(shutil.copytree(EXAMPLES / (example.folder or example.name), tmp_path / "my project"))


@pytest.fixture
def command(example: Example, project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Makes `sweep run` of the example, without its rule unless asked for."""
    monkeypatch.chdir(project)
    text = (project / f"{example.name}.toml").read_text()
    if "[stopping]" in text:
        rule = text[text.index("[stopping]") : text.index("[[claims]]")]
        text = text.replace(rule, "")
    (project / "no-rule.toml").write_text(text.replace(f'"{example.name}"', '"no-rule"', 1))

    def command(place: str, *words: str, rule: bool = False) -> list[str]:
        file = f"{example.name}.toml" if rule else "no-rule.toml"
        settings = [word for setting in example.settings for word in ("--set", setting)]
        return [sys.executable, "-m", "mixsweep", "run", file, "--place", place, *settings, *words]

    return command


def table(store: SweepStore) -> pa.Table:
    """What must be equal bit for bit."""
    columns = ["trial_id", "epoch", "step", *(store.trainable.objectives)]
    tables = [folder.records() for folder in store.trials()]
    return (
        concat(tables, tables[0].schema)
        .select(columns)
        .sort_by([("trial_id", "ascending"), ("epoch", "ascending")])
    )


def complete(words: list[str], store: Path) -> pa.Table:
    """Run a command to its end, and return its sweep's table."""
    done = finish(words, folder=Path.cwd())
    assert done.returncode == 0, done.stdout
    sweep = SweepStore(store)
    assert [info.state for info in infos(sweep)] == ["completed"] * 4
    return table(sweep)


def killed_and_resumed(words: list[str], store: Path) -> pa.Table:
    """SIGKILL a command with all its processes once a trial has two records or its last, and give it again."""
    process = start(words, Path.cwd())
    sweep = SweepStore(store)

    def is_at_work() -> bool:
        return process.poll() is not None or any(
            info.state == "completed"
            or (info.state == "running" and sweep.trial(info.trial_id).records().num_rows >= 2)
            for info in infos(sweep)
        )

    try:
        wait_until(is_at_work)
    finally:
        kill_family(process)
    return complete(words, store)


@pytest.fixture
def expected(example: Example, command: Callable[..., list[str]], project: Path) -> pa.Table:
    """The table of an undisturbed run in `debug`."""
    found = complete(command("debug", "--store", "expected"), project / "expected" / "no-rule")
    assert found.num_rows == 4 * example.records
    return found


@pytest.mark.faults
def test_in_debug(command: Callable[..., list[str]], project: Path, expected: pa.Table) -> None:
    assert killed_and_resumed(command("debug"), project / "runs" / "no-rule").equals(expected)


@pytest.mark.parametrize("example", OF_TODAY, ids=name_of, indirect=True)
def test_the_code_that_ran_is_kept_and_a_report_tells_of_two_versions(
    example: Example, command: Callable[..., list[str]], project: Path
) -> None:
    assert finish(command("debug", "--limit", "1"), folder=project).returncode == 0
    file = project / example.code
    before = file.read_text()
    file.write_text(before + "\nCHANGED = True\n")
    assert finish(command("debug"), folder=project).returncode == 0
    store = SweepStore(project / "runs" / "no-rule")
    codes = [attempt.code for info in infos(store) for attempt in info.attempts]
    assert sorted(Counter(codes).values()) == [1, 3]
    kept = {(store.path / "code" / code / file.name).read_text() for code in codes}
    assert kept == {before, file.read_text()}
    assert finish([sys.executable, "-m", "mixsweep", "report", "no-rule"], folder=project).returncode == 0
    page = (store.path / "report" / "index.html").read_text()
    assert "Different code has trained these trials: 2 versions of yours." in page


@pytest.mark.parametrize("example", OF_TODAY, ids=name_of, indirect=True)
def test_readers_name_its_metrics_and_need_none_of_its_code(
    example: Example, command: Callable[..., list[str]], project: Path, tmp_path: Path
) -> None:
    assert finish(command("debug", rule=True), folder=project).returncode == 0
    store = SweepStore(project / "runs" / example.name)
    stopped = {info.trial_id for info in infos(store) if info.state == "stopped"}
    assert stopped_at_rungs(store) == stopped
    for path in project.glob("*.py"):
        path.rename(tmp_path / path.name)
    metric = example.metrics[0]
    for words, said in (
        (["status", example.name], f"best {metric}"),
        (["show", infos(store)[0].trial_id], metric),
        (["report", example.name], "Report: "),
        (["export", example.name, "--to", "table.csv"], " rows in table.csv"),
        (["mirror", example.name, "--offline"], "4 of them pushed"),
        (["doctor", "--store", "runs"], "all files are as they have to be"),
    ):
        done = finish([sys.executable, "-m", "mixsweep", *words], folder=project)
        assert done.returncode == 0, done.stdout
        assert said in done.stdout
        assert "2147483647" not in done.stdout
    page = (project / "runs" / example.name / "report" / "index.html").read_text()
    assert metric.replace("_", " ") in page
    if "accuracy" not in metric:
        assert "accuracy" not in page.partition("How they were computed")[0]
    assert "2147483647" not in page
    assert set(example.metrics) <= set((project / "table.csv").read_text().partition("\n")[0].split(","))


@pytest.mark.ray
@pytest.mark.parametrize("example", OF_TODAY, ids=name_of, indirect=True)
def test_on_a_ray_of_this_machine(
    command: Callable[..., list[str]], project: Path, expected: pa.Table
) -> None:
    assert killed_and_resumed(command("local"), project / "runs" / "no-rule").equals(expected)


@pytest.mark.ray
@pytest.mark.parametrize("example", OF_TODAY, ids=name_of, indirect=True)
def test_on_a_ray_cluster_as_its_driver_without_a_shared_folder_and_as_a_job(
    example: Example,
    command: Callable[..., list[str]],
    project: Path,
    expected: pa.Table,
    ray_places: Callable[..., None],
    tmp_path: Path,
) -> None:
    with plain_cluster(1, 1, jobs=True) as cluster:
        token = {"token_path": str(cluster.token_path)}
        store = tmp_path / "far"
        ray_places(
            attach={"address": cluster.address, **token},
            far={"address": cluster.address, "shared": False, **token},
            jobs={"address": cluster.jobs, "store": str(store), "python": sys.executable, **token},
        )
        assert killed_and_resumed(command("attach"), project / "runs" / "no-rule").equals(expected)
        unshared = project / "unshared" / "no-rule"
        assert complete(command("far", "--store", "unshared"), unshared).equals(expected)
        assert complete(command("jobs"), store / "no-rule").equals(expected)


@pytest.mark.slurm
@pytest.mark.parametrize("example", OF_TODAY, ids=name_of, indirect=True)
def test_as_tasks_of_an_array_with_one_killed(
    command: Callable[..., list[str]], project: Path, expected: pa.Table, slurm: SlurmCluster
) -> None:
    (project / "places.toml").write_text(
        tomli_w.dumps({"campus": {"kind": "slurm", "time": 10, "mem": "4G"}})
    )
    store = SweepStore(project / "runs" / "no-rule")
    process = start(command("campus"), project)
    try:
        wait_until(lambda: bool(infos(store)) and infos(store)[0].state == "running")
        job = infos(store)[0].attempts[-1].job
        for pid in slurm.steps_of(job):
            subprocess.run(["kill", "-9", str(pid)], check=False)
        output, _ = process.communicate(timeout=250)
    finally:
        if process.poll() is None:
            kill_family(process)
    assert process.returncode == 0, output
    assert table(store).equals(expected)
