"""What a kind of trial offers to the store, to execution, planning, search and analysis.

A kind says which fields its trials have (core.config.Field) and which metrics their records (core.records.Metric),
makes configs from plain values, and starts trials. Whoever reads a store, plans a sweep or draws a report asks the
kind, and knows no field and no metric by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import pyarrow as pa

from mixsweep.core.config import Field, TrialConfig
from mixsweep.core.records import Metric, Record, record_schema, trajectory_columns

if TYPE_CHECKING:  # torch takes seconds to import, and most who ask a kind do not train
    import numpy as np
    import torch


@dataclass(frozen=True)
class Objective:
    """What the trials of a sweep are judged by: a metric, and whether `max` or `min` is better."""

    metric: str
    mode: str


@dataclass(frozen=True)
class EpochWork:
    """What an epoch of a trial costs, for forecasts.

    Args:
        group: trials of one group do as many units of work a second.
        units: of work in an epoch; None where that is not known.
        rough_rate: units a second where nothing has been measured; None where no one can say.
        subject: what such trials have in common, in words.
    """

    group: str
    units: float | None
    rough_rate: float | None
    subject: str


@dataclass(frozen=True)
class CurvePanel:
    """Metrics that share an axis in figures of learning curves.

    Args:
        axis_label: of the values, with their unit.
        metrics: by the word that tells one from the other, as `train` and `valid`.
        is_fraction: whether the values are shown in percent.
    """

    axis_label: str
    metrics: Mapping[str, str]
    is_fraction: bool = False


@dataclass(frozen=True)
class WeightPictures:
    """Learned weights as pictures [n, height, width], and how a report shows them.

    Args:
        name: of the figure's file.
        title: above the figure.
        caption: below it, in a report.
        scale: what the colours mean.
        signed: whether colours are centred at 0 and tell the sign; else the pictures are grey.
    """

    name: str
    title: str
    caption: str
    scale: str
    signed: bool
    pictures: "np.ndarray"


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where and how this process trains a trial: nothing of it is part of the trial's identity.

    Args:
        data_dir: where the data lies on this machine.
        accumulate: micro-batches a batch, where memory asks for more than the config does.
        compile: run the model through torch.compile.
        rank: this process among the `world_size` that train the trial together; `local_rank` on its host.
        batch_norm: of several ranks: `synchronised` or `local`.
    """

    device: "torch.device"
    data_dir: Path | None = None
    accumulate: int | None = None
    compile: bool = False
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    batch_norm: str = "synchronised"


class RunningTrial(Protocol):
    """A trial in this process. All ranks that train it make the same calls; rank 0's records and state count."""

    @property
    def config(self) -> TrialConfig:
        """What it trains."""

    @property
    def epoch(self) -> int:
        """The number of the last record, that of the restored state, or 0."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What is kept with the trial's provenance, as plain JSON values."""

    def train(self, attempt: int = 1) -> Iterator[Record]:
        """Train on from where the trial stands, and yield record after record up to its budget.

        The state is that of the yielded record until the next one is asked for.
        """

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: `epoch`, and tensors and plain values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""

    def test(self) -> Mapping[str, float]:
        """The test metrics, once the budget is used."""


class Trainable(ABC):
    """A kind of trial.

    Attributes:
        kind: its name.
        fields: of its trials, in the order in which they are shown.
        budget: the field that says how many records a trial makes.
        data_field: the field that says which data a trial reads, '' where none does.
        mutable_fields: those that a trial's state does not depend on, so that a copy of it can go on with others.
        work_fields: those that the work of an epoch depends on.
        tag_fields: those that say in a word or two what a trial is.
        metrics: of its records, in the order of their columns.
        default_metric: what a sweep is judged by that names nothing.
        headline_metrics: those whose best value a summary shows, whatever a sweep is judged by.
        reported_tests: the test metrics that a report shows.
        panels: of a figure of learning curves; `curve_words` say what they show.
        method_notes: what a reader of its figures has to know about how they were taken.
        second_metrics: those whose sum is the time of a record.
        record_products: figures of a trial that are the product of two metrics of a record, such as how many
            images it trained on; by name.
    """

    kind: str
    fields: tuple[Field, ...]
    budget: str
    data_field: str
    mutable_fields: tuple[str, ...]
    work_fields: tuple[str, ...]
    tag_fields: tuple[str, ...]
    metrics: tuple[Metric, ...]
    default_metric: str
    headline_metrics: tuple[str, ...]
    reported_tests: tuple[str, ...]
    panels: tuple[CurvePanel, ...]
    curve_words: str
    method_notes: tuple[str, ...]
    second_metrics: tuple[str, ...]
    record_products: ClassVar[Mapping[str, tuple[str, str]]]

    @cached_property
    def field_names(self) -> tuple[str, ...]:
        """The names of the fields, in their order."""
        return tuple(spec.name for spec in self.fields)

    def field(self, name: str) -> Field:
        """The field of a name.

        Raises:
            KeyError: there is none.
        """
        return self._fields_by_name[name]

    @cached_property
    def _fields_by_name(self) -> dict[str, Field]:
        return {spec.name: spec for spec in self.fields}

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The values of a config that says nothing."""
        return self.config({}).to_mapping()

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of its records."""
        return record_schema(self.metrics)

    @cached_property
    def trajectory_columns(self) -> tuple[str, ...]:
        """The columns that are equal bit for bit wherever a CPU fp32 trial runs."""
        return trajectory_columns(self.metrics)

    @cached_property
    def objectives(self) -> tuple[str, ...]:
        """The metrics that a sweep can be judged by."""
        return tuple(metric.name for metric in self.metrics if metric.is_objective)

    @cached_property
    def test_metrics(self) -> tuple[str, ...]:
        """The metrics that only the last record of a finished trial has."""
        return tuple(metric.name for metric in self.metrics if metric.is_test)

    @cached_property
    def result_metrics(self) -> tuple[str, ...]:
        """The metrics that tell how good a trial is: objectives and test metrics, in the order of the columns."""
        return tuple(metric.name for metric in self.metrics if metric.is_objective or metric.is_test)

    def better(self, metric: str) -> str:
        """`max` or `min`: which values of a metric are better; what is not known better is a cost."""
        return next((known.better for known in self.metrics if known.name == metric and known.better), "min")

    def objective(self, sweep_file: Mapping[str, Any]) -> Objective:
        """What a sweep is judged by, as its file says it or by default."""
        metric = str(sweep_file.get("metric", self.default_metric))
        return Objective(metric, str(sweep_file.get("mode", self.better(metric))))

    @abstractmethod
    def config(self, values: Mapping[str, Any]) -> TrialConfig:
        """A config of plain values, as a sweep file has them; fields left out stand at their defaults.

        Raises:
            ConfigError: a value is of the wrong type or not allowed, or a key is no field.
        """

    @abstractmethod
    def config_from_store(self, values: Mapping[str, Any]) -> TrialConfig:
        """A config as a store has it: readable even where what its trial needs to run is not at hand.

        Raises:
            ConfigError: as for `config`.
        """

    def config_from_row(self, row: Mapping[str, Any]) -> TrialConfig:
        """A config as a row of a plan has it, beside other columns; an older plan may lack a field."""
        return self.config_from_store({name: row[name] for name in self.field_names if name in row})

    @abstractmethod
    def check_value(self, name: str, value: Any) -> None:
        """Check one field's value by itself; what several fields must agree on is checked config by config.

        Raises:
            ConfigError: no config can have it.
        """

    @abstractmethod
    def is_effective(self, name: str, values: Mapping[str, Any]) -> bool:
        """Whether a field has an effect beside these values of all others."""

    @abstractmethod
    def check_data(self, configs: Iterable[TrialConfig], data_dir: Path | None) -> None:
        """Make sure that the data of these trials is there. Needs no torch.

        Raises:
            DataError: what is missing, where, and what to do.
        """

    @abstractmethod
    def start(self, config: TrialConfig, run: Run) -> RunningTrial:
        """A trial at its beginning, the same on all ranks."""

    @abstractmethod
    def accumulate_after(self, config: TrialConfig, out_of_memory: int, ranks: int) -> int:
        """The micro-batches a batch after so many attempts that ran out of memory, at the same batch size."""

    @abstractmethod
    def micro_batches_matter(self, config: TrialConfig, accumulate: int) -> bool:
        """Whether so many micro-batches lead to other numbers than the config's own."""

    @abstractmethod
    def has_diverged(self, record: Record) -> bool:
        """Whether a record says that its trial cannot be trained on."""

    @abstractmethod
    def progress(self, record: Record) -> str:
        """A record in a few words, for the log."""

    @abstractmethod
    def epoch_work(self, config: TrialConfig) -> EpochWork:
        """What an epoch of a trial costs."""

    @abstractmethod
    def parameters(self, values: Mapping[str, Any]) -> float:
        """The trainable parameters of a trial with these values of all fields; NaN where that cannot be told."""

    @abstractmethod
    def cost_words(self, metric: str, trials: Sequence[Mapping[str, Any]]) -> str:
        """What the seconds of a metric are spent on, for a table's header.

        Args:
            trials: the fields and record products of each; None for what is not known.
        """

    @abstractmethod
    def weight_pictures(self, state: Mapping[str, Any]) -> WeightPictures | None:
        """What a trained state has learned, as pictures; None where there is nothing to show."""
