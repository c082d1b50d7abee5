"""Compaction: what all trials of a sweep say, in two derived files that are quick to read."""

import json

from mixsweep.core.store import files
from mixsweep.core.store.store import STAMPS_KEY, SweepStore
from mixsweep.core.store.trial_index import TrialIndex


def compact(store: SweepStore) -> None:
    """Write all trials' records into one table, and the states of those that have ended into an index.

    Safe at any time: both are derived, and rebuilt whole.
    """
    table, stamps = store.assemble()
    table = table.replace_schema_metadata({STAMPS_KEY: json.dumps(stamps)})
    files.write_table(table, store.path / "metrics.parquet")
    TrialIndex(store).write()
