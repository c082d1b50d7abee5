"""sweep.teams: a trial of several ranks is begun only where somebody is needed. Teams at work: test_ray_cluster."""

from pathlib import Path

from core.execute import work
from core.setting import Setting
from core.store import SweepStore
from sweep.plan import make_plan
from sweep.spec import parse_spec
from sweep.teams import work_in_teams
from sweep.worker import give_orders

SOURCE = {
    "name": "teams",
    "base": {"dataset": "digits", "hidden": [16], "train_limit": 256, "valid_limit": 100, "epochs": 1},
}


def test_what_is_done_or_asked_to_stop_starts_no_team(tmp_path: Path) -> None:
    plan = make_plan(parse_spec(SOURCE))
    (config,) = plan.trials
    store = SweepStore(tmp_path)
    (done,) = work([(config,)], Setting(store=tmp_path))
    assert done.state == "completed"
    orders = give_orders(plan, Setting(store=tmp_path, ranks=2, started_at="2026-01-01T00:00:00+00:00"))
    # No Ray is reached for: starting a team here would fail.
    assert list(work_in_teams(orders, [(config,)])) == []
    store.request_stop()
    assert list(work_in_teams(orders, [(config.with_values(lr=0.5),)])) == []
