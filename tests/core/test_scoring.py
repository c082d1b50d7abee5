"""core.scoring: which record of a trial counts, by one function for one trial, for many, and up to each epoch."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixsweep.core.scoring import scored_row, scored_rows, scored_so_far
from tests.sweep.planning.test_parse import UNHURRIED

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("values", "mode", "score", "position"),
    [
        ([0.1, 0.9, 0.5], "max", "last", 2),
        ([0.1, 0.9, NAN], "max", "last", 1),
        ([NAN, NAN, NAN], "max", "last", 2),
        ([0.1, 0.9, 0.5], "max", "best", 1),
        ([0.1, 0.9, 0.5], "min", "best", 0),
        ([0.5, 0.9, 0.9], "max", "best", 1),
        ([0.5, INF, NAN], "max", "best", 0),
        ([-0.5, -0.2, -0.9], "min", "best", 2),
        ([NAN, INF, NAN], "max", "best", 2),
    ],
)
def test_the_last_record_with_the_metric_or_the_best_counts(values, mode, score, position) -> None:
    assert scored_row(np.arange(1, 4), np.array(values), mode, score) == position
    shuffled = np.array([2, 0, 1])
    found = scored_row(np.arange(1, 4)[shuffled], np.array(values)[shuffled], mode, score)
    assert shuffled[found] == position


VALUE = st.sampled_from([NAN, INF, -INF, 0.0, 0.25, 0.5, -1.0])


@UNHURRIED
@given(
    st.lists(st.lists(VALUE, min_size=1, max_size=6), max_size=4),
    st.sampled_from(["max", "min"]),
    st.sampled_from(["last", "best"]),
)
def test_one_trial_many_trials_and_each_epoch_agree(curves: list[list[float]], mode: str, score: str) -> None:
    trials = np.array([n for n, curve in enumerate(curves) for _ in curve], dtype=np.int64)
    epochs = np.array([e for curve in curves for e in range(len(curve))], dtype=np.int64)
    values = np.array([v for curve in curves for v in curve], dtype=float)
    together = scored_rows(trials, epochs, values, mode, score)
    starts = np.cumsum([0, *map(len, curves)])
    for n, curve in enumerate(curves):
        one = np.array(curve)
        so_far = scored_so_far(one, mode, score)
        for end in range(1, len(curve) + 1):
            assert so_far[end - 1] == scored_row(np.arange(end), one[:end], mode, score)
        assert together[n] - starts[n] == so_far[-1]
