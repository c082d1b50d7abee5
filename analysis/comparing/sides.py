"""One side of a comparison: the trials of a sweep, or those of its trials that one version of the code has trained."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mixsweep.core.errors import ConfigError, UserError
from mixsweep.core.store.code_copy import same_code
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.store.trial_index import TrialIndex, TrialSummary, summary_of
from mixsweep.core.trainables.definition import UNLIMITED
from mixsweep.core.trainables.interface import Objective, Trainable

WAITING = TrialSummary(state="waiting")


@dataclass(frozen=True)
class SideTrial:
    """A trial of one side.

    Args:
        parts: the parts of the sweep that it belongs to.
        values: of its fields, by name; lists as tuples.
        state: with respect to its budget, the largest of its parts.
        budget: the records that it is to have.
    """

    trial_id: str
    parts: tuple[str, ...]
    values: Mapping[str, Any]
    state: str
    budget: int
    summary: TrialSummary

    @property
    def seed(self) -> Any:
        """Its seed; None if it has none."""
        return self.values.get("seed")


@dataclass(frozen=True)
class Side:
    """The trials of one side, by id, and what they are judged by."""

    label: str
    store: SweepStore
    trainable: Trainable
    objective: Objective
    trials: Mapping[str, SideTrial]

    @cached_property
    def codes(self) -> tuple[str, ...]:
        """The digests of the users' code that has trained its trials."""
        return tuple(sorted({code for trial in self.trials.values() for code in trial.summary.codes}))

    @cached_property
    def revisions(self) -> tuple[str, ...]:
        """The revisions of mixsweep that have trained its trials, as far as they are known."""
        return tuple(sorted({one for trial in self.trials.values() for one in trial.summary.revisions}))

    @cached_property
    def devices(self) -> tuple[str, ...]:
        """The devices that have trained its trials."""
        found = {trial.summary.device for trial in self.trials.values()}
        return tuple(sorted(found - {""}))


def read_side(store: SweepStore, label: str, code: str = "") -> Side:
    """Read the trials of a sweep.

    Args:
        label: how messages call this side.
        code: only the trials that this version of the code alone has trained, those that a changed file has left behind
            included: the beginning of a digest of the user's code, of their project's revision, or of mixsweep's.

    Raises:
        UserError: there are no such trials.
    """
    trials = {trial.trial_id: trial for trial in (_of_code(store, code) if code else _planned(store))}
    if not trials:
        known = ", ".join(_versions(store)) if code else ""
        what = (
            f"no trial was trained by code {code!r} alone; known: {known}" if code else "no trial is planned"
        )
        raise UserError(f"{label}: {what}")
    return Side(label, store, store.trainable, store.objective(), trials)


def _planned(store: SweepStore) -> Iterator[SideTrial]:
    summaries, trainable = TrialIndex(store).read(), store.trainable
    parts: dict[str, list[str]] = {}
    rows: dict[str, Mapping[str, Any]] = {}
    for row in store.plan().to_pylist():
        trial_id = row["trial_id"]
        parts.setdefault(trial_id, []).append(str(row.get("part", "")))
        if trial_id not in rows or row[trainable.budget] > rows[trial_id][trainable.budget]:
            rows[trial_id] = row
    for trial_id, row in rows.items():
        values = _values(trainable, row)
        summary = summaries.get(trial_id, WAITING)
        budget = int(row[trainable.budget])
        yield SideTrial(trial_id, tuple(parts[trial_id]), values, _state(summary, budget), budget, summary)


def _values(trainable: Trainable, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values of a trial's fields, in the words of today also where an older version wrote them."""
    try:
        values = trainable.config_from_row(row).to_mapping()
    except ConfigError:  # of a version that allowed them
        values = {name: row[name] for name in trainable.field_names if name in row}
    return _plain(values)


def _plain(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values that are given, lists as tuples: a field that is absent, null, empty or without limit is the same."""
    given = {name: value for name, value in values.items() if value not in (None, "", UNLIMITED)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def _state(summary: TrialSummary, budget: int) -> str:
    is_short = summary.state == "completed" and max(summary.epoch, summary.budget_met) < budget
    return "waiting" if is_short else summary.state


def _of_code(store: SweepStore, code: str) -> Iterator[SideTrial]:
    for info in _infos(store):
        if any(versions and all(v.startswith(code) for v in versions) for versions in _code_of(store, info)):
            summary = summary_of(store.path, info)
            yield SideTrial(
                info.trial_id, (), _plain(info.config.to_mapping()), info.state, info.config.epochs, summary
            )


def _infos(store: SweepStore) -> Iterator[TrialInfo]:
    for folder in store.trials():
        info = folder.info(verify=True)
        if info is not None:
            yield info


def _code_of(store: SweepStore, info: TrialInfo) -> tuple[tuple[str, ...], ...]:
    """What has trained a trial: the user's code, the revisions of their project, and those of mixsweep."""
    own = tuple(same_code(store.path, code) for code in info.codes)
    projects = tuple(a.project_revision for a in info.attempts if a.project_revision)
    return own, projects, info.revisions


def _versions(store: SweepStore) -> tuple[str, ...]:
    found = {version[:8] for info in _infos(store) for kind in _code_of(store, info) for version in kind}
    return tuple(sorted(found)) or ("none",)
