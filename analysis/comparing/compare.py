"""Compare two sweeps: their trials bit for bit, their values by paired differences over seeds."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from mixsweep.analysis.comparing import equivalence
from mixsweep.analysis.comparing.judging import judged, verdict_of
from mixsweep.analysis.comparing.pairing import SEED, Pair, Pairing, pair_trials
from mixsweep.analysis.comparing.results import (
    SweepComparison,
    TrialComparison,
    ValueComparison,
    alone,
    side_facts,
)
from mixsweep.analysis.comparing.sides import Side, read_side
from mixsweep.analysis.comparing.trajectories import Trajectories, mode_of, trajectories
from mixsweep.analysis.frames import Sweep, open_sweep
from mixsweep.analysis.inference import statistics
from mixsweep.analysis.inference.wording import point_label
from mixsweep.core.errors import UserError, did_you_mean
from mixsweep.core.records import COMMON_COLUMNS
from mixsweep.core.trainables.definition import SECONDS

ACCURACY_MARGIN = 0.01  # one point
_SPREADS = 0.5  # of another metric's margin


def compare_sweeps(a: Sweep, b: Sweep, metric: str = "", margin: float | None = None) -> SweepComparison:
    """Compare two sweeps, trial by trial and value by value; differences are B − A.

    Args:
        a, b: folders of sweeps, or tables that `sweep export` wrote.
        metric: of records; left out: the one that A's trials are judged by.
        margin: in the metric's own unit: a difference that is no larger counts as none. Left out: one point of an
            accuracy, half the standard deviation between A's seeds of any other metric.

    Raises:
        UserError: a sweep is unknown or empty; they train different things, have no trials in common, or do not have
            the metric.
    """
    stores = [open_sweep(sweep) for sweep in (a, b)]
    left, right = (read_side(store, str(store.path)) for store in stores)
    return compare_sides(left, right, metric, margin)


def compare_sides(a: Side, b: Side, metric: str = "", margin: float | None = None) -> SweepComparison:
    """Compare two sides; the arguments and errors are those of `compare_sweeps`."""
    if margin is not None and not (math.isfinite(margin) and margin > 0):
        raise UserError(f"margin {margin}: it has to be above 0")
    pairing = pair_trials(a, b)
    records_a, records_b = a.store.records(), b.store.records()
    metric = _known_metric(a, b, metric, records_a, records_b)
    found = trajectories(a, b, pairing.pairs, metric, records_a, records_b)
    labels = _labels(pairing)
    trials = tuple(_trial(pair, labels[number], found, number) for number, pair in enumerate(pairing.pairs))
    width, basis = _margin(a, metric, margin, _by_label(trials))
    return concluded(
        SweepComparison(
            a=side_facts(a),
            b=side_facts(b),
            metric=metric,
            mode=mode_of(a, metric),
            margin=width,
            margin_basis=basis,
            changes=pairing.changes,
            trials=trials,
            only_a=alone(pairing.only_a),
            only_b=alone(pairing.only_b),
            columns=found.columns,
        )
    )


def concluded(found: SweepComparison) -> SweepComparison:
    """A comparison with what follows from its trials and its margin: values, and the verdict."""
    by_label = _by_label(found.trials)
    values = [_value(label, rows, found.margin) for label, rows in by_label.items()]
    overall = [_overall(by_label, found.margin)] if len(values) > 1 else []
    *ps, p_ends = statistics.holm([*map(_p, (*values, *overall)), _ends_p(found.trials)])
    values = [
        judged(replace(value, p_holm=p), by_label[value.label], found.margin) for value, p in zip(values, ps)
    ]
    overall = [judged(replace(value, p_holm=ps[-1]), found.trials, found.margin) for value in overall]
    found = replace(found, values=tuple(values), overall=overall[0] if overall else None)
    kind, verdict = verdict_of(found, p_ends)
    return replace(found, kind=kind, verdict=verdict)


def _by_label(trials: Sequence[TrialComparison]) -> dict[str, list[TrialComparison]]:
    found: dict[str, list[TrialComparison]] = defaultdict(list)
    for trial in trials:
        found[trial.label].append(trial)
    return found


def _known_metric(a: Side, b: Side, metric: str, records_a: pa.Table, records_b: pa.Table) -> str:
    known = [
        name
        for name in records_a.column_names
        if name in records_b.column_names and name not in COMMON_COLUMNS
    ]
    valued = [
        name
        for name in known
        if (metric or name != SECONDS) and _has_values(records_a, name) and _has_values(records_b, name)
    ]
    if known and not valued and records_a.num_rows and records_b.num_rows:
        raise UserError(
            f"{a.label} and {b.label}: no metric has values in the records of both; nothing to compare"
        )
    wanted = metric or a.objective.metric
    if wanted not in known:
        where = "" if metric else f"{a.label} is judged by it; "
        raise UserError(f"metric {wanted!r}: {where}not in the records of both{did_you_mean(wanted, known)}")
    return wanted


def _has_values(records: pa.Table, column: str) -> bool:
    return bool(records[column].null_count < records.num_rows)


def _labels(pairing: Pairing) -> list[str]:
    """The label of each pair: the values of A's fields that vary among the pairs of its part."""
    apart = {change.field for change in pairing.changes}
    parts = [pair.a.parts[0] if pair.a.parts else "" for pair in pairing.pairs]
    several = len(set(parts)) > 1
    labels = [""] * len(parts)
    for part in dict.fromkeys(parts):
        members = [number for number, name in enumerate(parts) if name == part]
        axes = _axes([pairing.pairs[number] for number in members], apart)
        for number in members:
            values = pairing.pairs[number].a.values
            label = point_label({axis: values.get(axis) for axis in axes}) if axes else ""
            labels[number] = ": ".join(filter(None, (part if several else "", label)))
    return labels


def _axes(pairs: Sequence[Pair], apart: set[str]) -> list[str]:
    """The fields that vary, without the seed, what differs between the sides, and those that others determine."""
    axes: list[str] = []
    names = [name for name in pairs[0].a.values if name != SEED and name not in apart]
    columns = {name: [pair.a.values.get(name) for pair in pairs] for name in names}
    points = 1
    for name in names:
        if len(set(columns[name])) > 1:
            more = len(set(zip(*(columns[axis] for axis in (*axes, name)))))
            if more > points:
                axes.append(name)
                points = more
    return axes


def _trial(pair: Pair, label: str, found: Trajectories, number: int) -> TrialComparison:
    failed = [trial.summary for trial in (pair.a, pair.b) if trial.state == "failed"]
    return TrialComparison(
        a=pair.a.trial_id,
        b=pair.b.trial_id,
        label=label,
        seed=pair.a.seed,
        state_a=pair.a.state,
        state_b=pair.b.state,
        epochs_a=int(found.last_a[number]),
        epochs_b=int(found.last_b[number]),
        first_difference=int(found.first_difference[number]),
        final_a=float(found.final_a[number]),
        final_b=float(found.final_b[number]),
        message=failed[0].failure if failed else "",
    )


def _margin(
    a: Side, metric: str, given: float | None, by_label: Mapping[str, Sequence[TrialComparison]]
) -> tuple[float, str]:
    if given is not None:
        return given, "as given"
    unit = next((known.unit for known in a.trainable.metrics if known.name == metric), "")
    if "accuracy" in metric and unit in ("fraction", ""):
        return ACCURACY_MARGIN, "one point, where none is given"
    figures = [[t.final_a for t in rows if not math.isnan(t.final_a)] for rows in by_label.values()]
    spread = _SPREADS * equivalence.seed_spread(figures)
    if math.isnan(spread) or spread == 0:
        return math.nan, "none: A has no spread between seeds to take it from"
    return spread, "half the standard deviation between A's seeds, where none is given"


def _value(label: str, trials: Sequence[TrialComparison], margin: float) -> ValueComparison:
    by_seed: dict[Any, list[TrialComparison]] = defaultdict(list)
    for trial in trials:
        if _is_compared(trial):
            by_seed[trial.seed].append(trial)
    return _compared(label, trials, list(by_seed.values()), margin)


def _overall(by_label: Mapping[str, Sequence[TrialComparison]], margin: float) -> ValueComparison:
    """The average over all values that have been compared, over the seeds that all of these have."""
    by_seed: dict[Any, dict[str, TrialComparison]] = defaultdict(dict)
    for label, trials in by_label.items():
        for trial in trials:
            if _is_compared(trial):
                by_seed[trial.seed][label] = trial
    most = max((len(row) for row in by_seed.values()), default=0)
    blocks = [list(row.values()) for row in by_seed.values() if len(row) == most]
    every = [trial for trials in by_label.values() for trial in trials]
    return _compared("all, on average", every, blocks, margin)


def _compared(
    label: str, trials: Sequence[TrialComparison], blocks: Sequence[Sequence[TrialComparison]], margin: float
) -> ValueComparison:
    """A value whose completed pairs stand in blocks, one a seed."""
    means_a = [float(np.mean([trial.final_a for trial in block])) for block in blocks]
    means_b = [float(np.mean([trial.final_b for trial in block])) for block in blocks]
    difference = statistics.paired_difference(means_b, means_a) if blocks else None
    return ValueComparison(
        label=label,
        pairs=len(trials),
        equal=sum(trial.is_equal for trial in trials),
        mean_a=float(np.mean(means_a)) if blocks else math.nan,
        mean_b=float(np.mean(means_b)) if blocks else math.nan,
        difference=difference,
        p_holm=math.nan,
        p_equivalent=equivalence.equivalence_p(difference, margin) if difference else math.nan,
        kind="",
    )


def _is_compared(trial: TrialComparison) -> bool:
    completed = trial.state_a == trial.state_b == "completed"
    return completed and math.isfinite(trial.final_a) and math.isfinite(trial.final_b)


def _p(value: ValueComparison) -> float:
    few = value.difference is None or value.difference.n < statistics.MIN_SEEDS
    return math.nan if few or value.difference is None else value.difference.p_value


def _ends_p(trials: Sequence[TrialComparison]) -> float:
    """The p-value of an exact sign test over seeds that trials diverge as often on either side."""
    net: dict[Any, int] = defaultdict(int)
    for trial in trials:
        if trial.has_finished:
            net[trial.seed] += (trial.state_b == "diverged") - (trial.state_a == "diverged")
    more, less = (sum(sign * count > 0 for count in net.values()) for sign in (1, -1))
    return float(stats.binomtest(more, more + less).pvalue) if more + less else math.nan
