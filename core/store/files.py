"""The files of a store: each is read in one go, and replaced atomically."""

import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mixsweep.core.records import selected, with_all_columns


def write_table(table: pa.Table, path: Path, fence: Callable[[], None] = lambda: None) -> None:
    """Replace a Parquet file atomically; `fence` as for write_bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(path, sink.getvalue(), fence)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file of the store in one go, so that no reader holds a file open that a writer replaces.

    Args:
        columns: only these, as far as the file has them; left out: all.

    Raises:
        FileNotFoundError: there is no such file.
    """
    # Small tables gain nothing from Arrow's threads, which can crash a process that exits right afterwards.
    file = pq.ParquetFile(pa.BufferReader(path.read_bytes()))
    return file.read(columns=None if columns is None else list(columns), use_threads=False)


def read_records(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a metrics file with the columns of this schema; an empty table if there is no file yet.

    Args:
        columns: as for read_table.
    """
    try:
        table = read_table(path, columns)
    except FileNotFoundError:
        return selected(schema, columns).empty_table()
    return table if columns is not None else with_all_columns(table, schema)


def write_bytes(path: Path, content: bytes | memoryview, fence: Callable[[], None] = lambda: None) -> None:
    """Replace a file atomically: write a new one beside it, flush to the disk, rename.

    `fence` is called just before the rename, and may raise to prevent it: a flush can take so long that the
    lease is lost meanwhile.
    """
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fence()
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
