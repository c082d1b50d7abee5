"""The correction over a family: Holm's, and the gate of a primary claim."""

import pytest

from mixsweep.analysis.inference.procedures.family import correct, level_of


def test_without_a_primary_claim_it_is_holms() -> None:
    found = correct([0.01, 0.04, 0.03, 0.005], [False] * 4)
    assert [one.p_value for one in found] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert {one.level for one in found if one.p_value > 0.05} == {0.05 / 2}


def test_a_primary_claim_is_not_corrected_for_the_others() -> None:
    primary, *others = correct([0.04, 0.001, 0.02], [True, False, False])
    assert primary.p_value == 0.04
    assert [one.p_value for one in others] == [0.04, 0.04]  # not below that of the gate


def test_nothing_is_decided_behind_an_undecided_primary_claim() -> None:
    _, secondary = correct([0.06, 1e-9], [True, False])
    assert secondary.p_value == 0.06
    assert secondary.level == 0


@pytest.mark.parametrize(("primary", "own", "level"), [
    ([False] * 5, False, 0.01), ([True, False, False], True, 0.05), ([True, False, False], False, 0.025),
])  # fmt: skip
def test_the_level_of_a_claim_is_that_of_those_it_is_corrected_with(
    primary: list[bool], own: bool, level: float
) -> None:
    assert level_of(primary, own) == pytest.approx(level)
