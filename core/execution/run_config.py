"""Where and how a process trains. Needs no torch, so that a command that only plans stays quick."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mixsweep.core.store import stops
from mixsweep.core.store.retention import Retention

# `synchronised`: over the images of all ranks, with the same result as one rank. `local`: over each rank's own
# images, which is faster and has the statistics of a smaller batch.
BATCH_NORMS = ("synchronised", "local")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where and how a process trains. Nothing in it is part of a trial's identity."""

    store: Path
    place: str = "debug"
    host: str = ""  # the scheduler's name for it; empty: the machine's own host name
    data_dir: Path | None = None
    job: str = ""  # the scheduler's job id
    restarts: int = 0  # how often that job has been requeued
    command: str = ""  # the command line, for the records
    code: str = ""  # digest of the user's files that train its trials
    project_revision: str = ""  # of the project that they belong to; see core.provenance.project_revision
    project_dirty: bool = False
    project_patch: str = ""  # digest of its uncommitted changes
    cpus: int = 1
    gpus: float = 0.0
    ranks: int = 1  # processes that train a trial together, each with these cpus and gpus
    batch_norm: str = "synchronised"  # one of BATCH_NORMS; matters with several ranks
    rank_timeout_seconds: float = 600.0  # how long a rank waits for another one
    compile: bool = False
    keep_predictions: bool = True  # on the test set, of trials that offer them
    retention: Retention = field(default_factory=Retention)
    started_at: str = ""  # when the command was given, ISO
    command_id: str = ""  # identifies the command: a later command may retry this one's failures
    stop_seen: str = ""  # the token of the last request to stop when the command was given
    retry_failed: bool = False
    stopping: bool = False  # whether a stopping rule is in force, so that a `stopped` trial has ended
    until: int | None = None  # train no trial beyond this epoch: there it waits for its population
    checkpoint_share: float = 0.05  # largest share of the training time spent on writing checkpoints
    raise_errors: bool = False  # let a bug reach the debugger once it is recorded

    def stop_requested(self) -> bool:
        """Whether the command's processes have to stop at their next safe point."""
        return stops.stop_requested(self.store, self.command_id, self.stop_seen)

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON values."""
        data_dir = None if self.data_dir is None else str(self.data_dir)
        return {**asdict(self), "store": str(self.store), "data_dir": data_dir}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "RunConfig":
        """The run config of a `to_mapping` result; unknown keys, from another version, are ignored."""
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        data_dir = Path(known["data_dir"]) if known.get("data_dir") else None
        own = {
            "store": Path(known["store"]),
            "data_dir": data_dir,
            "retention": Retention(**known["retention"]),
        }
        return cls(**{**known, **own})
