"""Seeds that were added to points: in the plan of every later command, the same at every point, never lost."""

from pathlib import Path

import pytest

from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.parse import parse_spec
from mixsweep.sweep.planning.plan import Plan, make_plan
from mixsweep.sweep.search.extra_seeds import (
    extra_seeds,
    filled_up,
    planned_with,
    read_rounds,
    record_round,
    with_extra_seeds,
)


def plan_of(seeds: object = 3, rates: tuple[float, ...] = (0.1, 0.01)) -> Plan:
    values = {"name": "s", "seeds": seeds, "base": {"dataset": "digits"}}
    return make_plan(parse_spec({**values, "space": {"lr": {"grid_search": list(rates)}}}))


def first_of(plan: Plan, point: int) -> tuple[str, str]:
    row = next(row for row in plan.rows if row.point == point and row.replica == 0)
    return row.part, row.trial_id


def seeds_of(plan: Plan, point: int) -> list[tuple[int, int]]:
    return [(row.replica, row.config["seed"]) for row in plan.rows if row.point == point]


@pytest.fixture
def store(tmp_path: Path) -> SweepStore:
    made = SweepStore(tmp_path / "s")
    made.path.mkdir()
    return made


def test_a_point_gets_its_seeds_and_the_others_none(store: SweepStore) -> None:
    plan = plan_of()
    record_round(store, {first_of(plan, 1): (45, 46)}, ("a claim",))
    longer = with_extra_seeds(plan, store)
    assert seeds_of(longer, 0) == [(0, 42), (1, 43), (2, 44)]
    assert seeds_of(longer, 1) == [(0, 42), (1, 43), (2, 44), (3, 45), (4, 46)]
    assert with_extra_seeds(longer, store).rows == longer.rows


def test_a_file_with_more_seeds_takes_them_over_and_none_is_lost(store: SweepStore) -> None:
    plan = plan_of()
    record_round(store, {first_of(plan, 1): (45, 46)}, ())
    assert [seed for _, seed in seeds_of(with_extra_seeds(plan_of(4), store), 1)] == [42, 43, 44, 45, 46]
    assert len(with_extra_seeds(plan_of(5), store).rows) == 10
    listed = plan_of([5, 1, 9])
    record_round(store, {first_of(listed, 0): (10, 11)}, ())
    more = with_extra_seeds(plan_of([5, 1, 9, 3]), store)
    assert [seed for _, seed in seeds_of(more, 0)] == [5, 1, 9, 3, 10, 11]


def test_points_get_the_same_seeds_first_those_that_others_have(store: SweepStore) -> None:
    plan = plan_of()
    one, two = first_of(plan, 0), first_of(plan, 1)
    known = {one: (45, 46)}
    assert filled_up(plan.spec, known, {two: 5}) == {one: (45, 46), two: (45, 46)}
    assert filled_up(plan.spec, known, {one: 6, two: 4}) == {one: (45, 46, 47), two: (45,)}
    rows = planned_with(plan, filled_up(plan.spec, known, {one: 6, two: 4})).rows
    assert {row.config["seed"] - row.replica for row in rows} == {42}  # paired: a replica has one seed


def test_a_changed_space_keeps_the_seeds_of_its_points(store: SweepStore) -> None:
    plan = plan_of()
    record_round(store, {first_of(plan, 1): (45,)}, ())
    wider = with_extra_seeds(plan_of(rates=(1.0, 0.1, 0.01)), store)
    assert [len(seeds_of(wider, point)) for point in range(3)] == [3, 3, 4]


def test_a_damaged_round_is_left_out_and_its_number_is_not_given_again(store: SweepStore) -> None:
    plan = plan_of()
    record_round(store, {first_of(plan, 1): (45,)}, ())
    (path,) = (store.path / "evidence").glob("*.json")
    path.write_bytes(path.read_bytes()[:-20])
    assert read_rounds(store) == []
    assert extra_seeds(store) == {}
    record_round(store, {first_of(plan, 1): (45,)}, ())
    assert [one.number for one in read_rounds(store)] == [2]
