"""The contract of every backend before a run: it refuses what it cannot do, and allocates nothing.

Their training is compared on real places: tests/integration/test_own_project.py.
"""

from pathlib import Path
from typing import Any

import pytest

from mixsweep.cluster.places import Place, RayPlace, SlurmPlace
from mixsweep.core.errors import UserError
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.backends.base import RunOptions, find_backend, kind_of_backend
from mixsweep.sweep.planning.forecast import RemainingWork
from mixsweep.sweep.planning.parse import parse_spec
from mixsweep.sweep.planning.plan import Plan, make_plan
from mixsweep.sweep.run import run_plan

PLACES = {
    "debug": Place(name="here", kind="debug"),
    "local": Place(name="mine", kind="local", cpus=2, gpus=0),
    "ray": Place(name="lab", kind="ray", ray=RayPlace(address="127.0.0.1:1")),
    "ray job": Place(name="jobs", kind="ray", ray=RayPlace(address="http://127.0.0.1:1", store="/no/where")),
    "slurm array": Place(name="campus", kind="slurm", slurm=SlurmPlace()),
    "ray in a slurm job": Place(name="nodes", kind="slurm", slurm=SlurmPlace(launch="ray")),
}

# By kind: what it cannot do, and a part of the error text.
REFUSED = {
    "debug": {
        "detach": "works only as long", "ranks": "in one process", "nodes": "in one process", "memory": "are Ray's",
        "search": "needs a driver",
    },
    "local": {"detach": "works only as long", "nodes": "is one machine", "memory": "are Ray's"},
    "ray": {"detach": "works only as long"},
    "ray job": {},
    "slurm array": {"memory": "are Ray's", "search": "needs a driver", "half a gpu": "whole GPUs"},
    "ray in a slurm job": {
        "memory": "are Ray's", "search": "needs a driver", "ranks": "one process", "nodes": "one process",
        "half a gpu": "whole GPUs",
    },
}  # fmt: skip

ASKED: dict[str, dict[str, Any]] = {
    "detach": {},
    "ranks": {"resources": {"ranks": 2}},
    "nodes": {"resources": {"ranks": 2, "nodes": 2}},
    "memory": {"resources": {"memory": "1G"}},
    "search": {"search": {"algorithm": "tpe", "trials": 4}},
    "half a gpu": {"resources": {"gpus": 0.5}},
}


def plan_of(**tables: Any) -> Plan:
    """A sweep of two small trials, or of a search over their space."""
    axis = {"uniform": [0.001, 0.1]} if "search" in tables else {"grid_search": [0.01, 0.003]}
    base = {
        "dataset": "digits", "hidden": [16], "train_limit": 256, "valid_limit": 100, "batch_size": 64, "epochs": 3,
    }  # fmt: skip
    return make_plan(parse_spec({"name": "alike", "base": base, "space": {"lr": axis}, **tables}))


@pytest.mark.parametrize("kind", PLACES)
class TestEveryBackend:
    def test_is_found_by_its_place(self, kind: str) -> None:
        assert kind_of_backend(PLACES[kind]) == kind
        assert find_backend(PLACES[kind]).place is PLACES[kind]

    @pytest.mark.parametrize("asked", ASKED)
    def test_refuses_in_one_line_what_it_cannot_do_and_nothing_else(self, kind: str, asked: str) -> None:
        backend = find_backend(PLACES[kind])
        plan = plan_of(**ASKED[asked])
        options = RunOptions(detach=asked == "detach")
        said = REFUSED[kind].get(asked)
        if said is None:
            backend.check(plan, options)
            return
        with pytest.raises(UserError, match=said) as refused:
            backend.check(plan, options)
        assert "\n" not in str(refused.value)
        assert (
            kind == "ray in a slurm job" or PLACES[kind].name in str(refused.value) or asked == "half a gpu"
        )

    def test_refuses_before_anything_is_written(self, kind: str, tmp_path: Path) -> None:
        for asked in REFUSED[kind]:
            options = RunOptions(detach=asked == "detach")
            with pytest.raises(UserError):
                run_plan(plan_of(**ASKED[asked]), place=PLACES[kind], store_root=tmp_path, options=options)
        assert list(tmp_path.iterdir()) == []

    def test_returns_the_scripts_that_it_would_submit(self, kind: str, tmp_path: Path) -> None:
        work = [RemainingWork(config, config.epochs) for config in plan_of().trials[:2]]
        store = SweepStore(tmp_path / "alike")
        scripts = find_backend(PLACES[kind]).submission(plan_of().spec, work, store).scripts
        assert len(scripts) == ("slurm" in kind)
        assert all(script.startswith("#!/bin/bash") for script in scripts)
        assert not (tmp_path / "alike").exists()
