"""Early stopping by the rule of Ray Tune's ASHAScheduler, decided from the store.

A decision at a rung needs only the values recorded at that rung before it (sweep.search.rungs). Any process can
decide, without a running driver and without Ray.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mixsweep.core.records import Record
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.schema import Stopping
from mixsweep.sweep.search.rungs import CONTINUE, STOP, RungEntry, enter_rung, rung_path


def milestones(rule: Stopping, end: int) -> tuple[int, ...]:
    """Return the epochs, or steps, at which a trial is compared: grace, grace · factor, … below the end."""
    found, milestone = [], float(rule.grace)
    while math.ceil(milestone) < end:
        found.append(math.ceil(milestone))
        milestone *= rule.reduction_factor
    return tuple(dict.fromkeys(found))


def decide(rule: Stopping, mode: str, others: Sequence[RungEntry], value: float) -> str:
    """Return ASHA's decision on a value at a rung, given the entries recorded there before it.

    A trial is stopped where its value is below the quantile 1 - 1/reduction_factor of the values before it, as in Ray's
    scheduler: NaN is left out of the quantile, and a trial whose value is NaN goes on.
    """
    if not others:
        return CONTINUE
    sign = 1.0 if mode == "max" else -1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all are NaN, or infinities meet
        cutoff = np.nanpercentile(
            [sign * entry.value for entry in others], (1 - 1 / rule.reduction_factor) * 100
        )
    return STOP if sign * value < cutoff else CONTINUE


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

    def is_stopped_at(record: Record, at: int) -> bool:
        value = float(record[metric])

        def decision(entries: Sequence[RungEntry]) -> str:
            return decide(rule, mode, [entry for entry in entries if entry.trial_id in epochs], value)

        rung = rung_path(store, metric, mode, at, rule.unit)
        return enter_rung(rung, record.trial_id, record.attempt, value, decision).decision == STOP

    def decide_at_epoch(record: Record) -> bool:
        if record[metric] is None or record.epoch not in milestones(rule, epochs[record.trial_id]):
            return False
        return is_stopped_at(record, record.epoch)

    entered: dict[tuple[str, int], StepRungs] = {}  # by trial and attempt

    def decide_at_step(record: Record) -> bool:
        if record[metric] is None or record.epoch >= epochs[record.trial_id]:
            return False
        key = record.trial_id, record.attempt
        if key not in entered:
            entered[key] = StepRungs(rule)
            for epoch, step in _steps_before(store, record, metric):
                entered[key].enter(epoch, step)
        at = entered[key].enter(record.epoch, record.step)
        return at is not None and is_stopped_at(record, at)

    return decide_at_step if rule.unit == "step" else decide_at_epoch


class StepRungs:
    """Which rung each record of one trial enters, where rungs count steps.

    As in Ray's scheduler, a record enters the highest rung at or below its step that its trial has not entered yet.
    That follows from the steps of the trial's records alone.
    """

    def __init__(self, rule: Stopping):
        self._rule = rule
        self._entered: list[tuple[int, int]] = []  # the epoch of a record, and the rung that it has entered

    def enter(self, epoch: int, step: int) -> int | None:
        """Return the step of the rung that a record enters, None if it enters none; later records are forgotten."""
        while self._entered and self._entered[-1][0] >= epoch:
            self._entered.pop()
        known = {at for _, at in self._entered}
        at = next((at for at in reversed(milestones(self._rule, step + 1)) if at not in known), None)
        if at is not None:
            self._entered.append((epoch, at))
        return at


def _steps_before(store: SweepStore, record: Record, metric: str) -> list[tuple[int, int]]:
    """The epochs and steps of a trial's records before this one that have the metric."""
    rows = store.trial(record.trial_id).records().to_pylist()
    found = [(r["epoch"], r["step"]) for r in rows if r["epoch"] < record.epoch and r.get(metric) is not None]
    return sorted(found)
