"""sweep.cli.wandb_sweeps: W&B hands out our trials, and they land in our store as themselves."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import yaml

from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.cli.wandb_sweeps import AgentError, definition, trial_for
from mixsweep.sweep.planning.parse import load_spec
from mixsweep.sweep.planning.plan import make_plan, save_plan
from tests.support.commands import ROOT, finish, sweep_command
from tests.support.mirrored_sweeps import TABLES, as_wandb_has_it, rows_of, train_here
from tests.support.wandb_server import WandbServer

SMALL: dict[str, Any] = TABLES | {
    "name": "small",
    "seeds": 2,
    "base": {**TABLES["base"], "epochs": 2},
    "space": {"lr": {"grid_search": [1e-5, 0.01]}, "activation": {"grid_search": ["relu", "tanh"]}},
}


def write(folder: Path, tables: dict[str, Any]) -> Path:
    path = folder / f"{tables['name']}.toml"
    path.write_text(tomli_w.dumps(tables))
    return path


def test_a_grid_is_wandbs_grid_over_the_same_fields_and_numbers_stay_numbers(tmp_path: Path) -> None:
    plan = make_plan(load_spec(write(tmp_path, SMALL)))
    made = yaml.safe_load(definition(plan, "small.toml", tmp_path, "p"))
    assert made["method"] == "grid"
    assert made["metric"] == {"name": "valid_accuracy", "goal": "maximize"}
    assert made["parameters"]["lr"]["values"] == [1e-5, 0.01]
    assert made["parameters"]["seed"]["values"] == [42, 43]
    assert made["command"][:6] == ["${env}", "${interpreter}", "-m", "mixsweep", "agent", "small.toml"]
    points = [
        [f"--lr={lr}", f"--activation={activation}", f"--seed={seed}"]
        for lr in made["parameters"]["lr"]["values"]
        for activation in made["parameters"]["activation"]["values"]
        for seed in made["parameters"]["seed"]["values"]
    ]
    assert {trial_for(plan, words).trial_id for words in points} == {c.trial_id for c in plan.trials}


def test_what_wandb_has_no_words_for_is_a_grid_over_the_planned_trials(tmp_path: Path) -> None:
    space = {"lr": {"loguniform": [1e-4, 1e-1]}}
    plan = make_plan(load_spec(write(tmp_path, SMALL | {"space": space, "samples": 3})))
    made = yaml.safe_load(definition(plan, "small.toml", tmp_path, "p"))
    ids = [config.trial_id for config in plan.trials]
    assert made["parameters"] == {"trial": {"values": ids}}
    assert [trial_for(plan, [f"--trial={trial_id}"]) for trial_id in ids] == list(plan.trials)


def test_zipped_axes_are_a_grid_over_the_planned_trials_and_derived_fields_need_no_words(
    tmp_path: Path,
) -> None:
    zipped = make_plan(load_spec(write(tmp_path, SMALL | {"combine": {"zip": [["lr", "activation"]]}})))
    made = yaml.safe_load(definition(zipped, "small.toml", tmp_path, "p"))
    assert made["parameters"] == {"trial": {"values": [config.trial_id for config in zipped.trials]}}
    derived = make_plan(load_spec(write(tmp_path, SMALL | {"derive": {"weight_decay": "lr / 10"}})))
    made = yaml.safe_load(definition(derived, "small.toml", tmp_path, "p"))
    assert sorted(made["parameters"]) == ["activation", "lr", "seed"]
    found = trial_for(derived, ["--lr=0.01", "--activation=relu", "--seed=42"])
    assert found["weight_decay"] == 0.001


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--lr=0.5", "--seed=42"], "no trial of small"),
        (["--learning_rate=0.5"], "unknown field 'learning_rate'"),
        (["lr"], "not like --lr=0.1"),
        (["--lr=quick"], "lr = 'quick' is not a number"),
    ],
)
def test_arguments_that_are_no_trial_are_refused_in_words(
    tmp_path: Path, words: list[str], complaint: str
) -> None:
    plan = make_plan(load_spec(write(tmp_path, SMALL)))
    with pytest.raises(AgentError) as caught:
        trial_for(plan, words)
    assert complaint in str(caught.value)


def test_the_real_agent_runs_our_trials_into_our_store_and_one_that_is_done_is_only_shown(
    tmp_path: Path,
) -> None:
    file = write(tmp_path, SMALL)
    root = tmp_path / "runs"
    plan = make_plan(load_spec(file))
    exported = subprocess.run(
        [sys.executable, "-m", "mixsweep", "export", str(file), "--to", "wandb-sweep", "--store", str(root)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    done = plan.trials[0]
    save_plan(plan, SweepStore(root / "small"))
    train_here(SweepStore(root / "small"), only=done.trial_id)
    new = next(config for config in plan.trials if config.seed == done.seed and config.lr != done.lr)
    with WandbServer() as server:
        server.sweep_config = exported.stdout
        server.agent_commands = [
            {
                "type": "run",
                "run_id": run_id,
                "program": "",
                "args": {key: {"value": getattr(config, key)} for key in ("lr", "activation", "seed")},
            }
            for run_id, config in (("agentrun1", done), ("agentrun2", new))
        ]
        here = str(Path(sys.executable).parent)
        environment = os.environ | server.environment() | {"PYTHONPATH": str(ROOT)}
        environment["PATH"] = f"{here}:{os.environ['PATH']}"
        wandb = shutil.which("wandb", path=here)
        assert wandb is not None
        agent = subprocess.run(
            [wandb, "agent", "--count", "2", "me/mixsweep/abcd1234"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert agent.returncode == 0, agent.stdout + agent.stderr
    store = SweepStore(root / "small")
    infos = {folder.trial_id: folder.info() for folder in store.trials()}
    assert set(infos) == {done.trial_id, new.trial_id}
    assert all(info is not None and len(info.attempts) == 1 for info in infos.values())
    held = {name: as_wandb_has_it(run.history) for name, run in server.runs.items()}
    rows = rows_of(store)
    assert held == {"agentrun1": rows[done.trial_id], "agentrun2": rows[new.trial_id]}
    assert {run.sweep for run in server.runs.values()} == {"abcd1234"}
    # What W&B's agent has run is done for us, too.
    again = finish(sweep_command(file, root, "debug", "--trial", new.trial_id))
    assert again.returncode == 0
    assert len(store.trial(new.trial_id).info().attempts) == 1  # type: ignore[union-attr]
