"""What predictions say: accuracy per class, confusion, calibration, the examples that are most wrong, differences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mixsweep.analysis.predictions.crossed import crossed_means, share_interval, wilson
from mixsweep.analysis.predictions.loading import PredictionSet
from mixsweep.core.errors import UserError

BINS = 15  # of confidence, as in Guo et al.


@dataclass(frozen=True)
class Share:
    """A share of right predictions with its 95 % interval over seeds and examples."""

    mean: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Difference:
    """The difference of two values' test accuracies, the trials paired by seed, with 95 % intervals.

    Args:
        mean: of the first value less the second.
        over_seeds: half of the interval over seeds alone, on this very test set; NaN with one seed.
        over_both: half of the interval over seeds and examples.
        seeds: the number of pairs.
    """

    mean: float
    over_seeds: float
    over_both: float
    seeds: int

    def ends(self, half: float) -> tuple[float, float]:
        """Both ends of an interval of this half width, which never leaves −1 … 1."""
        return max(self.mean - half, -1.0), min(self.mean + half, 1.0)


@dataclass(frozen=True)
class Reliability:
    """How far confidence is right, in B bins of equal width over 0 … 1.

    Args:
        edges: of the bins [B + 1].
        share: of predictions in each bin [B].
        confidence: their mean [B]; NaN in an empty bin.
        accuracy: the share of right ones [B]; NaN in an empty bin.
        low, high: the 95 % interval of that share, counting each example once however many trials there are [B].
        errors: the expected calibration error of each trial [T].
    """

    edges: np.ndarray
    share: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray
    errors: np.ndarray


def accuracy(found: PredictionSet) -> Share:
    """The accuracy over all examples and trials."""
    means = crossed_means(found.is_right)
    low, high = share_interval(means)
    return Share(float(means.mean[0]), float(low[0]), float(high[0]), means.seeds)


def class_accuracy(found: PredictionSet) -> pd.DataFrame:
    """The accuracy on the examples of each class: a row a class that has any.

    Columns: class (its name), examples, accuracy, low and high (95 % interval over seeds and the examples of the
    class).
    """
    means = crossed_means(found.is_right, found.label)
    low, high = share_interval(means)
    table = pd.DataFrame(
        {
            "class": found.classes[: len(means.mean)],
            "examples": means.examples,
            "accuracy": means.mean,
            "low": low,
            "high": high,
        }
    )
    return table[table["examples"] > 0].reset_index(drop=True)


def confusion(found: PredictionSet) -> np.ndarray:
    """How often the examples of a class (row) are predicted as each class (column), [K, K]: means over the trials."""
    number = len(found.classes)
    cells = found.label * number + found.prediction
    return np.bincount(cells.ravel(), minlength=number * number).reshape(number, number) / len(
        found.trial_ids
    )


def reliability(found: PredictionSet, bins: int = BINS) -> Reliability:
    """Confidence against accuracy, and the expected calibration error.

    The error is the mean over predictions of the distance between accuracy and mean confidence in their bin: Guo,
    Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, ICML 2017, section 2. Predictions whose
    confidence is not a number are left out.
    """
    trials, known = len(found.trial_ids), ~np.isnan(found.confidence)
    sure = np.where(known, found.confidence, 0.0)
    cells = np.minimum((sure * bins).astype(np.int64), bins - 1) + bins * np.arange(trials)[:, None]

    def sums(values: np.ndarray) -> np.ndarray:
        weights = np.where(known, values, 0.0).ravel()
        return np.bincount(cells.ravel(), weights=weights, minlength=bins * trials).reshape(trials, bins)

    count_TB, sure_TB, right_TB = sums(known), sums(sure), sums(found.is_right)
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = np.abs(right_TB - sure_TB).sum(1) / count_TB.sum(1)
        count = count_TB.sum(0)
        right = right_TB.sum(0) / count
        confidence = sure_TB.sum(0) / count
        share = count / count.sum()
    once = count / trials
    low, high = wilson(right, np.zeros(bins), once)
    return Reliability(np.linspace(0, 1, bins + 1), share, confidence, right, low, high, errors)


def most_wrong(found: PredictionSet, count: int = 12) -> pd.DataFrame:
    """The examples that the trials get most wrong, the most first.

    Ranked by the confidence of a wrong prediction, 0 for a right one, as a mean over the trials. Columns: index,
    label, prediction (the most frequent wrong one) as names of classes, wrong (in how many trials), trials, and
    confidence (the mean of the wrong predictions').
    """
    wrong = ~found.is_right
    sure = np.where(wrong & ~np.isnan(found.confidence), found.confidence, 0.0)
    score, times = sure.sum(0), wrong.sum(0)
    order = np.lexsort((found.index, -times, -score))[:count]
    rows = [
        {
            "index": int(found.index[i]),
            "label": found.classes[found.label[i]],
            "prediction": found.classes[int(np.bincount(found.prediction[wrong[:, i], i]).argmax())],
            "wrong": int(times[i]),
            "trials": len(found.trial_ids),
            "confidence": float(score[i] / times[i]),
        }
        for i in order
        if times[i]
    ]
    return pd.DataFrame(rows, columns=["index", "label", "prediction", "wrong", "trials", "confidence"])


def accuracy_difference(found: PredictionSet, first: Sequence[str], second: Sequence[str]) -> Difference:
    """The difference of the accuracies of two values, over seeds and examples.

    Args:
        found: with the trials of both.
        first, second: trials of the one value and of the other, in pairs of one seed.

    Raises:
        UserError: they are not pairs.
    """
    if len(first) != len(second) or not first:
        raise UserError(f"{len(first)} trials against {len(second)}: give them in pairs of one seed")
    one, other = found.of_trials(first), found.of_trials(second)
    means = crossed_means(one.is_right.astype(np.int8) - other.is_right)
    return Difference(
        mean=float(means.mean[0]),
        over_seeds=float(means.seed_half_widths()[0]) if means.seeds > 1 else float("nan"),
        over_both=float(means.half_widths()[0]),
        seeds=means.seeds,
    )
