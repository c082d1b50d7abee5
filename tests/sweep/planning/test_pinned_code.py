"""`code = "pin"`: changed code makes new trials, and the old ones are superseded."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mixsweep import make_plan, run_plan
from mixsweep.cluster.places import find_place
from mixsweep.core.execution.superseded import Superseded
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.cli.views.live_view import summary
from mixsweep.sweep.cli.views.render_plan import describe_plan, plan_mapping
from mixsweep.sweep.planning.parse import load_spec
from mixsweep.sweep.planning.plan import Plan
from mixsweep.sweep.planning.schema import SpecError
from mixsweep.sweep.runtime.worker import WorkerSpec, import_code, make_worker_spec
from mixsweep.sweep.status_reader import StatusReader
from tests.support.commands import infos

CLASS = """
from dataclasses import dataclass
from mixsweep import field

@dataclass(frozen=True, kw_only=True)
class Config:
    code: int = 1
    rounds: int = field(1, budget=True)

class Walk:
    Config = Config
    metrics = {"height": "min"}
    def __init__(self, config, run):
        self.config = config
    def train(self):
        yield {"height": 1.0 * self.config.code}
    def state(self):
        return {}
    def restore(self, state):
        pass
"""
MODEL = """
from torch import nn
from mixsweep import register_model

def build(config, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))

register_model("pinned-ours", build)
"""
SCRIPT = "import json, sys\nprint(json.dumps({'height': 1.0 * float(sys.argv[1])}))\n"
FILES = {
    "class": ("code.py", CLASS, 'trainable = "code.py:Walk"\n[space]\ncode = { grid_search = [1, 2] }\n'),
    "model": (
        "code.py",
        MODEL,
        'imports = ["code.py"]\n[base]\nmodel = "pinned-ours"\ndataset = "digits"\nepochs = 1\ntrain_limit = 128\n'
        "batch_size = 64\nvalid_limit = 10\n[space]\nlr = { grid_search = [0.1, 0.2] }\n",
    ),
    "command": (
        "code.py",
        SCRIPT,
        'metric = "height"\nmode = "min"\n[command]\nrun = "python code.py {code}"\n[fields]\ncode = 1\n'
        "[space]\ncode = { grid_search = [1, 2] }\n",
    ),
}


def plan_of(folder: Path, kind: str, more: str = "", pin: bool = True) -> Plan:
    """The plan of a project in a folder of its own: a process imports a file once."""
    name, code, table = FILES[kind]
    folder.mkdir()
    (folder / name).write_text(code + more)
    rule = 'code = "pin"\n' if pin else ""
    (folder / "pinned.toml").write_text(f'name = "pinned"\n{rule}{table}')
    return make_plan(load_spec(folder / "pinned.toml"))


def ids(plan: Plan) -> list[str]:
    return [config.trial_id for config in plan.trials]


@pytest.mark.parametrize("kind", FILES)
def test_the_code_is_in_an_identity_only_where_it_is_pinned(kind: str, tmp_path: Path) -> None:
    free, changed = (
        plan_of(tmp_path / "a", kind, pin=False),
        plan_of(tmp_path / "b", kind, "X = 1\n", pin=False),
    )
    assert ids(free) == ids(changed)
    assert not any("code" in name for config in free.trials for name in config.identity() if name != "code")
    pinned, comment = plan_of(tmp_path / "c", kind), plan_of(tmp_path / "d", kind, "# a comment\n")
    other = plan_of(tmp_path / "e", kind, "X = 1\n")
    assert ids(pinned) == ids(comment)
    assert len({*ids(free), *ids(pinned), *ids(other)}) == 6
    assert sorted(free.labels.values()) == sorted(pinned.labels.values())


@pytest.mark.parametrize("kind", FILES)
def test_changed_code_makes_new_trials_and_the_old_ones_are_superseded(kind: str, tmp_path: Path) -> None:
    store = SweepStore(tmp_path / "runs" / "pinned")
    first = plan_of(tmp_path / "a", kind)
    assert run_plan(first, place="debug", store_root=tmp_path / "runs").counts == {"completed": 2}
    assert StatusReader(store).read().superseded == ()
    second = plan_of(tmp_path / "b", kind, "X = 1\n")
    stranger = tmp_path / "runs" / "pinned" / "trials" / "0123456789ab"
    stranger.mkdir()
    mapping = plan_mapping(second, tmp_path / "runs", find_place("debug"))
    assert [trial["standing"] for trial in mapping["trials"]] == ["new", "new"]
    assert sorted(mapping["superseded"]) == sorted(ids(first))
    assert run_plan(second, place="debug", store_root=tmp_path / "runs").counts == {"completed": 2}
    status = StatusReader(store).read()
    assert sorted(status.superseded) == sorted(ids(first))
    assert status.counts == {"completed": 2}
    assert status.failures == {}
    assert status.others == 1
    assert sorted(json.loads(json.dumps(status.to_mapping()))["superseded"]) == sorted(ids(first))
    assert len({attempt.code for info in infos(store) for attempt in info.attempts}) == 2
    out = Console(file=io.StringIO(), width=200)
    out.print(*summary(status))
    describe_plan(second, tmp_path / "runs", find_place("debug"), out)
    assert isinstance(out.file, io.StringIO)
    assert out.file.getvalue().count("superseded in the store: 2, trained by other code or before") == 2
    assert run_plan(second, place="debug", store_root=tmp_path / "runs").counts == {"completed": 2}


def test_a_default_that_the_changed_code_writes_in_another_form_is_the_same_value(tmp_path: Path) -> None:
    store = SweepStore(tmp_path / "runs" / "pinned")
    whole = CLASS.replace(
        "    code: int = 1\n",
        "    code: int = 1\n    width: int = 16\n    widths: tuple[float, ...] = (1.5, 2.0)\n",
    )
    plans = []
    for number, code in enumerate(
        (whole, whole.replace("width: int = 16", "width: float = 16.0"), whole.replace("= 16", "= 17"))
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "code.py").write_text(code)
        (folder / "pinned.toml").write_text(f'name = "pinned"\ncode = "pin"\n{FILES["class"][2]}')
        plans.append(make_plan(load_spec(folder / "pinned.toml")))
    first, second, third = plans
    run_plan(first, place="debug", store_root=tmp_path / "runs")
    known = Superseded(store)
    by_id = [{config.trial_id: config for config in plan.trials} for plan in (second, third)]
    assert sorted(known.among(store.trial_names(), by_id[0])) == sorted(ids(first))
    assert known.among(store.trial_names(), by_id[1]) == ()


def test_a_worker_that_starts_later_takes_the_pinned_class(tmp_path: Path) -> None:
    from mixsweep.core.execution.run_config import RunConfig

    plan = plan_of(tmp_path / "a", "class")
    values: dict[str, Any] = make_worker_spec(
        plan, RunConfig(store=tmp_path / "runs" / "pinned")
    ).to_mapping()
    import_code(WorkerSpec.from_mapping(json.loads(json.dumps(values)), {}))


def test_what_cannot_be_pinned_is_one_line(tmp_path: Path) -> None:
    for text, said in (
        ('code = "pin"\n', "code: 'pin' needs code of yours"),
        ('code = "pinned"\n', "code: 'pinned' is not known; did you mean 'pin'?"),
        ('[base]\npinned_code = "0123"\n', "base.pinned_code: is written only by code = 'pin'"),
    ):
        (tmp_path / "a.toml").write_text(text)
        with pytest.raises(SpecError) as error:
            load_spec(tmp_path / "a.toml")
        assert said in str(error.value)
