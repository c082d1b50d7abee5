"""The answer to a part's question in words: the value that leads, and what is shown of the others."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from mixsweep.analysis.frames import Part
from mixsweep.analysis.inference import statistics
from mixsweep.analysis.inference.comparisons import (
    ENDED,
    Compared,
    Comparison,
    comparison,
    ordered_points,
    point_labels,
    point_scores,
)
from mixsweep.analysis.inference.evidence import notes_on, obstacle
from mixsweep.analysis.inference.procedures.decisions import Decision, Leader, lead
from mixsweep.analysis.inference.ranges import possible_range, within
from mixsweep.analysis.inference.statistics import MIN_SEEDS, SUPPORTED, UNDECIDED, Interval
from mixsweep.analysis.inference.wording import (
    difference_text,
    interval_text,
    listing,
    metric_words,
    seeds_text,
)

# If more values than this remain, their number is given instead of their names.
_NAMED = 6


@dataclass(frozen=True)
class Answer:
    """The answer to a part's question.

    Args:
        text: one or a few sentences.
        kind: supported where one value is shown to be the best, else not supported or undecided.
        leader: the point that leads, None if no trial has a figure.
        p_value: of "the leader is better than every other value", corrected.
        comparisons: of the leader with each other point.
    """

    text: str
    kind: str = UNDECIDED
    leader: int | None = None
    p_value: float = 1.0
    comparisons: tuple[Comparison, ...] = ()


def answer_of(
    part: Part, compared: Compared, decision: Decision | None, frame: pd.DataFrame, trials: pd.DataFrame
) -> Answer:
    """The answer to a part's question.

    Args:
        compared: the points of the part.
        decision: what is decided of them; None for a single point.
    """
    scores, labels = point_scores(part, frame, trials), point_labels(part, trials)
    tail = _progress(trials) + _ends(part, trials)
    best = (
        decision.leader.value
        if decision and decision.leader
        else lead(compared.blocks)
        if len(labels)
        else -1
    )
    if best < 0:
        return Answer(f"No answer yet.{tail}")
    point = compared.keys[best]
    figure = _figure(part, scores[point], trials[trials["point"] == point])
    metric = metric_words(part.metric)
    tested = _test_figure(part, trials, point, labels[point])
    if decision is None or decision.leader is None:
        return Answer(f"{metric[0].upper()}{metric[1:]} is {figure}.{tested}{tail}", leader=point)
    others = [compared.keys[other] for other in decision.leader.others]
    ended = {p: bool(trials.loc[trials["point"] == p, "state"].isin(ENDED).any()) for p in others}
    if not any(ended.values()):
        return Answer(f"Only {labels[point]} has finished trials yet: {metric} {figure}.{tail}", leader=point)
    found = _comparisons(compared, decision, decision.leader, labels)
    words = _words(part, compared, decision, decision.leader, labels, found, figure, trials)
    return Answer(f"{words}.{tested}{tail}", decision.kind, point, decision.p_value, tuple(found))


def _words(
    part: Part,
    compared: Compared,
    decision: Decision,
    leader: Leader,
    labels: dict[int, str],
    found: Sequence[Comparison],
    figure: str,
    trials: pd.DataFrame,
) -> str:
    name, metric = labels[compared.keys[leader.value]], metric_words(part.metric)
    if decision.kind == SUPPORTED:
        return f"{name} is best: {metric} {figure}; every other value is worse"
    text = f"{name} has the {'highest' if part.mode == 'max' else 'lowest'} {metric}, {figure}"
    names = {v: labels[compared.keys[v]] for v in leader.others}
    lower = [names[v] for v in leader.others if v in leader.lower]
    open_ = [c for v, c in zip(leader.others, found) if v not in leader.lower]
    if lower:
        text += f"; {_some(lower)} {_are(lower)} worse"
    if decision.kind == UNDECIDED or compared.blocks.seeds < MIN_SEEDS:
        return f"{text}; {_waiting(part, compared, decision, leader, found, trials)}"
    return f"{text}; not shown to be worse: {_apart(part, open_)}"


def _waiting(
    part: Part,
    compared: Compared,
    decision: Decision,
    leader: Leader,
    found: Sequence[Comparison],
    trials: pd.DataFrame,
) -> str:
    """Which way the comparisons point so far, and what a verdict waits for."""
    means = [c.difference.interval.mean for c in found if c.difference is not None]
    ahead = sum(compared.sign * mean > 0 for mean in means)
    word = "higher" if part.mode == "max" else "lower"
    text = ""
    if means:
        shown = f"all {len(found)}" if ahead == len(found) else f"{ahead} of {len(found)}"
        text = f"{word} in {shown} comparison{'s' if len(found) > 1 else ''}; "
    if compared.blocks.seeds < MIN_SEEDS:
        return f"{text}{MIN_SEEDS} seeds are the least that can decide"
    assert leader.looks is not None
    pairs = compared.blocks.pairs([(leader.value, other) for other in leader.others])
    ended = int(trials["state"].isin(ENDED).sum())
    return text + obstacle(compared.blocks, pairs, leader.looks, decision.level, ended, len(trials))


def _apart(part: Part, found: Sequence[Comparison]) -> str:
    """The values that are not decided, each with its own interval."""
    if len(found) > _NAMED:
        return f"{len(found)} others"
    return listing(
        f"{c.b} ({difference_text(part.metric, c.difference.interval) if c.difference else 'no difference known'})"
        for c in found
    )


def _comparisons(
    compared: Compared, decision: Decision, leader: Leader, labels: dict[int, str]
) -> list[Comparison]:
    pairs = compared.blocks.pairs([(leader.value, other) for other in leader.others])
    assert leader.looks is not None
    name = labels[compared.keys[leader.value]]
    found = []
    for row, other in enumerate(leader.others):
        label = labels[compared.keys[other]]
        seen = leader.looks.decided_at[row] > 0
        outcome = 1 if other in leader.lower else 0 if seen else None
        note = "; ".join(notes_on(compared, (leader.value, other), (name, label)))
        p_value = float(leader.p_values[row])
        found.append(comparison(name, label, pairs, row, compared.sign, p_value, outcome, note))
    return found


def _figure(part: Part, score: Interval, rows: pd.DataFrame) -> str:
    seeds = seeds_text(score.n) + (f" of {len(rows)}" if score.n < len(rows) else "")
    note = f"{seeds}: no interval" if score.n == 1 else f"95 % CI, {seeds}"
    shown = within(score, possible_range(part.trainable, part.metric))
    return f"{interval_text(part.metric, shown)} ({note})"


def _progress(trials: pd.DataFrame) -> str:
    ended = int(trials["state"].isin(ENDED).sum())
    return "" if ended == len(trials) else f" So far {ended} of {len(trials)} trials finished."


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
    """The test figures of a point, with the number of seeds that they leave out."""
    rows = trials[trials["point"] == point]
    sentences = []
    for test in part.trainable.reported_tests:
        tested = statistics.t_interval(rows[f"final_{test}"].dropna().tolist())
        tested = within(tested, possible_range(part.trainable, test))
        if tested.n and part.metric != test:
            words = metric_words(test).capitalize()
            sentences.append(
                f" {words} of {name} at the last epoch: {interval_text(test, tested)}{seeds_of(tested.n, len(rows))}."
            )
    return "".join(sentences)


def seeds_of(n: int, count: int) -> str:
    """` (2 of 3 seeds)` where some have no figure, else ''."""
    return f" ({n} of {count} seeds)" if n < count else ""


def _some(labels: Sequence[str]) -> str:
    if len(labels) > _NAMED:
        return f"{listing(labels[:2])} and {len(labels) - 2} others"
    return listing(labels)


def _are(items: Sequence[str]) -> str:
    return "is" if len(items) == 1 else "are"
