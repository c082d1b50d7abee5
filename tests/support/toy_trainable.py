"""A kind of trial that shares no field and no metric with the built-in one: nothing outside may know either by name."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from mixsweep.core import records
from mixsweep.core.config import TrialConfig, declared_fields, option, trial_id_of
from mixsweep.core.errors import ConfigError, did_you_mean
from mixsweep.core.records import Metric, Record
from mixsweep.core.trainables.interface import CurvePanel, EpochWork, Run, Trainable


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """A parabola, walked down."""

    kind: ClassVar[str] = "image"  # stands in for the built-in kind

    rate: float = option(0.1, "share of the way to the minimum that a round takes", above=0)
    start: tuple[float, ...] = option((4.0,), "where the walk begins")
    rounds: int = option(3, "how many records", low=1)
    seed: int = option(0, "moves the beginning a little", low=0)
    parent: str = option("", "as of every trial")

    def __post_init__(self) -> None:
        for spec in declared_fields(ToyConfig):
            object.__setattr__(self, spec.name, spec.checked(getattr(self, spec.name)))

    @property
    def epochs(self) -> int:
        return self.rounds

    @property
    def begins_after(self) -> int:
        return 0

    @cached_property
    def trial_id(self) -> str:
        return trial_id_of(self.identity())

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def identity(self) -> dict[str, Any]:
        return {name: value for name, value in self.to_mapping().items() if name != "rounds"}

    def to_mapping(self) -> dict[str, Any]:
        return asdict(self) | {"start": list(self.start)}

    def with_values(self, **values: Any) -> "ToyConfig":
        return replace(self, **values)


class ToyTrial:
    """A walk down a parabola."""

    def __init__(self, config: ToyConfig):
        self.config, self.epoch = config, 0
        self._x = [x * (1 + 0.001 * config.seed) for x in config.start]
        self.facts = {"dimensions": len(config.start)}

    def train(self, attempt: int = 1) -> Iterator[Record]:
        while self.epoch < self.config.rounds:
            self.epoch += 1
            self._x = [x * (1 - self.config.rate) for x in self._x]
            yield Record(
                trial_id=self.config.trial_id,
                epoch=self.epoch,
                step=self.epoch,
                attempt=attempt,
                recorded_at=records.now(),
                metrics={"height": sum(x * x for x in self._x), "seconds": 0.5},
            )

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "x": list(self._x)}

    def restore(self, state: dict[str, Any]) -> None:
        self.epoch, self._x = state["epoch"], list(state["x"])

    def test(self) -> Mapping[str, float]:
        return {}

    def leave(self) -> tuple[Record, ...]:
        """Nothing: its state is always whole."""
        return ()

    def close(self) -> None:
        pass


class Toy(Trainable):
    """The kind."""

    kind = ToyConfig.kind
    fields = declared_fields(ToyConfig)
    budget = "rounds"
    data_field = ""
    mutable_fields = ("rate",)
    work_fields = ("start",)
    tag_fields = ()
    metrics = (
        Metric(name="height", doc="of the walker", better="min", is_objective=True, is_reproducible=True),
        Metric(name="seconds", doc="of a round", unit="s", better="min"),
    )
    default_metric = "height"
    headline_metrics = ()
    reported_tests = ()
    panels = (CurvePanel("height", {"here": "height"}),)
    curve_words = "height"
    method_notes = ("Heights are those of a parabola.",)
    second_metrics = ("seconds",)
    record_products: ClassVar = {}

    def config(self, values: Mapping[str, Any]) -> ToyConfig:
        for key in values:
            if key not in self.field_names:
                raise ConfigError(f"unknown field {key!r}{did_you_mean(key, self.field_names)}", key)
        return ToyConfig(**values)

    def config_from_store(self, values: Mapping[str, Any]) -> ToyConfig:
        return self.config(values)

    def pinned(self, code: str) -> "Toy":
        return self

    def unpinned(self, config: TrialConfig) -> TrialConfig:
        return config

    def check_value(self, name: str, value: Any) -> None:
        self.config({name: value})

    def is_effective(self, name: str, values: Mapping[str, Any]) -> bool:
        return True

    def check_data(self, configs: Iterable[TrialConfig], data_dir: Path | None) -> None:
        pass

    def start(self, config: TrialConfig, run: Run) -> ToyTrial:
        assert isinstance(config, ToyConfig)
        return ToyTrial(config)

    def accumulate_after(self, config: TrialConfig, out_of_memory: int, ranks: int) -> int:
        return 1

    def micro_batches_matter(self, config: TrialConfig, accumulate: int) -> bool:
        return False

    def has_diverged(self, record: Record, metric: str) -> bool:
        return not math.isfinite(record["height"])

    def progress(self, record: Record) -> str:
        return f"height {record['height']:.3g}"

    def epoch_work(self, config: TrialConfig) -> EpochWork:
        return EpochWork("toy", float(len(config["start"])), 1.0, "toys")

    def parameters(self, values: Mapping[str, Any]) -> float:
        return float(len(values["start"]))

    def cost_words(self, metric: str, trials: Sequence[Mapping[str, Any]]) -> str:
        return "walk one round"

    def weight_pictures(self, state: Mapping[str, Any]) -> None:
        return None


TRAINABLE = Toy()
