"""Intervals, tests and corrections against values worked out by hand or by scipy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mixsweep.analysis.inference.statistics import (
    holm,
    paired_difference,
    probability_of_best,
    sign_flip_p,
    t_interval,
)

figures = st.floats(min_value=-10, max_value=10, allow_nan=False).map(lambda x: round(x, 3))
samples = st.lists(figures, min_size=1, max_size=8)


def test_interval_of_three_values_is_the_one_worked_out_by_hand():
    # mean 2, sd 1, t(0.975; 2) = 4.302653, half = 4.302653 / √3
    interval = t_interval([1.0, 2.0, 3.0])
    assert interval.mean == 2.0
    assert interval.half == pytest.approx(4.302653 / math.sqrt(3), abs=1e-5)


def test_one_seed_has_a_mean_and_no_interval():
    interval = t_interval([0.5])
    assert (interval.mean, interval.n) == (0.5, 1)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_no_seed_has_no_mean():
    assert t_interval([]).n == 0
    assert math.isnan(t_interval([]).mean)


def test_paired_t_test_agrees_with_scipy():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=7), rng.normal(0.5, size=7)
    ours = paired_difference(a, b)
    theirs = stats.ttest_rel(a, b)
    bounds = theirs.confidence_interval(0.95)
    assert ours.p_value == pytest.approx(theirs.pvalue)
    assert (ours.interval.low, ours.interval.high) == pytest.approx((bounds.low, bounds.high))


def test_sign_flip_test_agrees_with_scipy():
    differences = np.random.default_rng(2).normal(0.4, size=8)
    theirs = stats.permutation_test(
        (differences, np.zeros(8)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert sign_flip_p(differences) == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize(("n", "least"), [(1, 1.0), (3, 0.25), (5, 0.0625), (6, 0.03125)])
def test_sign_flip_test_cannot_go_below_two_in_two_to_the_n(n, least):
    assert sign_flip_p([1.0] * n) == least


def test_sign_flip_test_of_many_seeds_is_close_to_the_t_test():
    differences = np.random.default_rng(3).normal(0.3, size=40)
    assert sign_flip_p(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.02)


@given(samples)
def test_sign_flip_test_does_not_care_which_side_comes_first(differences):
    p = sign_flip_p(differences)
    assert 0 < p <= 1
    assert p == pytest.approx(sign_flip_p([-d for d in differences]))


def test_equal_differences_give_no_interval_and_the_cautious_p_value():
    difference = paired_difference([0.51, 0.61, 0.71], [0.5, 0.6, 0.7])
    assert difference.interval.mean == pytest.approx(0.01)
    assert math.isnan(difference.interval.low)
    assert difference.p_value == 0.25


def test_identical_figures_are_a_tie():
    difference = paired_difference([0.5, 0.6, 0.7], [0.5, 0.6, 0.7])
    assert difference.p_value == 1.0


def test_unpaired_lengths_are_refused():
    with pytest.raises(ValueError, match="paired values are needed: got 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])


def test_holm_gives_the_textbook_values():
    # smallest × 4, next × 3, next × 2 (raised to the one before), last × 1 (raised as well)
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(min_value=0, max_value=1), min_size=1, max_size=10))
def test_holm_never_lowers_a_p_value_and_never_raises_it_above_bonferroni(p_values):
    for adjusted, p in zip(holm(p_values), p_values):
        assert p <= adjusted <= min(1.0, len(p_values) * p) + 1e-12


def test_a_missing_p_value_counts_as_no_comparison():
    adjusted = holm([math.nan, 0.02])
    assert math.isnan(adjusted[0])
    assert adjusted[1] == 0.02


@given(st.lists(st.lists(figures, min_size=3, max_size=3), min_size=1, max_size=5))
def test_probabilities_of_being_best_sum_to_one(scores):
    assert probability_of_best(np.array(scores), "max").sum() == pytest.approx(1)


def test_a_point_that_wins_on_every_seed_is_surely_the_best():
    scores = np.array([[0.9, 0.8, 0.85], [0.7, 0.6, 0.65], [math.nan, 0.95, math.nan]])
    assert probability_of_best(scores, "max").tolist() == pytest.approx([26 / 27, 0, 1 / 27])
    assert probability_of_best(scores[:2], "min").tolist() == [0, 1]


def test_equal_points_share_the_probability():
    assert probability_of_best(np.ones((2, 8)), "max").tolist() == [0.5, 0.5]


def test_the_deviation_of_a_paired_difference_is_that_of_the_seeds():
    a, b = np.random.default_rng(4).normal(size=(2, 5))
    assert paired_difference(a, b).deviation == pytest.approx((a - b).std(ddof=1))
