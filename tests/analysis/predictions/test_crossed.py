"""Intervals over seeds and examples: their formulas by hand, and what they cover in simulated sweeps."""

import numpy as np
import pytest
from scipy import stats

from mixsweep.analysis.predictions.crossed import crossed_means, share_interval

REPEATS = 400


def test_the_variance_is_that_of_the_analysis_of_variance_by_hand() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 30)) + rng.normal(size=(4, 1)) * 0.1 + rng.normal(size=30) * 4
    rows, columns, mean = x.mean(1), x.mean(0), x.mean()
    seed_square = 30 * sum((rows - mean) ** 2) / 3
    example_square = 4 * sum((columns - mean) ** 2) / 29
    rest = sum((x[s, i] - rows[s] - columns[i] + mean) ** 2 for s in range(4) for i in range(30)) / (3 * 29)
    found = crossed_means(x)
    both = seed_square + example_square - rest
    freedom = both**2 / (seed_square**2 / 3 + example_square**2 / 29 + rest**2 / 87)
    assert found.mean[0] == pytest.approx(mean)
    assert found.variance[0] == pytest.approx(both / 120)
    assert found.freedom[0] == pytest.approx(freedom)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(both / 120)
    assert found.half_widths()[0] == pytest.approx(half)
    ordinary = stats.t.interval(0.95, 3, rows.mean(), stats.sem(rows))
    assert found.seed_half_widths()[0] == pytest.approx((ordinary[1] - ordinary[0]) / 2)


def test_an_interval_over_both_is_never_shorter_than_over_seeds_alone() -> None:
    rng = np.random.default_rng(4)
    found = [crossed_means(rng.normal(size=(3, 40)) + rng.normal(size=(3, 1)) * 0.2) for _ in range(50)]
    assert all(one.half_widths()[0] >= one.seed_half_widths()[0] for one in found)


def test_groups_are_alike_by_themselves() -> None:
    rng = np.random.default_rng(1)
    values, groups = rng.random((3, 200)) < 0.7, rng.integers(0, 5, 200)
    together = crossed_means(values, groups)
    for group in range(5):
        alone = crossed_means(values[:, groups == group])
        for name in ("mean", "variance", "freedom", "seed_variance"):
            assert getattr(together, name)[group] == pytest.approx(getattr(alone, name)[0])


def test_with_one_seed_it_is_the_interval_over_examples() -> None:
    values = np.random.default_rng(2).random((1, 500)) < 0.8
    found = crossed_means(values)
    assert found.half_widths()[0] == pytest.approx(stats.t.ppf(0.975, 499) * stats.sem(values[0]))
    assert np.isnan(found.seed_half_widths()[0])


def test_with_one_example_it_is_the_interval_over_seeds() -> None:
    values = np.array([[1.0], [3.0], [2.0]])
    assert crossed_means(values).half_widths()[0] == pytest.approx(
        stats.t.ppf(0.975, 2) * stats.sem([1, 3, 2])
    )


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_of_shares_stay_in_their_range_and_are_never_empty(share: float, seeds: int) -> None:
    values = np.random.default_rng(3).random((seeds, 200)) < share
    (low,), (high,) = share_interval(crossed_means(values))
    assert 0 <= low <= values.mean() <= high <= 1
    assert high - low > 0.005


def test_a_share_of_one_seed_has_wilsons_interval() -> None:
    values = np.arange(400)[None] < 300
    (low,), (high,) = share_interval(crossed_means(values))
    wilson = stats.binomtest(300, 400).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((wilson.low, wilson.high), abs=5e-4)


def differences(
    rng: np.random.Generator, seeds: int, seed_effect: float, example_effect: float
) -> np.ndarray:
    """Whether two equal values are right, the one less the other: on average over seeds and examples 0."""
    shape = (2, seeds, 500)
    ease = rng.normal(1, 1.5, 500) + rng.normal(0, example_effect, (2, 1, 500))
    logits = ease + rng.normal(0, seed_effect, (2, seeds, 1)) + rng.normal(0, 1, shape)
    right = rng.random(shape) < 1 / (1 + np.exp(-logits))
    return right[0].astype(np.int8) - right[1]


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(("seed_effect", "example_effect"), [(0, 0), (0.3, 0), (0.02, 2)])
def test_equal_values_differ_in_at_most_a_twentieth_of_simulated_sweeps(
    seeds: int, seed_effect: float, example_effect: float
) -> None:
    rng = np.random.default_rng(seeds)
    found = [crossed_means(differences(rng, seeds, seed_effect, example_effect)) for _ in range(REPEATS)]
    missed = sum(abs(one.mean[0]) > one.half_widths()[0] for one in found)
    assert stats.binomtest(missed, REPEATS).proportion_ci().low < 0.05


def test_intervals_over_seeds_alone_miss_that_where_values_suit_different_examples() -> None:
    rng = np.random.default_rng(6)
    found = [crossed_means(differences(rng, 5, 0.02, 2)) for _ in range(REPEATS)]
    missed = sum(abs(one.mean[0]) > one.seed_half_widths()[0] for one in found)
    assert stats.binomtest(missed, REPEATS).proportion_ci().low > 0.05
