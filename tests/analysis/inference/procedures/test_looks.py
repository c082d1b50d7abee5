"""Looks: when a verdict may be given, and at which share of the error."""

import numpy as np
import pytest

from mixsweep.analysis.inference.procedures.looks import first_looks, look, look_after, next_look, share
from tests.analysis.simulation.sweeps import blocks_of

ONE = [(0, 1)]


def test_the_shares_of_all_looks_together_are_one() -> None:
    assert sum(share(number) for number in range(100_000)) == pytest.approx(1, abs=1e-5)


def test_looks_come_when_the_seeds_have_grown_by_half() -> None:
    assert [next_look(n) for n in (3, 5, 8)] == [5, 8, 12]
    assert look_after(3, 3) == (5, 1)
    assert look_after(3, 2) == (3, 0)
    assert look_after(3, 7) == (8, 2)


def test_nothing_is_looked_at_before_the_declared_seeds_have_ended() -> None:
    figures = np.array([[1.0, 1.1, 1.2, 1.3], [0.0, 0.1, 0.2, 0.31]])
    pending = np.zeros((2, 4), dtype=bool)
    pending[1, 3] = True
    waiting = look(blocks_of(figures, pending=pending), ONE, 0.05)
    assert (waiting.greater.tolist(), waiting.decided_at.tolist()) == ([1.0], [0])
    assert look(blocks_of(figures), ONE, 0.05).decided_at.tolist() == [4]


def test_more_seeds_than_declared_keep_what_the_declared_ones_decided() -> None:
    rng = np.random.default_rng(0)
    figures = rng.normal(size=(2, 8))
    few = look(blocks_of(figures[:, :3]), ONE, 0.05)
    many = look(blocks_of(figures, declared=3), ONE, 0.05)
    assert many.greater[0] <= few.greater[0]
    assert look(blocks_of(figures[:, :4], declared=3), ONE, 0.05).greater[0] == few.greater[0]


def test_a_divergence_moves_the_first_look_to_where_ranks_can_decide() -> None:
    figures = np.array([[1.0] * 6, [-np.inf, 0.1, 0.2, 0.3, 0.4, 0.5]])
    assert first_looks(blocks_of(figures, declared=3), ONE, 0.05).tolist() == [6]
    assert first_looks(blocks_of(figures[:, 1:], declared=3), ONE, 0.05).tolist() == [3]
    assert first_looks(blocks_of(figures, declared=3), ONE, 0.01).tolist() == [8]


def test_a_failed_trial_moves_the_first_look_to_where_three_pairs_are() -> None:
    figures = np.array([[1.0, np.nan, 1.0, 1.0], [0.0, 0.1, 0.2, 0.3]])
    assert first_looks(blocks_of(figures, declared=3), ONE, 0.05).tolist() == [4]
    assert first_looks(blocks_of(figures[:, :3], declared=3), ONE, 0.05).tolist() == [4]


def test_a_pair_with_a_stopped_trial_is_not_tested() -> None:
    figures = np.array([[1.0, 1.1, 1.2], [0.0, np.nan, 0.2]])
    stopped = np.array([[0, 0, 0], [0, 4, 0]])
    found = look(blocks_of(figures, stopped=stopped), ONE, 0.05)
    assert (found.greater.tolist(), found.less.tolist()) == ([1.0], [1.0])
