"""What a store must be after faults: equal to an undisturbed one, and whole."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

from mixsweep.core.store.store import SweepStore
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.sweep.store_check import check

INTERRUPTED = ("killed", "interrupted", "preempted", "timeout")


def rows(store: SweepStore) -> dict[tuple[str, int], tuple[object, ...]]:
    """The reproducible values of every record, by trial and epoch; those of tests among them."""
    columns = find_trainable().trajectory_columns
    table = store.records().select(columns)
    values = zip(*(table[name].to_pylist() for name in columns))
    return {(str(row[0]), int(row[1])): tuple(map(repr, row)) for row in values}


def differences(store: SweepStore, undisturbed: SweepStore, ends: Iterable[str] = INTERRUPTED) -> list[str]:
    """What differs from an undisturbed store: trials, states, and any bit of their records.

    Args:
        ends: of attempts before a trial's last; others are differences.
    """
    found = []
    ours, theirs = _states(store), _states(undisturbed)
    if ours != theirs:
        found.append(f"states {ours}, not {theirs}")
    mine, expected = rows(store), rows(undisturbed)
    found += [f"{key}: record is lost" for key in sorted(expected.keys() - mine.keys())]
    found += [f"{key}: record too many" for key in sorted(mine.keys() - expected.keys())]
    for key in sorted(mine.keys() & expected.keys()):
        if mine[key] != expected[key]:
            found.append(f"{key}: {mine[key]}, not {expected[key]}")
    allowed = {*ends, ""}
    for folder in store.trials():
        info = folder.info(verify=True)
        for attempt in info.attempts[:-1] if info else ():
            if attempt.end not in allowed and attempt.end != info.state:  # type: ignore[union-attr]
                found.append(f"{folder.trial_id}: attempt {attempt.number} ended as {attempt.end}")
    return found


def lies(store: SweepStore, *truths: SweepStore) -> list[str]:
    """Records that a reader is given now and that no true store has; test figures may be missing."""
    columns = find_trainable().trajectory_columns
    tests = {columns.index(name) for name in find_trainable().test_metrics if name in columns}
    allowed = [rows(truth) for truth in truths]

    def is_true(
        key: tuple[str, int], row: tuple[object, ...], truth: dict[tuple[str, int], tuple[object, ...]]
    ) -> bool:
        pairs = enumerate(zip(row, truth.get(key, ())))
        return key in truth and all(a == b or (place in tests and a == "None") for place, (a, b) in pairs)

    return [
        f"{key}: reads {row}, not {[truth.get(key) for truth in allowed]}"
        for key, row in rows(store).items()
        if not any(is_true(key, row, truth) for truth in allowed)
    ]


def common_differences(store: SweepStore, undisturbed: SweepStore) -> list[str]:
    """What differs in the records that both stores have: with a stopping rule a trial may stop in one of them only."""
    ours, theirs = rows(store), rows(undisturbed)
    return [
        f"{key}: {ours[key]}, not {theirs[key]}"
        for key in sorted(ours.keys() & theirs.keys())
        if any(a != b and "None" not in (a, b) for a, b in zip(ours[key], theirs[key]))
    ]


def findings(store: SweepStore, leftover_seconds: float = 0.0) -> list[str]:
    """All that the check of the store finds, as lines with paths below the sweep's folder."""
    return [str(one).replace(f"{store.path}/", "") for one in check(store, leftover_seconds)]


def age(folder: Path, hours: float = 2.0) -> None:
    """Make leases and temporary files hours old, as after a long sleep of their process."""
    then = time.time() - hours * 3600
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            if (name == "lease" or name.startswith(".")) and os.stat(path).st_mtime > then:
                os.utime(path, (then, then))


def _states(store: SweepStore) -> dict[str, tuple[str, int]]:
    infos = {folder.trial_id: folder.info(verify=True) for folder in store.trials()}
    return {
        trial_id: (info.state, info.epoch) if info else ("waiting", 0) for trial_id, info in infos.items()
    }
