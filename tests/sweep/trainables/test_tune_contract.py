"""What the adapters take from the installed Ray is there, and a run by Tune itself has the same results."""

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.train import context as train_context
from ray.train._internal import session as rays
from ray.tune import context as tune_context
from ray.tune.trainable import trainable_fn_utils
from ray.tune.utils import flatten_dict

from mixsweep.cluster.ray_cluster.nodes import local_ray
from mixsweep.core.trainables.declared import DeclaredTrainable
from mixsweep.core.trainables.interface import Run
from mixsweep.sweep.trainables import tune as adapters
from mixsweep.sweep.trainables.tune_results import Results
from mixsweep.sweep.trainables.tune_session import FunctionSession
from tests.sweep.trainables.test_tune_trials import CLASS_FIELDS, Counter, field


def asked_of_sessions() -> set[str]:
    """The attributes that Ray's functions read of what `get_session` returns."""
    found: set[str] = set()
    for module in (rays, trainable_fn_utils, tune_context, train_context):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Attribute):
                of = node.value
                is_call = (
                    isinstance(of, ast.Call) and isinstance(of.func, ast.Name) and of.func.id == "get_session"
                )
                if is_call or (isinstance(of, ast.Name) and of.id == "session" and module is rays):
                    found.add(node.attr)
    return found


def test_the_session_answers_what_rays_functions_ask(tmp_path: Path) -> None:
    asked = asked_of_sessions()
    assert {"report", "loaded_checkpoint", "trial_id", "trial_dir", "world_rank"} <= asked
    trainable = declared(lambda config: None, [field("seed", 0)])
    session = FunctionSession(
        lambda config: None,
        {},
        folder=tmp_path,
        info=adapters_info(trainable),
        prepare=lambda: None,
    )
    assert {name for name in asked if not hasattr(session, name)} == set()


def test_the_session_is_found_where_rays_functions_look(monkeypatch: pytest.MonkeyPatch) -> None:
    class Here:
        world_rank = None
        loaded_checkpoint = "this one"

    monkeypatch.setattr(rays, "_session", Here())
    assert tune.get_checkpoint() == "this one"
    assert trainable_fn_utils._in_tune_session()


def test_nested_results_have_the_names_that_tune_gives_them() -> None:
    result = {"a": {"b": 1, "c": {"d": 2.0, 3: 4}}, "e": 5, "f/g": 6}
    trainable = declared(Counter, CLASS_FIELDS)
    record = Results(trainable.config({}), print).record(result, epoch=1, attempt=1, seconds=0.0)
    assert {**record.metrics, "seconds": None} == {**flatten_dict(result), "seconds": None}


def test_what_tune_fills_in_is_no_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path))
    filled = Counter({"seed": 0}).train()
    assert {"training_iteration", "pid", "hostname", "date", "timestamp", "node_ip", "config"} <= set(filled)
    trainable = declared(Counter, CLASS_FIELDS)
    lines: list[str] = []
    record = Results(trainable.config({}), lines.append).record(filled, epoch=1, attempt=1, seconds=0.0)
    assert set(record.metrics) == {"valid/loss", "seconds"}
    assert lines == []


def descend(config: dict[str, Any]) -> None:
    for number in range(1, 4):
        tune.report({"valid": {"loss": config["lr"] / number}, "kept": number})


class Descent(Counter):
    def step(self) -> dict[str, Any]:
        self.count += 1
        return {
            "valid": {"loss": self.config["lr"] / self.count},
            "kept": self.count,
            "done": self.count == 3,
        }


class Watched(tune.Callback):
    """Keeps the results that Tune gets."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int, int]] = []

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        self.seen.append((result["valid"]["loss"], result["kept"], result["training_iteration"]))


@pytest.mark.ray
@pytest.mark.parametrize("target", [Descent, descend])
def test_a_run_by_tune_itself_has_the_same_results(target: Any, tmp_path: Path) -> None:
    trainable = declared(target, [field("lr", 0.5)])
    config = trainable.config({})
    trial = trainable.start(config, Run(device=cpu()))
    try:
        ours = [(row["valid/loss"], row["kept"], row.epoch) for row in trial.train()]
    finally:
        trial.close()
    watched = Watched()
    with local_ray(1, 0):
        tune.Tuner(
            target,
            param_space={"lr": 0.5},
            run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0, callbacks=[watched]),
        ).fit()
    assert ours == watched.seen
    assert [epoch for *_, epoch in ours] == [1, 2, 3]


def declared(target: Any, fields: list[Any]) -> DeclaredTrainable:
    definition = adapters.define(target, "mine:it", fields, {"valid/loss": "min"})
    adapters.attach(definition, target)
    return DeclaredTrainable(definition)


def cpu() -> Any:
    import torch

    return torch.device("cpu")


def adapters_info(trainable: DeclaredTrainable) -> Any:
    from mixsweep.sweep.trainables.tune_config import trial_info

    return trial_info(trainable.config({}), Run(device=cpu()))
