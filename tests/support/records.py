"""Records written by hand."""

from datetime import datetime
from typing import Any

from mixsweep.core.records import Record


def make_record(
    *, trial_id: str, epoch: int, step: int, attempt: int, recorded_at: datetime, **metrics: Any
) -> Record:
    """A record with these metrics."""
    return Record(
        trial_id=trial_id, epoch=epoch, step=step, attempt=attempt, recorded_at=recorded_at, metrics=metrics
    )
