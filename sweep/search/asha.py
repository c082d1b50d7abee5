"""Early stopping by Ray Tune's ASHAScheduler, fed from the store.

A decision at a rung needs only the values recorded at that rung. Each value and decision is one empty file in
`rungs/<metric>-<mode>/<epoch>/` whose name holds both. One directory listing reads a rung, and a killed process
loses nothing. Any process can decide without a running driver.
"""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixsweep.core.extras import require
from mixsweep.core.records import Record
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.schema import Stopping

CONTINUE, STOP = "continue", "stop"
_ENTRY = re.compile(rf"(?P<trial_id>[0-9a-f]{{12}})_(?P<value>[^_]+)_(?P<decision>{CONTINUE}|{STOP})")


@dataclass(frozen=True)
class RungEntry:
    """One trial at one rung: its value and the decision."""

    trial_id: str
    value: float
    decision: str


@dataclass(frozen=True)
class _RungTrial:
    """The attributes of a Tune trial that ASHAScheduler reads."""

    trial_id: str


def milestones(rule: Stopping, epochs: int) -> tuple[int, ...]:
    """Return the epochs at which a trial is compared: grace, grace · factor, … below its last epoch."""
    found, milestone = [], float(rule.grace_epochs)
    while math.ceil(milestone) < epochs:
        found.append(math.ceil(milestone))
        milestone *= rule.reduction_factor
    return tuple(dict.fromkeys(found))


class _Rung:
    """An ASHAScheduler that holds the values of one rung; each value is fed once."""

    def __init__(self, rule: Stopping, mode: str):
        from ray.tune.schedulers import ASHAScheduler

        self._scheduler = ASHAScheduler(
            time_attr="epoch",
            metric="value",
            mode=mode,
            max_t=3,  # the rung is reported as epoch 1, so that this end is never reached
            grace_period=1,
            reduction_factor=rule.reduction_factor,
            brackets=1,
        )
        self._known: set[str] = set()

    def has_only(self, entries: Sequence[RungEntry]) -> bool:
        """Whether these entries contain all that were fed; False after a rung was deleted."""
        return self._known <= {entry.trial_id for entry in entries}

    def decide(self, others: Sequence[RungEntry], trial_id: str, value: float) -> str:
        """Feed the other entries, then the trial; return the scheduler's decision on the trial."""
        # The order of the others does not matter: Ray's cutoff is a percentile.
        for entry in others:
            if entry.trial_id not in self._known:
                self._feed(entry.trial_id, entry.value)
        return self._feed(trial_id, value)

    def _feed(self, trial_id: str, value: float) -> str:
        from ray.tune.schedulers import TrialScheduler

        trial: Any = _RungTrial(trial_id)
        self._known.add(trial_id)
        self._scheduler.on_trial_add(None, trial)
        decision = self._scheduler.on_trial_result(None, trial, {"epoch": 1, "value": value})
        return STOP if decision == TrialScheduler.STOP else CONTINUE


def decide(rule: Stopping, mode: str, others: Sequence[RungEntry], trial_id: str, value: float) -> str:
    """Return ASHAScheduler's decision on a trial at a rung, given the entries recorded there."""
    return _Rung(rule, mode).decide(others, trial_id, value)


def rung_path(store: SweepStore, metric: str, mode: str, epoch: int) -> Path:
    """Return the folder of a rung. It holds the values of one metric and mode, which alone are comparable."""
    return store.path / "rungs" / f"{metric}-{mode}" / str(epoch)


def read_rung(rung: Path) -> list[RungEntry]:
    """Return the entries of a rung; other files are ignored."""
    try:
        names = os.listdir(rung)
    except FileNotFoundError:
        return []
    found = (_ENTRY.fullmatch(name) for name in names)
    return [RungEntry(m["trial_id"], float(m["value"]), m["decision"]) for m in found if m]


def make_decide(
    rule: Stopping | None, store: SweepStore, metric: str, mode: str, epochs: Mapping[str, int]
) -> Callable[[Record], bool]:
    """Return the function that core.execution.runner calls after each epoch: whether to stop the trial.

    Args:
        rule: the sweep's stopping rule, if it has one.
        store: where the rungs are.
        metric: the column that is compared.
        mode: `max` or `min`.
        epochs: the epoch budgets of the plan's trials, by id; other trials are not compared.
    """
    if rule is None:
        return lambda record: False
    require("ray", what=f"[stopping] rule = {rule.rule!r}")
    rungs: dict[int, _Rung] = {}  # kept, so that each value is fed once per process

    def decide_at(record: Record) -> bool:
        if record.epoch not in milestones(rule, epochs[record.trial_id]):
            return False
        rung = rung_path(store, metric, mode, record.epoch)
        entries = [entry for entry in read_rung(rung) if entry.trial_id in epochs]
        for entry in entries:
            if entry.trial_id == record.trial_id:
                return entry.decision == STOP  # decided before a kill: keep that decision
        value = float(record[metric])
        scheduler = rungs.get(record.epoch)
        if scheduler is None or not scheduler.has_only(entries):
            scheduler = rungs[record.epoch] = _Rung(rule, mode)
        decision = scheduler.decide(entries, record.trial_id, value)
        rung.mkdir(parents=True, exist_ok=True)
        (rung / f"{record.trial_id}_{value!r}_{decision}").touch()
        return decision == STOP

    return decide_at
