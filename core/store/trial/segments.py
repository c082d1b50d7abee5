"""Segments: the files of a trial's records, each written once, with a digest of its content in its name."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from mixsweep.core import records
from mixsweep.core.failures import DamagedError
from mixsweep.core.store import files
from mixsweep.core.store.arrow import numbers, rows_at
from mixsweep.core.store.trial.names import Segment


def write_segment(folder: Path, term: int, first: int, last: int, table: pa.Table) -> Segment:
    """Write records as the parts `first` to `last` of what a term has recorded."""
    content = files.table_bytes(table)
    segment = Segment(term, first, last, files.digest_of(content))
    files.write_bytes(folder / segment.name, content)
    return segment


def read_segment(folder: Path, segment: Segment, columns: Sequence[str] | None = None) -> pa.Table:
    """The records of a segment.

    Args:
        columns: only these, as far as it has them; None: all.

    Raises:
        FileNotFoundError: it is gone.
        DamagedError: it is not what was written.
    """
    path = folder / segment.name
    return files.table_from_bytes(verified_bytes(folder, segment), path, columns)


def verified_bytes(folder: Path, segment: Segment) -> bytes:
    """The content of a segment; raises as `read_segment`."""
    path = folder / segment.name
    try:
        content = path.read_bytes()
    except (IsADirectoryError, NotADirectoryError) as error:
        raise DamagedError(f"{path}: damaged, not a file") from error
    if files.digest_of(content) != segment.digest:
        raise DamagedError(f"{path}: damaged, its digest does not match")
    return content


def newest_rows(tables: Iterable[pa.Table], schema: pa.Schema, last_only: Sequence[str] = ()) -> pa.Table:
    """The rows of segments in the order of their epochs; an epoch recorded again replaces the earlier one.

    Args:
        last_only: columns that only the last row has, such as the test figures of a trial; in the others they are null.
    """
    table = records.concat(list(tables), schema)
    epochs = numbers(table["epoch"])
    if len(epochs) > 1 and not bool(np.all(np.diff(epochs) > 0)):
        # Of each epoch its last row: the first one in the reversed order.
        _, positions = np.unique(epochs[::-1], return_index=True)
        table = rows_at(table, len(epochs) - 1 - positions)
    last = table.num_rows - 1
    for name in last_only:
        position = table.schema.get_field_index(name)
        if position >= 0 and table[name].slice(0, max(0, last)).null_count < last:
            kept = [pa.nulls(last, table[name].type), *table[name].slice(last).chunks]
            table = table.set_column(position, table.schema.field(position), pa.chunked_array(kept))
    return table


def up_to(table: pa.Table, epoch: int) -> pa.Table:
    """The rows of a table in the order of epochs, up to this epoch."""
    return table.slice(0, int(np.searchsorted(numbers(table["epoch"]), epoch, side="right")))
