"""Records, the rows of metrics.parquet: the columns of all kinds of trials, and the schema of a kind's metrics."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

# Columns of every record; a kind's metrics come between them.
_BEFORE = (
    ("trial_id", pa.string(), "", "first 12 hex digits of the identity's SHA-256"),
    ("epoch", pa.int32(), "epochs", "epochs trained so far; the first record is epoch 1"),
    ("step", pa.int64(), "steps", "optimizer steps taken so far"),
)
_AFTER = (
    ("attempt", pa.int32(), "", "attempt that trained the epoch; the first is 1"),
    ("recorded_at", pa.timestamp("ms", tz="UTC"), "", "when the record was made"),
)
COMMON_COLUMNS = tuple(name for name, *_ in (*_BEFORE, *_AFTER))

# Columns of a plan and of the tables made of it, beside a trial's fields, which therefore have other names.
PLAN_COLUMNS = ("sweep_folder", "sweep", "part", "point", "replica", "state")

# Columns of a table of trials that verdicts rest on, so that no field of a trainable of one's own has such a name.
TRIAL_COLUMNS = (
    "last", "best", "best_epoch", "epochs_planned", "epochs_trained", "trained_on_to", "attempts", "device_seconds",
    "energy_joules",
)  # fmt: skip

# Metrics measured by the device, for the kinds of trials that record them.
UTILISATION, ENERGY = "device_utilisation", "device_energy_joules"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A column of a kind's records.

    Args:
        unit: of the values, such as `s` or `fraction`; '' if there is none.
        type: float or int.
        better: `max` or `min`, '' if neither is better.
        is_objective: whether a sweep can be judged by it.
        is_test: whether only the last record of a finished trial has it.
        is_reproducible: whether it is bit for bit the same wherever a CPU fp32 trial runs; the other metrics
            depend on the machine and the time.
    """

    name: str
    doc: str
    unit: str = ""
    type: type = float
    better: str = ""
    is_objective: bool = False
    is_test: bool = False
    is_reproducible: bool = False


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record of one trial: an epoch, or another step by which its kind records.

    `metrics` holds only the metrics that the record has; those given as None are dropped.
    """

    trial_id: str
    epoch: int
    step: int
    attempt: int
    recorded_at: datetime
    metrics: Mapping[str, Any]

    def __post_init__(self) -> None:
        known = {name: value for name, value in self.metrics.items() if value is not None}
        object.__setattr__(self, "metrics", known)

    def __getitem__(self, column: str) -> Any:
        """The value of a column; None if the record does not have that metric."""
        return getattr(self, column) if column in COMMON_COLUMNS else self.metrics.get(column)

    def with_metrics(self, values: Mapping[str, Any]) -> "Record":
        """A copy with some metrics changed; None removes one."""
        return replace(self, metrics={**self.metrics, **values})


def record_schema(metrics: Iterable[Metric]) -> pa.Schema:
    """The columns of records with these metrics, with units and meanings as the fields' metadata."""
    kinds = {float: pa.float64(), int: pa.int64()}
    own = [(metric.name, kinds[metric.type], metric.unit, metric.doc) for metric in metrics]
    columns = (*_BEFORE, *own, *_AFTER)
    return pa.schema(
        [pa.field(name, kind, metadata={"unit": unit, "doc": doc}) for name, kind, unit, doc in columns]
    )


def trajectory_columns(metrics: Iterable[Metric]) -> tuple[str, ...]:
    """The columns that are equal bit for bit wherever a CPU fp32 trial runs."""
    return ("trial_id", "epoch", "step", *(metric.name for metric in metrics if metric.is_reproducible))


def now() -> datetime:
    """The current time in UTC, rounded to the store's milliseconds."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def to_table(records: Iterable[Record], schema: pa.Schema) -> pa.Table:
    """Records as a table with this schema, in the given order; metrics that it lacks are columns after its own."""
    rows = list(records)
    more = dict.fromkeys(name for row in rows for name in row.metrics if name not in schema.names)
    kinds = {name: _type_of([row[name] for row in rows]) for name in more}
    schema = pa.schema([*schema, *(pa.field(name, kind) for name, kind in kinds.items())])
    return pa.table({name: [row[name] for row in rows] for name in schema.names}, schema=schema)


def _type_of(values: Sequence[Any]) -> pa.DataType:
    """The type of a column with these values: integers or floats."""
    known = [value for value in values if value is not None]
    return pa.int64() if known and all(isinstance(value, int) for value in known) else pa.float64()


def from_table(table: pa.Table) -> list[Record]:
    """The rows of a table of records."""
    found = []
    for row in table.to_pylist():
        common = {name: row.pop(name) for name in COMMON_COLUMNS}
        found.append(Record(**common, metrics=row))
    return found


def with_all_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table of records with missing columns, as from an older version, added as nulls."""
    missing = [spec for spec in schema if spec.name not in table.column_names]
    for spec in missing:
        table = table.append_column(spec, pa.nulls(table.num_rows, spec.type))
    if not missing:
        return table
    return table.select([*schema.names, *(name for name in table.column_names if name not in schema.names)])


def selected(schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Schema:
    """A schema, or these columns of it; a metric that it does not know is a number."""
    if columns is None:
        return schema
    known = set(schema.names)
    return pa.schema([schema.field(n) if n in known else pa.field(n, pa.float64()) for n in columns])


def concat(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """The concatenation of tables of records; columns that an older one lacks are null."""
    if tables and all(table.schema.equals(schema) for table in tables):
        return pa.concat_tables(tables)
    return pa.concat_tables([schema.empty_table(), *tables], promote_options="permissive")
