"""A part's predictions on the test set, for the page: of its best value, and what sets it apart from the others."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from mixsweep.analysis.frames import Part
from mixsweep.analysis.inference.comparisons import ordered_points, point_labels
from mixsweep.analysis.inference.wording import axis_words, listing, metric_words
from mixsweep.analysis.predictions import measures
from mixsweep.analysis.predictions.loading import PredictionSet, read_predictions, stack
from mixsweep.analysis.report.figures import predictions as drawings
from mixsweep.analysis.report.figures.pictures import Picture, picture
from mixsweep.analysis.report.study import Section
from mixsweep.analysis.report.tables import Table
from mixsweep.core.store.store import SweepStore
from mixsweep.core.trainables.predictions import Predictions

MOST_VALUES = 12  # beside the best one, by its metric: a file of each of their trials is read
_MOST_DAMAGES = 3  # named one by one
_MOST_TOLD = 12  # classes or bins in the text for readers who do not see a figure


@dataclass(frozen=True)
class PredictionListing:
    """A table on the page, with its heading and its caption."""

    heading: str
    table: Table
    caption: str


@dataclass(frozen=True)
class PredictionPage:
    """What the page says of a part's predictions.

    Args:
        sentence: the accuracy of the best value; '' where its predictions are damaged.
        notes: a line for each damaged file, and for what cannot be compared.
        figures: per class, confusion, and calibration.
        listings: its tables.
    """

    sentence: str
    notes: tuple[str, ...] = ()
    figures: list[Picture] = field(default_factory=list)
    listings: list[PredictionListing] = field(default_factory=list)


def prediction_page(section: Section, results: pd.DataFrame, out: Path) -> PredictionPage | None:
    """Draw what a part's best value predicted; None if its trials kept no predictions.

    Args:
        section: the part.
        results: its ablation table.
        out: the report's folder.
    """
    part, trials = section.part, section.trials
    points = _best_points(part, trials, results)
    if not points:
        return None
    replicas, problems = _read(section.reading.store, points)
    best = next(iter(points))
    found = stack(dict(replicas[best].values()))
    damaged = _damages(problems)
    if found is None:
        if not replicas[best]:
            return PredictionPage("", damaged) if damaged else None
        line = "The trials of the best value were tested on different examples, so nothing is said of them together."
        return PredictionPage("", (*damaged, line))
    labels = _labels(part, trials)
    listings = [_most_wrong(found)]
    compared, notes = _compared(part, labels, replicas, points)
    if compared is not None:
        listings.insert(0, compared)
    return PredictionPage(
        sentence=_sentence(part, labels[best], found),
        notes=(*damaged, *notes),
        figures=[draw(found, section.slug, out) for draw in (_classes, _confusion, _reliability)],
        listings=[listing for listing in listings if listing.table.rows],
    )


# The predictions of a point's trials, with their ids, by replica.
_Replicas = dict[int, tuple[str, Predictions]]


def _best_points(part: Part, trials: pd.DataFrame, results: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """The tested trials of the best points, as the results have them, the best first."""
    if results.empty:
        return {}
    # A trial that was trained on for another part was tested there.
    tested = trials[(trials["state"] == "completed") & trials["trained_on_to"].isna()]
    means = pd.Series(results["final_mean"].to_numpy(), index=ordered_points(part, trials)).dropna()
    chosen = means.sort_values(ascending=part.mode == "min", kind="stable").index[: MOST_VALUES + 1]
    return {int(point): tested[tested["point"] == point] for point in chosen}


def _read(
    store: SweepStore, points: Mapping[int, pd.DataFrame]
) -> tuple[dict[int, _Replicas], tuple[str, ...]]:
    ids = [trial_id for rows in points.values() for trial_id in rows["trial_id"]]
    found, problems = read_predictions(store, ids)
    replicas = {
        point: {
            int(replica): (trial_id, found[trial_id])
            for replica, trial_id in sorted(zip(rows["replica"], rows["trial_id"]))
            if trial_id in found
        }
        for point, rows in points.items()
    }
    return replicas, problems


def _damages(problems: tuple[str, ...]) -> tuple[str, ...]:
    """A note for each of the first damaged files, and one for all others."""
    told = tuple(f"{line}: left out here." for line in problems[:_MOST_DAMAGES])
    more = len(problems) - len(told)
    left = f"And {more} more files of predictions are damaged or gone; sweep doctor --store names them."
    return (*told, left) if more else told


def _labels(part: Part, trials: pd.DataFrame) -> dict[int, str]:
    """The points in words; a value alone has the name of its axis before it."""
    axis = f"{axis_words(part.axes[0])} " if len(part.axes) == 1 else ""
    return {point: f"{axis}{label}" for point, label in point_labels(part, trials).items()}


def _sentence(part: Part, label: str, found: PredictionSet) -> str:
    share = measures.accuracy(found)
    every, never = found.is_right.all(0).mean(), (~found.is_right).all(0).mean()
    chosen = f"{label}, best by mean {metric_words(part.metric)}" if part.axes else "all trials"
    chosen = f"{chosen[:1].upper()}{chosen[1:]}"
    words = [
        f"{chosen}: {_percent(share.mean)} of {len(found.index):,} test examples are right "
        f"(95 % interval over {_seeds(share.seeds)} and over the examples: {_range(share.low, share.high)})."
    ]
    if share.seeds > 1:
        words.append(
            f"{_percent(every)} are right with every seed, and {_percent(never)} wrong with every seed."
        )
    if share.seeds == 1:
        words.append("With one seed the interval is over examples alone.")
    return " ".join(words)


def _compared(
    part: Part,
    labels: Mapping[int, str],
    replicas: Mapping[int, _Replicas],
    points: Mapping[int, pd.DataFrame],
) -> tuple[PredictionListing | None, list[str]]:
    """The best value against each other one, the trials paired by replica."""
    best, *others = points
    rows, without = [], []
    for point in others:
        common = sorted(replicas[best].keys() & replicas[point].keys())
        pairs = [(replicas[best][replica], replicas[point][replica]) for replica in common]
        together = stack({trial_id: read for pair in pairs for trial_id, read in pair})
        if together is None:
            without.append(labels[point])
            continue
        found = measures.accuracy_difference(
            together, [one[0] for one, _ in pairs], [other[0] for _, other in pairs]
        )
        over_seeds = "–" if math.isnan(found.over_seeds) else _points(*found.ends(found.over_seeds))
        rows.append(
            (
                labels[point],
                str(found.seeds),
                f"{100 * found.mean:+.1f}".replace("-", "−"),
                over_seeds,
                _points(*found.ends(found.over_both)),
            )
        )
    notes = [f"Without predictions of the same examples and seeds: {listing(without)}."] if without else []
    header = (
        f"{labels[best]} less", "seeds", "difference (points)", "over seeds", "over seeds and examples",
    )  # fmt: skip
    table = Table(header, tuple(rows), (False, True, True, True, True))
    caption = (
        "Differences of test accuracy, paired by seed, with 95 % intervals: over seeds alone they hold for this test "
        "set, over seeds and examples for others of its kind. Each by itself, after the best was chosen: the claims "
        "decide, not these."
    )
    return PredictionListing("Test accuracy against other values", table, caption), notes


def _most_wrong(found: PredictionSet) -> PredictionListing:
    rows = tuple(
        (
            str(row["index"]),
            row["label"],
            row["prediction"],
            f"{row['wrong']} of {_seeds(row['trials'])}",
            _percent(row["confidence"]),
        )
        for row in measures.most_wrong(found).to_dict("records")
    )
    table = Table(
        ("example", "true class", "predicted", "wrong with", "confidence"),
        rows,
        (True, False, False, True, True),
    )
    caption = (
        "The most confident errors: by the confidence of the wrong prediction, a mean over the seeds in which a right "
        "one counts 0. The example is its number in the test set, from 0."
    )
    return PredictionListing("What it gets most wrong", table, caption)


def _classes(found: PredictionSet, slug: str, out: Path) -> Picture:
    table, overall = measures.class_accuracy(found), measures.accuracy(found)
    caption = "Accuracy on the examples of each class, with 95 % intervals over seeds and over the class's examples."
    if len(table) > drawings.MOST_CLASSES:
        count = drawings.MOST_CLASSES
        table = table.sort_values("accuracy", kind="stable").head(count)
        caption += f" The {count} least accurate of {len(found.classes)} classes."
    told = table.sort_values("accuracy", kind="stable").head(_MOST_TOLD)
    words = ", ".join(
        f"{row['class']} {_percent(row['accuracy'])} ({_range(row['low'], row['high'])})"
        for row in told.to_dict("records")
    )
    alt = f"Accuracy per class, the lowest first: {words}. All classes: {_percent(overall.mean)}."
    return picture(drawings.draw_classes(table, overall), f"{slug}-classes", caption, alt, out)


def _confusion(found: PredictionSet, slug: str, out: Path) -> Picture:
    counts = measures.confusion(found)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.nan_to_num(counts / counts.sum(1, keepdims=True))
    off = shares - np.diag(np.diag(shares))
    order = np.argsort(-off, axis=None, kind="stable")[:_MOST_TOLD]
    words = ", ".join(
        f"{found.classes[row]} as {found.classes[column]} {_percent(off[row, column])}"
        for row, column in zip(*np.unravel_index(order, off.shape))
        if off[row, column] > 0
    )
    caption = (
        "Confusion: of the examples of each class (row), the percentage predicted as each class (column), a mean over "
        "the seeds."
    )
    alt = f"Confusion matrix. The most frequent errors: {words or 'none'}."
    return picture(drawings.draw_confusion(counts, found.classes), f"{slug}-confusion", caption, alt, out)


def _reliability(found: PredictionSet, slug: str, out: Path) -> Picture:
    shown = measures.reliability(found)
    errors = shown.errors[~np.isnan(shown.errors)]
    error = f"{100 * errors.mean():.1f} points" if len(errors) else "unknown"
    if len(errors) > 1:
        error += f" ({100 * errors.min():.1f} to {100 * errors.max():.1f} by seed)"
    caption = (
        f"Confidence against accuracy in {measures.BINS} bins, with 95 % intervals over examples. On the dashed line "
        f"they are equal, and below it the model is too sure of itself. Expected calibration error: {error}."
    )
    bins = sorted(np.flatnonzero(shown.share > 0), key=lambda i: -shown.share[i])[:_MOST_TOLD]
    words = ", ".join(
        f"at {_percent(shown.confidence[i])} confidence {_percent(shown.accuracy[i])} are right"
        for i in sorted(bins)
    )
    alt = f"Reliability diagram. Expected calibration error {error}. {words[:1].upper()}{words[1:]}."
    return picture(drawings.draw_reliability(shown), f"{slug}-reliability", caption, alt, out)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _range(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def _points(low: float, high: float) -> str:
    return f"{100 * low:+.1f} to {100 * high:+.1f}".replace("-", "−")


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"
