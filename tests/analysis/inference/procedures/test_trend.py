"""Page's test against scipy's, and with ties."""

import numpy as np
import pytest
from scipy import stats

from mixsweep.analysis.inference.procedures.trend import page


@pytest.mark.parametrize("shape", [(3, 3), (5, 4), (4, 8)])
def test_it_is_scipys_exact_test(shape: tuple[int, int]) -> None:
    figures = np.random.default_rng(1).normal(size=shape) + 0.4 * np.arange(shape[0])[:, None]
    assert page(figures)[0] == pytest.approx(stats.page_trend_test(figures.T, method="exact").pvalue)
    assert page(-figures)[1] == pytest.approx(page(figures)[0])


def test_many_values_are_close_to_scipys_approximation() -> None:
    figures = np.random.default_rng(2).normal(size=(12, 6)) + 0.1 * np.arange(12)[:, None]
    assert page(figures)[0] == pytest.approx(
        stats.page_trend_test(figures.T, method="asymptotic").pvalue, rel=0.02
    )


def test_equal_figures_have_no_trend() -> None:
    assert page(np.ones((4, 3))) == (1.0, 1.0)


def test_ties_keep_the_level() -> None:
    rng = np.random.default_rng(3)
    small = [page(rng.integers(0, 3, size=(4, 3)).astype(float))[0] <= 0.05 for _ in range(2000)]
    assert np.mean(small) <= 0.06


def test_a_divergence_is_the_lowest_rank() -> None:
    rising = np.array([[-np.inf, 0.0, -5.0], [1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    assert page(rising)[0] == pytest.approx((1 / 6) ** 3)
