"""Pairs of trials of two sides: one trial, or two of equal content and seed but for what differs between the sides."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mixsweep.analysis.comparing.sides import Side, SideTrial
from mixsweep.analysis.exported.guess import SOURCE
from mixsweep.core.errors import UserError
from mixsweep.core.trainables.kinds import BUILT_IN

SEED = "seed"


@dataclass(frozen=True)
class Pair:
    """Two trials that are compared with each other."""

    a: SideTrial
    b: SideTrial

    @property
    def is_one_trial(self) -> bool:
        """Whether both have one identity."""
        return self.a.trial_id == self.b.trial_id


@dataclass(frozen=True)
class FieldChange:
    """A field whose values differ within pairs: its values on either side, and in how many pairs."""

    field: str
    a: tuple[Any, ...]
    b: tuple[Any, ...]
    pairs: int


@dataclass(frozen=True)
class Pairing:
    """The pairs of two sides, the trials without a partner, and the fields that differ within pairs."""

    pairs: tuple[Pair, ...]
    only_a: tuple[SideTrial, ...]
    only_b: tuple[SideTrial, ...]
    changes: tuple[FieldChange, ...]


def pair_trials(a: Side, b: Side) -> Pairing:
    """Pair the trials of two sides by their ids; the others by the values of their fields, the seed among them.

    A field does not count where all trials of one side share one value of it and all of the other share another, such
    as a default that has changed. Where both sides have the same parts, that is asked for each part.

    Raises:
        UserError: the two sides train different things, or have no trials in common.
    """
    _check_trainables(a, b)
    pairs = [Pair(a.trials[trial_id], b.trials[trial_id]) for trial_id in a.trials if trial_id in b.trials]
    for left, right in _groups(a, b):
        taken_a, taken_b = {p.a.trial_id for p in pairs}, {p.b.trial_id for p in pairs}
        pairs += _by_values(left, right, taken_a, taken_b)
    order = {trial_id: number for number, trial_id in enumerate(a.trials)}
    pairs.sort(key=lambda pair: order[pair.a.trial_id])
    if not pairs:
        raise UserError(f"{a.label}, {b.label}: no trials in common{_why_none(a, b)}")
    taken_a, taken_b = {p.a.trial_id for p in pairs}, {p.b.trial_id for p in pairs}
    return Pairing(
        tuple(pairs),
        tuple(trial for trial in a.trials.values() if trial.trial_id not in taken_a),
        tuple(trial for trial in b.trials.values() if trial.trial_id not in taken_b),
        tuple(_changes(pairs)),
    )


def _check_trainables(a: Side, b: Side) -> None:
    left, right = _trained(a), _trained(b)
    is_any = SOURCE in (left[0], right[0])  # a table that says nothing of what its trials train
    if left != right and not is_any and not left[0] == right[0] == "command":
        raise UserError(
            f"{a.label} trains {_words(left)}, {b.label} trains {_words(right)}: there is nothing to compare"
        )


def _trained(side: Side) -> tuple[str, str]:
    """What its trials train: a source and a name."""
    definition = side.trainable.definition
    if definition is None or definition.source == BUILT_IN:
        return BUILT_IN, ""
    return definition.source, definition.name


def _words(trained: tuple[str, str]) -> str:
    return "images" if trained[0] == BUILT_IN else f"{trained[0]} {trained[1]!r}"


def _groups(a: Side, b: Side) -> list[tuple[list[SideTrial], list[SideTrial]]]:
    """The trials among which partners are looked for: those of each part, if both sides have the same ones."""
    parts = list(dict.fromkeys(part for trial in a.trials.values() for part in trial.parts))
    others = {part for trial in b.trials.values() for part in trial.parts}
    if len(parts) > 1 and set(parts) == others:
        return [(_of_part(a, part), _of_part(b, part)) for part in parts]
    return [(list(a.trials.values()), list(b.trials.values()))]


def _of_part(side: Side, part: str) -> list[SideTrial]:
    return [trial for trial in side.trials.values() if part in trial.parts]


def _by_values(
    left: list[SideTrial], right: list[SideTrial], taken_a: Collection[str], taken_b: Collection[str]
) -> list[Pair]:
    names = list(dict.fromkeys([*_fields(left), *_fields(right)]))
    shared_a, shared_b = _shared(left, names), _shared(right, names)
    counted = [
        name
        for name in names
        if name == SEED or name not in shared_a or name not in shared_b or shared_a[name] == shared_b[name]
    ]
    found_a = _unique(left, counted, taken_a)
    found_b = _unique(right, counted, taken_b)
    return [Pair(trial, found_b[key]) for key, trial in found_a.items() if key in found_b]


def _fields(trials: Iterable[SideTrial]) -> list[str]:
    return list(dict.fromkeys(name for trial in trials for name in trial.values))


def _shared(trials: list[SideTrial], names: list[str]) -> dict[str, Any]:
    """The fields that have one value in all of these trials, with it."""
    found = {}
    for name in names:
        values = {trial.values.get(name) for trial in trials}
        if len(values) == 1:
            found[name] = values.pop()
    return found


def _unique(
    trials: list[SideTrial], names: list[str], taken: Collection[str]
) -> Mapping[tuple[Any, ...], SideTrial]:
    """The trials without a partner by the values of these fields, without those that share theirs."""
    keys = [(tuple(trial.values.get(name) for name in names), trial) for trial in trials]
    counts = Counter(key for key, _ in keys)
    return {key: trial for key, trial in keys if counts[key] == 1 and trial.trial_id not in taken}


def _changes(pairs: Iterable[Pair]) -> list[FieldChange]:
    found: dict[str, tuple[dict[Any, None], dict[Any, None], list[int]]] = {}
    for number, pair in enumerate(pairs):
        if pair.a.values == pair.b.values:
            continue
        for name in dict.fromkeys([*pair.a.values, *pair.b.values]):
            left, right = pair.a.values.get(name), pair.b.values.get(name)
            if left != right:
                lefts, rights, where = found.setdefault(name, ({}, {}, []))
                lefts[left], rights[right] = None, None
                where.append(number)
    return [FieldChange(name, tuple(a), tuple(b), len(where)) for name, (a, b, where) in found.items()]


def _why_none(a: Side, b: Side) -> str:
    """What keeps the sides apart: seeds, or the fields whose values nowhere agree."""
    left, right = list(a.trials.values()), list(b.trials.values())
    apart = [
        name
        for name in dict.fromkeys([*_fields(left), *_fields(right)])
        if not {t.values.get(name) for t in left} & {t.values.get(name) for t in right}
    ]
    several = [name for name in apart if name == SEED or len({t.values.get(name) for t in left}) > 1]
    words = ", ".join(several or apart[:3])
    return f": they share no value of {words}" if words else "; no two have the same fields and seed"
