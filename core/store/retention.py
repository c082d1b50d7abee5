"""Which checkpoints of ended trials are kept: a thousand ResNets are 45 GB."""

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mixsweep.core.scoring import scored_row
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial import checkpoint
from mixsweep.core.store.trial.folder import TrialFolder
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.store.trial.lease import take_lease
from mixsweep.core.trainables.kinds import find_trainable

POLICY_HELP = "all, none, best:N"
POLICY_PATTERN = r"all|none|best:[1-9][0-9]*"

# A trial's id and value; any other file in the folder (from a file manager or a sync tool) is ignored.
_ENTRY = re.compile(r"[0-9a-f]{12}_-?(nan|inf|[0-9.]+(e[-+]?[0-9]+)?)")


def is_policy(text: str) -> bool:
    """Whether a text names a retention policy."""
    return re.fullmatch(POLICY_PATTERN, text) is not None


@dataclass(frozen=True)
class Retention:
    """A retention policy: `all`, `none`, or the `best` few by the sweep's metric in the record that counts.

    The sweep's folder `kept/<metric>-<mode>/` has one empty file per kept trial with its value in the name, so that
    one listing ranks them; where the best record counts, it is `kept/<metric>-<mode>-best/`. It is derived: if it is
    deleted, checkpoints are only kept longer.
    """

    policy: str = "best:5"
    metric: str = field(default_factory=lambda: find_trainable().objective({}).metric)
    mode: str = field(default_factory=lambda: find_trainable().objective({}).mode)
    score: str = "last"  # one of core.scoring.SCORES

    def __post_init__(self) -> None:
        if not is_policy(self.policy):
            raise ValueError(f"checkpoints = {self.policy!r} is not known; allowed: {POLICY_HELP}")

    def apply(self, store: SweepStore, info: TrialInfo) -> None:
        """Keep or remove the checkpoint of a trial that has just ended, and of the trial that it displaces."""
        folder = store.trial(info.trial_id)
        remove_previous_checkpoints(folder)
        if self.policy == "all":
            return
        value = self._value(folder) if info.state == "completed" else None
        if self.policy == "none" or value is None:
            remove_checkpoints(folder)
            return
        kept = store.objective_path("kept", self.metric, self.mode)
        kept = kept if self.score == "last" else kept.with_name(f"{kept.name}-best")
        kept.mkdir(parents=True, exist_ok=True)
        (kept / f"{info.trial_id}_{value!r}").touch()
        ranked = sorted(filter(_ENTRY.fullmatch, os.listdir(kept)), key=self._rank)
        for name in ranked[int(self.policy.partition(":")[2]) :]:
            displaced = store.trial(name.partition("_")[0])
            if (
                displaced.trial_id == info.trial_id or not displaced.path.exists()
            ):  # the caller holds its lease
                _displace(displaced, kept / name)
            elif (lease := take_lease(displaced.path)) is not None:  # else it is being trained further
                with lease:
                    _displace(displaced, kept / name)

    def release(self, store: SweepStore, trial_id: str) -> None:
        """Remove a continuing trial from the ranking, so that no other trial displaces the checkpoint it needs."""
        for path in (store.path / "kept").glob(f"*/{trial_id}_*"):
            path.unlink(missing_ok=True)

    def _value(self, folder: TrialFolder) -> float | None:
        """The metric in the record that counts; None if there is no record, or it has not that metric."""
        table = folder.records()
        if not table.num_rows or self.metric not in table.column_names:
            return None
        values = table[self.metric].to_pylist()
        numbers = np.array([math.nan if value is None else value for value in values], dtype=float)
        position = scored_row(np.array(table["epoch"].to_pylist()), numbers, self.mode, self.score)
        return None if values[position] is None else float(values[position])

    def _rank(self, name: str) -> tuple[float, str]:
        trial_id, _, value = name.partition("_")
        number = float(value)
        if math.isnan(number):
            return math.inf, trial_id
        return (-number if self.mode == "max" else number), trial_id


def _displace(folder: TrialFolder, entry: Path) -> None:
    """Remove the checkpoint of an entry that still exists; a missing entry was released meanwhile."""
    if entry.exists():
        remove_checkpoints(folder)
        entry.unlink(missing_ok=True)


def remove_checkpoints(folder: TrialFolder) -> None:
    """Remove a trial's checkpoints that count now; its records, config and log stay."""
    checkpoint.remove(folder.path, folder.checkpoints())


def remove_previous_checkpoints(folder: TrialFolder) -> None:
    """Remove all checkpoints but the newest, if that one is whole."""
    made = folder.checkpoints()
    if made and checkpoint.newest_whole(folder.path, made[:1]) is not None:
        checkpoint.remove(folder.path, made[1:])
