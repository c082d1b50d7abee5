"""Whether the decisions in a store's rungs are those of its rule, over the values in their order."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mixsweep.core.errors import UserError
from mixsweep.core.store.integrity import Finding
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.schema import Stopping
from mixsweep.sweep.search.asha import decide
from mixsweep.sweep.search.rungs import STOP, RungEntry, read_rung


def check_rungs(store: SweepStore) -> Iterator[Finding]:
    """Find decisions that the rule would not take, values that were not recorded, and stops without a decision.

    Checks the metric, mode and rule of the sweep's file as it was last run. Numbers that were given out in an older
    format, without an order, are not checked.
    """
    try:
        values = store.sweep_file()
        rule = Stopping(**values["stopping"])
        objective = store.objective()
        metric, mode = objective.metric, objective.mode
        planned = set(store.plan()["trial_id"].to_pylist())
    except (UserError, OSError, KeyError, TypeError):  # without a rule, or found by the check of the files
        return
    stops: dict[str, set[int]] = {}
    folder = store.rungs_path(metric, mode, rule.unit)
    for rung in sorted(folder.glob("[0-9]*"), key=lambda path: int(path.name)) if folder.is_dir() else ():
        at = int(rung.name)
        entries = [entry for entry in read_rung(rung) if entry.number]
        for position, entry in enumerate(entries):
            before = entries[:position]
            in_plan = [other for other in before if other.trial_id in planned]
            # An earlier plan may have had other trials.
            allowed = {decide(rule, mode, others, entry.value) for others in (before, in_plan)}
            if entry.decision not in allowed:
                yield Finding(
                    rung / entry.name, f"the rule decides {allowed.pop()} over the values before it"
                )
            epochs = {at} if rule.unit == "epoch" else _epochs_past(store, metric, at, entry)
            if rule.unit == "epoch":
                yield from _check_value(store, metric, at, entry, rung / entry.name)
            elif not epochs:
                yield Finding(rung / entry.name, f"no record of the trial from step {at} on has this value")
            if entry.decision == STOP:
                stops.setdefault(entry.trial_id, set()).update(epochs)
    for trial in store.trials():
        info = trial.info()
        if info is not None and info.state == "stopped" and info.epoch not in stops.get(info.trial_id, ()):
            yield Finding(trial.path, f"stopped at epoch {info.epoch}, where no rung says so")


def _check_value(
    store: SweepStore, metric: str, epoch: int, entry: RungEntry, path: Path
) -> Iterator[Finding]:
    with suppress(KeyError, UserError, OSError):
        table = store.trial(entry.trial_id).records(["epoch", metric])
        recorded = dict(zip(table["epoch"].to_pylist(), table[metric].to_pylist()))
        if epoch in recorded and repr(float(recorded[epoch])) != repr(entry.value):
            yield Finding(path, f"the trial's record has {recorded[epoch]!r}")


def _epochs_past(store: SweepStore, metric: str, step: int, entry: RungEntry) -> set[int]:
    """The epochs of the records at or past a step that have the value of an entry."""
    with suppress(KeyError, UserError, OSError):
        rows = store.trial(entry.trial_id).records(["epoch", "step", metric]).to_pylist()
        return {
            row["epoch"]
            for row in rows
            if row["step"] >= step
            and row[metric] is not None
            and repr(float(row[metric])) == repr(entry.value)
        }
    return set()
