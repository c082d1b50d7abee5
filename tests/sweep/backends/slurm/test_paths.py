"""SLURM expands %j, %A and the like in the path of a job's output, and submitit in its whole folder."""

from pathlib import Path

import pytest

from mixsweep.cluster.places import Place, SlurmPlace
from mixsweep.sweep.backends.base import RunOptions, find_backend
from mixsweep.sweep.backends.slurm.job_request import SlurmBackendError
from mixsweep.sweep.planning.parse import parse_spec
from mixsweep.sweep.planning.plan import make_plan


@pytest.mark.parametrize("launch", ["array", "ray"])
@pytest.mark.parametrize(
    ("name", "root"), [("50% dropout", "runs"), ("%A_%a", "runs"), ("a", "r%j"), ("a", "r\\x")]
)
def test_a_path_that_slurm_would_read_as_a_pattern_is_refused(
    name: str, root: str, launch: str, tmp_path: Path
) -> None:
    plan = make_plan(parse_spec({"name": name, "base": {"dataset": "digits"}}))
    backend = find_backend(Place(name="cluster", kind="slurm", slurm=SlurmPlace(launch=launch)))
    with pytest.raises(
        SlurmBackendError, match="in a path as the start of a pattern; choose a name or a --store"
    ):
        backend.check(plan, RunOptions(store_root=tmp_path / root))
    plain = make_plan(parse_spec({"name": "half dropout", "base": {"dataset": "digits"}}))
    backend.check(plain, RunOptions(store_root=tmp_path / "runs"))
