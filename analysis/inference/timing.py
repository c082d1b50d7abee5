"""Whether the seconds of some values can be compared: on one device, and interleaved in time."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from mixsweep.analysis.frames import Part, figure_column, plain
from mixsweep.analysis.inference.wording import axis_words, listing, value_label


def why_not_timed(
    part: Part, axis: str, values: Sequence[Any], frame: pd.DataFrame, trials: pd.DataFrame
) -> str:
    """A sentence on why the seconds of values cannot be compared, '' if they can.

    Trials of two values are interleaved where neither value's all began after the other's had.
    """
    devices = sorted({str(d) for d in trials[figure_column(part.trainable, "device")] if d})
    if len(devices) > 1:
        return f"Not timed: the trials ran on {listing(devices)}; times are compared on one device."
    if frame.empty:
        return ""
    began = frame.groupby("trial_id")["recorded_at"].min()
    starts = trials.assign(began=trials["trial_id"].map(began)).dropna(subset=["began"])
    by_value = starts.groupby(pd.Index(starts[axis].map(plain), tupleize_cols=False))["began"]
    spans = {value: (times.min(), times.max(), len(times)) for value, times in by_value}
    for one in values:
        for other in values:
            if (
                one == other
                or one not in spans
                or other not in spans
                or min(spans[one][2], spans[other][2]) < 2
            ):
                continue
            if spans[one][1] < spans[other][0]:
                names = listing(value_label(axis, value) for value in (one, other))
                return (
                    f"Not timed: all trials of {axis_words(axis)} {names} ran one after the other; "
                    "interleave them, or time them again."
                )
    return ""
