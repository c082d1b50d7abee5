"""Write sweeps as one tidy table, with what it takes to read the table as sweeps again."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mixsweep.analysis.exported.facts import METADATA_KEY, facts_of, to_metadata, write_beside
from mixsweep.analysis.exported.tables import SUFFIXES
from mixsweep.analysis.frames import Sweep, load, read_sweep, record_columns, with_tables
from mixsweep.core.errors import UserError


def export_table(sweeps: Sequence[Sweep], to: Path | str) -> int:
    """Write a row per epoch record of one or more sweeps, and what the table has to say of these sweeps.

    Args:
        to: a `.parquet` or `.csv` file; beside the latter a `.sweeps.json` is written.

    Returns:
        the number of rows.

    Raises:
        UserError: of another kind of file, a sweep that is unknown or empty, or two sweeps of one name.
    """
    to = Path(to)
    if to.suffix not in SUFFIXES:
        raise UserError(f"{to}: unknown kind of table; allowed: {', '.join(SUFFIXES)}")
    readings = [read_sweep(sweep) for sweep in with_tables(sweeps)]
    names = [reading.name for reading in readings]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{to}: two sweeps are called {min(twice)!r}; export each into a table of its own")
    frame = load(*readings)
    facts = [
        facts_of(
            reading.store,
            reading.infos,
            record_columns(reading.trainable, tuple(reading.records.columns)),
        )
        for reading in readings
    ]
    if to.suffix == ".csv":
        frame.to_csv(to, index=False)
        write_beside(facts, to)
    else:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        pq.write_table(
            table.replace_schema_metadata(
                {**(table.schema.metadata or {}), METADATA_KEY: to_metadata(facts)}
            ),
            to,
        )
    return len(frame)
