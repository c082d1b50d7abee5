"""What the status of a sweep is: that of its trials, counts, costs, and what is left."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrialStatus:
    """The status of one trial. `value` is the sweep's metric in the record that counts, None before the first."""

    trial_id: str
    label: str
    state: str
    epoch: int
    epochs: int
    value: float | None
    failure: str
    message: str
    device_seconds: float = 0.0  # of all attempts
    energy_joules: float | None = None  # of all epochs in the store, where devices report it
    codes: tuple[
        str, ...
    ] = ()  # digests of the code that has trained it; several if it was changed meanwhile


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of the trials with one value of a varied field."""

    trials: int
    device_seconds: float
    energy_joules: float | None


@dataclass(frozen=True, kw_only=True)
class SweepStatus:
    """The status of a sweep. `seconds_left` is None while unknown; its range spans the middle 80 % of epoch rates."""

    name: str
    question: str
    metric: str
    mode: str
    trials: tuple[TrialStatus, ...]
    seconds_left: float | None
    others: int  # further trials in the store that are no longer in the plan
    superseded: tuple[str, ...] = ()  # trials of other code in the store, whose place in the plan others have
    to_come: int = 0  # trials that a search has yet to choose
    seconds_left_range: tuple[float, float] | None = None
    epochs_an_hour: float | None = None  # None while nothing runs
    device_seconds: float = 0.0  # of all attempts
    energy_joules: float | None = None  # of all epochs in the store, where devices report it
    device_utilisation: float | None = None  # fraction, mean over epochs, where devices report it
    devices: Mapping[str, int] = field(default_factory=dict)  # running trials, by device name
    score: str = "last"  # which record of a trial counts: one of core.scoring.SCORES
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # the best trials, by id
    rungs: Mapping[int, int] = field(default_factory=dict)  # recorded values, by epoch, or by step
    rung_unit: str = "epoch"
    costs: Mapping[str, Mapping[str, Cost]] = field(default_factory=dict)  # by varied field and value

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {state}" for state, count in self.counts.items())
        return f"SweepStatus({self.name}: {len(self.trials)} trials, {counts})"

    @property
    def counts(self) -> dict[str, int]:
        """The number of trials by state."""
        return dict(Counter(trial.state for trial in self.trials))

    @property
    def failures(self) -> dict[str, int]:
        """The number of failed trials by kind of failure."""
        return dict(Counter(trial.failure for trial in self.trials if trial.failure))

    @property
    def codes(self) -> dict[str, int]:
        """The number of trials that each version of the user's code has trained, by its digest."""
        return dict(Counter(code for trial in self.trials for code in trial.codes))

    @property
    def epochs_done(self) -> int:
        """Trained epochs; those that stopped and diverged trials skip count as done."""
        ended = ("completed", "stopped", "diverged")
        return sum(t.epochs if t.state in ended else min(t.epoch, t.epochs) for t in self.trials)

    @property
    def epochs_total(self) -> int:
        return sum(trial.epochs for trial in self.trials)

    @property
    def best(self) -> TrialStatus | None:
        """The completed trial with the best metric in the record that counts."""
        done = [t for t in self.trials if t.state == "completed" and t.value is not None]
        sign = 1 if self.mode == "max" else -1
        return max(done, key=lambda t: sign * (t.value or 0.0), default=None)

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values for `--json`."""
        return {
            "sweep": self.name,
            "question": self.question,
            "metric": self.metric,
            "score": self.score,
            "counts": self.counts,
            "failures": self.failures,
            "epochs_done": self.epochs_done,
            "epochs_total": self.epochs_total,
            "to_come": self.to_come,
            "superseded": list(self.superseded),
            "codes": self.codes,
            "seconds_left": self.seconds_left,
            "seconds_left_range": self.seconds_left_range,
            "epochs_an_hour": self.epochs_an_hour,
            "device_seconds": self.device_seconds,
            "energy_joules": self.energy_joules,
            "device_utilisation": self.device_utilisation,
            "devices": dict(self.devices),
            "rungs": {str(epoch): count for epoch, count in self.rungs.items()},
            "curves": {trial: [_finite(v) for v in curve] for trial, curve in self.curves.items()},
            "costs": {
                axis: {value: vars(cost) for value, cost in by_value.items()}
                for axis, by_value in self.costs.items()
            },
            "best": _plain(self.best) if self.best else None,
            "trials": [_plain(trial) for trial in self.trials],
        }


def _plain(trial: TrialStatus) -> dict[str, Any]:
    return {**vars(trial), "value": _finite(trial.value)}


def _finite(value: float | None) -> float | None:
    """Return None for NaN and infinities, which JSON lacks."""
    return value if value is not None and math.isfinite(value) else None
