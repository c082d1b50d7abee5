"""The figures of a part on the page: which ones it has, their captions, and what they say in numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mixsweep.analysis.frames import plain, values_of
from mixsweep.analysis.inference.comparisons import MOST_COMPARED
from mixsweep.analysis.inference.wording import (
    axis_words,
    difference_text,
    figure_text,
    interval_text,
    listing,
    metric_words,
    value_label,
)
from mixsweep.analysis.report import figures
from mixsweep.analysis.report.answers import Answer
from mixsweep.analysis.report.figures.effects import Finals
from mixsweep.analysis.report.figures.importance import importance, importance_text
from mixsweep.analysis.report.figures.pictures import Picture, picture
from mixsweep.analysis.report.figures.spaces import MOST_COORDINATES
from mixsweep.analysis.report.part_values import (
    MOST_PLACES,
    MOST_ROWS,
    AlongAxis,
    axes_title,
    axis_finals,
    best_of,
    claim_forests,
    cost_column,
    is_numeric,
    point_finals,
)
from mixsweep.analysis.report.study import Section

_MOST_TOLD = 12  # values in the text for readers who do not see a figure


def effect_pictures(section: Section, answer: Answer, results: pd.DataFrame, out: Path) -> list[Picture]:
    """The forest plots of a part's claims, its final values, its axes, and its metric against its cost."""
    if results.empty or section.trials[f"final_{section.part.metric}"].isna().all():
        return []
    drawn = _forests(section, answer, out)
    cost = cost_column(section)
    finals = point_finals(section, results, cost)
    if section.points > 1:
        drawn.append(_finals(section, finals, out))
    drawn += [_sensitivity(section, axis, out) for axis in section.part.axes if is_numeric(section, axis)]
    return drawn + (_costs(section, finals, cost, out) if cost and section.points > 1 else [])


def space_pictures(section: Section, out: Path) -> list[Picture]:
    """The figures of several axes at once: a heat map of two, parallel coordinates and importance of more."""
    part, trials = section.part, section.trials
    final = f"final_{part.metric}"
    if len(part.axes) < 2 or trials[final].notna().sum() < 2:
        return []
    drawn = []
    if len(part.axes) == 2 and set(part.axes) not in map(set, part.zipped):
        drawn.append(_heat(section, out))
    if len(part.axes) > 2 or section.points > MOST_COMPARED:
        drawn.append(_parallel(section, out))
        drawn += _importance(section, out)
    return drawn


def curve_pictures(section: Section, best: str, out: Path) -> list[Picture]:
    """The learning curves of a part: for each axis a line a value; of very many trials their quantiles, too."""
    part, frame, trials = section.part, section.frame, section.trials
    if frame.empty:
        return []
    drawn = []
    if section.points > MOST_COMPARED:
        caption = f"{part.trainable.curve_words.capitalize()} against epochs: the median over all trials that reached "
        caption += "the epoch, the bands of half and of 90 % of them, and the best trial."
        figure = figures.draw_bands(frame, best, part.trainable)
        drawn.append(
            picture(figure, f"{section.slug}-curves", caption, _curve_alt(section, None, [None]), out)
        )
    for axis in part.axes or (None,):
        values = _drawn_values(section, axis) if axis else [None]
        others = [axis_words(other) for other in (part.others(axis, trials) if axis else ())]
        caption = f"{part.trainable.curve_words.capitalize()} against epochs"
        caption += f", a line for each {axis_words(axis)}" if axis else ""
        caption += f", averaged over {listing(others)}" if others else ""
        caption += ": mean over the trials that reached the epoch; the band spans the least and the greatest."
        if (frame["state"] == "diverged").any():
            caption += " A large cross marks where a value's trials diverged."
        if axis and len(values) < len(values_of(trials, axis)):
            caption += f" Drawn: the best {len(values)} of {len(values_of(trials, axis))} values."
        name = f"{section.slug}-curves-{axis.replace('/', '.')}" if axis else f"{section.slug}-curves"
        figure = figures.draw_curves(frame, axis, values if axis else None, trainable=part.trainable)
        drawn.append(picture(figure, name, caption, _curve_alt(section, axis, values), out))
    return drawn


def _forests(section: Section, answer: Answer, out: Path) -> list[Picture]:
    drawn = []
    part = section.part
    for forest in claim_forests(section, answer):
        metric, shown = forest.metric, forest.effects[:MOST_ROWS]
        caption = (
            f"Paired differences in {metric_words(metric)} that the claims rest on, with 95 % intervals over "
        )
        caption += "the seeds. Green squares are decided as claimed, orange ones against the claim, grey "
        caption += "dots are not decided."
        if len(shown) < len(forest.effects):
            caption += f" The first {len(shown)} of {len(forest.effects)} differences."
        told = [
            f"{one.label}: {difference_text(metric, one.interval) if one.interval.n else one.note or 'no difference'}"
            for one in shown
        ]
        name = f"{section.slug}-forest"
        usual = part.mode if metric == part.metric else part.trainable.better(metric)
        name += "" if metric == part.metric else f"-{metric.replace('/', '.')}"
        name += "" if forest.mode == usual else f".{forest.mode}"
        figure = figures.draw_forest(shown, metric, forest.mode)
        side = "right" if forest.mode == "max" else "left"
        drawn.append(picture(figure, name, caption, _alt(f"{caption} Better: to the {side}.", told), out))
    return drawn


def _finals(section: Section, finals: Sequence[Finals], out: Path) -> Picture:
    part = section.part
    shown = best_of(finals, part.mode)
    caption = f"{part.figure_word.capitalize()} {metric_words(part.metric)}: a dot a trial, the mean over the seeds "
    caption += "as a tick with its 95 % interval."
    if len(shown) < len(finals):
        caption += f" The best {len(shown)} of {len(finals)}."
    figure = figures.draw_finals(shown, axes_title(section), part.metric, part.figure_word)
    return picture(figure, f"{section.slug}-finals", caption, _alt(caption, _told(part.metric, shown)), out)


def _sensitivity(section: Section, axis: str, out: Path) -> Picture:
    part = section.part
    along = axis_finals(section, axis)
    finals = along.finals
    others = part.others(axis, section.trials)
    caption = f"{part.figure_word.capitalize()} {metric_words(part.metric)} along {axis_words(axis)}: a dot a trial, "
    caption += "the line the mean, the band its 95 % interval over the seeds"
    caption += f", averaged over {listing(map(axis_words, others))}." if others else "."
    caption += _combinations_words(along)
    if len(finals) == MOST_PLACES < len(values_of(section.trials, axis)):
        caption += f" Its values are put together in {len(finals)} groups, each at its median."
    figure = figures.draw_sensitivity(finals, axis, part.metric, part.figure_word)
    name = f"{section.slug}-along-{axis.replace('/', '.')}"
    return picture(figure, name, caption, _alt(caption, _told(part.metric, finals)), out)


def _combinations_words(along: AlongAxis) -> str:
    """What the means along an axis leave out of the other axes' combinations, '' if nothing."""
    if not along.shared:
        return " The values have different combinations of these, which a difference may come from."
    words = ""
    if along.shared < along.combinations:
        words = f" Counted: {along.shared} of {along.combinations} combinations, those with a figure at every value."
    if along.left_out:
        words += (
            f" Not in the mean: {along.left_out} of the dots, of seeds that lack one of the combinations."
        )
    return words


def _costs(section: Section, finals: Sequence[Finals], cost: str, out: Path) -> list[Picture]:
    part = section.part
    known = [value for value in finals if value.interval.n and value.cost.n]
    if len(known) < 2:
        return []
    words = metric_words(cost)
    caption = f"{part.figure_word.capitalize()} {metric_words(part.metric)} against {words}, with the 95 % intervals "
    caption += "of both over the seeds. Trials may have shared their machine."
    unit = words if "seconds" in words else f"{words} (s)"
    figure = figures.draw_cost(known, unit, part.metric, axes_title(section), part.figure_word)
    told = [
        f"{value.label}: {interval_text(part.metric, value.interval)} at {interval_text(cost, value.cost)}"
        for value in best_of(known, part.mode, _MOST_TOLD)
    ]
    return [picture(figure, f"{section.slug}-cost", caption, _alt(caption, told), out)]


def _heat(section: Section, out: Path) -> Picture:
    part, trials = section.part, section.trials
    rows, columns = part.axes
    caption = f"{part.figure_word.capitalize()} {metric_words(part.metric)} over {axis_words(rows)} and "
    caption += f"{axis_words(columns)}: mean over the completed trials."
    figure = figures.draw_heat(trials, (rows, columns), part.metric, part.figure_word)
    means = trials.groupby("point")[f"final_{part.metric}"].mean().dropna()
    ordered = means.sort_values(ascending=part.mode == "min", kind="stable")
    first = trials.drop_duplicates("point").set_index("point")
    told = [
        f"{axis_words(rows)} {value_label(rows, plain(first.at[point, rows]))}, {axis_words(columns)} "
        f"{value_label(columns, plain(first.at[point, columns]))}: {figure_text(part.metric, float(mean))}"
        for point, mean in ordered.head(_MOST_TOLD).items()
    ]
    return picture(figure, f"{section.slug}-heat", caption, _alt(caption, told, len(means)), out)


def _parallel(section: Section, out: Path) -> Picture:
    part, trials = section.part, section.trials
    final = f"final_{part.metric}"
    known = trials.dropna(subset=[final])
    caption = "A line a completed trial, over all axes; the best tenth in bold"
    caption += (
        f", and about {MOST_COORDINATES} of {len(known)} drawn." if len(known) > MOST_COORDINATES else "."
    )
    figure = figures.draw_parallel(trials, part.axes, part.metric, part.mode, part.figure_word)
    best = known.sort_values([final, "trial_id"], ascending=[part.mode == "min", True]).head(3)
    told = [
        ", ".join(f"{axis_words(axis)} {value_label(axis, plain(row[axis]))}" for axis in part.axes)
        + f": {figure_text(part.metric, row[final])}"
        for row in best.to_dict("records")
    ]
    return picture(figure, f"{section.slug}-parallel", caption, _alt(caption, told, len(known)), out)


def _importance(section: Section, out: Path) -> list[Picture]:
    part = section.part
    found = importance(part, section.trials)
    if not found:
        return []
    caption = f"The share of the variance of {part.figure_word} {metric_words(part.metric)} that each axis explains by "
    caption += (
        "itself (ε² of an analysis of variance), with its 95 % interval (bootstrap over the combinations)."
    )
    words = importance_text(found, [axis_words(one.axis) for one in found])
    figure = figures.draw_importance(found, part.metric, part.figure_word)
    return [picture(figure, f"{section.slug}-importance", caption, _alt(caption, [words]), out)]


def _drawn_values(section: Section, axis: str) -> list[Any]:
    """The values of an axis that get a line: all, or the best few if there are too many to distinguish."""
    part, trials = section.part, section.trials
    values = values_of(trials, axis)
    if len(values) <= figures.MOST_LINES:
        return values
    sign = -1 if part.mode == "max" else 1
    means = trials["last"].mul(sign).groupby(pd.Index(trials[axis].map(plain), tupleize_cols=False)).mean()
    kept = set(means.sort_values(kind="stable").index[: figures.MOST_LINES])
    return [value for value in values if value in kept]


def _curve_alt(section: Section, axis: str | None, values: Sequence[Any]) -> str:
    """The mean of the part's metric at the last epoch of each value that is drawn."""
    part, trials = section.part, section.trials
    last = trials["last"]
    words = f"Learning curves. {metric_words(part.metric).capitalize()} at the last recorded epoch"
    if axis is None:
        return _alt(f"{words}:", [f"mean {figure_text(part.metric, float(last.mean()))}"])
    means = (
        last.groupby(pd.Index(trials[axis].map(plain), tupleize_cols=False), dropna=False).mean().to_dict()
    )
    told = [
        f"{value_label(axis, v)}: {figure_text(part.metric, float(means.get(v, float('nan'))))}"
        for v in values
    ]
    return _alt(f"{words} by {axis_words(axis)}.", told)


def _told(metric: str, finals: Sequence[Finals]) -> list[str]:
    return [
        f"{value.label}: {interval_text(metric, value.interval) if value.interval.n else 'diverged'}"
        for value in finals
    ]


def _alt(lead: str, told: Sequence[str], count: int = 0) -> str:
    """A figure in words: what it shows, then its numbers, the first ones if there are very many."""
    count = max(count, len(told))
    more = f"; and {count - min(len(told), _MOST_TOLD)} more" if count > min(len(told), _MOST_TOLD) else ""
    return f"{lead} {'; '.join(told[:_MOST_TOLD])}{more}."
