"""What a comparison of two sweeps says, as plain values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from mixsweep.analysis.comparing.pairing import FieldChange
from mixsweep.analysis.comparing.sides import Side, SideTrial
from mixsweep.analysis.comparing.wording import UNDECIDED, markdown
from mixsweep.analysis.inference.statistics import PairedDifference
from mixsweep.core.store.trial.info import ENDED


@dataclass(frozen=True, kw_only=True)
class SideFacts:
    """One side of a comparison: how it is called, how many trials it has, and what has trained them."""

    label: str
    trials: int
    codes: tuple[str, ...]
    revisions: tuple[str, ...]
    devices: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TrialComparison:
    """Two paired trials.

    Args:
        label: the values that the sweep varies, without the seed.
        epochs_a, epochs_b: recorded ones.
        first_difference: the first epoch whose records differ in a bit; 0 if none does.
        final_a, final_b: the metric in the record that counts; NaN if there is none.
    """

    a: str
    b: str
    label: str
    seed: Any
    state_a: str
    state_b: str
    epochs_a: int
    epochs_b: int
    first_difference: int
    final_a: float
    final_b: float
    message: str = ""  # of a failure on one side

    @property
    def has_finished(self) -> bool:
        """Whether both have ended, a failure excepted."""
        return all(state in ENDED and state != "failed" for state in (self.state_a, self.state_b))

    @property
    def is_equal(self) -> bool:
        """Whether both have finished, in the same way, with equal records and equal figures."""
        same_end = self.has_finished and self.state_a == self.state_b
        both_none = math.isnan(self.final_a) and math.isnan(self.final_b)
        return same_end and self.first_difference == 0 and (both_none or self.final_a == self.final_b)

    @property
    def ends_apart(self) -> bool:
        """Whether both have ended, each in another way."""
        both = self.state_a in ENDED and self.state_b in ENDED
        return both and self.state_a != self.state_b


@dataclass(frozen=True, kw_only=True)
class ValueComparison:
    """The trials of one value, or of one combination of values, over the seeds that both sides have.

    Args:
        pairs: of trials; `equal` of them are equal bit for bit.
        difference: B − A over the pairs that both sides have completed; None if there are none.
        p_holm: of the paired t-test, corrected over all values.
        p_equivalent: of the two one-sided tests that the difference is within the margin.
        kind: identical, unchanged, changed or undecided.
        note: what keeps it from being decided, or what else there is to know.
        seeds_needed: about so many decide it; None if that is not known.
    """

    label: str
    pairs: int
    equal: int
    mean_a: float
    mean_b: float
    difference: PairedDifference | None
    p_holm: float
    p_equivalent: float
    kind: str
    note: str = ""
    seeds_needed: int | None = None


@dataclass(frozen=True, kw_only=True)
class SweepComparison:
    """Two sweeps, compared trial by trial and value by value.

    Args:
        margin: a difference within it counts as none; NaN if there is no margin. `margin_basis` says where it is from.
        changes: the fields that differ within pairs.
        columns: in how many pairs each column of records differs.
        only_a, only_b: the trials without a partner, by id with their state.
        overall: the average over all values, if there are several.
        kind: identical, unchanged, changed or undecided.
        verdict: the same in words.
    """

    a: SideFacts
    b: SideFacts
    metric: str
    mode: str
    margin: float
    margin_basis: str
    changes: tuple[FieldChange, ...]
    trials: tuple[TrialComparison, ...]
    only_a: tuple[tuple[str, str], ...]
    only_b: tuple[tuple[str, str], ...]
    columns: dict[str, int]
    values: tuple[ValueComparison, ...] = ()
    overall: ValueComparison | None = None
    kind: str = UNDECIDED
    verdict: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether every trial of both sides has finished, without failures."""
        alone = (state for _, state in (*self.only_a, *self.only_b))
        return all(trial.has_finished for trial in self.trials) and all(
            state in ENDED and state != "failed" for state in alone
        )

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON values; null for a figure that there is none of."""
        found: dict[str, Any] = _plain(self)
        return found

    def to_markdown(self) -> str:
        """The comparison as Markdown: the verdict, the sides, and both tables."""
        return markdown(self)

    def _repr_markdown_(self) -> str:  # a notebook's cell
        return self.to_markdown()

    def __repr__(self) -> str:
        return f"SweepComparison({self.a.label} against {self.b.label}: {self.verdict})"


def side_facts(side: Side) -> SideFacts:
    """The facts of a side."""
    return SideFacts(
        label=side.label,
        trials=len(side.trials),
        codes=side.codes,
        revisions=side.revisions,
        devices=side.devices,
    )


def alone(trials: Sequence[SideTrial]) -> tuple[tuple[str, str], ...]:
    """Trials without a partner, by id with their state."""
    return tuple((trial.trial_id, trial.state) for trial in trials)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {spec.name: _plain(getattr(value, spec.name)) for spec in fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
