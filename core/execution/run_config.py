"""Where and how a process trains. Needs no torch, so that a command that only plans stays quick."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mixsweep.core.store.retention import Retention

# Over the images of all ranks, as one rank alone would; or over each rank's own, which is faster and trains
# as small batches do.
BATCH_NORMS = ("synchronised", "local")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where and how a process trains: nothing of it is part of a trial's identity."""

    store: Path
    place: str = "debug"
    host: str = ""  # as the scheduler names it; empty: as the machine calls itself
    data_dir: Path | None = None
    job: str = ""  # of a scheduler
    restarts: int = 0  # how often that has been requeued
    command: str = ""  # what was typed, for the records
    cpus: int = 1
    gpus: float = 0.0
    ranks: int = 1  # processes that train a trial together, each with these cpus and gpus
    batch_norm: str = "synchronised"  # of several ranks: one of BATCH_NORMS
    rank_timeout_seconds: float = 600.0  # how long a rank waits for another one
    compile: bool = False
    retention: Retention = field(default_factory=Retention)
    started_at: str = ""  # when the command was given, ISO
    command_id: str = ""  # tells commands apart: failures of another one may be tried again
    retry_failed: bool = False
    stopping: bool = False  # whether a stopping rule is in force, so that a `stopped` trial has ended
    until: int | None = None  # an epoch beyond which no trial is trained: there it waits for others
    checkpoint_share: float = 0.05  # of the training time, at most, for writing checkpoints
    raise_errors: bool = False  # let a bug reach the debugger once it is recorded

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON values."""
        data_dir = None if self.data_dir is None else str(self.data_dir)
        return {**asdict(self), "store": str(self.store), "data_dir": data_dir}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "RunConfig":
        """What to_mapping gave; keys of another version are left out."""
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        data_dir = Path(known["data_dir"]) if known.get("data_dir") else None
        own = {
            "store": Path(known["store"]),
            "data_dir": data_dir,
            "retention": Retention(**known["retention"]),
        }
        return cls(**{**known, **own})
