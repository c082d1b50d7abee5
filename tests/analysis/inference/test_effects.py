"""Probability of improvement, and forecasts of power against what is drawn."""

import math

import numpy as np
import pytest
from scipy import stats

from mixsweep.analysis.inference.effects import improvement, more_seeds, power
from mixsweep.analysis.inference.procedures.looks import share


def test_the_probability_of_improvement_has_clopper_and_pearsons_interval() -> None:
    found = improvement(np.array([1.0, 2.0, -1.0, np.inf, np.nan]))
    assert found is not None
    exact = stats.binomtest(3, 4).proportion_ci(0.95, "exact")
    assert (found.probability, found.n) == (0.75, 4)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


def test_ties_are_half_an_improvement_and_nothing_is_none() -> None:
    found = improvement(np.array([0.0, 0.0]))
    assert found is not None
    assert found.probability == 0.5
    assert improvement(np.array([np.nan])) is None


def test_power_is_the_share_of_draws_that_the_t_test_shows() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(0.9, 1.2, size=(4000, 6))
    shown = stats.ttest_1samp(draws, 0, axis=1, alternative="greater").pvalue <= 0.025
    assert power(0.9, 1.2, 6, 0.025) == pytest.approx(shown.mean(), abs=0.025)


def test_the_forecast_number_of_seeds_is_the_first_look_with_enough_power() -> None:
    more = more_seeds(1.0, 1.0, 3, 3, 0.025)
    assert more == 24  # looks at 5, 8, 12, 18 and 27 seeds
    assert power(1.0, 1.0, 27, 0.025 * share(5)) >= 0.8 > power(1.0, 1.0, 18, 0.025 * share(4))


def test_a_pooled_error_needs_fewer_seeds() -> None:
    own, pooled = (more_seeds(1.2, 1.0, 3, 3, 0.025, values) for values in (2, 6))
    assert own is not None
    assert pooled is not None
    assert pooled < own


@pytest.mark.parametrize(
    ("effect", "deviation"), [(0.0, 1.0), (-1.0, 1.0), (1e-4, 1.0), (math.nan, 1.0), (1.0, 0.0)]
)
def test_no_effect_has_no_forecast(effect: float, deviation: float) -> None:
    assert more_seeds(effect, deviation, 3, 3, 0.025) is None
