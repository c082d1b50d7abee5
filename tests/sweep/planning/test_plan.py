"""sweep.planning.plan: which trials a file means, each once, the same always."""

import json
import resource
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.parse import load_spec, parse_spec
from mixsweep.sweep.planning.plan import labels_of, make_plan, pick, read_plan, save_plan, trials_of
from mixsweep.sweep.planning.schema import SpecError

TWO_AXES: dict[str, Any] = {
    "name": "two-axes",
    "seeds": 2,
    "space": {"lr": {"grid_search": [0.1, 0.01]}, "activation": {"grid_search": ["relu", "tanh"]}},
}


def plan_of(**changes: Any):  # type: ignore[no-untyped-def]
    return make_plan(parse_spec({**deepcopy(TWO_AXES), **changes}))


def ids(plan: Any) -> list[str]:
    return [config.trial_id for config in plan.trials]


def test_learning_rates_are_fifteen_trials_in_the_files_order_the_first_seed_of_all_first() -> None:
    plan = make_plan(load_spec("learning-rates"))
    assert [(c.seed, c.lr) for c in plan.trials] == [
        (seed, lr) for seed in (42, 43, 44) for lr in (0.1, 0.01, 0.001, 0.0001, 0.00001)
    ]
    assert (len(set(ids(plan))), plan.duplicates, plan.shared) == (15, 0, 0)
    assert all(c.model == "resnet18" and c.optimizer == "adam" for c in plan.trials)


def test_points_that_are_the_same_trial_are_dropped_and_counted() -> None:
    space = {"model": {"grid_search": ["mlp", "mixer"]}, "patch_size": {"grid_search": [2, 4, 8]}}
    plan = plan_of(space=space)
    # A patch size is nothing to the MLP: its three points are one, for each of two seeds.
    assert [(c.model, c.patch_size) for c in plan.trials if c.seed == 42] == [
        ("mlp", 4), ("mixer", 2), ("mixer", 4), ("mixer", 8),
    ]  # fmt: skip
    assert (len(plan.trials), plan.duplicates) == (8, 4)
    with_when = plan_of(space=space, when={"patch_size": {"model": "mixer"}})
    assert ids(with_when) == ids(plan)


def test_a_value_written_twice_is_one_point() -> None:
    plan = plan_of(space={"lr": {"grid_search": [0.1, 1e-1, 0.2]}})
    assert ([c.lr for c in plan.trials], plan.duplicates) == ([0.1, 0.2, 0.1, 0.2], 2)


def test_seeds_are_paired_every_point_has_each_and_differs_in_nothing_else() -> None:
    plan = plan_of(seeds=[7, 3, 11])
    by_point: dict[int, list[Any]] = {}
    for row in plan.rows:
        by_point.setdefault(row.point, []).append(row)
    assert len(by_point) == 4
    for rows in by_point.values():
        assert [(r.replica, r.config.seed) for r in rows] == [(0, 7), (1, 3), (2, 11)]
        assert len({r.config.with_values(seed=0) for r in rows}) == 1


def test_seeds_count_up_from_the_bases() -> None:
    assert [c.seed for c in plan_of(base={"seed": 5}, seeds=2, space={}).trials] == [5, 6]
    assert plan_of(base={"seed": 5.0}, seeds=2, space={}).spec.seeds == (5, 6)


def test_a_trial_of_two_parts_has_two_rows_and_runs_once() -> None:
    parts = [
        {"name": "lr", "space": {"lr": {"grid_search": [0.1, 0.001]}}},
        {"name": "activation", "space": {"activation": {"grid_search": ["tanh", "relu"]}}},
    ]
    plan = make_plan(parse_spec({"name": "two", "parts": parts, "seeds": 2}))
    # lr = 0.001 with relu is the recipe itself, in both parts.
    assert (len(plan.rows), len(plan.trials), plan.shared, plan.duplicates) == (8, 6, 2, 0)
    assert [row.part for row in plan.rows] == ["lr"] * 4 + ["activation"] * 4
    assert len(plan.labels) == 6


def test_a_trial_asked_for_at_two_lengths_is_trained_to_the_longer() -> None:
    parts = [{"name": "long", "base": {"epochs": 9}}, {"name": "short", "base": {"epochs": 4}}]
    for order in (parts, parts[::-1]):
        plan = make_plan(parse_spec({"name": "lengths", "parts": order}))
        assert ([c.epochs for c in plan.trials], plan.shared) == ([9], 1)
    for values in ([4, 9], [9, 4]):
        plan = plan_of(space={"epochs": {"grid_search": values}}, seeds=1)
        assert ([c.epochs for c in plan.trials], plan.duplicates) == ([9], 1)
    # Under a schedule that depends on the length, they are two trials.
    plan = plan_of(base={"schedule": "cosine"}, space={"epochs": {"grid_search": [4, 9]}}, seeds=1)
    assert ([c.epochs for c in plan.trials], plan.duplicates) == ([4, 9], 0)


def test_the_same_file_gives_the_same_plan_always() -> None:
    drawn = {"lr": {"loguniform": [1e-4, 1e-1]}, "batch_size": {"choice": [32, 64]}}
    assert plan_of(space=drawn, samples=5).rows == plan_of(space=drawn, samples=5).rows
    assert plan_of(space=drawn, samples=5).rows != plan_of(space=drawn, samples=5, search_seed=1).rows
    code = "from mixsweep.sweep.planning.plan import make_plan; from mixsweep.sweep.planning.parse import load_spec;"
    code += "print([c.trial_id for c in make_plan(load_spec('demo')).trials])"
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == str(ids(make_plan(load_spec("demo"))))


@pytest.mark.parametrize(
    "wider",
    [
        {"seeds": 5},
        {"base": {"epochs": 40}},
        {"space": {**TWO_AXES["space"], "lr": {"grid_search": [1.0, 0.1, 0.05, 0.01]}}},
        {"space": {**TWO_AXES["space"], "dropout": {"grid_search": [0.0, 0.1]}}},
    ],
    ids=["more seeds", "more epochs", "more values", "another axis with the default among its values"],
)
def test_a_wider_sweep_keeps_the_ids_of_its_old_trials(wider: dict[str, Any]) -> None:
    assert set(ids(plan_of())) <= set(ids(plan_of(**wider)))


def test_ten_thousand_trials_are_planned_in_seconds(tmp_path: Path) -> None:
    rates = [number / 1e5 for number in range(1, 1001)]
    tables = {"name": "big", "seeds": 10, "base": {"epochs": 2}, "space": {"lr": {"grid_search": rates}}}
    start = time.process_time()
    plan = make_plan(parse_spec(tables))
    assert len(plan.trials) == len(set(ids(plan))) == 10_000
    save_plan(plan, SweepStore(tmp_path / "big"))
    seconds = time.process_time() - start
    print(f"10,000 trials planned and saved in {seconds:.1f} s")
    assert seconds < 15


@pytest.mark.parametrize("preset", ["demo", "learning-rates", "best-mixer"])
def test_a_saved_plan_reads_back_as_it_was(preset: str, tmp_path: Path) -> None:
    plan = make_plan(load_spec(preset))
    store = SweepStore(tmp_path / plan.spec.name)
    save_plan(plan, store)
    assert store.exists()
    assert read_plan(store) == plan.rows
    assert trials_of(read_plan(store)) == plan.trials
    assert labels_of(read_plan(store)) == plan.labels
    assert store.plan()["trial_id"].to_pylist() == [row.trial_id for row in plan.rows]
    save_plan(plan, store)  # and again, over the old one
    assert read_plan(store) == plan.rows


def test_a_plan_with_all_kinds_of_values_reads_back(tmp_path: Path) -> None:
    space = {
        "hidden": {"grid_search": [[8], [16, 8]]},
        "train_limit": {"grid_search": [64, 128]},
        "lr": {"loguniform": [1e-3, 1e-1]},
    }
    plan = plan_of(space=space, samples=2)
    save_plan(plan, SweepStore(tmp_path / "s"))
    assert read_plan(SweepStore(tmp_path / "s")) == plan.rows


def test_labels_say_what_varies_and_nothing_else() -> None:
    labels = list(plan_of().labels.values())
    assert labels[0] == "activation=relu lr=0.1 seed=42"
    assert len(set(labels)) == 8
    demo = make_plan(load_spec("demo")).labels.values()
    assert "patch-sizes patch_size=2 seed=42" in demo
    assert len(set(demo)) == len(demo)


def test_a_trial_is_picked_by_the_beginning_of_its_id() -> None:
    trials = plan_of().trials
    assert pick(trials, trials[3].trial_id[:8]) is trials[3]
    with pytest.raises(SpecError, match="no trial of the plan"):
        pick(trials, "zzz")
    first = {trial.trial_id[0] for trial in trials}
    shared = next(c for c in first if sum(trial.trial_id.startswith(c) for trial in trials) > 1)
    with pytest.raises(SpecError, match=f"--trial {shared}: [2-8] trials have ids that begin with it"):
        pick(trials, shared)
    for nothing in ("", "**", "../x", "a\0", "é" * 300):
        with pytest.raises(SpecError, match="not a trial's id or the start of one"):
            pick(trials, nothing)


def test_plan_starts_in_two_seconds_and_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    code = (
        "import sys, atexit, json\n"
        "atexit.register(lambda: print(json.dumps([*HEAVY & sys.modules.keys()]), file=sys.stderr))\n"
        "HEAVY = {'torch', 'ray', 'pandas', 'scipy', 'matplotlib', 'wandb', 'submitit'}\n"
        "sys.argv = ['sweep', 'plan', 'learning-rates', '--store', sys.argv[1]]\n"
        "from mixsweep.sweep.cli.app import main\n"
        "main()\n"
    )
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert "15 trials: 15 new" in done.stdout
    assert json.loads(done.stderr) == []
    print(f"sweep plan learning-rates: median {median(seconds):.2f} s of CPU, of {len(seconds)}")
    assert min(seconds) < 2  # the wall time depends on what else the machine does
    assert list(tmp_path.iterdir()) == []  # it runs and writes nothing


def test_under_a_rule_the_points_of_a_seed_run_in_an_order_of_their_own() -> None:
    in_order = plan_of(seeds=4)
    ruled = plan_of(seeds=4, stopping={"rule": "asha"})
    assert ruled.rows == in_order.rows
    replica = {row.trial_id: row.replica for row in ruled.rows}
    point = {row.trial_id: row.point for row in ruled.rows}
    seeds = [replica[config.trial_id] for config in ruled.trials]
    assert seeds == sorted(seeds)  # the first seed of every point before the second of any
    orders = [[point[c.trial_id] for c in ruled.trials if replica[c.trial_id] == seed] for seed in range(4)]
    assert len({tuple(order) for order in orders}) == 4
    assert make_plan(ruled.spec).trials == ruled.trials  # a resumed command has the same one


def test_a_point_that_is_added_leaves_the_order_of_the_others() -> None:
    few = plan_of(stopping={"rule": "asha"})
    more = plan_of(
        stopping={"rule": "asha"}, space={**few.spec.parts[0].space, "momentum": {"grid_search": [0.9]}}
    )
    kept = [config.trial_id for config in more.trials if config in few.trials]
    assert kept == [config.trial_id for config in few.trials]
