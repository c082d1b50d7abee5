"""Claims of a trend: the combinations that they compare, and when they are looked at."""

from dataclasses import replace

import numpy as np
import pytest

from mixsweep.analysis.inference.procedures.blocks import Blocks
from mixsweep.analysis.inference.procedures.hypotheses import Hypothesis, weigh
from tests.analysis.simulation.sweeps import blocks_of


def rising(values: int, choices: int = 1) -> Hypothesis:
    pairs = tuple((n + 1, n) for n in range(values - 1))
    return Hypothesis(kind="monotone", pairs=pairs, choices=choices)


def crossed(planned: np.ndarray) -> Blocks:
    """Values that do not differ, in combinations of which each is far easier than the last [values, cells, seeds]."""
    noise = np.random.default_rng(1).normal(size=planned.shape)
    figures = np.where(planned, noise + 100 * np.arange(planned.shape[1])[None, :, None], np.nan)
    nothing = np.zeros(planned.shape, dtype=int)
    return Blocks(figures, planned, nothing.astype(bool), nothing, planned.shape[2])


def test_a_trend_is_tested_in_the_combinations_that_every_value_has() -> None:
    planned = np.repeat(np.tri(4, dtype=bool)[:, :, None], 5, axis=2)  # each value has one combination more
    found = weigh(crossed(planned), rising(4), 0.05)
    assert found.p_value > 0.05
    alone = crossed(planned)
    hard = replace(
        alone, **{name: getattr(alone, name)[:, :1] for name in ("figures", "planned", "pending", "stopped")}
    )
    assert found.support == pytest.approx(weigh(hard, rising(4), 0.05).support)


def test_a_seed_that_a_shared_combination_lacks_is_left_out_of_a_trend() -> None:
    planned = np.ones((4, 4, 8), dtype=bool)
    planned[:, :, 3:] &= np.tri(4, dtype=bool)[:, :, None]  # seeds were added to some combinations alone
    assert weigh(crossed(planned), rising(4), 0.05).p_value > 0.05


def test_values_without_a_shared_combination_have_no_trend() -> None:
    planned = np.ones((4, 2, 5), dtype=bool)
    planned[:2, 1] = planned[2:, 0] = False
    assert weigh(crossed(planned), rising(4), 0.05).support == 1


@pytest.mark.parametrize(("values", "seeds"), [(2, 6), (3, 3)])
def test_the_first_look_at_a_trend_can_decide(values: int, seeds: int) -> None:
    figures = np.arange(values)[:, None] + 0.01 * np.random.default_rng(0).normal(size=(values, seeds))
    found = weigh(blocks_of(figures, declared=3), rising(values), 0.05)
    assert found.looks.first.max() == seeds
    assert found.support <= 0.05
    assert weigh(blocks_of(figures[:, :-1], declared=3), rising(values), 0.05).support == 1


def test_a_trend_names_the_look_at_which_it_was_clearest() -> None:
    at = np.repeat(4.0 * np.arange(4)[:, None], 8, axis=1)
    at[1:, 3:] = [[4.0], [3.9], [3.8]]  # later seeds have the first step alone
    figures = at + 0.01 * np.random.default_rng(4).normal(size=at.shape)
    found = weigh(blocks_of(figures, declared=3), rising(4), 0.05)
    assert found.support == weigh(blocks_of(figures[:, :3]), rising(4), 0.05).support
    assert found.looks.decided_at.tolist() == [3, 3, 3]
