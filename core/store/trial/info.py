"""What the store says of a trial: its config, state, provenance and attempts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mixsweep.core.config import TrialConfig
from mixsweep.core.failures import policy_of
from mixsweep.core.trainables.kinds import BUILT_IN, find_trainable

# A trial's states. `waiting` and `lost` are derived: no attempt yet; running without a live lease.
STATES = ("waiting", "running", "interrupted", "lost", "completed", "stopped", "diverged", "failed")
ENDED = ("completed", "stopped", "diverged", "failed")


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt at a trial: where, when, and how it ended."""

    number: int
    place: str
    host: str
    pid: int
    job: str = ""
    restarts: int = 0  # how often the job had been requeued
    command_id: str = ""  # the command that made it; a later command may retry its failures
    revision: str = ""  # of mixsweep's code
    project_revision: str = ""  # of the user's project when the command was given; '' if it is in no checkout
    project_dirty: bool = False  # whether its tracked files had uncommitted changes
    project_patch: str = ""  # digest of these changes, which are kept in `code/<digest>.patch`
    code: str = ""  # digest of the user's files, which are kept in `code/<digest>/`
    started_at: str = ""
    ended_at: str = ""
    from_epoch: int = 0
    to_epoch: int = 0  # epochs trained when it ended
    accumulate: int = 1
    threads: int = 1
    ranks: int = 1  # processes that trained together
    device: str = "cpu"
    end: str = ""  # a state, or a kind of failure; empty while it runs or where it was killed
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class TrialInfo:
    """A trial's config, state, provenance and attempts."""

    trial_id: str
    config: TrialConfig
    state: str
    epoch: int = 0
    attempts: tuple[Attempt, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    updated_at: str = ""
    retries_from: int = 0  # attempts before this one no longer count against the retries

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def failure(self) -> str:
        """The kind of failure of a failed trial's last attempt, else ''."""
        return self.attempts[-1].end if self.state == "failed" else ""

    @property
    def codes(self) -> tuple[str, ...]:
        """The digests of the code that has trained its present state, in their order; several if it was changed."""
        found: dict[str, None] = {}
        for attempt in self.attempts:
            if (
                attempt.from_epoch <= self.config.begins_after
            ):  # from scratch: earlier attempts are not in its state
                found.clear()
            if attempt.code and (attempt.to_epoch > attempt.from_epoch or not attempt.end):
                found[attempt.code] = None
        return tuple(found)

    @property
    def revisions(self) -> tuple[str, ...]:
        """The revisions of mixsweep that have trained it; older stores have one per trial, not per attempt."""
        found = tuple(dict.fromkeys(attempt.revision for attempt in self.attempts if attempt.revision))
        recorded = str(self.provenance.get("revision", ""))
        return found or ((recorded,) if recorded else ())

    @property
    def budget_met(self) -> int:
        """The largest budget within which nothing is left to train."""
        if self.state == "completed" and find_trainable(self.config.kind).ends_by_itself:
            return max(self.epoch, self.config.epochs)  # it would end there again
        return self.epoch

    @property
    def may_retry(self) -> bool:
        """Whether a failed trial has a retry left for its kind of failure."""
        counted = [attempt.end for attempt in self.attempts[self.retries_from :]]
        return self.state == "failed" and counted.count(self.failure) <= policy_of(self.failure).retries

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = {
            "trial_id": self.trial_id,
            "state": self.state,
            "epoch": self.epoch,
            "config": self.config.to_mapping(),
            "identity": self.config.identity(),
            "attempts": [vars(a) for a in self.attempts],
            "provenance": dict(self.provenance),
            "updated_at": self.updated_at,
            "retries_from": self.retries_from,
        }
        if self.config.kind != BUILT_IN:
            values["kind"] = self.config.kind
        return values

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "TrialInfo":
        """The trial of a `to_mapping` result; what only a newer version knows is left out.

        Raises:
            ValueError, KeyError, TypeError: these are not the values of a trial.
        """
        if values["state"] not in STATES:
            raise ValueError(f"state {values['state']!r} is not known")
        config = find_trainable(values.get("kind", BUILT_IN)).config_from_store(values["config"])
        attempts = tuple(Attempt(**_known(Attempt, a)) for a in values["attempts"])
        if values["state"] == "failed" and not attempts:
            raise ValueError("failed without an attempt")
        return cls(**{**_known(cls, values), "config": config, "attempts": attempts})

    def to_json(self) -> str:
        """The trial as JSON text."""
        return json.dumps(self.to_mapping())

    @classmethod
    def from_json(cls, text: str) -> "TrialInfo":
        """The trial of a `to_json` result."""
        return cls.from_mapping(json.loads(text))


def _known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a dataclass has fields for; a newer version may have written others."""
    names = {spec.name for spec in fields(kind)}
    return {name: value for name, value in values.items() if name in names}
