"""sweep.backends.ray.rank_groups: a trial of several ranks starts a group only if it is needed.

Rank groups on a cluster: tests/integration/ray/test_ray_cluster.py.
"""

from pathlib import Path

from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.execution.runner import work
from mixsweep.core.store.stops import request_stop
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.backends.ray.rank_groups import run_rank_groups
from mixsweep.sweep.planning.parse import parse_spec
from mixsweep.sweep.planning.plan import make_plan
from mixsweep.sweep.runtime.worker import make_worker_spec

SOURCE = {
    "name": "rank-groups",
    "base": {"dataset": "digits", "hidden": [16], "train_limit": 256, "valid_limit": 100, "epochs": 1},
}


def test_a_trial_that_is_done_or_stopped_starts_no_rank_group(tmp_path: Path) -> None:
    plan = make_plan(parse_spec(SOURCE))
    (config,) = plan.trials
    store = SweepStore(tmp_path)
    (done,) = work([config], RunConfig(store=tmp_path))
    assert done.state == "completed"
    worker_spec = make_worker_spec(
        plan, RunConfig(store=tmp_path, ranks=2, started_at="2026-01-01T00:00:00+00:00")
    )
    # Ray is not started: starting a rank group would fail.
    assert list(run_rank_groups(worker_spec, [config])) == []
    request_stop(store.path)
    assert list(run_rank_groups(worker_spec, [config.with_values(lr=0.5)])) == []
