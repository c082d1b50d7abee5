"""Workers that start after the project has changed train what was submitted."""

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mixsweep.core.errors import UserError
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.store.code_copy import code_path
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.parse import load_spec
from mixsweep.sweep.planning.plan import make_plan, save_plan
from mixsweep.sweep.runtime.worker import import_code, make_worker_spec
from tests.support.commands import infos

FILES = {
    "pyproject.toml": "[project]\nname = 'thesis'\nversion = '0'\n",
    "core/__init__.py": "",
    "core/rates.py": "RATE = 1.0\n",
    "core/later.py": "import core.rates\ndef rate():\n    return core.rates.RATE\n",
    "core/unused.py": "WIDTH = 4\n",
    "core/keys.py": "API_KEY = 'sk-0123456789abcdef0123456789abcdef'\n",
    "train/start.txt": "0.5\n",
    "train/walk.py": """
from dataclasses import dataclass
from pathlib import Path
import importlib
import core.keys
from mixsweep import field

@dataclass(frozen=True, kw_only=True)
class Config:
    fails: bool = False
    rounds: int = field(1, budget=True)

class Walk:
    Config = Config
    metrics = {"rate": "min"}
    def __init__(self, config, run):
        self.config = config
    def train(self):
        from core.later import rate
        if self.config.fails:
            raise RuntimeError("as asked")
        start = float((Path(__file__).parent / "start.txt").read_text())
        width = importlib.import_module("core." + "unused").WIDTH
        yield {"rate": rate(), "start": start, "width": width}
    def state(self):
        return {}
    def restore(self, state):
        pass
""",
    "sweeps/walk.toml": """
name = "walk"
trainable = "../train/walk.py:Walk"
[space]
fails = { grid_search = [false, true] }
""",
}

SUBMIT = """
import json, sys
from pathlib import Path
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.store.retention import Retention
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.parse import load_spec
from mixsweep.sweep.planning.plan import make_plan, save_plan
from mixsweep.sweep.runtime.worker import make_worker_spec
plan = make_plan(load_spec("sweeps/walk.toml"))
store = SweepStore(Path("runs/walk").absolute())
save_plan(plan, store)
run_config = RunConfig(store=store.path, retention=Retention("all", "rate", "min"))
print(json.dumps(make_worker_spec(plan, run_config).with_copy().to_mapping()))
"""

TRAIN = """
import json, sys
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.plan import read_plan, trials_of
from mixsweep.sweep.runtime.worker import WorkerSpec, run_trials
values = json.load(sys.stdin)
trials = trials_of(read_plan(SweepStore(values["run_config"]["store"])))
spec = WorkerSpec.from_mapping(values, {config.trial_id: config.epochs for config in trials})
list(run_trials(spec, trials))
import core.rates
print(core.rates.__file__)
"""


def python(code: str, folder: Path, given: Any = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, input=json.dumps(given), capture_output=True, text=True
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "thesis with a space"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    subprocess.run(["git", "init", "--quiet", root], check=True)
    return root


@pytest.fixture
def submitted(project: Path) -> dict[str, Any]:
    """A worker spec, after whose submission the project has changed."""
    done = python(SUBMIT, project)
    assert done.returncode == 0, done.stderr
    (project / "core" / "rates.py").write_text("RATE = 2.0\n")
    (project / "core" / "later.py").unlink()
    (project / "train" / "walk.py").write_text("raise RuntimeError('half an edit')\n")
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def test_what_was_submitted_runs_and_finds_what_is_beside_it(
    project: Path, submitted: dict[str, Any]
) -> None:
    done = python(TRAIN, project.parent, submitted)
    assert done.returncode == 0, done.stderr
    store = SweepStore(project / "runs" / "walk")
    states = {info.state: info for info in infos(store)}
    assert set(states) == {"completed", "failed"}, [info.attempts[-1].message for info in infos(store)]
    (row,) = store.trial(states["completed"].trial_id).records().to_pylist()
    assert (row["rate"], row["start"], row["width"]) == (1.0, 0.5, 4.0)
    assert {attempt.code for info in infos(store) for attempt in info.attempts} == {
        submitted["run_config"]["code"]
    }
    log = "".join(path.read_text() for path in store.trial(states["failed"].trial_id).logs())
    assert "train/walk.py" in log
    assert "RuntimeError: as asked" in log
    ran = Path(done.stdout.strip())
    assert ran.parts[-2:] == ("core", "rates.py")
    assert project not in ran.parents
    assert not ran.exists()  # a process removes its tree


def test_the_code_is_kept_once_with_what_looks_secret_for_its_owner_only(
    project: Path, submitted: dict[str, Any]
) -> None:
    kept = code_path(project / "runs" / "walk", submitted["run_config"]["code"])
    names = {str(path.relative_to(kept)) for path in kept.rglob("*.py")}
    assert names == {f"core/{name}.py" for name in ("__init__", "rates", "later", "keys")} | {"train/walk.py"}
    assert stat.S_IMODE((kept / "core" / "keys.py").stat().st_mode) == 0o600
    assert python(SUBMIT, project).returncode == 1  # the edit does not import
    for name in ("core/rates.py", "core/later.py", "train/walk.py"):
        (project / name).write_text(FILES[name] + "# a comment\n")
    done = python(SUBMIT, project)
    assert json.loads(done.stdout)["run_config"]["code"] == kept.name
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_an_installed_module_that_is_not_the_submitted_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tuned.toml"
    file.write_text(
        'name = "tuned"\nmetric = "mean_accuracy"\nmode = "max"\n'
        'trainable = "ray.tune.examples.pbt_example:PBTBenchmarkExample"\n[fields]\nlr = 1e-3\n'
    )
    plan = make_plan(load_spec(file))
    save_plan(plan, SweepStore(tmp_path / "tuned"))
    worker_spec = make_worker_spec(plan, RunConfig(store=tmp_path / "tuned"))
    import_code(worker_spec)
    (tmp_path / "tuned" / "code" / worker_spec.run_config.code / "installed.txt").write_text("ray 0.1\n")
    with pytest.raises(
        UserError, match=r"not the code that the sweep .*\(ray 0\.1, here ray [0-9.]+\); install"
    ):
        import_code(replace(worker_spec, module_code="0" * 20))


@pytest.mark.parametrize(("damage", "said"), [("gone", "is gone"), ("changed", "not the code that was kept")])
def test_a_copy_that_is_not_whole_is_one_line(
    damage: str, said: str, project: Path, submitted: dict[str, Any]
) -> None:
    kept = code_path(project / "runs" / "walk", submitted["run_config"]["code"])
    if damage == "gone":
        os.rename(kept, project / "moved")
    else:
        (kept / "core" / "rates.py").write_text("RATE = 3.0\n")
    done = python(TRAIN, project, submitted)
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
    assert "run the same command again" in done.stderr.splitlines()[-1]
    assert infos(SweepStore(project / "runs" / "walk")) == []


FILES_THAT_IMPORT = {
    "pyproject.toml": FILES["pyproject.toml"],
    "parts.py": "import torch\nfrom mixsweep import register_activation\n"
    "def build():\n    return torch.nn.ReLU()\nregister_activation('mine', build)\n",
    "more.py": "import parts\nimport torch\nfrom mixsweep import register_activation\n"
    "register_activation('other', torch.nn.Tanh)\n",
    "train.py": f"import parts\n{FILES['train/walk.py'].replace('import core.keys', '')}",
    "imports.toml": 'name = "walk"\nimports = ["parts.py", "more.py"]\n'
    '[base]\nmodel = "mlp"\ndataset = "digits"\nepochs = 1\n'
    '[space]\nactivation = { grid_search = ["mine", "other"] }\n',
    "trainable.toml": 'name = "walk"\ntrainable = "train.py:Walk"\nimports = ["parts.py"]\n'
    "[space]\nfails = { grid_search = [false, true] }\n",
}
REGISTERED = """
import json, sys
from mixsweep.core import registry
from mixsweep.sweep.runtime.worker import WorkerSpec, import_code
import_code(WorkerSpec.from_mapping(json.load(sys.stdin), {}))
print(registry.registered("activation", "mine").__code__.co_filename)
"""


@pytest.mark.parametrize("name", ["imports", "trainable"])
def test_a_named_file_that_another_one_imports_is_submitted_and_imported(name: str, tmp_path: Path) -> None:
    for file, text in FILES_THAT_IMPORT.items():
        (tmp_path / file).write_text(text)
    submitted = python(SUBMIT.replace("sweeps/walk", name), tmp_path)
    assert submitted.returncode == 0, submitted.stderr
    done = python(REGISTERED, tmp_path, json.loads(submitted.stdout))
    assert done.returncode == 0, done.stderr
    ran = Path(done.stdout.strip())
    assert (ran.name, ran.parent == tmp_path) == ("parts.py", False)  # the copy
