"""Processes of a sweep are killed, ended and stopped at random; the campaigns at clusters are `make faults-full`."""

import secrets
from pathlib import Path

import pytest

from tests.faults.commands import own_environment
from tests.faults.kills import Kills
from tests.faults.places import open_place
from tests.faults.tables import COMMAND

pytestmark = [pytest.mark.faults, pytest.mark.timeout(280)]

SEED = 2
FAULTS = 3


def test_two_commands_and_a_mirror_that_are_killed_and_stopped_at_random_lose_nothing(tmp_path: Path) -> None:
    mark = secrets.token_hex(8)
    with own_environment(tmp_path), open_place("debug", tmp_path / "stores", mark) as place:
        outcome = Kills(place, tmp_path, mark, SEED, seeds=2, epochs=8).play(FAULTS)
    again = f"{COMMAND} kills debug --faults {FAULTS} --seed {SEED}"
    assert not outcome.problems, "\n".join([again, *map(str, outcome.faults), *outcome.problems])
    assert len(outcome.faults) == FAULTS
