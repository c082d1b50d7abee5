"""The answer to a part's question and the verdicts on its claims, as text with the evidence."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mixsweep.analysis.frames import Part, of_part, plain, values_of
from mixsweep.analysis.inference import statistics
from mixsweep.analysis.inference.comparisons import (
    FINISHED,
    Comparison,
    compare,
    compare_with_best,
    correct,
    ordered_points,
    point_cells,
    point_labels,
    point_scores,
    value_cells,
    worst_final,
)
from mixsweep.analysis.inference.statistics import Interval
from mixsweep.analysis.inference.wording import (
    axis_words,
    difference_text,
    interval_text,
    listing,
    metric_words,
    p_text,
    seeds_text,
    value_label,
)

# If more other values than this remain, their number is given instead of their names.
_NAMED = 6


@dataclass(frozen=True)
class Verdict:
    """A claim, its verdict, and the evidence."""

    text: str
    verdict: str  # as shown, e.g. "cannot say with n = 1 seed"
    kind: str  # supported, not supported, contradicted, cannot say
    evidence: str
    comparisons: tuple[Comparison, ...] = ()

    def __repr__(self) -> str:
        return f"Verdict({self.text!r} is {self.verdict}: {self.evidence})"


def evaluate_claims(part: Part, frame: pd.DataFrame, trials: pd.DataFrame) -> list[Verdict]:
    """Test each claim of a part and return the verdicts.

    Every value that should be better is compared with every value that it should beat; all comparisons of a claim
    share one Holm correction. Thresholds: `analysis.inference.statistics.outcome` and `verdict`.

    Args:
        part: the ablation.
        frame: epoch records, from `analysis.frames`.
        trials: one row per trial, from `analysis.load_trials`.
    """
    frame, trials = of_part(part, frame), of_part(part, trials)
    return [_test(part, claim, frame, trials) for claim in part.claims]


def answer(part: Part, frame: pd.DataFrame, trials: pd.DataFrame) -> str:
    """The answer to a part's question in one or two sentences: the best point, and those no different from it."""
    frame, trials = of_part(part, frame), of_part(part, trials)
    points = point_cells(part, frame, trials)
    scored = {point: score for point, score in point_scores(part, frame, trials).items() if score.n}
    tail = _progress(trials) + _ends(part, trials)
    if not scored:
        return f"No answer yet.{tail}"
    sign = 1 if part.mode == "max" else -1
    best = max(scored, key=lambda point: sign * scored[point].mean)
    score, labels = scored[best], point_labels(part, trials)
    name, metric = labels[best], metric_words(part.metric)
    figure = f"{interval_text(part.metric, score)} ({_interval_note(score)})"
    if len(points) == 1:
        subject = f"{metric[0].upper()}{metric[1:]} is {figure}"
        return f"{subject}.{_test_figure(part, trials, best, name)}{tail}"
    if not any(
        trial.state in FINISHED for point in points if point != best for trial in points[point][()].values()
    ):
        return f"Only {name} has finished trials yet: {metric} {figure}.{tail}"
    compared = compare_with_best(best, points, labels, part.mode)
    ties = [p for p, c in compared.items() if c.outcome in (0, -1)]
    worse = [p for p, c in compared.items() if c.outcome == 1]
    unknown = [p for p, c in compared.items() if c.outcome is None]
    highest = "highest" if part.mode == "max" else "lowest"
    if ties:
        alike = [labels[p] for p in points if p == best or p in ties]
        text = f"{_some(alike)} are not distinguishable; {name} has the {highest} mean {metric}, {figure}"
        text += f"; {_some([labels[p] for p in worse])} {_are(worse)} worse" if worse else ""
    elif worse:
        rest = "every other value is worse" if not unknown else ""
        rest = rest or f"{_some([labels[p] for p in worse])} {_are(worse)} worse"
        text = f"{name} is best: {metric} {figure}; {rest}"
    else:
        text = f"{name} has the {highest} {metric}, {figure}"
    if unknown and score.n < statistics.MIN_SEEDS:
        text += f"; fewer than {statistics.MIN_SEEDS} seeds cannot show that a difference is real"
    elif unknown:
        text += f"; too few seeds yet for {_some([labels[p] for p in unknown])}"
    return f"{text}.{_test_figure(part, trials, best, name)}{tail}"


def _test(part: Part, claim: Mapping[str, Any], frame: pd.DataFrame, trials: pd.DataFrame) -> Verdict:
    axis, text = str(claim["compare"]), str(claim.get("text", ""))
    metric = str(claim.get("metric", part.metric))
    mode = part.mode if metric == part.metric else part.trainable.better(metric)
    if axis not in trials or (metric not in frame and metric not in trials):
        return Verdict(text, "cannot say", statistics.CANNOT_SAY, f"No trial has {axis} and {metric}.")
    trials = _in_the_claims_words(part, claim, axis, trials)
    known = values_of(trials, axis)
    better = _values(claim["better"], known)
    than = [v for v in known if v not in better] if claim.get("than", "rest") == "rest" else None
    than = _values(claim["than"], known) if than is None else than
    missing = [value_label(axis, v) for v in [*better, *than] if v not in known]
    if missing or not than:
        evidence = (
            f"The plan has no {axis_words(axis)} {listing(missing)}." if missing else "Nothing to beat."
        )
        return Verdict(text, "cannot say", statistics.CANNOT_SAY, evidence)

    involved = trials[trials[axis].map(plain).isin([*better, *than])]
    cells = value_cells(part, axis, metric, frame, involved)
    worst = worst_final(cells, mode)
    compared = correct(
        [
            compare(value_label(axis, a), value_label(axis, b), cells[a], cells[b], mode, worst)
            for a in better
            for b in than
        ],
        mode,
    )
    kind = statistics.verdict([c.outcome for c in compared])
    return Verdict(
        text,
        _shown(kind, compared, involved),
        kind,
        _evidence(part, axis, metric, mode, compared, involved),
        tuple(compared),
    )


def _shown(kind: str, compared: Sequence[Comparison], involved: pd.DataFrame) -> str:
    """The verdict with its limitation: too few seeds, or unfinished trials."""
    finished = int(involved["state"].isin(FINISHED).sum())
    so_far = f"{finished} of {len(involved)} trials finished"
    if kind != statistics.CANNOT_SAY:
        return kind if finished == len(involved) else f"{kind} so far ({so_far})"
    if finished < len(involved):
        return f"cannot say yet ({so_far})"
    n = min(c.difference.n if c.difference else 0 for c in compared)
    return f"cannot say with {seeds_text(n)}" if n < statistics.MIN_SEEDS else "cannot say"


def _evidence(
    part: Part, axis: str, metric: str, mode: str, compared: Sequence[Comparison], involved: pd.DataFrame
) -> str:
    """The evidence for a verdict: the comparison least in the claim's favour, with its interval."""
    sign = 1 if mode == "max" else -1
    measured = [c for c in compared if c.difference is not None]
    notes = [c.note for c in compared if c.note]
    sentences = []
    if measured:

        def favour(c: Comparison) -> float:
            return sign * c.difference.interval.mean if c.difference else math.inf

        nearest = min(measured, key=favour)
        difference = nearest.difference
        assert difference is not None
        beaten = sum(c.outcome == 1 for c in compared)
        words = f"{difference_text(metric, difference.interval)}, {seeds_text(difference.n)}"
        if not math.isnan(nearest.p_holm):
            holm = "Holm p" if len(measured) > 1 else "p"
            words += f", {holm} {p_text(nearest.p_holm)}"
        if len(compared) == 1:
            lead = f"{nearest.a} against {nearest.b}"
        elif beaten == len(compared):
            lead = f"Better in all {len(compared)} comparisons; nearest, {nearest.a} against {nearest.b}"
        else:
            lead = f"Better in {beaten} of {len(compared)} comparisons; "
            lead += f"least so, {nearest.a} against {nearest.b}"
        sentences.append(f"{lead}: paired difference in {metric_words(metric)} {words}.")
    elif not notes:
        sentences.append("No seed has a figure on both sides.")
    others = part.others(axis, involved)
    if others:
        sentences.append(f"Averaged over {listing(axis_words(other) for other in others)}.")
    if with_it := [axis_words(other) for other in part.axes if other not in (axis, *others)]:
        words = listing(with_it)
        sentences.append(f"{words[0].upper()}{words[1:]} {'goes' if len(with_it) == 1 else 'go'} with it.")
    if notes:
        sentences.append(
            "; ".join(dict.fromkeys(notes)) + "."
        )  # begins with a value's name, as it is written
    failed = int((involved["state"] == "failed").sum())
    if failed:
        sentences.append(f"{failed} failed {'trial is' if failed == 1 else 'trials are'} left out.")
    return " ".join(sentences)


def _in_the_claims_words(
    part: Part, claim: Mapping[str, Any], axis: str, trials: pd.DataFrame
) -> pd.DataFrame:
    """The trials, where a value that the claim has under another name is named as the claim does."""
    known = values_of(trials, axis)
    given = [*_values(claim["better"], known), *_values(claim.get("than", "rest"), known)]
    other_names = [value for value in given if value not in known and value != "rest"]
    if not other_names:
        return trials

    def named(row: Mapping[Any, Any]) -> Any:
        same = (name for name in other_names if part.trainable.own_value(axis, name, row) == row[axis])
        return next(same, row[axis])

    return trials.assign(**{axis: [named(row) for row in trials.to_dict("records")]})


def _values(given: Any, known: Sequence[Any]) -> list[Any]:
    """A claim's value or values; a list is one value if the axis's own values are lists."""
    value = plain(given)
    if not isinstance(value, tuple) or value in known:
        return [value]
    return list(value)


def _progress(trials: pd.DataFrame) -> str:
    finished = int(trials["state"].isin(FINISHED).sum())
    return "" if finished == len(trials) else f" So far {finished} of {len(trials)} trials finished."


def _ends(part: Part, trials: pd.DataFrame) -> str:
    """A sentence on the trials that did not reach the last epoch, by value."""
    labels = point_labels(part, trials)
    words = []
    for state, verb in (("diverged", "diverged"), ("stopped", "was stopped early"), ("failed", "failed")):
        counts = Counter(int(p) for p in trials.loc[trials["state"] == state, "point"])
        if len(counts) > _NAMED:
            words.append(f"{sum(counts.values())} trials of {len(counts)} values: {state}")
        else:
            words += [
                f"{labels[p]} {verb} in {counts[p]} of {int((trials['point'] == p).sum())} trials"
                for p in ordered_points(part, trials)
                if p in counts
            ]
    return f" {'; '.join(words)}." if words else ""


def _test_figure(part: Part, trials: pd.DataFrame, point: int, name: str) -> str:
    rows = trials[trials["point"] == point]
    sentences = []
    for test in part.trainable.reported_tests:
        tested = statistics.t_interval(rows[f"final_{test}"].dropna().tolist())
        if tested.n and part.metric != test:
            words = metric_words(test).capitalize()
            sentences.append(f" {words} of {name} at the last epoch: {interval_text(test, tested)}.")
    return "".join(sentences)


def _interval_note(interval: Interval) -> str:
    if interval.n == 1:
        return "n = 1 seed: no interval"
    return f"95 % CI, {seeds_text(interval.n)}"


def _some(labels: Sequence[str]) -> str:
    if len(labels) > _NAMED:
        return f"{listing(labels[:2])} and {len(labels) - 2} others"
    return listing(labels)


def _are(items: Sequence[Any]) -> str:
    return "is" if len(items) == 1 else "are"
