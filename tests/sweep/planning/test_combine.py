"""[combine]: axes by position, points left out, and that both are counted before they are made."""

import random
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.sweep.planning.json_schema import sweep_file_schema
from mixsweep.sweep.planning.parse import load_spec, parse_spec
from mixsweep.sweep.planning.plan import make_plan
from mixsweep.sweep.planning.schema import SpecError
from mixsweep.sweep.planning.space import Combine, SpaceError, count_points, expand
from tests.sweep.planning.test_own_trainables import load

SPACE: dict[str, Any] = {
    "optimizer": {"grid_search": ["sgd", "adam"]},
    "lr": {"grid_search": [0.1, 0.01, 0.001]},
    "batch_size": {"grid_search": [32, 64, 128]},
}
FILE: dict[str, Any] = {"name": "axes", "base": {"epochs": 2}, "space": SPACE}
ZIP = {"zip": [["lr", "batch_size"]]}


def points(combine: dict[str, Any], **changes: Any) -> list[tuple[Any, ...]]:
    plan = make_plan(parse_spec({**FILE, "combine": combine, **changes}))
    return [tuple(config[name] for name in SPACE) for config in plan.trials]


def refusal(combine: Any, **changes: Any) -> str:
    with pytest.raises(SpecError) as caught:
        make_plan(parse_spec({**FILE, "combine": combine, **changes}))
    (line,) = str(caught.value).splitlines()
    return line


def test_zipped_axes_go_together_by_position_and_cross_the_others() -> None:
    pairs = [(0.1, 32), (0.01, 64), (0.001, 128)]
    assert points(ZIP) == [(optimizer, *pair) for optimizer in ("sgd", "adam") for pair in pairs]


def test_a_zipped_group_stands_where_its_first_axis_does() -> None:
    space = {"lr": SPACE["lr"], "optimizer": SPACE["optimizer"], "batch_size": SPACE["batch_size"]}
    found = points({"zip": [["batch_size", "lr"]]}, space=space)
    assert [lr for _, lr, _ in found] == [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    assert {(lr, size) for _, lr, size in found} == {(0.1, 32), (0.01, 64), (0.001, 128)}


def test_several_groups_of_any_values_cross_each_other() -> None:
    space = {
        **SPACE,
        "hidden": {"grid_search": [[64], [32, 16]]},
        "weight_decay": {"grid_search": [0.0, 0.1]},
    }
    plan = make_plan(
        parse_spec(
            {**FILE, "space": space, "combine": {"zip": [["lr", "batch_size"], ["hidden", "weight_decay"]]}}
        )
    )
    assert len(plan.trials) == 2 * 3 * 2
    assert {(c["hidden"], c["weight_decay"]) for c in plan.trials} == {((64,), 0.0), ((32, 16), 0.1)}


def test_excluded_points_are_left_out_and_the_rest_keep_their_trials() -> None:
    every = make_plan(parse_spec(FILE))
    plan = make_plan(
        parse_spec(
            {**FILE, "combine": {"exclude": [{"lr": [0.1, 0.01], "optimizer": "sgd"}, {"batch_size": 64}]}}
        )
    )
    left = [
        c
        for c in every.trials
        if not (c["lr"] in (0.1, 0.01) and c["optimizer"] == "sgd") and c["batch_size"] != 64
    ]
    assert list(plan.trials) == left
    assert plan.excluded == 18 - len(left)


def test_an_exclude_may_name_fixed_fields_defaults_and_lists() -> None:
    hidden = {"hidden": {"grid_search": [[64], [32, 16]]}}
    for exclude in (
        {"hidden": [64]},
        {"hidden": [[64], [8]]},
        {"hidden": [64], "epochs": 2, "model": ["mlp", "mixer"]},
    ):
        plan = make_plan(parse_spec({**FILE, "space": hidden, "combine": {"exclude": [exclude]}}))
        assert [c["hidden"] for c in plan.trials] == [(32, 16)]


def test_zipped_and_excluded_points_have_all_seeds_and_conditions() -> None:
    plan = make_plan(
        parse_spec(
            {
                **FILE,
                "seeds": 2,
                "when": {"batch_size": {"optimizer": "adam"}},
                "combine": {**ZIP, "exclude": [{"lr": 0.1}]},
            }
        )
    )
    assert [(c["optimizer"], c["lr"], c["batch_size"]) for c in plan.trials[:4]] == [
        ("sgd", 0.01, 128),
        ("sgd", 0.001, 128),
        ("adam", 0.01, 64),
        ("adam", 0.001, 128),
    ]
    assert len(plan.trials) == 8


def test_draws_stay_those_that_they_were_and_excluded_ones_are_left_out() -> None:
    space = {**SPACE, "dropout": {"choice": [0.0, 0.1, 0.2]}}
    every = make_plan(parse_spec({**FILE, "space": space, "samples": 2}))
    plan = make_plan(
        parse_spec(
            {**FILE, "space": space, "samples": 2, "combine": {"exclude": [{"dropout": 0.1, "lr": 0.1}]}}
        )
    )
    assert plan.excluded > 0
    assert list(plan.trials) == [c for c in every.trials if not (c["dropout"] == 0.1 and c["lr"] == 0.1)]


def test_a_zipped_grid_is_drawn_for_by_position() -> None:
    space = {**SPACE, "weight_decay": {"loguniform": [1e-5, 1e-2]}}
    plan = make_plan(parse_spec({**FILE, "space": space, "samples": 2, "combine": ZIP}))
    assert len(plan.trials) == 2 * 3 * 2
    assert {(c["lr"], c["batch_size"]) for c in plan.trials} == {(0.1, 32), (0.01, 64), (0.001, 128)}
    assert len({c["weight_decay"] for c in plan.trials}) == 12


def test_each_part_combines_its_own_axes() -> None:
    parts = [{"name": "zipped", "space": SPACE, "combine": ZIP}, {"name": "all", "space": SPACE}]
    plan = make_plan(parse_spec({"name": "two", "parts": parts}))
    assert [sum(row.part == name for row in plan.rows) for name in ("zipped", "all")] == [6, 18]
    with pytest.raises(SpecError, match=r"combine: belongs inside each of \[\[parts\]\]"):
        parse_spec({"name": "two", "combine": ZIP, "parts": parts})


def test_it_is_set_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "axes.toml"
    path.write_text("[space]\nlr = { grid_search = [0.1, 0.01] }\nbatch_size = { grid_search = [32, 64] }\n")
    zipped = make_plan(load_spec(path, ['combine.zip=[["lr", "batch_size"]]']))
    assert [(c["lr"], c["batch_size"]) for c in zipped.trials] == [(0.1, 32), (0.01, 64)]
    assert len(make_plan(load_spec(path, ["combine.exclude=[{ lr = 0.1 }]"])).trials) == 2


def test_a_trainable_of_ones_own_and_a_command_have_it_too(tmp_path: Path) -> None:
    text = (
        'trainable = "walk.py:Walk"\n[space]\nlr = { grid_search = [0.1, 0.4] }\n'
        "width = { grid_search = [4, 8] }\n[combine]\nzip = [['lr', 'width']]\nexclude = [{ width = 4 }]\n"
    )
    assert [(c["lr"], c["width"]) for c in make_plan(load(tmp_path, text=text)).trials] == [(0.4, 8)]
    path = tmp_path / "script.toml"
    path.write_text(
        'metric = "loss"\nmode = "min"\n[command]\nrun = "true {lr} {width}"\n[fields]\nlr = 0.1\nwidth = 4\n'
        + text.partition("\n")[2]
    )
    assert [(c["lr"], c["width"]) for c in make_plan(load_spec(path)).trials] == [(0.4, 8)]


@pytest.mark.parametrize(
    ("combine", "said"),
    [
        ({"zipp": []}, "combine.zipp: unknown key; did you mean 'zip'?"),
        ({"zip": ["lr", "batch_size"]}, "combine.zip: ['lr', 'batch_size'] is not a list of groups like"),
        ({"zip": [["lr"]]}, "combine.zip: [['lr']] is not a list of groups"),
        (
            {"zip": [["lr", "batchsize"]]},
            "combine.zip[0]: 'batchsize' is not in [space]; did you mean 'batch_size'?",
        ),
        (
            {"zip": [["lr", "optimizer"]]},
            "combine.zip[0]: the numbers of values differ: lr has 3, optimizer has 2",
        ),
        ({"zip": [["lr", "lr"]]}, "combine.zip[0]: 'lr' is zipped twice"),
        (
            {"exclude": {"lr": 0.1}},
            "combine.exclude: {'lr': 0.1} is not like [{ lr = 0.1, optimizer = 'sgd' }]",
        ),
        ({"exclude": [{}]}, "combine.exclude: [{}] is not like"),
        ({"exclude": [{"lrr": 0.1}]}, "combine.exclude[0].lrr: unknown field; did you mean 'lr'?"),
        ({"exclude": [{"lr": "fast"}]}, "combine.exclude[0].lr: lr = 'fast' is not a number"),
        ({"exclude": [{"lr": []}]}, "combine.exclude[0].lr: lr = [] is not a number"),
        (
            {"exclude": [{"seed": 42}]},
            "combine.exclude[0].seed: seeds are paired: every point has all of them",
        ),
        (
            {"exclude": [{"lr": 0.1}, {"lr": 0.2}]},
            "combine.exclude[1]: matches no point: no value of [space] has lr = 0.2",
        ),
        ({"exclude": [{"epochs": 3}]}, "combine.exclude[0]: matches no point: epochs is 2 in all of them"),
        (
            {**ZIP, "exclude": [{"lr": 0.1, "batch_size": 64}]},
            "combine.exclude[0]: matches no point: no value of [space] has lr = 0.1, batch_size = 64 together",
        ),
        ({"exclude": [{"lr": [0.1, 0.01, 0.001]}]}, "combine.exclude: leaves out every point"),
        (
            {"exclude": [{"optimizer": "sgd"}, {"optimizer": "adam"}]},
            "combine.exclude: leaves out every point",
        ),
    ],
)
def test_what_cannot_be_combined_is_one_line(combine: Any, said: str) -> None:
    assert said in refusal(combine)


def test_only_grids_are_zipped_and_a_search_combines_nothing() -> None:
    drawn = {"lr": SPACE["lr"], "batch_size": {"choice": [32, 64, 128]}}
    assert "combine.zip[0]: 'batch_size' is drawn; only" in refusal(ZIP, space=drawn)
    search = {"space": {"lr": {"uniform": [0.1, 0.2]}}, "search": {"algorithm": "tpe"}}
    assert "combine: not with [search]" in refusal({"exclude": [{"lr": 0.1}]}, **search)


def test_an_exclude_of_drawn_values_that_were_never_drawn_is_an_error() -> None:
    space = {"lr": {"uniform": [0.1, 0.2]}}
    assert "axes: combine.exclude[0]: matches no point" in refusal({"exclude": [{"lr": 0.15}]}, space=space)


@pytest.mark.parametrize("seed", range(30))
def test_points_are_counted_as_they_are_made(seed: int) -> None:
    random.seed(seed)
    lengths = [random.randint(1, 4) for _ in range(4)]
    names = ("lr", "batch_size", "dropout", "weight_decay")
    space = {name: {"grid_search": list(range(length))} for name, length in zip(names, lengths)}
    zipped = [
        pair for pair in (names[:2], names[2:]) if len({len(space[n]["grid_search"]) for n in pair}) == 1
    ]
    excludes = tuple(
        {
            name: random.choice([0, 1, [0, 2]])
            for name in random.sample([*names, "epochs"], random.randint(1, 3))
        }
        for _ in range(3)
    )
    combine = Combine(zip=tuple(zipped), exclude=excludes)
    defaults = {**find_trainable().defaults, "epochs": 1}
    made = []
    try:
        for point in expand({}, space, {}, 1, 0, lambda values: defaults, combine=combine):
            made.append(point)
    except SpaceError:
        pass  # some exclude matches nothing, which is known when all points are made
    assert count_points(space, 1, combine, defaults) == len(made)


def test_a_large_grid_is_counted_at_once() -> None:
    space = {
        name: {"grid_search": list(range(1, 101))} for name in ("batch_size", "epochs", "blocks", "embed_dim")
    }
    exclude = [{"batch_size": list(range(2, 101))}, {"epochs": 1, "blocks": list(range(1, 101))}]
    assert count_points(space, 1, Combine(exclude=tuple(exclude)), {}) == 99 * 100 * 100
    assert "990000 trials are too many" in refusal({"exclude": exclude}, space=space, base={"model": "mixer"})


@pytest.mark.parametrize(
    ("combine", "fits"),
    [
        (ZIP, True),
        ({"exclude": [{"lr": [0.1, 0.2], "optimizer": "sgd"}, {"hidden": [[64]]}]}, True),
        ({"zip": [["lr"]]}, False),
        ({"zip": [["lr", "seed"]]}, False),
        ({"exclude": [{}]}, False),
        ({"exclude": [{"lr": "fast"}]}, False),
        ({"zipp": []}, False),
    ],
)
def test_an_editor_knows_it(combine: dict[str, Any], fits: bool) -> None:
    problems = list(Draft202012Validator(sweep_file_schema()).iter_errors({**FILE, "combine": combine}))
    assert (not problems) is fits
