"""Trials of Ray Tune's classes and functions: records, checkpoints, resume and ends."""

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from mixsweep.core.config import Field
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.execution.runner import work
from mixsweep.core.store.definitions import learn_kind, save_definition
from mixsweep.core.store.integrity import check_sweep
from mixsweep.core.store.retention import Retention
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.trainables import kinds
from mixsweep.core.trainables.declared import DeclaredTrainable
from mixsweep.sweep.trainables import tune as adapters
from tests.support.trials import checkpoint_path, log_text
from tests.support.tune_trainables import FolderWalk, Walk, walk


def field(name: str, default: Any, **options: Any) -> Field:
    return Field(name=name, type=type(default), default=default, doc="", applies={}, **options)


CLASS_FIELDS = [
    field("optimizer/lr", 0.1), field("width", 4), field("steps", 6, budget=True, low=1), field("seed", 0),
]  # fmt: skip
FUNCTION_FIELDS = [field("lr", 0.1), field("rounds", 6, budget=True, low=1), field("seed", 0)]


def declared(target: Any, fields: list[Field]) -> DeclaredTrainable:
    definition = adapters.define(target, f"mine:{target.__name__}", fields, {"valid/loss": "min"})
    adapters.attach(definition, target)
    return kinds.declare(definition)


Train = Callable[..., TrialInfo]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder, as Ray has it."""
    from ray.tune.trainable import trainable

    monkeypatch.setattr(trainable, "DEFAULT_STORAGE_PATH", str(tmp_path / "home" / "ray_results"))
    return tmp_path / "home"


@pytest.fixture
def train(tmp_path: Path, home: Path) -> Iterator[Train]:
    """Trains one trial in a store, and returns how it ended; nothing of Ray's may be left afterwards."""

    def train(target: Any, folder: str = "walk", fields: Any = None, **values: Any) -> TrialInfo:
        pause = values.pop("pause", lambda: "")
        until, share = values.pop("until", None), values.pop("share", 1.0)
        is_class = isinstance(target, type)
        trainable = declared(target, fields or (CLASS_FIELDS if is_class else FUNCTION_FIELDS))
        store = SweepStore(tmp_path / folder)
        save_definition(store.path, trainable.definition)
        run_config = RunConfig(
            store=store.path,
            checkpoint_share=share,
            retention=Retention("all", "valid/loss", "min"),
            until=until,
        )
        config = trainable.config(values)
        list(work([config], run_config, pause=pause))
        found = store.trial(config.trial_id).info()
        assert found is not None
        return found

    yield train
    assert not home.exists()
    assert [thread for thread in threading.enumerate() if thread.name == "tune-function"] == []


def rows(path: Path, info: TrialInfo) -> list[dict[str, Any]]:
    table = SweepStore(path).trial(info.trial_id).records()
    return table.drop_columns(["seconds", "attempt", "recorded_at"]).to_pylist()


def after(records: int) -> Callable[[], str]:
    """Pauses a trial after so many records; the first call is made before an attempt."""
    calls = iter(range(10**6))
    return lambda: "preempted" if next(calls) >= records else ""


@pytest.mark.parametrize("target", [Walk, FolderWalk, walk])
def test_a_trial_is_the_same_after_a_resume_bit_for_bit(target: Any, train: Train, tmp_path: Path) -> None:
    whole = train(target, "whole")
    assert (whole.state, whole.epoch) == ("completed", 6)
    begun = train(target, "resumed", pause=after(3))
    assert (begun.state, begun.epoch) == ("interrupted", 3)
    random.random()
    resumed = train(target, "resumed")
    # The function has reported its last checkpoint at its second record: it makes the third one again.
    assert resumed.attempts[-1].from_epoch == (2 if target is walk else 3)
    assert rows(tmp_path / "resumed", resumed) == rows(tmp_path / "whole", whole)
    assert [row["step"] for row in rows(tmp_path / "whole", whole)] == [10, 20, 30, 40, 50, 60]
    assert list(check_sweep(SweepStore(tmp_path / "resumed"))) == []


@pytest.mark.parametrize("target", [Walk, walk])
def test_a_checkpoint_is_a_folder_and_a_damaged_one_is_left_for_the_one_before(
    target: Any, train: Train, tmp_path: Path
) -> None:
    whole = train(target, "whole")
    info = train(target, "damaged", pause=after(5))
    folder = SweepStore(tmp_path / "damaged").trial(info.trial_id)
    newest, before = folder.checkpoints()
    assert newest.is_folder
    assert before.epoch < newest.epoch <= 5
    (file,) = (path for path in (checkpoint_path(folder) / "checkpoint").rglob("*") if path.is_file())
    file.write_bytes(b"")
    resumed = train(target, "damaged")
    assert "its digest does not match" in log_text(folder)
    assert resumed.attempts[-1].from_epoch == before.epoch
    assert rows(tmp_path / "damaged", resumed) == rows(tmp_path / "whole", whole)


def test_numbers_of_a_result_are_metrics_and_what_tune_fills_in_is_not(train: Train, tmp_path: Path) -> None:
    info = train(Walk)
    own = {"valid/loss", "timesteps_this_iter", "timesteps_total"}
    assert set(rows(tmp_path / "walk", info)[0]) == {"trial_id", "epoch", "step", *own}
    log = log_text(SweepStore(tmp_path / "walk").trial(info.trial_id))
    assert log.count("not kept: ") == 1
    assert "not kept: valid/note (not a number), epoch (a reserved name)" in log


def test_a_budget_is_extended_and_the_rest_is_identity(train: Train, tmp_path: Path) -> None:
    train(Walk)
    more = train(Walk, steps=8)
    assert (more.epoch, more.attempts[-1].from_epoch) == (8, 6)
    config = more.config
    assert config.identity() == {
        "trainable": "tune mine:Walk", "optimizer/lr": 0.1, "width": 4, "seed": 0,
    }  # fmt: skip
    assert config.trial_id == "2e673786b24c"  # golden: changes never


class Counter(tune.Trainable):
    """Ends by itself, and says so in its result."""

    def setup(self, config: dict[str, Any]) -> None:
        self.count = 0

    def step(self) -> dict[str, Any]:
        self.count += 1
        return {"valid": {"loss": self.count}, "done": self.count == 4, "should_checkpoint": self.count == 2}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        (Path(checkpoint_dir) / "count").write_text(str(self.count))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.count = int((Path(checkpoint) / "count").read_text())


def count(config: dict[str, Any]) -> None:
    for number in range(1, 10):
        tune.report({"valid": {"loss": number}, "done": number == 4})


@pytest.mark.parametrize("target", [Counter, count])
def test_done_completes_a_trial_without_a_budget(target: Any, train: Train, tmp_path: Path) -> None:
    info = train(target, fields=[field("seed", 0)])
    assert (info.state, info.epoch) == ("completed", 4)
    assert train(target, fields=[field("seed", 0)]).attempts == info.attempts


def test_should_checkpoint_asks_for_one(train: Train, tmp_path: Path) -> None:
    saved = []
    save = Counter.save_checkpoint

    class Watched(Counter):
        def save_checkpoint(self, checkpoint_dir: str) -> None:
            saved.append(self.count)
            save(self, checkpoint_dir)

    train(Watched, fields=[field("steps", 3, budget=True)], share=1e-9)
    assert saved == [1, 2, 3]  # the first and the last, as of any trial, and the one it asked for


def test_a_done_trial_that_is_resumed_is_not_trained_on(train: Train, tmp_path: Path) -> None:
    info = train(Counter, fields=[field("steps", 9, budget=True)])
    assert (info.state, info.epoch) == ("completed", 4)
    more = train(Counter, fields=[field("steps", 9, budget=True)], steps=20)
    assert (more.state, more.epoch, more.attempts[-1].from_epoch) == ("completed", 4, 4)


def test_what_a_function_yields_or_returns_is_reported(train: Train, tmp_path: Path) -> None:
    def generator(config: dict[str, Any]) -> Iterator[Any]:
        yield {"valid/loss": 1.0}
        yield {"valid/loss": 0.5}

    def returns(config: dict[str, Any]) -> Any:
        return {"valid/loss": 0.25}

    assert [row["valid/loss"] for row in rows(tmp_path / "a", train(generator, "a"))] == [1.0, 0.5]
    assert [row["valid/loss"] for row in rows(tmp_path / "b", train(returns, "b"))] == [0.25]


def test_without_checkpoints_a_trial_starts_again_and_says_so(train: Train, tmp_path: Path) -> None:
    class Forgetful(Counter):
        save_checkpoint = tune.Trainable.save_checkpoint
        load_checkpoint = tune.Trainable.load_checkpoint

    for target, said in ((Forgetful, "it has no save_checkpoint"), (count, "it has reported no checkpoint")):
        name = target.__name__
        fields = [field("seed", 0)]
        train(target, name, fields=fields, pause=after(2))
        info = train(target, name, fields=fields)
        assert (info.state, info.epoch, info.attempts[-1].from_epoch) == ("completed", 4, 0)
        log = log_text(SweepStore(tmp_path / name).trial(info.trial_id))
        assert f"{said}: if it is interrupted, it starts again" in log
        assert [row["valid/loss"] for row in rows(tmp_path / name, info)] == [1, 2, 3, 4]


def test_a_function_that_fails_is_a_bug_with_its_traceback(train: Train, tmp_path: Path) -> None:
    def breaks(config: dict[str, Any]) -> None:
        tune.report({"valid/loss": 1.0})
        raise ValueError("no such thing")

    def leaves(config: dict[str, Any]) -> None:
        tune.report({"valid/loss": 1.0})
        sys.exit(3)

    for target, said in ((breaks, "no such thing"), (leaves, "the function called sys.exit(3)")):
        info = train(target, target.__name__)
        assert (info.state, info.attempts[-1].end) == ("failed", "bug")
        assert said in info.attempts[-1].message
        log = log_text(SweepStore(tmp_path / target.__name__).trial(info.trial_id))
        assert f"in {target.__name__}\n" in log or target is leaves


@pytest.mark.parametrize("target", ["class", "function"])
def test_nan_in_the_metric_diverges(target: str, train: Train) -> None:
    class Bad(Counter):
        def step(self) -> dict[str, Any]:
            return {"valid": {"loss": float("nan")}}

    def bad(config: dict[str, Any]) -> None:
        tune.report({"valid": {"loss": float("nan")}})

    assert train(Bad if target == "class" else bad).state == "diverged"


def test_a_function_cleans_up_when_its_trial_is_over(train: Train, tmp_path: Path) -> None:
    left: list[str] = []

    def careful(config: dict[str, Any]) -> None:
        try:
            for number in range(100):
                try:
                    tune.report({"valid/loss": number})
                except Exception:  # does not catch the end
                    left.append("caught")
        finally:
            left.append("cleaned")

    info = train(careful, rounds=3)
    assert (info.state, info.epoch, left) == ("completed", 3, ["cleaned"])


def test_a_function_that_catches_everything_ends_with_its_trial(train: Train) -> None:
    tries = []

    def stubborn(config: dict[str, Any]) -> None:
        for number in range(1000):
            try:
                tune.report({"valid/loss": number})
            except BaseException:
                tries.append(number)
                if len(tries) == 3:
                    raise

    info = train(stubborn, rounds=2)
    assert (info.state, info.epoch, tries) == ("completed", 2, [1, 2, 3])


def test_a_function_sees_its_trial(train: Train, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def looks(config: dict[str, Any]) -> None:
        context = tune.get_context()
        seen.update(id=context.get_trial_id(), name=context.get_trial_name(), folder=context.get_trial_dir())
        seen["config"] = config
        Path(seen["folder"], "file").write_text("x")
        tune.report({"valid/loss": 1.0})

    info = train(looks)
    assert (seen["id"], seen["name"]) == (info.trial_id, f"looks_{info.trial_id}")
    assert seen["config"] == {"lr": 0.1, "rounds": 6, "seed": 0}
    assert not Path(seen["folder"]).exists()
    assert tune.get_context()  # and the process has no session afterwards
    with pytest.warns(UserWarning, match="report"):
        tune.report({"loss": 1.0})


def test_a_store_is_read_without_ray(train: Train, tmp_path: Path) -> None:
    info = train(Walk)
    store = SweepStore(tmp_path / "walk")
    path = store.path / "definitions" / f"{info.config.kind}.json"
    assert json.loads(path.read_text())["source"] == "tune"
    code = (
        "import sys; from pathlib import Path\n"
        "from mixsweep.core.store.store import SweepStore\n"
        f"info = SweepStore(Path({str(store.path)!r})).trial({info.trial_id!r}).info()\n"
        "assert info.state == 'completed' and 'ray' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    learn_kind(store.path, info.config.kind)
