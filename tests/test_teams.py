"""Trials of several ranks on a Ray cluster of two nodes: Ray Train places them, core.ranks makes them one trial."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.ray_ranks import RankResources, run_ranks
from cluster.rays import connected, ray_node
from core.config import TrialConfig
from core.execute import work
from core.setting import Setting
from core.store import SweepStore
from sweep.driver import run_on_ray
from sweep.plan import make_plan
from sweep.spec import parse_spec
from sweep.teams import work_in_teams
from sweep.worker import give_orders

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),  # Ray Train reads Ray Data's settings
]

# Relative deviation of losses in two epochs, from the order of floating-point sums; see test_ranks.
TOLERANCE = 2e-3

SOURCE = {
    "name": "teams",
    "base": {
        "model": "resnet18",
        "dataset": "digits",
        "epochs": 2,
        "batch_size": 8,
        "train_limit": 16,
        "valid_limit": 12,
        "lr": 1e-4,
    },
}


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[None]:
    """A cluster of two nodes with a CPU each, which this process drives."""
    with ray_node(1, 0) as head, ray_node(1, 0, join=head.meeting), connected(head):
        yield


def note_ranks(folder: Path) -> None:
    import ray

    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    facts = {name: os.environ[name] for name in names} | {"node": ray.get_runtime_context().get_node_id()}
    (folder / os.environ["RANK"]).write_text(json.dumps(facts))


def die_once(folder: Path) -> None:
    """Rank 1 is killed on its first try; both are tried again."""
    (folder / f"try-{os.environ['RANK']}-{os.getpid()}").touch()
    if os.environ["RANK"] == "1" and not (folder / "dead").exists():
        (folder / "dead").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def test_ranks_are_spread_over_nodes_and_know_where_rank_0_waits(two_nodes: None, tmp_path: Path) -> None:
    run_ranks(partial(note_ranks, tmp_path), RankResources(ranks=2, nodes=2))
    first, second = (json.loads((tmp_path / rank).read_text()) for rank in ("0", "1"))
    assert first["node"] != second["node"]
    # Ray counts local ranks by address, and these nodes share one.
    assert [first["LOCAL_RANK"], second["LOCAL_RANK"]] == ["0", "1"]
    for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        assert first[name] == second[name]
    assert first["WORLD_SIZE"] == "2"


def test_a_rank_that_is_killed_is_started_again_with_its_peers(two_nodes: None, tmp_path: Path) -> None:
    run_ranks(partial(die_once, tmp_path), RankResources(ranks=2, nodes=2))
    assert len(list(tmp_path.glob("try-1-*"))) == 2


def test_a_resnet_on_two_nodes_is_trained_as_on_one_device(two_nodes: None, tmp_path: Path) -> None:
    alone, together = (SweepStore(tmp_path / name / "teams") for name in ("alone", "together"))
    plan = make_plan(parse_spec(SOURCE))
    (config,) = plan.trials
    list(work([(config,)], Setting(store=alone.path)))
    setting = Setting(store=together.path, place="two-nodes", ranks=2)
    ended: list[Any] = []
    deaths = run_on_ray(
        [(config,)], give_orders(plan, setting), 1, ended.append, partial(work_in_teams, nodes=2)
    )
    assert deaths == []
    assert [info.state for info in ended] == ["completed"]
    (attempt,) = ended[0].attempts
    assert attempt.ranks == 2
    one, two = (store.trial(config.trial_id).records().to_pylist() for store in (alone, together))
    assert [row["epoch"] for row in two] == [row["epoch"] for row in one] == [1, 2]
    for row, other in zip(one, two):
        for name in ("train_loss", "valid_loss"):
            assert other[name] == pytest.approx(row[name], rel=TOLERANCE)
    assert two[-1]["test_loss"] == pytest.approx(one[-1]["test_loss"], rel=TOLERANCE)


def test_what_is_done_or_asked_to_stop_starts_no_team(
    tmp_path: Path, tiny: Callable[..., TrialConfig]
) -> None:
    config = tiny(epochs=1)
    plan = make_plan(parse_spec({"name": "teams", "base": config.to_mapping()}))
    store = SweepStore(tmp_path)
    (done,) = work([(config,)], Setting(store=tmp_path))
    setting = Setting(store=tmp_path, ranks=2, started_at="2026-01-01T00:00:00+00:00")
    assert done.state == "completed"
    # No Ray is reached for: starting a team here would fail.
    assert list(work_in_teams(give_orders(plan, setting), [(config,)])) == []
    store.request_stop()
    assert list(work_in_teams(give_orders(plan, setting), [(config.with_values(lr=0.5),)])) == []
