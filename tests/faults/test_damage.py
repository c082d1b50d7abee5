"""One file of a store is damaged: each command ends well, shows nothing false, and `run` mends what can be mended."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.commands import Commands, own_environment
from tests.faults.damage import STATES, Matrix
from tests.faults.tables import COMMAND

pytestmark = [pytest.mark.faults, pytest.mark.timeout(280)]

SEED = 5
CASES_A_STATE = 3


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    folder = tmp_path_factory.mktemp("commands")
    with own_environment(folder), Commands(folder, ["mixsweep.analysis.wandb_mirror.mirror"]) as made:
        yield made


@pytest.mark.parametrize("state", STATES)
def test_a_damaged_file_costs_at_most_its_trial_and_is_never_believed(
    commands: Commands, tmp_path: Path, state: str
) -> None:
    matrix = Matrix(commands, state, tmp_path)
    for case in random.Random(f"{state}{SEED}").sample(matrix.cases(SEED), CASES_A_STATE):
        result = matrix.play(case)
        assert not result.problems, "\n".join([f"{COMMAND} damage '{case}'", result.struck, *result.problems])
