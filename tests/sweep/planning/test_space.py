"""sweep.planning.space: grids in the file's order, everything drawn as Ray Tune draws it."""

from typing import Any

import numpy as np
import pytest
from ray import tune
from ray.tune.search.variant_generator import generate_variants

from mixsweep.core.config import canonical_json
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.sweep.planning.space import DISTRIBUTIONS, expand, to_ray

GRID: dict[str, Any] = {
    "lr": {"grid_search": [0.1, 0.01, 0.001]},
    "activation": {"grid_search": ["tanh", "relu"]},
    "hidden": {"grid_search": [[64], [32, 16]]},
}
DRAWN: dict[str, tuple[list[Any], Any]] = {
    "choice": ([3, 5, 7], lambda v: v in (3, 5, 7)),
    "uniform": ([0.2, 0.4], lambda v: 0.2 <= v <= 0.4),
    "loguniform": ([1e-4, 1e-1], lambda v: 1e-4 <= v <= 1e-1),
    "quniform": ([0.5, 2.0, 0.25], lambda v: 0.5 <= v <= 2 and v * 4 == round(v * 4)),
    "qloguniform": ([0.25, 64, 0.25], lambda v: 0.25 <= v <= 64 and v * 4 == round(v * 4)),
    "randint": ([2, 6], lambda v: v in (2, 3, 4, 5) and type(v) is int),
    "randn": ([10.0, 0.1], lambda v: 9 < v < 11),
}


def points(space: dict[str, Any], samples: int = 1, seed: int = 0, **when: Any) -> list[dict[str, Any]]:
    return list(expand({}, space, when, samples, seed, find_trainable().defaults_beside))


def ray_points(space: dict[str, Any], samples: int, seed: int) -> list[dict[str, Any]]:
    state = np.random.default_rng(seed)
    return [
        point
        for _ in range(samples)
        for _, point in generate_variants(to_ray(space), random_state=state)
    ]  # fmt: skip


def test_a_grid_runs_in_the_files_order_the_last_axis_fastest() -> None:
    found = points(GRID)
    assert [p["lr"] for p in found] == [0.1] * 4 + [0.01] * 4 + [0.001] * 4
    assert [p["activation"] for p in found[:4]] == ["tanh", "tanh", "relu", "relu"]
    assert [p["hidden"] for p in found[:2]] == [[64], [32, 16]]


def test_a_grids_points_are_those_of_rays_own_generator() -> None:
    ours, rays = points(GRID), ray_points(GRID, 1, 0)
    assert len(ours) == len(rays) == 12
    assert {canonical_json(p) for p in ours} == {canonical_json(p) for p in rays}


def test_to_ray_makes_rays_own_objects_by_their_own_names() -> None:
    assert set(DRAWN) | {"grid_search"} == set(DISTRIBUTIONS)
    for name, (arguments, _) in DRAWN.items():
        wanted = getattr(tune, name)(*([arguments] if name == "choice" else arguments))
        assert type(to_ray({"lr": {name: arguments}})["lr"]) is type(wanted)
        assert vars(to_ray({"lr": {name: arguments}})["lr"]).keys() == vars(wanted).keys()
    assert to_ray({"lr": {"grid_search": [1]}}) == {"lr": tune.grid_search([1])}


@pytest.mark.parametrize("name", DRAWN)
def test_every_distribution_draws_within_its_bounds_plain_values_that_differ(name: str) -> None:
    arguments, fits = DRAWN[name]
    values = [p["lr"] for p in points({"lr": {name: arguments}}, 200)]
    assert len(values) == 200
    assert all(fits(value) for value in values)
    assert all(type(value) in (int, float) for value in values)
    assert len(set(values)) >= 3


@pytest.mark.parametrize("name", DRAWN)
def test_the_same_search_seed_draws_the_same_points_and_rays(name: str) -> None:
    space = {"activation": GRID["activation"], "lr": {name: DRAWN[name][0]}}
    assert points(space, 5, seed=7) == points(space, 5, seed=7) == ray_points(space, 5, 7)
    assert points(space, 40, seed=7) != points(space, 40, seed=8)


def test_more_samples_keep_the_earlier_draws() -> None:
    space = {"lr": {"loguniform": [1e-4, 1e-1]}, "dropout": {"uniform": [0.0, 0.5]}}
    assert points(space, 9)[:4] == points(space, 4)


def test_grids_are_crossed_and_drawn_axes_are_sampled_for_each_of_their_points() -> None:
    space = {**GRID, "weight_decay": {"loguniform": [1e-5, 1e-1]}}
    found = points(space, 3)
    assert len(found) == 3 * 12
    assert len({p["weight_decay"] for p in found}) == 3 * 12
    for value in (0.1, 0.01, 0.001):
        assert sum(p["lr"] == value for p in found) == 12


def test_an_axis_goes_over_the_base() -> None:
    assert [p["lr"] for p in expand({"lr": 5.0, "epochs": 2}, GRID, {}, 1, 0, lambda values: {})][:1] == [0.1]
    assert all(p["epochs"] == 2 for p in expand({"lr": 5.0, "epochs": 2}, GRID, {}, 1, 0, lambda values: {}))


MODELS = {"model": {"grid_search": ["mlp", "mixer", "resnet18"]}, "patch_size": {"grid_search": [2, 4]}}


def test_when_keeps_a_field_only_where_its_condition_holds() -> None:
    found = points(MODELS, patch_size={"model": "mixer"})
    assert [p.get("patch_size") for p in found] == [None, None, 2, 4, None, None]


def test_when_takes_a_list_of_values_and_several_conditions() -> None:
    found = points(MODELS, patch_size={"model": ["mixer", "mlp"]})
    assert [p.get("patch_size") for p in found] == [2, 4, 2, 4, None, None]
    both = points({**MODELS, "lr": {"grid_search": [1, 2]}}, patch_size={"model": "mixer", "lr": 1})
    assert sum("patch_size" in p for p in both) == 2


def test_when_looks_at_defaults_too_and_at_fields_that_are_lists() -> None:
    space = {"momentum": {"grid_search": [0.5, 0.9]}}
    assert all("momentum" in p for p in points(space, momentum={"model": "mlp"}))  # mlp is the default
    assert not any("momentum" in p for p in points(space, momentum={"model": "mixer"}))
    found = points({**GRID}, lr={"hidden": [64]})
    assert all(("lr" in p) == (p["hidden"] == [64]) for p in found)
