"""Trials of a trainable known by its definition: their configs, and the interface by which everything else uses them.

Nothing here runs a trial. The code that does, by the definition's source, is named in `_STARTERS` and imported when a
trial is started, or given by `start_with` where it needs what core must not import.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from mixsweep.core.config import TrialConfig, check_parent, epoch_of_parent, trial_id_of
from mixsweep.core.errors import ConfigError, did_you_mean
from mixsweep.core.records import Metric, Record
from mixsweep.core.trainables.definition import SECONDS, UNLIMITED, Definition
from mixsweep.core.trainables.interface import CurvePanel, EpochWork, Run, RunningTrial, Trainable

# The module with `start(config, run)`, by source.
_STARTERS = {
    "class": "mixsweep.core.trainables.own_class",
    "command": "mixsweep.core.trainables.command.trial",
}

_given: dict[str, Callable[[TrialConfig, Run], RunningTrial]] = {}  # by kind

_ROLES = ("train", "valid", "val", "test")  # prefixes of metrics that belong on one axis
_SHOWN = 4  # metrics in a line of the log
_PINNED = "trainable code"  # in an identity; no field can have this name


def start_with(definition: Definition, start: Callable[[TrialConfig, Run], RunningTrial]) -> None:
    """Start the trials of a definition in this process by this function, whether their code is pinned or not."""
    _given[replace(definition, code="").kind] = start


@dataclass(frozen=True)
class DeclaredConfig:
    """The values of a trial whose fields a definition declares.

    Raises:
        ConfigError: a value is of the wrong type, out of range, or not among the allowed ones.
    """

    definition: Definition
    values: Mapping[str, Any]

    def __post_init__(self) -> None:
        known = {spec.name: spec for spec in self.definition.fields}
        for key in self.values:
            if key not in known:
                raise ConfigError(f"unknown field {key!r}{did_you_mean(key, known)}", key)
        checked = {name: spec.checked(self.values.get(name, spec.default)) for name, spec in known.items()}
        for name, spec in known.items():
            if not _applies(checked, spec.applies):
                checked[name] = spec.default
        check_parent(checked["parent"])
        object.__setattr__(self, "values", checked)

    def __hash__(self) -> int:
        return hash(self.trial_id)

    @property
    def kind(self) -> str:
        return self.definition.kind

    @property
    def epochs(self) -> int:
        value: int = self.values[self.definition.budget]
        return value

    @property
    def parent(self) -> str:
        value: str = self.values["parent"]
        return value

    @property
    def begins_after(self) -> int:
        return epoch_of_parent(self.parent)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def identity(self) -> dict[str, Any]:
        """All values but the budget, and what trains them.

        A user's defaults change, so values that equal them are not left out, except those of fields that came later.
        """
        values = self.to_mapping()
        left_out = {self.definition.budget, *(() if self.parent else ("parent",))}
        for spec in self.definition.fields:
            if spec.added and self.values[spec.name] == spec.default:
                left_out.add(spec.name)
        kept = {name: value for name, value in values.items() if name not in left_out}
        pinned = {_PINNED: self.definition.code} if self.definition.code else {}
        return {"trainable": f"{self.definition.source} {self.definition.name}", **pinned, **kept}

    @cached_property
    def trial_id(self) -> str:
        return trial_id_of(self.identity())

    def to_mapping(self) -> dict[str, Any]:
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in self.values.items()
        }

    def with_values(self, **values: Any) -> "DeclaredConfig":
        return DeclaredConfig(self.definition, {**self.values, **values})


class DeclaredTrainable(Trainable):
    """A kind of trial that a definition declares."""

    data_field = ""
    work_fields = ()
    tag_fields = ()
    second_metrics = (SECONDS,)
    record_products: ClassVar[Mapping[str, tuple[str, str]]] = {}
    method_notes = ()
    ends_by_itself = True

    definition: Definition

    def __init__(self, definition: Definition):
        self.definition = definition
        self.kind = definition.kind
        self.fields = definition.fields
        self.budget = definition.budget
        self.multi_rank = definition.multi_rank
        self.mutable_fields = tuple(spec.name for spec in definition.fields if spec.mutable)
        self.metrics = definition.metrics
        objectives = [metric for metric in definition.metrics if metric.is_objective]
        self.default_metric = objectives[0].name if objectives else ""
        self.headline_metrics = tuple(metric.name for metric in objectives[:2])
        self.reported_tests = tuple(metric.name for metric in definition.metrics if metric.is_test)
        self.panels = _panels(objectives)
        self.curve_words = "metrics" if len(objectives) > 3 else ", ".join(_words(m.name) for m in objectives)

    @property
    def certain_tests(self) -> tuple[str, ...]:
        return ()

    def config(self, values: Mapping[str, Any]) -> DeclaredConfig:
        return DeclaredConfig(self.definition, values)

    def config_from_store(self, values: Mapping[str, Any]) -> DeclaredConfig:
        return DeclaredConfig(self.definition, values)

    def pinned(self, code: str) -> "DeclaredTrainable":
        return DeclaredTrainable(replace(self.definition, code=code))

    def unpinned(self, config: TrialConfig) -> TrialConfig:
        assert isinstance(config, DeclaredConfig)
        return DeclaredConfig(replace(config.definition, code=""), config.values)

    def check_value(self, name: str, value: Any) -> None:
        self.field(name).checked(value)

    def is_effective(self, name: str, values: Mapping[str, Any]) -> bool:
        return _applies(values, self.field(name).applies)

    def check_data(self, configs: Iterable[TrialConfig], data_dir: Path | None) -> None:
        """Nothing: its data is its own."""

    def start(self, config: TrialConfig, run: Run) -> RunningTrial:
        given = _given.get(replace(self.definition, code="").kind)
        if given is not None:
            return given(config, run)
        if self.definition.source not in _STARTERS:
            raise ConfigError(f"{self.definition.name}: its code is not imported in this process")
        start: Callable[[TrialConfig, Run], RunningTrial] = import_module(
            _STARTERS[self.definition.source]
        ).start
        return start(config, run)

    def accumulate_after(self, config: TrialConfig, out_of_memory: int, ranks: int) -> int:
        return 1

    def micro_batches_matter(self, config: TrialConfig, accumulate: int) -> bool:
        return False

    def has_diverged(self, record: Record, metric: str) -> bool:
        value = record[metric]
        return value is not None and not math.isfinite(value)

    def progress(self, record: Record) -> str:
        own = [name for name in (m.name for m in self.metrics) if name in record.metrics and name != SECONDS]
        names = own or [name for name in record.metrics if name != SECONDS]
        more = ", …" if len(names) > _SHOWN else ""
        return ", ".join(f"{name} {record[name]:.5g}" for name in names[:_SHOWN]) + more

    def epoch_work(self, config: TrialConfig) -> EpochWork:
        units = None if config.epochs == UNLIMITED else 1.0
        return EpochWork(self.definition.name, units, None, f"a trial of {self.definition.name}")

    def parameters(self, values: Mapping[str, Any]) -> float:
        return math.nan

    def cost_words(self, metric: str, trials: Sequence[Mapping[str, Any]]) -> str:
        return "one record"

    def weight_pictures(self, state: Mapping[str, Any]) -> None:
        return None


def _applies(values: Mapping[str, Any], conditions: Mapping[str, tuple[Any, ...]]) -> bool:
    return all(values[other] in allowed for other, allowed in conditions.items())


def _words(name: str) -> str:
    return name.replace("_", " ")


def _panels(metrics: Sequence[Metric]) -> tuple[CurvePanel, ...]:
    """A panel for each metric, and one for `train_loss` and `valid_loss` together."""
    found: dict[str, dict[str, str]] = {}
    units: dict[str, str] = {}
    for name, unit in ((metric.name, metric.unit) for metric in metrics):
        role, separator, rest = name.partition("/") if "/" in name else name.partition("_")
        if separator and rest and role in _ROLES:
            found.setdefault(rest, {})[role] = name
            units.setdefault(rest, unit)
        else:
            found.setdefault(name, {})[name] = name
            units.setdefault(name, unit)
    return tuple(
        CurvePanel(f"{_words(axis)} ({units[axis]})" if units[axis] else _words(axis), names)
        for axis, names in found.items()
    )
