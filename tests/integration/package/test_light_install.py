"""`pip install mixsweep` reads, plans and reports; what needs an extra says which, in one line."""

import json
import zipfile
from collections.abc import Callable
from importlib.metadata import Distribution
from pathlib import Path

import pytest

import mixsweep
from mixsweep.core.errors import UserError
from mixsweep.core.extras import EXTRAS, require
from tests.support.commands import ROOT
from tests.support.installed import Installed, metadata_of

SWEEP = """
question = "Which learning rate?"
[base]
dataset = "digits"
model = "mlp"
hidden = [8]
epochs = {epochs}
train_limit = 64
valid_limit = 32
batch_size = 32
[space]
lr = {{ {axis} }}
"""
GRID = "grid_search = [0.1, 0.01]"
DRAWN = "loguniform = [0.01, 0.1]"
PLACES = """
[campus]
kind = "slurm"
[lab]
kind = "ray"
address = "http://127.0.0.1:1"
store = "/shared/runs"
[attached]
kind = "ray"
address = "127.0.0.1:1"
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person's folder: sweep files, places, and a store with one sweep that was run with everything installed."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "grid.toml").write_text(SWEEP.format(epochs=1, axis=GRID), encoding="utf-8")
    (folder / "more.toml").write_text(SWEEP.format(epochs=2, axis=GRID), encoding="utf-8")
    (folder / "drawn.toml").write_text(SWEEP.format(epochs=1, axis=DRAWN), encoding="utf-8")
    rule = '[stopping]\nrule = "asha"\ngrace_epochs = 1\n'
    (folder / "halving.toml").write_text(SWEEP.format(epochs=2, axis=GRID) + rule, encoding="utf-8")
    search = '[search]\nalgorithm = "tpe"\ntrials = 4\n'
    (folder / "search.toml").write_text(SWEEP.format(epochs=1, axis=DRAWN) + search, encoding="utf-8")
    (folder / "mixsweep").mkdir()
    (folder / "mixsweep" / "places.toml").write_text(PLACES, encoding="utf-8")
    plan = mixsweep.make_plan(mixsweep.load_spec(folder / "grid.toml"))
    assert mixsweep.run_plan(plan, place="debug", store_root=folder / "runs").exit_code == 0
    return folder


@pytest.fixture(scope="module")
def trial(work: Path) -> str:
    return min(path.name for path in (work / "runs" / "grid" / "trials").iterdir())


def test_the_wheel_holds_mixsweep_alone_with_its_data_files_and_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        "mixsweep",
        f"mixsweep-{mixsweep.__version__}.dist-info",
    }
    presets = {f"mixsweep/sweep/presets/{name}.toml" for name in mixsweep.preset_names()}
    assert presets | {"mixsweep/py.typed", "mixsweep/analysis/report/template.html.j2"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_page_of_the_package_is_the_readme_whose_picture_shows_elsewhere(wheel: Path) -> None:
    metadata = metadata_of(wheel).metadata
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pictures = [line for line in text.splitlines() if line.startswith("![")]
    assert pictures
    assert all("](https://" in line for line in pictures)


def test_every_extra_is_declared_and_asked_for_by_what_it_installs(wheel: Path) -> None:
    declared: Distribution = metadata_of(wheel)
    assert set(declared.metadata.get_all("Provides-Extra") or ()) == {*EXTRAS, "all", "test", "dev", "docs"}
    require(*EXTRAS)  # this environment has them


def test_an_extra_is_found_missing_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "ray", ("ray_that_nobody_has",))
    with pytest.raises(UserError, match=r"^a draw needs ray_that_nobody_has: pip install 'mixsweep\[ray\]'$"):
        require("ray", "slurm", what="a draw")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("presets", "learning-rates"),
        ("plan learning-rates", "15 trials: 15 new"),
        ("plan grid.toml", "2 trials: 2 done"),
        ("plan more.toml --place lab --json", '"duplicates": 0'),
        ("plan halving.toml", "2 trials"),
        ("run grid.toml --place debug", "2 completed"),  # nothing is left to do
        ("status", "2 completed"),
        ("status grid", "lr=0.1"),
        ("show {trial}", "completed"),
        ("logs {trial}", "attempt 1 ended: completed"),
        ("stop grid", "asked 0 running trials"),
        ("export grid --to table.csv", "2 rows"),
        ("export grid --to table.parquet", "2 rows"),
    ],
)
def test_a_light_install_reads_and_plans(
    light: Installed, work: Path, trial: str, words: str, said: str
) -> None:
    done = light.run([light.sweep, *words.format(trial=trial).split()], work)
    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout


def test_a_light_report_says_what_it_leaves_out(light: Installed, work: Path) -> None:
    done = light.run([light.sweep, "report", "grid"], work)
    assert (done.returncode, done.stderr) == (0, "")
    page = (work / "runs" / "grid" / "report" / "index.html").read_text(encoding="utf-8")
    assert (
        "Pictures of weights, and parameter counts of registered models, are left out: they need PyTorch"
        in page
    )
    assert "Its weights are not drawn" in page
    drawn = {path.stem for path in (work / "runs" / "grid" / "report").glob("*.png")}
    assert {"grid-curves-lr", "grid-finals", "grid-best"} <= drawn
    assert not [name for name in drawn if name.endswith(("kernels", "token-units"))]
    assert page.count("<img") == len(drawn)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("run more.toml --place debug", "place debug needs PyTorch, torchvision and scikit-learn: {train}"),
        (
            "run more.toml --place debug --overfit 2",
            "place debug needs PyTorch, torchvision and scikit-learn: {train}",
        ),
        (
            "run more.toml",
            "place local needs PyTorch, torchvision, scikit-learn and Ray: pip install 'mixsweep[train,ray]'",
        ),
        ("run more.toml --place campus", "place campus needs submitit: {slurm}"),
        ("plan more.toml --place campus --json", "a batch script needs submitit: {slurm}"),
        ("run more.toml --place attached", "place attached needs Ray: {ray}"),
        ("run more.toml --place lab", "address http://127.0.0.1:1 needs Ray: {ray}"),
        ("status grid --place lab", "address http://127.0.0.1:1 needs Ray: {ray}"),
        ("plan drawn.toml", "a random draw in [space] needs Ray: {ray}"),
        ("plan search.toml", "[search] algorithm = 'tpe' needs Optuna and Ray: {search}"),
        ("mirror grid", "sweep mirror needs W&B, requests and yaml: {wandb}"),
        ("run more.toml --place debug --mirror", "--mirror needs W&B, requests and yaml: {wandb}"),
        ("agent grid.toml --lr=0.1", "sweep agent needs W&B, requests and yaml: {wandb}"),
        ("export grid --to wandb-sweep", "--to wandb-sweep needs W&B, requests and yaml: {wandb}"),
    ],
)
def test_what_needs_an_extra_says_which_in_one_line(
    light: Installed, work: Path, words: str, line: str
) -> None:
    done = light.run([light.sweep, *words.split()], work)
    commands = {extra: f"pip install 'mixsweep[{extra}]'" for extra in EXTRAS}
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"sweep: {line.format(**commands)}\n")
    assert not (work / "runs" / "more").exists()


def test_the_doctor_works_light_and_says_which_extras_there_are(light: Installed, work: Path) -> None:
    done = light.run([light.sweep, "doctor", "--place", "campus", "--json"], work)
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert (done.returncode, done.stderr) == (1, "")
    assert checks["extras"]["found"] == "installed: none; not installed: train, ray, slurm, wandb, search"
    assert checks["python"]["found"] == "submitting needs submitit: pip install 'mixsweep[slurm]'"
    assert checks["store"]["state"] == "ok"


@pytest.mark.parametrize(
    ("extra", "words", "said"),
    [
        ("train", "run more.toml --place debug --store {store}", "2 completed"),
        ("ray", "plan drawn.toml --store {store}", "1 new"),
        ("slurm", "plan more.toml --place campus --store {store}", "#SBATCH --array=0-1"),
        ("wandb", "export grid --to wandb-sweep", "method: grid"),
        ("wandb", "mirror grid --offline", "2 runs, 2 of them pushed"),
        ("search", "plan search.toml --store {store}", "search"),
    ],
)
def test_an_extra_brings_all_that_its_commands_need(
    install: Callable[..., Installed], work: Path, tmp_path: Path, extra: str, words: str, said: str
) -> None:
    there = install(extra)
    done = there.run([there.sweep, *words.format(store=tmp_path / "runs").split()], work)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    told = json.loads(there.run([there.sweep, "doctor", "--place", "lab", "--json"], work).stdout)
    assert told[-1]["found"].startswith(
        f"installed: {'ray, search' if extra == 'search' else extra}; not installed: "
    )
