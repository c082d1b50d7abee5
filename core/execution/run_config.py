"""Where and how a process trains, and what that leaves to do. Needs no torch, so that a plan is quick."""

from dataclasses import dataclass, field
from pathlib import Path

from mixsweep.core.config import TrialConfig
from mixsweep.core.failures import POLICIES
from mixsweep.core.store.retention import Retention
from mixsweep.core.store.store import TrialInfo

# A unit of work: trials that one process runs, in turn.
Unit = tuple[TrialConfig, ...]


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


def is_done(info: TrialInfo | None, config: TrialConfig, run_config: RunConfig) -> bool:
    """Whether nothing is left to do for a trial.

    A trial with more epochs to go than it has trained is not done; nor one that a rule stopped when there
    is no rule any more; nor one whose kind of failure is tried again.
    """
    if info is not None and _waits(info, config, run_config):
        return True
    if info is None or not info.ended:
        return False
    if info.state == "completed":
        return info.epoch >= config.epochs
    if info.state == "stopped":
        return run_config.stopping
    if info.state == "failed":
        return not (info.may_retry or _is_new_try(info, run_config))
    return True


def _waits(info: TrialInfo, config: TrialConfig, run_config: RunConfig) -> bool:
    if run_config.until is None or info.epoch < run_config.until:
        return False
    return info.state == "interrupted" and run_config.until < config.epochs


def _is_new_try(info: TrialInfo, run_config: RunConfig) -> bool:
    """Whether this command gives a failed trial a try that its own retries no longer do."""
    wanted = run_config.retry_failed or POLICIES[info.failure].again
    # Not by time: the clocks of the hosts may differ.
    return wanted and info.attempts[-1].command_id != run_config.command_id
