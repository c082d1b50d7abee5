"""A trainable of one's own: what its class must have, its identity, and its trials from start to end."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch

from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import ConfigError
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.execution.runner import work
from mixsweep.core.store.definitions import learn_kind, save_definition
from mixsweep.core.store.integrity import check_sweep
from mixsweep.core.store.retention import Retention
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.trainables import kinds, own_class
from mixsweep.core.trainables.declared import DeclaredTrainable
from mixsweep.core.trainables.definition import UNLIMITED, Definition
from mixsweep.core.trainables.field_types import field
from mixsweep.core.trainables.own_class import Run
from tests.support.trials import log_text


@dataclass(frozen=True, kw_only=True)
class WalkConfig:
    width: int = field(4, low=1, doc="units")
    rates: tuple[float, ...] = field([0.1, 0.2], above=0)
    mode: str = field("plain", choices=["plain", "noisy"])
    noise: float = field(0.01, low=0, when={"mode": "noisy"})
    bias: bool = True
    limit: float | None = None
    rounds: int = field(4, low=1, budget=True)
    seed: int = 0


class Walk:
    """Draws from every generator, so that what is not seeded shows."""

    Config = WalkConfig
    metrics: ClassVar[Any] = {"loss": {"better": "min", "unit": "nats"}, "height": "max"}

    def __init__(self, config: WalkConfig, run: Run):
        self.config, self.run, self.round = config, run, 0
        self.weights = torch.randn(config.width)
        (run.scratch / "cache").write_text("x")

    def train(self) -> Iterator[dict[str, Any]]:
        while self.round < self.config.rounds:
            self.round += 1
            self.weights = self.weights * 0.9 + torch.randn(self.config.width) * random.random()
            yield {
                "loss": self.weights.square().mean() + np.random.rand(),
                "height": self.round,
                "seen/extra": random.random() if self.round > 1 else None,
                "step": 10 * self.round,
            }

    def state(self) -> dict[str, Any]:
        return {"weights": self.weights, "round": self.round}

    def restore(self, state: dict[str, Any]) -> None:
        self.weights, self.round = state["weights"], state["round"]

    def test(self) -> dict[str, Any]:
        return {"loss": torch.randn(()).item()}


def declared(cls: type = Walk, name: str = "walk:Walk") -> DeclaredTrainable:
    definition = own_class.define(cls, name)
    own_class.attach(definition, cls)
    found = kinds.declare(definition)
    assert isinstance(found, DeclaredTrainable)
    return found


def changed(**attributes: Any) -> type:
    """The class with some attributes changed."""
    return type("Walk", (Walk,), attributes)


Train = Callable[..., TrialInfo]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Trains one trial of a class in a store, and returns how it ended."""

    def train(cls: type = Walk, folder: str = "walk", **values: Any) -> TrialInfo:
        options = {name: values.pop(name) for name in ("until", "pause") if name in values}
        trainable = declared(cls)
        store = SweepStore(tmp_path / folder)
        save_definition(store.path, trainable.definition)
        run_config = RunConfig(
            store=store.path,
            checkpoint_share=1.0,
            retention=Retention("all", "loss", "min"),
            until=options.get("until"),
        )
        config = trainable.config(values)
        ended = list(work([config], run_config))
        found = store.trial(config.trial_id).info()
        assert found is not None
        return ended[0] if ended else found

    return train


def rows(path: Path, info: TrialInfo) -> list[dict[str, Any]]:
    table = SweepStore(path).trial(info.trial_id).records()
    return table.drop_columns(["seconds", "attempt", "recorded_at"]).to_pylist()


# --- The definition ------------------------------------------------------------------------------------


def test_a_class_declares_its_fields_and_metrics() -> None:
    trainable = declared()
    assert trainable.field_names == (
        "width", "rates", "mode", "noise", "bias", "limit", "rounds", "seed", "parent",
    )  # fmt: skip
    assert (trainable.budget, trainable.default_metric, trainable.objectives) == (
        "rounds",
        "loss",
        ("loss", "height"),
    )
    assert trainable.test_metrics == ("test_loss", "test_height")
    assert trainable.schema.names == [
        "trial_id", "epoch", "step", "loss", "height", "test_loss", "test_height", "seconds", "attempt", "recorded_at",
    ]  # fmt: skip
    assert trainable.better("height") == "max"
    again = Definition.from_mapping(trainable.definition.to_mapping())
    assert again == trainable.definition
    assert again.kind == trainable.kind


def test_conditions_of_fields_hold_and_values_are_checked() -> None:
    trainable = declared()
    assert trainable.config({"noise": 0.5}).trial_id == trainable.config({}).trial_id
    assert trainable.config({"noise": 0.5, "mode": "noisy"})["noise"] == 0.5
    for values, said in (
        ({"widht": 3}, "unknown field 'widht'; did you mean 'width'?"),
        ({"width": 0}, "width = 0 is too small; allowed: 1 or more"),
        ({"width": 2.5}, "width = 2.5 is not an integer"),
        ({"rates": 0.1}, "rates = 0.1 is not a list of numbers"),
        ({"mode": "nosiy"}, "mode = 'nosiy' is not known; did you mean 'noisy'?"),
        ({"bias": 1}, "bias = 1 is neither true nor false"),
        ({"rounds": 0}, "rounds = 0 is too small; allowed: 1 or more"),
    ):
        with pytest.raises(ConfigError) as caught:
            trainable.config(values)
        assert str(caught.value) == said


def test_an_identity_has_every_value_but_the_budget_and_names_what_trains() -> None:
    trainable = declared()
    config = trainable.config({"width": 8})
    assert config.identity() == {
        "trainable": "class walk:Walk", "width": 8, "rates": [0.1, 0.2], "mode": "plain", "noise": 0.01, "bias": True,
        "limit": None, "seed": 0,
    }  # fmt: skip
    assert config.trial_id == "44381d1929ff"  # golden: changes never
    assert config.with_values(rounds=9).trial_id == config.trial_id
    assert declared(name="other:Walk").config({"width": 8}).trial_id != config.trial_id


def test_a_field_that_came_later_leaves_earlier_trials_what_they_are() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Later(WalkConfig):
        depth: int = field(2, added=True)

    later = declared(changed(Config=Later))
    assert later.kind != declared().kind
    assert later.config({}).trial_id == declared().config({}).trial_id
    assert later.config({"depth": 3}).trial_id != declared().config({}).trial_id


def _config(annotations: dict[str, Any], **values: Any) -> type:
    return dataclass(frozen=True, kw_only=True)(
        type("Config", (), {"__annotations__": annotations, **values})
    )


NOT_FROZEN = dataclass(type("Config", (), {"__annotations__": {"seed": int}, "seed": 0}))
WRONG_FIELDS = {
    "of a type that no field has": (_config({"x": dict}, x=None), "Config.x: type dict is none of int, float"),
    "without a default": (_config({"x": int}), "Config.x: has no default"),
    "of a reserved name": (_config({"epoch": int}, epoch=1), "field 'epoch': the name is reserved"),
    "of a plan's column": (_config({"state": int}, state=1), "field 'state': the name is reserved"),
    "of a figure of trials": (_config({"best": int}, best=1), "field 'best': the name is reserved"),
    "two budgets": (
        _config({"a": int, "b": int}, a=field(1, budget=True), b=field(1, budget=True)),
        "fields 'a' and 'b' are both the budget",
    ),
    "a text as budget": (_config({"a": str}, a=field("x", budget=True)), "'a' is the budget, so it has to be an int"),
    "a default out of range": (_config({"a": int}, a=field(0, low=1)), "Config.a: its default: a = 0 is too small"),
    "a condition on no field": (
        _config({"a": int}, a=field(0, when={"b": 1})), "Config.a: when: 'b' is no field",
    ),
    "epochs, not marked": (_config({"epochs": int}, epochs=3), "field 'epochs': mark it as the budget"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_FIELDS)
def test_a_wrong_field_is_a_line(case: str) -> None:
    config, said = WRONG_FIELDS[case]
    with pytest.raises(ConfigError) as caught:
        own_class.define(changed(Config=config), "walk:Walk")
    assert str(caught.value).startswith("walk:Walk")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"Config": None}, "walk:Walk: has no dataclass Config with the fields of its trials"),
        ({"Config": NOT_FROZEN}, "walk:Walk.Config: not frozen; write @dataclass(frozen=True, kw_only=True)"),
        ({"state": None}, "walk:Walk: has no method state"),
        ({"restore": lambda self: None}, "walk:Walk.restore: cannot be called with 1 arguments"),
        ({"train": lambda self, images: iter(())}, "walk:Walk.train: takes no arguments"),
        ({"metrics": ["loss"]}, "walk:Walk.metrics: ['loss'] is not like {'loss': 'min'}"),
        ({"metrics": {"loss": "low"}}, "walk:Walk: metric 'loss': 'low' is neither 'max' nor 'min'"),
        ({"metrics": {"attempt": "min"}}, "walk:Walk: metric 'attempt': the name is reserved or not a text"),
    ],
)
def test_a_wrong_class_is_a_line(attributes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        own_class.define(changed(**attributes), "walk:Walk")
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_train_that_yields_nothing_is_a_line() -> None:
    def train(self: Any) -> None:
        pass

    with pytest.raises(ConfigError, match=r"walk:Walk.train: yields nothing"):
        own_class.define(changed(train=train), "walk:Walk")


def test_literals_are_choices() -> None:
    trainable = declared(changed(Config=_config({"mode": Literal["a", "b"]}, mode="a")))
    assert trainable.field("mode").choices == ("a", "b")


# --- Trials --------------------------------------------------------------------------------------------


def test_a_trial_is_the_same_in_every_process_and_after_a_resume(train: Train, tmp_path: Path) -> None:
    whole = train(folder="whole")
    assert (whole.state, whole.epoch) == ("completed", 4)
    begun = train(folder="resumed", until=2)
    assert (begun.state, begun.epoch) == ("interrupted", 2)
    torch.randn(3), random.random(), np.random.rand()
    resumed = train(folder="resumed")
    assert len(resumed.attempts) == 2
    assert rows(tmp_path / "resumed", resumed) == rows(tmp_path / "whole", whole)
    assert [row["step"] for row in rows(tmp_path / "whole", whole)] == [10, 20, 30, 40]
    assert list(check_sweep(SweepStore(tmp_path / "whole"))) == []


def test_records_have_any_metrics_and_the_last_one_the_test(train: Train, tmp_path: Path) -> None:
    found = rows(tmp_path / "walk", train())
    assert [row["seen/extra"] is None for row in found] == [True, False, False, False]
    assert [row["test_loss"] is None for row in found] == [True, True, True, False]
    assert [row["height"] for row in found] == [1.0, 2.0, 3.0, 4.0]


def test_more_rounds_extend_a_trial(train: Train, tmp_path: Path) -> None:
    train()
    more = train(rounds=6)
    assert (more.epoch, len(more.attempts)) == (6, 2)
    assert more.attempts[-1].from_epoch == 4


def test_a_trial_that_ends_before_its_budget_is_completed_and_not_run_again(
    train: Train, tmp_path: Path
) -> None:
    def train_two(self: Walk) -> Iterator[dict[str, Any]]:
        for _ in range(2):
            yield {"loss": 1.0}

    early = train(changed(train=train_two))
    assert (early.state, early.epoch) == ("completed", 2)
    folder = SweepStore(tmp_path / "walk").trial(early.trial_id)
    assert "ended by itself after 2 of 4 records" in log_text(folder)
    assert train(changed(train=train_two)).attempts == early.attempts
    assert list(check_sweep(SweepStore(tmp_path / "walk"))) == []


def test_without_a_budget_a_trial_ends_when_it_likes(train: Train, tmp_path: Path) -> None:
    config = _config({"seed": int}, seed=0)

    class Free(Walk):
        Config = config  # type: ignore[assignment]

        def __init__(self, config: Any, run: Run):
            self.round = 0

        def train(self) -> Iterator[dict[str, Any]]:
            while self.round < 3:
                self.round += 1
                yield {"loss": 1.0 / self.round}

        def state(self) -> dict[str, Any]:
            return {"round": self.round}

    ended = train(Free)
    assert (ended.state, ended.epoch, ended.config.epochs) == ("completed", 3, UNLIMITED)
    log = log_text(SweepStore(tmp_path / "walk").trial(ended.trial_id))
    assert "epoch 3  loss 0.33333" in log
    assert "ended by itself" not in log
    assert train(Free, epochs=2).attempts == ended.attempts  # it has more than that
    assert train(Free, folder="short", epochs=2).epoch == 2


@pytest.mark.parametrize(("metric", "state"), [("loss", "diverged"), ("height", "completed")])
def test_only_the_metric_of_the_sweep_diverges(train: Train, metric: str, state: str) -> None:
    def train_badly(self: Walk) -> Iterator[dict[str, Any]]:
        while self.round < self.config.rounds:
            self.round += 1
            yield {"loss": 1.0, metric: math.nan}

    assert train(changed(train=train_badly)).state == state


BAD_RECORDS: dict[str, tuple[Any, str]] = {
    "no mapping": (0.5, "walk:Walk.train: 0.5 is not a mapping of metrics"),
    "a text": ({"loss": "low"}, "walk:Walk.train: metric 'loss': 'low' is not a number"),
    "an array": ({"loss": [1.0]}, "walk:Walk.train: metric 'loss': [1.0] is not a number"),
    "a reserved name": ({"epoch": 3}, "walk:Walk.train: metric 'epoch': the name is reserved"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_a_record_of_nonsense_fails_its_trial_in_a_line(train: Train, case: str) -> None:
    given, said = BAD_RECORDS[case]

    def train_oddly(self: Walk) -> Iterator[Any]:
        yield given

    info = train(changed(train=train_oddly))
    assert info.failure == "config"
    assert said in info.attempts[-1].message


def test_a_trial_without_a_record_fails(train: Train) -> None:
    info = train(changed(train=lambda self: iter(())))
    assert (info.failure, info.attempts[-1].message) == (
        "config", "ConfigError: the trial ended without a record",
    )  # fmt: skip


class Thing:
    """Not a value that a checkpoint can hold."""


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            {"weights": np.ones(2)},
            "walk:Walk.state()['weights'] is a numpy.ndarray: a checkpoint holds tensors",
        ),
        ({"deep": [1, {"x": Thing()}]}, "walk:Walk.state()['deep'][1]['x'] is a "),
        ([1], "walk:Walk.state() is a list: return a dictionary"),
    ],
)
def test_a_state_that_cannot_be_loaded_safely_is_refused_at_the_first_save(
    train: Train, state: Any, said: str
) -> None:
    info = train(changed(state=lambda self: state))
    assert info.failure == "config"
    assert said in info.attempts[-1].message
    assert info.epoch == 1


def test_an_optimizers_state_is_kept(train: Train) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    info = train(
        changed(state=lambda self: {"o": optimizer.state_dict(), "m": model.state_dict(), "round": 1})
    )
    assert info.state == "completed"


def test_scratch_is_empty_at_first_and_gone_at_the_end(train: Train) -> None:
    seen = []

    def look(self: Walk, config: WalkConfig, run: Run) -> None:
        seen.append(run.scratch)
        assert list(run.scratch.iterdir()) == []
        Walk.__init__(self, config, run)

    train(changed(__init__=look))
    assert not seen[0].exists()


class Draws(Walk):
    """Keeps a file a round, and a list of the rounds that grows."""

    def train(self) -> Iterator[dict[str, Any]]:
        for record in Walk.train(self):
            (self.run.artifacts / "rounds").mkdir(exist_ok=True)
            (self.run.artifacts / "rounds" / f"{self.round}.txt").write_text(str(self.round))
            with open(self.run.artifacts / "all.txt", "a") as file:
                file.write(f"{self.round}\n")
            yield record


def kept(path: Path, info: TrialInfo) -> dict[str, str]:
    found = SweepStore(path).trial(info.trial_id).kept_files()
    return {name: file.read_text() for name, file in found.items()}


def test_artifacts_are_kept_with_the_trial_and_a_resumed_attempt_finds_them(
    train: Train, tmp_path: Path
) -> None:
    begun = train(Draws, until=2)
    assert kept(tmp_path / "walk", begun) == {"rounds/1.txt": "1", "rounds/2.txt": "2", "all.txt": "1\n2\n"}
    info = train(Draws)
    assert info.attempts[-1].from_epoch == 2
    found = kept(tmp_path / "walk", info)
    assert found.pop("all.txt") == "1\n2\n3\n4\n"
    assert found == {f"rounds/{n}.txt": str(n) for n in range(1, 5)}
    assert list(check_sweep(SweepStore(tmp_path / "walk"))) == []


def test_artifacts_of_a_failed_attempt_are_kept(train: Train, tmp_path: Path) -> None:
    def break_off(self: Any) -> Iterator[dict[str, Any]]:
        yield next(Draws.train(self))
        (self.run.artifacts / "why.txt").write_text("here")
        raise ValueError("broken")

    info = train(type("Walk", (Draws,), {"train": break_off}))
    assert info.failure == "bug"
    assert kept(tmp_path / "walk", info)["why.txt"] == "here"


def test_a_store_is_read_where_the_class_is_not(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = train(width=3)
    monkeypatch.setattr(kinds, "_declared", {})
    monkeypatch.setattr(own_class, "_classes", {})
    store = SweepStore(tmp_path / "walk")
    read = store.trial(info.trial_id).info(verify=True)
    assert read is not None
    assert (read.state, read.config["width"]) == ("completed", 3)
    assert store.trial(info.trial_id).records().num_rows == 4
    with pytest.raises(ConfigError, match=r"walk:Walk: its file is not imported in this process"):
        start(read.config)


def start(config: TrialConfig) -> Any:
    from mixsweep.core.trainables.interface import Run as InternalRun

    return kinds.find_trainable(config.kind).start(config, InternalRun(device=torch.device("cpu")))


def predictions(self: Walk) -> dict[str, Any]:
    return {"label": [0, 1, 1], "prediction": torch.tensor([0, 1, 0]), "confidence": np.array([1, 0.5, 0.75])}


def test_its_predictions_are_kept_with_the_trial(train: Train, tmp_path: Path) -> None:
    info = train(changed(predictions=predictions))
    folder = SweepStore(tmp_path / "walk").trial(info.trial_id)
    found = folder.predictions()
    assert found is not None
    assert found.accuracy == pytest.approx(2 / 3)
    assert list(check_sweep(SweepStore(tmp_path / "walk"))) == []
    without = train(folder="without")
    assert SweepStore(tmp_path / "without").trial(without.trial_id).predictions() is None


def test_wrong_predictions_end_the_trial_in_one_line(train: Train, tmp_path: Path) -> None:
    info = train(changed(predictions=lambda self: {"label": [0], "prediction": [0]}))
    assert info.failure == "config"
    assert info.attempts[-1].message == "ConfigError: walk:Walk.predictions: lacks confidence"
    with pytest.raises(ConfigError, match=r"walk:Walk\.predictions: takes no arguments"):
        own_class.define(changed(predictions=lambda self, images: {}), "walk:Walk")


def test_a_damaged_definition_is_named(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = train()
    monkeypatch.setattr(kinds, "_declared", {})
    path = next((tmp_path / "walk" / "definitions").iterdir())
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"definitions/class-.*json: damaged"):
        learn_kind(tmp_path / "walk", info.config.kind)
    assert SweepStore(tmp_path / "walk").trial(info.trial_id).damages()
