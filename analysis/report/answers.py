"""What a study's first table says of a part: its answer, its verdicts, and ours beside what was published."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mixsweep.analysis.inference import claims, statistics
from mixsweep.analysis.inference.claims import Verdict
from mixsweep.analysis.inference.comparisons import MOST_COMPARED, ordered_points, point_labels
from mixsweep.analysis.inference.ranges import possible_range, within
from mixsweep.analysis.inference.statistics import Interval, t_interval
from mixsweep.analysis.inference.wording import figure_text, interval_text, metric_words
from mixsweep.analysis.report.study import Section
from mixsweep.analysis.report.tables import interval_of

_WORDS = ("finding", "source")  # keys of `published` that are not metrics


@dataclass(frozen=True)
class Published:
    """A figure of ours beside the published one.

    Args:
        what: the metric in words.
        ours: our figure, with its interval.
        published: the published figure.
        metric: its name; '' for a finding in words.
    """

    what: str
    ours: str
    published: str
    metric: str = ""


@dataclass(frozen=True)
class Answer:
    """The row of a part in a study's first table.

    Args:
        slug: of the part, which the row links to.
        label: the sweep, and the part of it.
        question: what it asks.
        answer: to the question.
        verdicts: on its claims.
        published: figures of ours beside published ones.
        source: of the published ones.
        notes: what limits the answer, such as that the sweep still runs.
    """

    slug: str
    label: str
    question: str
    answer: str
    verdicts: tuple[Verdict, ...]
    published: tuple[Published, ...]
    source: str
    notes: tuple[str, ...]

    @property
    def counts(self) -> list[tuple[str, str, int]]:
        """The number of claims by verdict: its kind, its name, and how many."""
        found = Counter(verdict.kind for verdict in self.verdicts)
        return [(kind.replace(" ", "-"), kind, found[kind]) for kind in found]


def answer_of(section: Section, judged: claims.Judged, results: pd.DataFrame) -> Answer:
    """The answer to a part's question.

    Args:
        section: the part.
        judged: the verdicts and answers of the study.
        results: its ablation table.
    """
    part = section.part
    verdicts = tuple(judged.claims(part)) if len(section.frame) else ()
    notes = tuple(situation(section))
    many = section.points > MOST_COMPARED
    text = _answer_of_many(section, results) if many else judged.answer(part).text
    published = tuple(_published(section, results))
    source = str(part.published.get("source", ""))
    return Answer(section.slug, section.label, section.question, text, verdicts, published, source, notes)


def situation(section: Section) -> list[str]:
    """What limits a part as a whole: nothing has begun, it still runs, all failed, one trial, one seed, no spread."""
    part, trials = section.part, section.trials
    states = Counter(trials["state"])
    count, finished = len(trials), sum(states[state] for state in ("completed", "stopped", "diverged"))
    final = (
        trials[f"final_{part.metric}"].dropna()
        if f"final_{part.metric}" in trials
        else pd.Series(dtype=float)
    )
    left = count - finished - states["failed"]
    found = []
    if states["waiting"] == count:
        return [f"Nothing has begun: {_trials(count)} planned, none trained yet. `sweep run` trains them."]
    if left:
        found.append(
            f"Not finished: {left} of {_trials(count)} left to train; figures and verdicts may change."
        )
    if states["failed"] == count:
        found.append(f"All of its {_trials(count)} failed, so there is nothing to compare.")
    elif states["diverged"] == count:
        found.append(f"All of its {_trials(count)} diverged, so there is nothing to compare.")
    if count == 1:
        found.append("One trial: its figure has no interval, and there is nothing to compare it with.")
    elif trials["replica"].nunique() == 1 and part.axes:
        found.append(
            f"One seed: no interval, and no difference can be decided; {statistics.MIN_SEEDS} seeds are needed."
        )
    if len(final) > 1 and final.nunique() == 1:
        value = figure_text(part.metric, float(final.iloc[0]))
        found.append(f"{metric_words(part.metric).capitalize()} is {value} in every completed trial.")
    return found


def best_point(section: Section, results: pd.DataFrame) -> tuple[int, int] | None:
    """The position in an ablation table of the best mean, and its point; None where no value has one."""
    means = results["final_mean"] if "final_mean" in results else pd.Series(dtype=float)
    if means.dropna().empty:
        return None
    row = int(means.argmax() if section.part.mode == "max" else means.argmin())
    return row, ordered_points(section.part, section.trials)[row]


def _answer_of_many(section: Section, results: pd.DataFrame) -> str:
    """The best of very many values, which are not compared in pairs."""
    best = best_point(section, results)
    if best is None:
        return "No answer yet."
    part, trials = section.part, section.trials
    name = point_labels(part, trials[trials["point"] == best[1]])[best[1]]
    extreme = "highest" if part.mode == "max" else "lowest"
    figure = interval_text(part.metric, interval_of(results.iloc[best[0]].to_dict(), "final"))
    return (
        f"Of {section.points:,} combinations, {name} has the {extreme} mean {metric_words(part.metric)}, {figure}. It "
        "is the best of many, so partly by luck: so many combinations are not compared in pairs, and the claims and "
        "each axis's effect say what holds."
    )


def _published(section: Section, results: pd.DataFrame) -> list[Published]:
    """Our figures of the best value beside the published ones."""
    told: Mapping[str, Any] = section.part.published
    found = []
    if finding := str(told.get("finding", "")):
        found.append(Published("finding", "", finding))
    for metric, value in told.items():
        if metric not in _WORDS:
            ours = interval_text(metric, _ours(section, results, metric))
            found.append(Published(metric_words(metric), ours, figure_text(metric, float(value)), metric))
    return found


def _ours(section: Section, results: pd.DataFrame, metric: str) -> Interval:
    """Our figure of the value with the best mean, over its completed trials."""
    part, trials = section.part, section.trials
    best, column = best_point(section, results), f"final_{metric}" if f"final_{metric}" in trials else metric
    if best is None or column not in trials:
        return Interval(math.nan, math.nan, math.nan, 0)
    mine = (trials["state"] == "completed") & (trials["point"] == best[1])
    return within(
        t_interval(trials.loc[mine, column].dropna().tolist()), possible_range(part.trainable, metric)
    )


def _trials(count: int) -> str:
    return f"{count:,} trial" if count == 1 else f"{count:,} trials"
