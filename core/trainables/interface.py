"""The interface of a kind of trial, used by the store, execution, planning, search and analysis.

A kind declares the fields of its trials (core.config.Field) and the metrics of their records (core.records.Metric),
makes configs from plain values, and starts trials. Code that reads a store, plans a sweep or draws a report uses this
interface, and names no field and no metric itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import pyarrow as pa

from mixsweep.core.config import Field, TrialConfig
from mixsweep.core.records import Metric, Record, record_schema, trajectory_columns

if TYPE_CHECKING:  # torch takes seconds to import, and most users of this interface do not train
    import numpy as np
    import torch

    from mixsweep.core.trainables.definition import Definition

COSTS = ("parameters",)  # of whole trials, beside their seconds


@dataclass(frozen=True)
class Objective:
    """The metric that the trials of a sweep are judged by, and whether `max` or `min` is better."""

    metric: str
    mode: str
    score: str = "last"  # which record of a trial counts: one of core.scoring.SCORES


@dataclass(frozen=True)
class EpochWork:
    """The cost of an epoch of a trial, for forecasts.

    Args:
        group: trials of one group do the same number of units of work per second.
        units: of work in an epoch; None if unknown.
        rough_rate: units per second to assume if nothing has been measured; None if unknown.
        subject: a phrase for what the trials of the group have in common.
    """

    group: str
    units: float | None
    rough_rate: float | None
    subject: str


@dataclass(frozen=True)
class MeasuredEpoch:
    """The time of an epoch, from a few steps.

    Args:
        seconds: of an epoch, the median of some measurements.
        spread: their range over the median; None of one alone.
        device: on which they were made.
    """

    seconds: float
    spread: float | None
    device: str


@dataclass(frozen=True)
class CurvePanel:
    """Metrics that share an axis in figures of learning curves.

    Args:
        axis_label: the label of the axis, with the unit.
        metrics: by their label in the legend, such as `train` and `valid`.
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
        scale: the label of the colour bar.
        signed: whether colours are centred at 0 and show the sign; otherwise the pictures are grey.
    """

    name: str
    title: str
    caption: str
    scale: str
    signed: bool
    pictures: "np.ndarray"


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where and how this process trains a trial. Nothing in it is part of the trial's identity.

    Args:
        data_dir: the data folder on this machine.
        accumulate: micro-batches per batch, if memory requires more than the config's.
        compile: run the model through torch.compile.
        rank: this process among the `world_size` that train the trial together; `local_rank` on its host.
        batch_norm: of several ranks: `synchronised` or `local`.
        threads: CPUs of this process.
        log: writes a line into the trial's log.
        kept: files that earlier attempts kept with the trial, by their paths: to be read, not changed.
        until: the record after which this attempt ends, and the trial waits for its population; None: none does.
    """

    device: "torch.device"
    data_dir: Path | None = None
    accumulate: int | None = None
    compile: bool = False
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    batch_norm: str = "synchronised"
    threads: int = 1
    log: Callable[[str], None] = print
    kept: Mapping[str, Path] = field(default_factory=dict)
    until: int | None = None


class RunningTrial(Protocol):
    """A trial in this process. All its ranks make the same calls; the records and state of rank 0 are stored."""

    @property
    def config(self) -> TrialConfig:
        """The config of the trial."""

    @property
    def epoch(self) -> int:
        """The epoch of the last record or of the restored state; 0 at the start."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Facts for the trial's provenance, as plain JSON values."""

    def train(self, attempt: int = 1) -> Iterator[Record]:
        """Train from the trial's current epoch, and yield a record after each epoch up to its budget, or to its end.

        The state is that of the yielded record until the next one is requested.
        """

    def state(self) -> dict[str, Any] | None:
        """The content of a checkpoint: `epoch`, and tensors and plain values, or the path of a `folder` with all else.

        Returns:
            None if there is nothing newer than what was returned before.
        """

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state, so that `train` continues from it."""

    def test(self) -> Mapping[str, float]:
        """Compute the test metrics, after the last epoch."""

    def leave(self) -> Iterable[Record]:
        """Finish what has to be in the state: the trial stops here, to be continued elsewhere.

        Returns:
            records that it still had.
        """

    def close(self) -> None:
        """Remove what the trial has put outside of its store and its memory."""


@runtime_checkable
class AsksForCheckpoints(Protocol):
    """A trial that can ask for a checkpoint of the state after its last record."""

    wants_checkpoint: bool


@runtime_checkable
class KeepsFiles(Protocol):
    """A trial that has files to keep with it, beside its records and checkpoints."""

    def files_to_keep(self, is_last: bool) -> Mapping[str, Path]:
        """All files to keep now, by their paths among them.

        Args:
            is_last: whether the attempt ends, so that what still writes them must end too.
        """


class Trainable(ABC):
    """A kind of trial.

    Attributes:
        kind: its name.
        definition: what a store keeps, so that its trials are read without the user's code; None: nothing.
        fields: of its trials, in the order in which they are shown.
        budget: the field for the number of records of a trial.
        data_field: the field for the data that a trial reads, '' if there is none.
        mutable_fields: those that a trial's state does not depend on, so that a copy may continue with other values.
        work_fields: those that the work of an epoch depends on.
        tag_fields: those whose values describe a trial in a word or two.
        metrics: of its records, in the order of their columns.
        default_metric: the metric of a sweep that names none.
        headline_metrics: those whose best value a summary shows, whatever the sweep's metric is.
        reported_tests: the test metrics that a report shows.
        panels: of a figure of learning curves; `curve_words` describe them in a caption.
        method_notes: sentences for reports on how its metrics are measured.
        second_metrics: those whose sum is the time of a record.
        predicted_accuracy: the test metric that equals the share of right predictions it keeps, '' if there is none.
        ends_by_itself: whether a trial may be complete before its budget of records.
        multi_rank: whether several processes can train one trial.
        record_products: figures of a trial that are the product of two metrics of a record, such as how many
            images it trained on; by name.
    """

    kind: str
    definition: "Definition | None" = None
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
    predicted_accuracy: ClassVar[str] = ""
    ends_by_itself: ClassVar[bool] = False
    multi_rank: bool = True

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
        """The default values of all fields."""
        return self.config({}).to_mapping()

    def defaults_beside(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The default values of all fields beside these values of some, which some defaults may depend on."""
        return self.defaults

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

    @property
    def certain_tests(self) -> tuple[str, ...]:
        """The test metrics that every completed trial has."""
        return self.test_metrics

    @cached_property
    def result_metrics(self) -> tuple[str, ...]:
        """The metrics of a trial's quality: objectives and test metrics, in the order of the columns."""
        return tuple(metric.name for metric in self.metrics if metric.is_objective or metric.is_test)

    def better(self, metric: str) -> str:
        """`max` or `min`: which values of a metric are better; `min` for an unknown one, taken as a cost."""
        return next((known.better for known in self.metrics if known.name == metric and known.better), "min")

    def has_better(self, metric: str) -> bool:
        """Whether it is known which values of a metric are better: it is declared, or a cost."""
        return metric in (*self.second_metrics, *COSTS) or any(
            known.name == metric and known.better for known in self.metrics
        )

    def objective(self, sweep_file: Mapping[str, Any]) -> Objective:
        """The objective in a sweep file, or the default one."""
        metric = str(sweep_file.get("metric", self.default_metric))
        mode = str(sweep_file.get("mode", self.better(metric)))
        return Objective(metric, mode, str(sweep_file.get("score", "last")))

    @abstractmethod
    def config(self, values: Mapping[str, Any]) -> TrialConfig:
        """A config from plain values, as in a sweep file; fields left out have their defaults.

        Raises:
            ConfigError: a value is of the wrong type or not allowed, or a key is not a field.
        """

    @abstractmethod
    def config_from_store(self, values: Mapping[str, Any]) -> TrialConfig:
        """A config from a store, readable even if code that the trial needs is not imported here.

        Raises:
            ConfigError: as for `config`.
        """

    def config_from_row(self, row: Mapping[str, Any]) -> TrialConfig:
        """A config from a row of a plan, which has other columns too; an older plan may lack a field."""
        return self.config_from_store({name: row[name] for name in self.field_names if name in row})

    @abstractmethod
    def pinned(self, code: str) -> "Trainable":
        """This kind of trial, with the digest of the code that trains it in the identity of each config."""

    @abstractmethod
    def unpinned(self, config: TrialConfig) -> TrialConfig:
        """A config without the digest of the code."""

    @abstractmethod
    def check_value(self, name: str, value: Any) -> None:
        """Check one field's value by itself; constraints between fields are checked for each config.

        Raises:
            ConfigError: no config can have this value.
        """

    def own_value(self, name: str, value: Any, values: Mapping[str, Any]) -> Any:
        """The value that a config has where a sweep file gives this one, beside these values of the other fields."""
        return value

    @abstractmethod
    def is_effective(self, name: str, values: Mapping[str, Any]) -> bool:
        """Whether a field has an effect with these values of all others."""

    @abstractmethod
    def check_data(self, configs: Iterable[TrialConfig], data_dir: Path | None) -> None:
        """Check that the data of these trials is present. Needs no torch.

        Raises:
            DataError: names what is missing, where, and what to do.
        """

    @abstractmethod
    def start(self, config: TrialConfig, run: Run) -> RunningTrial:
        """Start a trial from scratch, the same on all ranks."""

    @abstractmethod
    def accumulate_after(self, config: TrialConfig, out_of_memory: int, ranks: int) -> int:
        """The micro-batches per batch after `out_of_memory` such attempts, at the same batch size."""

    @abstractmethod
    def micro_batches_matter(self, config: TrialConfig, accumulate: int) -> bool:
        """Whether this number of micro-batches changes the results compared with the config's own."""

    @abstractmethod
    def has_diverged(self, record: Record, metric: str) -> bool:
        """Whether a record shows that its trial has diverged; `metric` is the one that its sweep compares."""

    def next_record_seconds(self, record: Record) -> float:
        """The most that the record after this one may take, with a checkpoint and, at the end, the test."""
        return 1.5 * sum(record[name] or 0.0 for name in self.second_metrics)

    @abstractmethod
    def progress(self, record: Record) -> str:
        """A one-line summary of a record, for the log."""

    @abstractmethod
    def epoch_work(self, config: TrialConfig) -> EpochWork:
        """The cost of an epoch of a trial."""

    @property
    def can_measure(self) -> bool:
        """Whether `measure_epoch` measures anything."""
        return type(self).measure_epoch is not Trainable.measure_epoch

    def measure_epoch(self, config: TrialConfig, run: Run, seconds: float) -> MeasuredEpoch | None:
        """Measure the time of an epoch in about so many seconds, without storing anything; None: it cannot be.

        Raises:
            ConfigError, DataError: the trial cannot be trained here.
        """
        return None

    @abstractmethod
    def parameters(self, values: Mapping[str, Any]) -> float:
        """The number of trainable parameters of a trial with these values of all fields; NaN if unknown."""

    @abstractmethod
    def cost_words(self, metric: str, trials: Sequence[Mapping[str, Any]]) -> str:
        """A phrase for what the seconds of a metric are spent on, for a table's header.

        Args:
            trials: the fields and record products of each; None for unknown ones.
        """

    @abstractmethod
    def weight_pictures(self, state: Mapping[str, Any]) -> WeightPictures | None:
        """Pictures of a trained state's weights; None if there is nothing to show."""
