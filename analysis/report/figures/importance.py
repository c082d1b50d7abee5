"""How much each axis matters: the share of the final figures' variance that it explains by itself.

Main effects of an analysis of variance, corrected for the number of groups: epsilon squared (Kelley, "An unbiased
correlation ratio measure", PNAS 21, 1935). It is what functional ANOVA (Hutter, Hoos and Leyton-Brown, "An efficient
approach for assessing hyperparameter importance", ICML 2014) calls the importance of a single field, estimated from
the trials themselves and without a surrogate model; effects of fields together are not in it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mixsweep.analysis.frames import Part, value_codes, values_of

_GROUPS = 8  # an axis of more values is cut into so many groups of about as many trials
_RESAMPLES = 200


@dataclass(frozen=True)
class Importance:
    """The share of the variance that an axis explains, with its 95 % interval; NaN where there is none."""

    axis: str
    share: float
    low: float
    high: float


def importance(part: Part, trials: pd.DataFrame) -> list[Importance]:
    """The importance of each axis of a part, the greatest first; empty where the figures do not vary.

    The interval is of a bootstrap over the points, whose seeds stay together.

    Args:
        part: the ablation.
        trials: its trials, from `analysis.load_trials`; those without a final figure do not count.
    """
    known = trials.dropna(subset=[f"final_{part.metric}"])
    finals = known[f"final_{part.metric}"].to_numpy(dtype=float)
    if len(finals) < 3 or float(np.ptp(finals)) == 0.0:
        return []
    points = pd.factorize(known["point"])[0]
    count = int(points.max()) + 1
    rng = np.random.default_rng(0)
    weights = np.ones((1, count))
    if count >= 2 * _GROUPS:
        weights = np.vstack([weights, rng.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)])
    found = []
    for axis in part.axes:
        shares = _shares(_groups(known, axis), finals, points, weights)
        low, high = (math.nan, math.nan)
        if len(shares) > 1:
            low, high = (float(bound) for bound in np.nanquantile(shares[1:], [0.025, 0.975]))
        found.append(Importance(axis, float(shares[0]), low, high))
    return sorted(found, key=lambda one: -one.share)


def _groups(trials: pd.DataFrame, axis: str) -> np.ndarray:
    """The group of each trial: its value, or one of a few ranges of values."""
    values = values_of(trials, axis)
    codes = value_codes(trials[axis], values)
    if len(values) <= _GROUPS:
        return codes
    edges = np.quantile(codes, np.linspace(0, 1, _GROUPS + 1)[1:-1])
    return np.searchsorted(edges, codes, side="right")


def _shares(groups: np.ndarray, finals: np.ndarray, points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Epsilon squared [resamples], within [0, 1], of trials that count as often as their point [resamples, points]."""
    counts, shares = int(groups.max()) + 1, []
    centred = finals - finals.mean()
    for of_points in weights:
        each = of_points[points]
        total = each.sum()
        size = np.bincount(groups, each, counts)
        sums = np.bincount(groups, each * centred, counts)
        used = size > 0
        mean = sums.sum() / total
        between = float((sums[used] ** 2 / size[used]).sum() - total * mean**2)
        whole = float((each * centred**2).sum() - total * mean**2)
        degrees = int(used.sum()) - 1
        left = total - degrees - 1
        if whole <= 0 or left <= 0:
            shares.append(math.nan)
            continue
        shares.append(min(1.0, max(0.0, (between - degrees * (whole - between) / left) / whole)))
    return np.array(shares)


def importance_text(found: Sequence[Importance], names: Sequence[str]) -> str:
    """The shares in words: `learning rate 61 % [55, 66], dropout 8 % [4, 12]`."""
    words = []
    for one, name in zip(found, names):
        bounds = "" if math.isnan(one.low) else f" [{100 * one.low:.0f}, {100 * one.high:.0f}]"
        words.append(f"{name} {100 * one.share:.0f} %{bounds}")
    return ", ".join(words)
