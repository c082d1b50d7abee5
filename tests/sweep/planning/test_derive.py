"""[derive]: fields computed from others, and that a trial is the same whether derived or written out."""

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mixsweep.sweep.planning.json_schema import sweep_file_schema
from mixsweep.sweep.planning.parse import load_spec, parse_spec
from mixsweep.sweep.planning.plan import Plan, make_plan
from mixsweep.sweep.planning.schema import SpecError
from tests.sweep.planning.test_own_trainables import CLASS, load

FILE: dict[str, Any] = {
    "name": "derived",
    "base": {"epochs": 2},
    "space": {"lr": {"grid_search": [0.1, 0.01, 1]}},
}


def plan_with(derive: dict[str, Any], **changes: Any) -> Plan:
    return make_plan(parse_spec({**FILE, "derive": derive, **changes}))


def refusal(derive: Any, **changes: Any) -> str:
    with pytest.raises(SpecError) as caught:
        plan_with(derive, **changes)
    (line,) = str(caught.value).splitlines()
    return line


def test_a_derived_trial_is_the_one_that_is_written_out() -> None:
    plan = plan_with({"weight_decay": "0.1 * lr"}, seeds=2)
    written = {**FILE["space"], "weight_decay": {"grid_search": [0.01, 0.001, 0.1]}}
    same = parse_spec({**FILE, "space": written, "seeds": 2, "combine": {"zip": [["lr", "weight_decay"]]}})
    assert [c.trial_id for c in plan.trials] == [c.trial_id for c in make_plan(same).trials]


def test_derived_fields_may_depend_on_each_other_in_any_order() -> None:
    plan = plan_with({"weight_decay": "label_smoothing / 10", "label_smoothing": "min(lr, 0.5)"})
    assert [(c["weight_decay"], c["label_smoothing"]) for c in plan.trials] == [
        (0.01, 0.1),
        (0.001, 0.01),
        (0.05, 0.5),
    ]


def test_defaults_bases_budgets_and_drawn_fields_are_operands() -> None:
    plan = plan_with({"warmup_epochs": "epochs / 4"})
    assert {c["warmup_epochs"] for c in plan.trials} == {0.5}
    plan = plan_with({"weight_decay": "lr * batch_size / 1280"})
    assert [c["weight_decay"] for c in plan.trials] == [0.01, 0.001, 0.1]
    plan = plan_with({"epochs": "round(3 / lr)"}, base={})
    assert [c.epochs for c in plan.trials] == [30, 300, 3]
    plan = plan_with({"weight_decay": "lr / 2"}, space={"lr": {"loguniform": [1e-4, 1e-1]}}, samples=4)
    assert all(c["weight_decay"] == pytest.approx(c["lr"] / 2, rel=1e-14) for c in plan.trials)


def test_a_field_without_effect_counts_as_its_default_and_is_not_derived() -> None:
    space = {**FILE["space"], "optimizer": {"grid_search": ["sgd", "momentum"]}}
    plan = plan_with({"momentum": "1 - lr"}, space={**space, "lr": {"grid_search": [0.1, 3]}}, when={
        "momentum": {"lr": 0.1}
    })  # fmt: skip
    assert [(c["lr"], c["optimizer"], c["momentum"]) for c in plan.trials] == [
        (0.1, "sgd", 0.9),
        (0.1, "momentum", 0.9),
        (3.0, "sgd", 0.9),
        (3.0, "momentum", 0.9),
    ]
    plan = plan_with({"weight_decay": "momentum / 9"}, space=space, base={"momentum": 0.45})
    assert {(c["optimizer"], c["weight_decay"]) for c in plan.trials} == {("sgd", 0.1), ("momentum", 0.05)}


def test_a_condition_may_depend_on_a_derived_field() -> None:
    space = {"lr": {"grid_search": [0.1, 1]}, "dropout": {"grid_search": [0.3, 0.5]}}
    plan = plan_with(
        {"batch_size": "int(64 / lr)", "weight_decay": "dropout / 10"},
        space=space,
        when={"dropout": {"batch_size": 640}},
    )
    assert [(c["batch_size"], c["dropout"], c["weight_decay"]) for c in plan.trials] == [
        (640, 0.3, 0.03),
        (640, 0.5, 0.05),
        (64, 0.0, 0.0),
    ]
    assert plan.duplicates == 1


def test_each_part_derives_its_own_over_the_files_base() -> None:
    base = {"weight_decay": 0.2}
    parts = [{"name": "derived", "space": FILE["space"], "derive": {"weight_decay": "lr / 10"}},
             {"name": "fixed", "space": FILE["space"]}]  # fmt: skip
    plan = make_plan(parse_spec({"name": "two", "base": base, "parts": parts}))
    assert {row.config["weight_decay"] for row in plan.rows if row.part == "fixed"} == {0.2}
    assert {row.config["weight_decay"] for row in plan.rows if row.part == "derived"} == {0.01, 0.001, 0.1}
    with pytest.raises(
        SpecError, match=r"base\.weight_decay: has no effect: every part sets its own; set parts\.0\.derive"
    ):
        parse_spec({"name": "one", "base": base, "parts": parts[:1]})


def test_what_no_trial_would_feel_is_refused() -> None:
    assert "derive.momentum: has no effect on any trial: it counts for optimizer = momentum only" in refusal(
        {"momentum": "1 - lr / 10"}
    )
    assert "derive.weight_decay: is in [base] too" in refusal(
        {"weight_decay": "0.1 * lr"}, base={"weight_decay": 0.1}
    )


def test_a_setting_that_a_derivation_overrides_names_the_key_that_works(tmp_path: Path) -> None:
    path = tmp_path / "derived.toml"
    path.write_text("[space]\nlr = { grid_search = [0.1, 0.01] }\n[derive]\nweight_decay = '0.1 * lr'\n")
    with pytest.raises(SpecError, match=r"derive.weight_decay: is in \[base\] too; keep one of the two"):
        load_spec(path, ["base.weight_decay=0.5"])
    plan = make_plan(load_spec(path, ["derive.weight_decay=2 * lr"]))
    assert [c["weight_decay"] for c in plan.trials] == [0.2, 0.02]


@pytest.mark.parametrize(
    ("derive", "said"),
    [
        ("lr", "derive: 'lr' is not a table"),
        ({"wieght_decay": "lr"}, "derive.wieght_decay: unknown field; did you mean 'weight_decay'?"),
        ({"weight_decay": "0.1 * lrr"}, "derive.weight_decay: unknown field 'lrr'; did you mean 'lr'?"),
        ({"weight_decay": 0.1}, "derive.weight_decay: 0.1 is not a string like '0.1 * lr'; a fixed value belongs in"),
        ({"weight_decay": "lr; lr"}, "derive.weight_decay: 'lr; lr' is not arithmetic; allowed: numbers, fields"),
        ({"weight_decay": "sqr(lr)"}, "derive.weight_decay: unknown function 'sqr'; did you mean 'sqrt'?"),
        ({"weight_decay": "model"}, "derive.weight_decay: the field 'model' is not a number"),
        ({"weight_decay": "hidden"}, "derive.weight_decay: the field 'hidden' is not a number"),
        ({"weight_decay": "seed / 10"}, "derive.weight_decay: cannot depend on the seed"),
        ({"weight_decay": "train_limit / 9"}, "derive.weight_decay: train_limit has no value; set it in [base] or"),
        ({"seed": "lr"}, "derive.seed: write `seeds = N` instead"),
        ({"parent": "lr"}, "derive.parent: is written only by a population"),
        ({"optimizer": "lr"}, "derive.optimizer: is not a number, and only numbers are derived"),
        ({"lr": "0.1"}, "derive.lr: is in [space] too; keep one of the two"),
        ({"weight_decay": "1 * weight_decay"}, "derive.weight_decay: circular: weight_decay → weight_decay"),
        ({"weight_decay": "-lr"}, "derive.weight_decay: weight_decay = -0.1 is too small; allowed: 0 or more (at lr ="),
        ({"weight_decay": "1 / (lr - 0.1)"}, "derive.weight_decay: division by zero (at lr = 0.1)"),
        (
            {"batch_size": "10 * lr / 3"},
            "batch_size = 0.333333333333333 is not an integer; write round(…) or int(…) (at lr = 0.1)",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_derived_is_one_line(derive: Any, said: str) -> None:
    assert said in refusal(derive)


def test_circles_are_named() -> None:
    said = refusal(
        {"weight_decay": "dropout", "dropout": "label_smoothing", "label_smoothing": "weight_decay"}
    )
    assert "circular: " in said
    assert said.count("→") == 3
    said = refusal({"weight_decay": "dropout"}, when={"dropout": {"weight_decay": 0.1}})
    assert "derive.weight_decay: circular: weight_decay → weight_decay" in said


def test_an_integer_field_takes_exact_integers() -> None:
    plan = plan_with({"batch_size": "640 * lr"}, space={"lr": {"grid_search": [0.1, 0.3]}})
    assert [c["batch_size"] for c in plan.trials] == [64, 192]
    assert all(type(c["batch_size"]) is int for c in plan.trials)


def test_a_trainable_of_ones_own_and_a_command_have_it_too(tmp_path: Path) -> None:
    text = "[space]\nwidth = { grid_search = [4, 8] }\n[derive]\nlr = '1 / width'\n"
    plan = make_plan(load(tmp_path, CLASS, f'trainable = "walk.py:Walk"\n{text}'))
    assert [c["lr"] for c in plan.trials] == [0.25, 0.125]
    path = tmp_path / "script.toml"
    path.write_text(
        'metric = "loss"\nmode = "min"\n[command]\nrun = "true {lr} {width}"\n[fields]\nlr = 0.1\nwidth = 4\n'
        + text
    )
    assert [c["lr"] for c in make_plan(load_spec(path)).trials] == [0.25, 0.125]


def test_an_exclude_names_what_a_derived_field_follows_from() -> None:
    said = refusal({"weight_decay": "lr"}, combine={"exclude": [{"weight_decay": 0.1}]})
    assert "combine.exclude[0].weight_decay: is derived; exclude by the fields that it follows from" in said
    plan = plan_with({"weight_decay": "lr"}, combine={"exclude": [{"lr": 0.1}]})
    assert [c["weight_decay"] for c in plan.trials] == [0.01, 1.0]


@pytest.mark.parametrize(
    ("derive", "fits"),
    [
        ({"weight_decay": "0.1 * lr"}, True),
        ({"weight_decay": 0.1}, False),
        ({"model": "lr"}, False),
        ({"seed": "1"}, False),
    ],
)
def test_an_editor_knows_it(derive: dict[str, Any], fits: bool) -> None:
    problems = list(Draft202012Validator(sweep_file_schema()).iter_errors({**FILE, "derive": derive}))
    assert (not problems) is fits
