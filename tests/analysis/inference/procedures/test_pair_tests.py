"""Tests of paired differences against scipy's, and by hand."""

import numpy as np
import pytest
from scipy import stats

from mixsweep.analysis.inference.procedures.blocks import Pairs, all_pairs
from mixsweep.analysis.inference.procedures.pair_tests import (
    by_ranks,
    guarded,
    least_seeds_by_ranks,
    one_sided,
    pooled_error,
)
from tests.analysis.simulation.sweeps import blocks_of


def pairs_of(differences: list[list[float]]) -> Pairs:
    values = np.array(differences, dtype=float)
    return Pairs(values, np.isinf(values), np.zeros(values.shape, dtype=int))


def test_the_t_test_is_scipys() -> None:
    rng = np.random.default_rng(1)
    differences = rng.normal(0.5, size=(4, 6))
    greater, less = one_sided(pairs_of(differences.tolist()))
    for row, values in enumerate(differences):
        assert greater[row] == pytest.approx(stats.ttest_1samp(values, 0, alternative="greater").pvalue)
        assert less[row] == pytest.approx(1 - greater[row])


def test_a_seed_without_a_difference_is_left_out() -> None:
    greater, _ = one_sided(pairs_of([[1.0, 2.0, np.nan, 1.5]]))
    assert greater[0] == pytest.approx(stats.ttest_1samp([1.0, 2.0, 1.5], 0, alternative="greater").pvalue)


def test_fewer_than_three_seeds_decide_nothing() -> None:
    assert one_sided(pairs_of([[1.0, 1.0001], [np.inf, np.inf]]))[0].tolist() == [1.0, 1.0]


def test_equal_differences_are_as_sure_as_their_signs() -> None:
    greater, less = one_sided(pairs_of([[0.25] * 4, [0.0] * 4]))
    assert greater.tolist() == [0.5**4, 1.0]
    assert less.tolist() == [1.0, 1.0]


def test_the_test_on_ranks_is_wilcoxons_signed_rank_test() -> None:
    values = np.random.default_rng(2).normal(0.4, size=9)
    exact = stats.wilcoxon(values, alternative="greater", method="exact").pvalue
    assert by_ranks(values)[0] == pytest.approx(exact)


def test_a_divergence_is_the_largest_difference_however_large_the_others_are() -> None:
    some = np.array([1.0, -2.0, 3.0, np.inf, np.inf, -1.5])
    other = np.array([1e-9, -2e-9, 3e-9, np.inf, np.inf, -1.5e-9])
    assert by_ranks(some) == by_ranks(other)


def test_divergences_on_both_sides_are_no_difference() -> None:
    figures = np.array([[1.0, -np.inf, 1.0, 2.0], [0.0, -np.inf, 0.0, -np.inf]])
    pairs = blocks_of(figures).pairs([(0, 1)])
    assert pairs.differences.tolist() == [[1.0, 0.0, 1.0, np.inf]]
    assert pairs.ranked.tolist() == [[False, True, False, True]]


@pytest.mark.parametrize(("level", "seeds"), [(0.05, 6), (0.04, 6), (0.02, 7), (0.01, 8)])
def test_the_least_number_of_seeds_is_the_first_that_can_reach_the_level(level: float, seeds: int) -> None:
    assert least_seeds_by_ranks(level) == seeds
    sure, almost = (2 * by_ranks(np.full(n, np.inf))[0] for n in (seeds, seeds - 1))
    assert sure <= level < almost


def test_the_pooled_error_is_the_mean_square_of_the_two_way_layout() -> None:
    figures = np.random.default_rng(3).normal(size=(4, 5))
    pooled = pooled_error(blocks_of(figures), 5)
    assert pooled is not None
    effects = figures.mean(axis=1, keepdims=True) + figures.mean(axis=0, keepdims=True) - figures.mean()
    assert pooled.freedom == 12
    assert pooled.variance == pytest.approx(((figures - effects) ** 2).sum() / 12)


def test_a_louder_value_makes_its_pairs_use_their_own_error() -> None:
    figures = np.random.default_rng(4).normal(size=(5, 6)) * np.array([20, 1, 1, 1, 1])[:, None]
    blocks = blocks_of(figures)
    pooled = pooled_error(blocks, 6)
    assert pooled is not None
    assert pooled.unequal
    pairs = blocks.pairs([(0, 1), (2, 3)])
    error = guarded(pooled, np.array([0, 2]), np.array([1, 3]), pairs)
    assert error.freedom.tolist() == [5, 5]
    assert error.variance[0] == pytest.approx(pairs.differences[0].var(ddof=1) / 2)
    assert error.variance[1] == pytest.approx(pooled.variance)


def test_a_value_that_diverged_is_not_in_the_pool() -> None:
    figures = np.random.default_rng(5).normal(size=(4, 4))
    figures[1, 2] = -np.inf
    pooled = pooled_error(blocks_of(figures), 4)
    assert pooled is not None
    assert pooled.values.tolist() == [True, False, True, True]
    assert pooled_error(blocks_of(figures[:3]), 4) is None


def test_pairs_of_two_lists_leave_out_a_value_with_itself() -> None:
    assert all_pairs([0, 1], [1, 2]) == ((0, 1), (0, 2), (1, 2))
