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


def milestones(rule: Stopping, epochs: int) -> tuple[int, ...]:
    """Return the epochs at which a trial is compared: grace, grace · factor, … below its last epoch."""
    found, milestone = [], float(rule.grace_epochs)
    while math.ceil(milestone) < epochs:
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

    def decide_at(record: Record) -> bool:
        if record.epoch not in milestones(rule, epochs[record.trial_id]):
            return False
        value = float(record[metric])

        def decision(entries: Sequence[RungEntry]) -> str:
            return decide(rule, mode, [entry for entry in entries if entry.trial_id in epochs], value)

        rung = rung_path(store, metric, mode, record.epoch)
        return enter_rung(rung, record.trial_id, record.attempt, value, decision).decision == STOP

    return decide_at
