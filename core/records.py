"""Epoch records: one row of metrics.parquet an epoch, and the files' atomic reading and writing."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime

import pyarrow as pa


def _column(name: str, kind: pa.DataType, unit: str, doc: str) -> pa.Field:
    return pa.field(name, kind, metadata={"unit": unit, "doc": doc})


SCHEMA = pa.schema(
    [
        _column("trial_id", pa.string(), "", "first 12 hex digits of the identity's SHA-256"),
        _column("epoch", pa.int32(), "epochs", "epochs trained so far; the first record is epoch 1"),
        _column("step", pa.int64(), "steps", "optimizer steps taken so far"),
        _column(
            "train_loss",
            pa.float64(),
            "nats",
            "mean over the epoch's train samples, in train mode; label smoothing included",
        ),
        _column("train_accuracy", pa.float64(), "fraction", "over the epoch's train samples, in train mode"),
        _column("valid_loss", pa.float64(), "nats", "mean over the valid samples"),
        _column("valid_accuracy", pa.float64(), "fraction", "over the valid samples"),
        _column(
            "test_loss", pa.float64(), "nats", "mean over the test samples; last row of a finished trial"
        ),
        _column("test_accuracy", pa.float64(), "fraction", "over the test samples; last row, as above"),
        _column("lr", pa.float64(), "", "learning rate of the epoch's last step"),
        _column("train_seconds", pa.float64(), "s", "time of the epoch's training steps"),
        _column("valid_seconds", pa.float64(), "s", "time to infer the valid images once"),
        _column("images_per_second", pa.float64(), "images/s", "train images over train_seconds"),
        _column(
            "peak_memory_bytes", pa.int64(), "B", "device memory allocated; on CPU the process's own peak"
        ),
        _column(
            "device_utilisation",
            pa.float64(),
            "fraction",
            "of the epoch's time that the GPU was at work; NVML",
        ),
        _column(
            "device_memory_bytes", pa.int64(), "B", "of the GPU in use at the epoch's end, by anyone; NVML"
        ),
        _column(
            "device_energy_joules", pa.float64(), "J", "that the GPU took in the epoch, for anyone; NVML"
        ),
        _column("attempt", pa.int32(), "", "attempt that trained the epoch; the first is 1"),
        _column("recorded_at", pa.timestamp("ms", tz="UTC"), "", "when the record was made"),
    ]
)


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One epoch of one trial. Accuracies are fractions; means are over samples, not over batches."""

    trial_id: str
    epoch: int
    step: int
    train_loss: float
    train_accuracy: float
    valid_loss: float
    valid_accuracy: float
    lr: float
    train_seconds: float
    valid_seconds: float
    images_per_second: float
    peak_memory_bytes: int
    attempt: int
    recorded_at: datetime
    test_loss: float | None = None
    test_accuracy: float | None = None
    device_utilisation: float | None = None
    device_memory_bytes: int | None = None
    device_energy_joules: float | None = None

    @property
    def is_finite(self) -> bool:
        """False for a trial that has diverged."""
        return math.isfinite(self.train_loss) and math.isfinite(self.valid_loss)


# Equal bit for bit wherever a CPU fp32 trial runs; the other columns tell of the place and the time.
TRAJECTORY_COLUMNS = (
    "trial_id",
    "epoch",
    "step",
    "train_loss",
    "train_accuracy",
    "valid_loss",
    "valid_accuracy",
    "test_loss",
    "test_accuracy",
    "lr",
)


def default_mode(metric: str) -> str:
    """`min` for a loss, `max` for an accuracy."""
    return "min" if metric.endswith("loss") else "max"


def now() -> datetime:
    """The present in UTC, to the millisecond that the store keeps."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def to_table(records: Iterable[EpochRecord]) -> pa.Table:
    """Records as a table with SCHEMA, in the given order."""
    rows = list(records)
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    return pa.table(columns, schema=SCHEMA)


def from_table(table: pa.Table) -> list[EpochRecord]:
    """The rows of a table with SCHEMA as records."""
    names = [spec.name for spec in fields(EpochRecord) if spec.name in table.column_names]
    return [EpochRecord(**row) for row in table.select(names).to_pylist()]


def with_all_columns(table: pa.Table) -> pa.Table:
    """Records of an older version with the columns that it did not have, null."""
    missing = [spec for spec in SCHEMA if spec.name not in table.column_names]
    for spec in missing:
        table = table.append_column(spec, pa.nulls(table.num_rows, spec.type))
    return table.select(SCHEMA.names) if missing else table


def schema_of(columns: Sequence[str] | None = None) -> pa.Schema:
    """SCHEMA, or these columns of it."""
    return SCHEMA if columns is None else pa.schema([SCHEMA.field(name) for name in columns])


def concat(tables: Sequence[pa.Table], columns: Sequence[str] | None = None) -> pa.Table:
    """Tables with SCHEMA (or these columns of it), one after the other; an older one's missing columns are null."""
    schema = schema_of(columns)
    if tables and all(table.schema.equals(schema) for table in tables):
        return pa.concat_tables(tables)
    return pa.concat_tables([schema.empty_table(), *tables], promote_options="default")
