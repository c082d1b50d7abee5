"""Stopping rules: Ray Tune's own, fed from the store.

A decision at a rung needs only the values recorded at that rung. Each value and decision is one empty file in
`rungs/<metric>-<mode>/<epoch>/`, its name all that there is to know, so that one directory listing reads a
rung and a process that dies loses nothing. Any process can decide, with no driver alive.
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
    """One trial at one rung: its value, and what was decided."""

    trial_id: str
    value: float
    decision: str


@dataclass(frozen=True)
class _StandIn:
    """What Ray Tune's scheduler looks at in one of its trials."""

    trial_id: str


def milestones(rule: Stopping, epochs: int) -> tuple[int, ...]:
    """The epochs at which a trial is compared: grace, grace · factor, … below its last epoch."""
    found, milestone = [], float(rule.grace_epochs)
    while math.ceil(milestone) < epochs:
        found.append(math.ceil(milestone))
        milestone *= rule.reduction_factor
    return tuple(dict.fromkeys(found))


class _Rung:
    """Ray Tune's ASHAScheduler with the values of one rung; each is fed to it once."""

    def __init__(self, rule: Stopping, mode: str):
        from ray.tune.schedulers import ASHAScheduler

        self._scheduler = ASHAScheduler(
            time_attr="epoch",
            metric="value",
            mode=mode,
            max_t=3,  # the rung is asked about as epoch 1 of a longer run, the end of which is never reached
            grace_period=1,
            reduction_factor=rule.reduction_factor,
            brackets=1,
        )
        self._known: set[str] = set()

    def has_only(self, entries: Sequence[RungEntry]) -> bool:
        """Whether all that it was fed is among these: a rung may have been deleted meanwhile."""
        return self._known <= {entry.trial_id for entry in entries}

    def decide(self, others: Sequence[RungEntry], trial_id: str, value: float) -> str:
        """The scheduler's own word on a trial, after the others."""
        # What went before may come in any order: Ray's cutoff is a percentile.
        for entry in others:
            if entry.trial_id not in self._known:
                self._feed(entry.trial_id, entry.value)
        return self._feed(trial_id, value)

    def _feed(self, trial_id: str, value: float) -> str:
        from ray.tune.schedulers import TrialScheduler

        trial: Any = _StandIn(trial_id)
        self._known.add(trial_id)
        self._scheduler.on_trial_add(None, trial)
        decision = self._scheduler.on_trial_result(None, trial, {"epoch": 1, "value": value})
        return STOP if decision == TrialScheduler.STOP else CONTINUE


def decide(rule: Stopping, mode: str, others: Sequence[RungEntry], trial_id: str, value: float) -> str:
    """Whether a trial goes on at a rung, given what is recorded there: ASHAScheduler's own word."""
    return _Rung(rule, mode).decide(others, trial_id, value)


def rung_path(store: SweepStore, metric: str, mode: str, epoch: int) -> Path:
    """The folder of a rung: values of one metric only, for no other may be compared with them."""
    return store.path / "rungs" / f"{metric}-{mode}" / str(epoch)


def read_rung(rung: Path) -> list[RungEntry]:
    """What is recorded at a rung; files that are no entries are passed over."""
    try:
        names = os.listdir(rung)
    except FileNotFoundError:
        return []
    found = (_ENTRY.fullmatch(name) for name in names)
    return [RungEntry(m["trial_id"], float(m["value"]), m["decision"]) for m in found if m]


def make_decide(
    rule: Stopping | None, store: SweepStore, metric: str, mode: str, epochs: Mapping[str, int]
) -> Callable[[Record], bool]:
    """The decision that core.execution.runner asks for after each epoch.

    Args:
        rule: the sweep's rule, or None for none.
        store: where the rungs are.
        metric: the column that is compared.
        mode: `max` or `min`.
        epochs: the epoch budgets of the plan's trials, by id; no others compete.
    """
    if rule is None:
        return lambda record: False
    require("ray", what=f"[stopping] rule = {rule.rule!r}")
    rungs: dict[int, _Rung] = {}  # a process that decides often reads each value once

    def decide_at(record: Record) -> bool:
        if record.epoch not in milestones(rule, epochs[record.trial_id]):
            return False
        rung = rung_path(store, metric, mode, record.epoch)
        entries = [entry for entry in read_rung(rung) if entry.trial_id in epochs]
        for entry in entries:
            if entry.trial_id == record.trial_id:
                return entry.decision == STOP  # decided before a kill: a resumed sweep decides alike
        value = float(record[metric])
        scheduler = rungs.get(record.epoch)
        if scheduler is None or not scheduler.has_only(entries):
            scheduler = rungs[record.epoch] = _Rung(rule, mode)
        decision = scheduler.decide(entries, record.trial_id, value)
        rung.mkdir(parents=True, exist_ok=True)
        (rung / f"{record.trial_id}_{value!r}_{decision}").touch()
        return decision == STOP

    return decide_at
