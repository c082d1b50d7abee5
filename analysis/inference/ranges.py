"""The values that a metric can have at all, so that no interval leaves them."""

import math
from dataclasses import replace

from mixsweep.analysis.inference.statistics import Interval
from mixsweep.core.trainables.interface import Trainable

_FROM_ZERO = ("s", "nats", "B", "J", "images/s")


def possible_range(trainable: Trainable, metric: str) -> tuple[float, float]:
    """The least and the greatest value that a metric can have: 0 to 1 for a fraction, from 0 for losses and costs.

    Of a metric of one's own only its declared unit says so; without one it has no bounds.
    """
    unit = next((known.unit for known in trainable.metrics if known.name == metric), "")
    if unit == "fraction":
        return 0.0, 1.0
    if unit in _FROM_ZERO or metric in ("parameters", "device_seconds", "energy_joules"):
        return 0.0, math.inf
    return -math.inf, math.inf


def within(interval: Interval, bounds: tuple[float, float]) -> Interval:
    """An interval without the part of it that lies outside of the bounds."""
    if math.isnan(interval.low):
        return interval
    return replace(interval, low=max(interval.low, bounds[0]), high=min(interval.high, bounds[1]))
