"""The text of values, figures and comparisons, the same in figures, tables, claims and the page."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mixsweep.analysis.inference.statistics import Interval

if TYPE_CHECKING:
    from mixsweep.analysis.inference.effects import Improvement

_AXES = {"lr": "learning rate", "patch_size": "patch size (pixels)", "embed_dim": "embedding dimension"}
_METRICS = {
    "train_seconds": "seconds to train one epoch",
    "valid_seconds": "seconds to infer the valid images",
}
_POWERS_OF_TEN = ("lr", "weight_decay")


def axis_words(axis: str) -> str:
    """The readable name of a field, with its unit."""
    return _AXES.get(axis, axis.replace("_", " "))


def metric_words(metric: str) -> str:
    """The readable name of a metric's column."""
    return _METRICS.get(metric, metric.replace("_", " "))


def value_label(axis: str, value: Any) -> str:
    """A field's value in its shortest clear form: `1e-3` for rates, `1024-512` for widths."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return "-".join(str(item) for item in value)
    if isinstance(value, bool | str) or not isinstance(value, int | float):
        return str(value)
    if axis in _POWERS_OF_TEN and value:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.5g}" if isinstance(value, float) and value != int(value) else str(int(value))


def point_label(values: dict[str, Any]) -> str:
    """One combination of varied fields: the value alone if one field varies, otherwise with names."""
    if len(values) == 1:
        return value_label(*next(iter(values.items())))
    return ", ".join(f"{axis_words(axis)} {value_label(axis, value)}" for axis, value in values.items())


def figure_text(metric: str, value: float) -> str:
    """A metric's value with its unit: accuracies in percent."""
    if value is None or math.isnan(value):
        return "–"
    if "accuracy" in metric:
        return f"{100 * value:.1f} %"
    if "seconds" in metric:
        return f"{value:#.3g} s" if value < 100 else f"{value:,.0f} s"
    return f"{value:,.0f}" if metric == "parameters" else f"{value:.4g}"


def interval_text(metric: str, interval: Interval) -> str:
    """Mean ± half the 95 % interval, or both its ends where it was cut; the mean alone where there is no interval."""
    if interval.n == 0:
        return "–"
    if math.isnan(interval.low):
        return figure_text(metric, interval.mean)
    if "accuracy" in metric:
        scale, unit, of_mean, of_half, of_end = 100.0, " %", ".1f", ".1f", ".1f"
    else:
        scale, unit, of_mean, of_half, of_end = 1.0, " s" if "seconds" in metric else "", ".4g", ".2g", ".3g"
    mean, low, high = (scale * value for value in (interval.mean, interval.low, interval.high))
    if math.isclose(mean - low, high - mean, abs_tol=1e-9 * max(1.0, abs(mean))):
        return f"{mean:{of_mean}} ± {scale * interval.half:{of_half}}{unit}"
    return f"{mean:{of_mean}} [{low:{of_end}}, {high:{of_end}}]{unit}"


def difference_text(metric: str, interval: Interval) -> str:
    """A paired difference and its interval: `+3.1 points [95 % CI +1.2, +5.0]`."""
    scale, unit = (100.0, "points") if "accuracy" in metric else (1.0, unit_of(metric))
    digits = "+.1f" if scale == 100 else "+.3g"
    mean, low, high = (
        f"{scale * value:{digits}}".replace("-", "−")
        for value in (interval.mean, interval.low, interval.high)
    )
    bounds = "no interval" if math.isnan(interval.low) else f"95 % CI {low}, {high}"
    return " ".join(filter(None, (mean, unit, f"[{bounds}]")))


def improvement_text(found: "Improvement", name: str) -> str:
    """The probability of improvement, as `relu better on 100 % of seeds [95 % CI 29, 100]`."""
    shown = [f"{100 * value:.0f}" for value in (found.probability, found.low, found.high)]
    return f"{name} better on {shown[0]} % of seeds [95 % CI {shown[1]}, {shown[2]}]"


def p_text(p_value: float) -> str:
    """`= 0.02`, or `< 0.001`."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.2g}"


def seeds_text(n: int) -> str:
    """`n = 3 seeds`."""
    return f"n = {n} seed" if n == 1 else f"n = {n} seeds"


def listing(words: Iterable[str]) -> str:
    """`2, 4 and 8`."""
    items: Sequence[str] = list(words)
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


# Of the image trainer; what a loss of one's own is measured in is not known.
_IN_NATS = ("train_loss", "valid_loss", "test_loss")


def unit_of(metric: str) -> str:
    """The unit of a metric's values, '' if there is none."""
    if "seconds" in metric:
        return "s"
    return "nats" if metric in _IN_NATS else ""
