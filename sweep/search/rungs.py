"""Rungs: the values at which a stopping rule compares trials, and its decisions, in the order in which they were made.

A rung is a folder. An entry takes the next number by an exclusive create of the file `NNNNNN`, whose content is the
entry's name; then the empty file of that name is made, so that one listing reads a rung. A process killed in between
leaves a number without its entry; whoever lists the rung next completes it.
"""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mixsweep.core.store import files
from mixsweep.core.store.store import SweepStore

CONTINUE, STOP = "continue", "stop"

_TRIAL = r"(?P<trial_id>[0-9a-f]{12})_"
_VALUE = rf"(?P<value>[^_]+)_(?P<decision>{CONTINUE}|{STOP})"
_ENTRY = re.compile(rf"(?P<number>[0-9]{{6,}})_{_TRIAL}(?P<attempt>[0-9]+)_{_VALUE}")
_OLD_ENTRY = re.compile(_TRIAL + _VALUE)  # of versions before 0.3: without an order
_CLAIM = re.compile(r"[0-9]{6,}")


@dataclass(frozen=True)
class RungEntry:
    """One trial at one rung: its value, the decision, the attempt that had it, and its place in the order."""

    trial_id: str
    value: float
    decision: str
    attempt: int = 0
    number: int = 0

    @property
    def name(self) -> str:
        return f"{self.number:06d}_{self.trial_id}_{self.attempt}_{self.value!r}_{self.decision}"

    @classmethod
    def parse(cls, name: str) -> "RungEntry | None":
        found = _ENTRY.fullmatch(name) or _OLD_ENTRY.fullmatch(name)
        if found is None:
            return None
        try:
            value = float(found["value"])
        except ValueError:
            return None
        facts = found.groupdict()
        return cls(
            facts["trial_id"],
            value,
            facts["decision"],
            int(facts.get("attempt", 0)),
            int(facts.get("number", 0)),
        )


def rung_path(store: SweepStore, metric: str, mode: str, at: int, unit: str = "epoch") -> Path:
    """Return the folder of a rung. It holds the values of one metric and mode, which alone are comparable.

    Args:
        at: its epoch, or its step.
    """
    return store.rungs_path(metric, mode, unit) / str(at)


def read_rung(rung: Path) -> list[RungEntry]:
    """Return the entries of a rung in their order; those of an older version come first."""
    return _read(rung)[0]


def _read(rung: Path) -> tuple[list[RungEntry], int]:
    """Return the entries of a rung in their order, and the highest number that is taken."""
    try:
        names = os.listdir(rung)
    except FileNotFoundError:
        return [], 0
    found = [entry for name in sorted(names) if (entry := RungEntry.parse(name))]
    published = {entry.number for entry in found}
    claimed = [int(name) for name in names if _CLAIM.fullmatch(name)]
    for number in claimed:
        if number not in published and (entry := _publish(rung, number)) is not None:
            found.append(entry)
    # The first of a trial counts; an older version could leave several.
    by_trial: dict[str, RungEntry] = {}
    for entry in sorted(found, key=lambda entry: entry.number):
        by_trial.setdefault(entry.trial_id, entry)
    return list(by_trial.values()), max((0, *published, *claimed))


def _publish(rung: Path, number: int) -> RungEntry | None:
    """Complete the entry of a number whose process was killed; None if the number's file says nothing."""
    try:
        name = (rung / f"{number:06d}").read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    entry = RungEntry.parse(name)
    if entry is None or entry.number != number:
        return None
    with suppress(OSError):  # a reader without the right to write
        (rung / name).touch()
    return entry


def enter_rung(
    rung: Path,
    trial_id: str,
    attempt: int,
    value: float,
    decide: Callable[[Sequence[RungEntry]], str],
) -> RungEntry:
    """Return a trial's entry at a rung: the one that it has, or else a new one, decided from those before it.

    Args:
        decide: the decision on this trial from the entries before it.
    """
    rung.mkdir(parents=True, exist_ok=True)
    entries, last = _read(rung)
    while True:
        for entry in entries:
            if entry.trial_id == trial_id:
                return entry
        made = RungEntry(trial_id, value, decide(entries), attempt, last + 1)
        if files.create_exclusive(rung / f"{made.number:06d}", made.name.encode()):
            (rung / made.name).touch()
            return made
        # Another process has taken the number. Its file is read by name: a listing may be cached.
        last = made.number
        if (other := _publish(rung, last)) is not None:
            entries = [*entries, other]
