"""The parts of a sweep, and which fields each of them varies."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mixsweep.core.trainables.interface import Trainable
from mixsweep.core.trainables.kinds import BUILT_IN, find_trainable


@dataclass(frozen=True, kw_only=True)
class Part:
    """One ablation of a sweep: its question, what it varies, and what it claims."""

    sweep: str
    name: str
    question: str
    metric: str
    mode: str  # of the metric: max or min
    axes: tuple[str, ...]  # varied fields, without the seed
    claims: tuple[Mapping[str, Any], ...] = ()
    kind: str = BUILT_IN  # the kind of its trials
    score: str = "last"  # which record of a trial counts: one of core.scoring.SCORES
    zipped: tuple[tuple[str, ...], ...] = ()  # groups of axes whose values go together
    folder: str = ""  # of its sweep, which tells two sweeps of one name apart; '' for any
    declared: int = 0  # seeds when the first trial started; 0: those of the plan
    late: tuple[int, ...] = ()  # positions of the claims that were written after the first trial started
    error: str = "own"  # of comparisons; pooled over values only if that was declared before the run
    published: Mapping[str, Any] = field(default_factory=dict)  # figures by metric, and their `source`

    @property
    def trainable(self) -> Trainable:
        """The trainable of its trials."""
        return find_trainable(self.kind)

    @property
    def figure_word(self) -> str:
        """How the figure of a trial is called: `final`, or `best` where its best record counts."""
        return "best" if self.score == "best" else "final"

    def others(self, axis: str, trials: pd.DataFrame) -> tuple[str, ...]:
        """The other axes, whose values are the same on both sides of a comparison of two values of this one.

        Without those that are zipped with it, so that each of its values has one value of theirs.
        """
        together = {name for group in self.zipped if axis in group for name in group}
        return tuple(
            other
            for other in self.axes
            if other != axis and not (other in together and _determines(trials, axis, other))
        )


def of_part(part: Part, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of one part."""
    mine = (table["sweep"] == part.sweep) & (table["part"] == part.name)
    if part.folder and "sweep_folder" in table:
        mine &= table["sweep_folder"] == part.folder
    return table if mine.all() else table[mine]


def values_of(frame: pd.DataFrame, axis: str) -> list[Any]:
    """The distinct values of a field in their natural order: numbers ascending, else as planned."""
    values = list(dict.fromkeys(map(plain, _distinct(frame[axis]))))
    return sorted(values) if all(isinstance(v, int | float) for v in values) else values


def value_codes(column: pd.Series, values: Sequence[Any]) -> np.ndarray:
    """The position of each row's value [n] among `values`, -1 for another one."""
    codes, distinct = _factorized(column)
    position = {value: number for number, value in enumerate(values)}
    return np.array([position.get(plain(value), -1) for value in distinct], dtype=np.int64)[codes]


def plain(value: Any) -> Any:
    """A value of a table as plain Python: None for a null, a tuple for a list."""
    if isinstance(value, np.ndarray | list | tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, np.generic):
        value = value.item()
    return (
        None
        if value is None or value is pd.NaT or (isinstance(value, float) and math.isnan(value))
        else value
    )


def varied_fields(rows: pd.DataFrame, names: Iterable[str], declared: Iterable[str]) -> tuple[str, ...]:
    """The fields with more than one value, those of the sweep file's space first and in its order.

    A field determined by declared ones is excluded, such as `activation` if only `model` varies.
    """
    codes = {name: _factorized(rows[name])[0] for name in names if name != "seed"}
    several = [name for name, found in codes.items() if len(found) and found.max() > 0]
    axes = [name for name in declared if name in several]
    for name in several:
        if name not in axes and not (axes and _is_determined(codes[name], [codes[axis] for axis in axes])):
            axes.append(name)
    return tuple(axes)


def _is_determined(codes: np.ndarray, by: Sequence[np.ndarray]) -> bool:
    """Whether rows that are equal in all of `by` are equal in `codes`, too."""
    groups = np.unique(np.stack(by), axis=1, return_inverse=True)[1].ravel()
    return len(np.unique(np.stack([groups, codes]), axis=1)[0]) == len(np.unique(groups))


def _determines(trials: pd.DataFrame, axis: str, other: str) -> bool:
    """Whether all trials with one value of an axis have one value of another."""
    return _is_determined(_factorized(trials[other])[0], [_factorized(trials[axis])[0]])


def _factorized(column: pd.Series) -> tuple[np.ndarray, Any]:
    """The number of each row's value, and the values; a null is a value."""
    if column.dtype == object:  # lists cannot be hashed
        column = column.map(plain)
    codes, distinct = pd.factorize(column, use_na_sentinel=False)
    return codes, distinct


def _distinct(column: pd.Series) -> Any:
    return _factorized(column)[1]
