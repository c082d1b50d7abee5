"""Adaptive search by TPE: what is suggested, that the plan in the store is all there is, and what a kill costs."""

import math
import tomllib
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from mixsweep.cluster.places import find_place
from mixsweep.cluster.ray_cluster.nodes import local_ray
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.execution.runner import work
from mixsweep.core.failures import LeaseLostError
from mixsweep.core.store import files
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.sweep.backends.ray.search_driver import hold_driver_lease, run_search
from mixsweep.sweep.backends.ray.tune_driver import RaySlots
from mixsweep.sweep.planning.parse import parse_spec
from mixsweep.sweep.planning.plan import Plan, make_plan, read_plan, save_plan
from mixsweep.sweep.planning.schema import SpecError, SweepSpec
from mixsweep.sweep.run import make_run_config, run_plan
from mixsweep.sweep.runtime.worker import make_worker_spec, run_trials
from mixsweep.sweep.search.rungs import read_rung
from mixsweep.sweep.search.suggestions import SearchError, Suggestions, with_known
from mixsweep.sweep.search.tpe import Result, point_of, refit, suggest
from tests.support.commands import finish, kill_family, start, sweep_command, trajectories, wait_until
from tests.support.trials import change_info
from tests.sweep.planning.test_tune_trainables import FILE as FILE_OF_TUNE
from tests.sweep.planning.test_tune_trainables import load

FILE: dict[str, Any] = {
    "name": "found",
    "base": {
        "dataset": "digits", "epochs": 2, "batch_size": 64, "train_limit": 256, "valid_limit": 100,
        "augment": "none",
    },
    "space": {"lr": {"loguniform": [1e-4, 0.1]}, "hidden": {"choice": [[4], [16], [16, 8]]}},
    "search": {"algorithm": "tpe", "trials": 7, "startup_trials": 3},
}  # fmt: skip


def spec_with(**changes: Any) -> SweepSpec:
    """The sweep file with some tables' keys changed, as `base__epochs=3`."""
    tables = deepcopy(FILE)
    for path, value in changes.items():
        *folders, last = path.split("__")
        at = tables
        for folder in folders:
            at = at.setdefault(folder, {})
        at[last] = value
    return parse_spec(tables)


def search_all(
    spec: SweepSpec, count: int, value: Callable[[ImageConfig], float], state: str = "completed"
) -> list[Result]:
    """So many suggestions, one after the other, each with its result."""
    results: list[Result] = []
    for number in range(count):
        config = suggest(spec, number, results, {r.config.trial_id for r in results}.__contains__)
        assert config is not None
        reached = value(config)
        results.append(Result(config=config, state=state, value=reached, curve={config.epochs: reached}))
    return results


def far_from_a_hundredth(config: ImageConfig) -> float:
    return -abs(math.log10(config.lr) + 2)


def test_a_suggestion_follows_from_its_number_and_what_is_known_alone() -> None:
    spec = spec_with(search__trials=20)
    whole = search_all(spec, 16, far_from_a_hundredth)
    for number in (0, 5, 12):
        again = suggest(spec, number, whole[:number], lambda trial_id: False)
        assert again == whole[number].config
    assert suggest(spec_with(search_seed=1), 12, whole[:12], lambda trial_id: False) != whole[12].config


def test_later_suggestions_are_better_than_the_first_random_ones() -> None:
    results = search_all(spec_with(search__startup_trials=8), 32, far_from_a_hundredth)
    values = [result.value or 0.0 for result in results]
    assert sum(values[-8:]) / 8 > sum(values[:8]) / 8 + 0.3


def test_what_diverged_is_avoided_and_what_failed_says_nothing() -> None:
    def beyond(results: Sequence[Result]) -> float:
        found = [suggest(spec, n, results, lambda trial_id: False) for n in range(30)]
        return sum(config.lr > 0.012 for config in found if config) / len(found)

    def at(lr: float, state: str, value: float | None) -> Result:
        curve = {2: value} if value else {}
        return Result(config=base.with_values(lr=lr), state=state, value=value, curve=curve)

    spec = spec_with()
    base = ImageConfig.from_mapping({**FILE["base"], "hidden": [16]})
    rising = [at(1e-4 * 1.6**n, "completed", 0.1 + 0.05 * n) for n in range(10)]  # up to 0.007
    diverged = [at(0.012 * 1.3**n, "diverged", None) for n in range(8)]  # beyond it
    failed = [at(result.config.lr, "failed", None) for result in diverged]
    assert beyond(rising) > 0.15
    assert beyond(rising + diverged) < beyond(rising) / 2
    assert beyond(rising + failed) == beyond(rising)


def test_what_runs_at_once_is_not_the_same() -> None:
    spec = spec_with()
    results = search_all(spec, 12, far_from_a_hundredth)
    for number in range(12, 18):
        config = suggest(spec, number, results, lambda trial_id: False)
        assert config is not None
        results.append(Result(config=config, state="running", value=None, curve={}))
    rates = [r.config.lr for r in results[12:]]
    assert len(set(rates)) == len(rates)


def test_a_small_space_is_searched_to_its_end_and_no_trial_comes_twice() -> None:
    spec = spec_with(
        space={"lr": {"choice": [0.1, 0.01]}, "hidden": {"choice": [[4], [8], [16]]}}, search={"trials": 6}
    )
    found = search_all(spec, 6, lambda config: 0.5)
    ids = {result.config.trial_id for result in found}
    assert len(ids) == 6
    assert suggest(spec, 6, found, ids.__contains__) is None


def test_fields_that_do_not_count_are_left_out_of_a_point_and_a_trial_tells_its_point() -> None:
    spec = spec_with(
        space={
            "momentum": {"uniform": [0.1, 0.5]},
            "optimizer": {"choice": ["adam", "momentum"]},
            "patch_size": {"choice": [8, 16]},
            "dropout": {"quniform": [0.1, 0.5, 0.1]},
            "model": {"choice": ["mlp", "mixer"]},
        },
        when={"dropout": {"model": "mlp"}},
    )
    for result in search_all(spec, 14, lambda config: config.dropout):
        config, point = result.config, point_of(spec.parts[0], result.config)
        assert point is not None
        assert ("momentum" in point) == (config.optimizer == "momentum")
        assert ("patch_size" in point) == (config.model == "mixer")
        assert ("dropout" in point) == (config.model == "mlp")
        assert refit(spec, config) == config


def test_a_trial_outside_the_space_as_it_is_now_is_not_of_the_plan() -> None:
    config = suggest(spec_with(), 0, [], lambda trial_id: False)
    assert config is not None
    assert refit(spec_with(base__epochs=9), config) == config.with_values(epochs=9)
    assert refit(spec_with(space__lr={"loguniform": [1e-9, 1e-8]}), config) is None
    assert refit(spec_with(space__hidden={"choice": [[5]]}), config) is None
    assert refit(spec_with(base__batch_size=32), config) is None
    assert refit(spec_with(base__seed=1), config) is None


def test_a_suggestion_has_its_derived_fields_and_a_trial_of_another_derivation_is_outside() -> None:
    spec = spec_with(derive__weight_decay="lr / 100")
    found = [result.config for result in search_all(spec, 5, far_from_a_hundredth)]
    assert all(config["weight_decay"] == pytest.approx(config["lr"] / 100) for config in found)
    assert [refit(spec, config) for config in found] == found
    plain = [result.config for result in search_all(spec_with(), 5, far_from_a_hundredth)]
    assert [config["lr"] for config in found] == [config["lr"] for config in plain]
    assert all(refit(spec_with(derive__weight_decay="lr / 10"), config) is None for config in found)


def test_suggestions_of_which_none_is_a_trial_are_an_error_with_their_values() -> None:
    spec = spec_with(space={"accumulate": {"choice": [3, 5]}}, search={"trials": 2})
    with pytest.raises(SpecError, match=r"accumulate = . does not divide .* \(at accumulate = .\)"):
        suggest(spec, 0, [], lambda trial_id: False)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"search__algorithm": "tpee"}, "search.algorithm: 'tpee' is not known; did you mean 'tpe'?"),
    ({"search__trails": 3}, "search.trails: unknown key; did you mean 'trials'?"),
    ({"search__population": 3}, "search.population: unknown key"),
    ({"search__trials": 0}, "search.trials: 0 is not an integer of 1 or more"),
    ({"search__startup_trials": -1}, "search.startup_trials: -1 is not an integer"),
    ({"search": 3}, "search: 3 is not a table"),
    ({"seeds": 2}, "seeds: not with [search]"),
    ({"samples": 4}, "samples: not with [search]: write search.trials"),
    ({"space": {}}, "space: is empty"),
    ({"space__lr": {"grid_search": [1, 2]}}, "space.lr: grid_search runs every value; with [search] write choice"),
    ({"space__lr": {"randn": [0, 1]}}, "space.lr: tpe has no randn; write uniform"),
    ({"space__lr": {"qloguniform": [1, 2, 1]}}, "space.lr: tpe has no qloguniform"),
    ({"space": {"lr": {"choice": [0.1, 0.2]}}}, "search.trials: 7, but the space has only 2 points"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "complaint"), WRONG, ids=[next(iter(c)) for c, _ in WRONG])
def test_what_cannot_be_searched_is_one_line(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec_with(**changes)
    assert complaint in str(caught.value)


def test_a_place_without_a_driver_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"tpe needs a driver .* place debug .* --place local"):
        run_plan(make_plan(spec_with()), place="debug", store_root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_one_driver_at_a_time_chooses(tmp_path: Path) -> None:
    store = SweepStore(tmp_path / "found")
    with (
        hold_driver_lease(store),
        pytest.raises(SearchError, match="another command chooses"),
        hold_driver_lease(store),
    ):
        pass
    with hold_driver_lease(store):
        pass


def inline(spec: SweepSpec, root: Path, limit: int | None = None) -> Plan:
    """Search with one trial at a time, as on a cluster of one slot but in this process; the plan afterwards."""
    store = SweepStore(root / spec.name)
    run_config = make_run_config(spec, store, find_place("local"))
    plan = with_known(make_plan(spec), store)
    worker_spec = make_worker_spec(plan, run_config)
    with hold_driver_lease(store) as lease:
        save_plan(plan, store)
        trial_source = Suggestions(plan, store, run_config, limit, lease.check)
        while not trial_source.is_over() and (request := trial_source.take()) is not None:
            list(run_trials(worker_spec.until(request.until), [request.config]))
            trial_source.ended(request)
    return with_known(plan, store)


def states(store: SweepStore) -> list[str]:
    return [info.state for folder in store.trials() if (info := folder.info())]


def planned_ids(store: SweepStore) -> list[str]:
    return [row.trial_id for row in read_plan(store)]


def test_a_search_in_pieces_chooses_what_it_would_have_chosen_at_once(tmp_path: Path) -> None:
    whole = inline(spec_with(), tmp_path / "whole")
    assert len(whole.trials) == 7
    for expected, limit in ((3, 3), (5, 2), (7, None)):
        plan = inline(spec_with(), tmp_path / "pieces", limit)
        assert len(plan.trials) == expected
    assert plan.rows == whole.rows
    assert [row.point for row in plan.rows] == list(range(7))


def test_an_unfinished_trial_goes_on_before_another_is_chosen_and_more_epochs_extend_all(
    tmp_path: Path,
) -> None:
    store = SweepStore(tmp_path / "found")
    inline(spec_with(), tmp_path, limit=2)
    unfinished = store.trial(planned_ids(store)[0])
    info = unfinished.info()
    assert info is not None
    change_info(unfinished, replace(info, state="interrupted", epoch=1))
    assert len(inline(spec_with(), tmp_path, limit=1).trials) == 2
    assert states(store) == ["completed"] * 2
    longer = inline(spec_with(base__epochs=3), tmp_path, limit=2)
    assert len(longer.trials) == 2
    assert {store.trial(c.trial_id).records().num_rows for c in longer.trials} == {3}


def test_trials_that_the_store_has_from_another_plan_are_known_and_not_run_again(tmp_path: Path) -> None:
    spec = spec_with(space={"lr": {"choice": [0.1, 0.01, 0.001]}}, search={"trials": 2})
    store = SweepStore(tmp_path / "found")
    known = ImageConfig.from_mapping({**FILE["base"], "lr": 0.01})
    assert len(list(work([known], RunConfig(store=store.path)))) == 1
    before = store.trial(known.trial_id).info()
    assert {config.lr for config in inline(spec, tmp_path).trials} == {0.1, 0.001}
    assert store.trial(known.trial_id).info() == before


def test_a_stopping_rule_compares_all_trials_of_a_growing_plan(tmp_path: Path) -> None:
    rule = {"grace_epochs": 1, "reduction_factor": 2}
    inline(spec_with(base__epochs=6, stopping=rule, search__trials=8), tmp_path)
    store = SweepStore(tmp_path / "found")
    assert set(states(store)) == {"completed", "stopped"}
    rung = next((store.path / "rungs").glob("*/1"))
    assert len(read_rung(rung)) == 8


@pytest.mark.ray
def test_on_a_cluster_the_plan_grows_to_its_size_and_trains_as_anywhere_else(tmp_path: Path) -> None:
    store, ends = SweepStore(tmp_path / "found"), list[TrialInfo]()
    spec = spec_with()

    def search(spec: SweepSpec) -> None:
        run_config = make_run_config(spec, store, find_place("local"))
        plan = make_plan(spec)
        with hold_driver_lease(store) as lease:
            unchosen = run_search(
                plan,
                make_worker_spec(plan, run_config),
                RaySlots(count=2, needs={"CPU": 1}),
                limit=None,
                on_end=ends.append,
                say=print,
                fence=lease.check,
            )
            assert unchosen == 0

    with local_ray(2, 0):
        search(spec)
        first = planned_ids(store)
        assert len(first) == len(set(first)) == 7
        assert sorted(first) == sorted(info.trial_id for info in ends)
        search(spec)  # nothing is left
        assert len(ends) == 7
        search(spec_with(search__trials=9))
    assert planned_ids(store)[:7] == first
    assert len(set(planned_ids(store))) == len(ends) == 9
    assert states(store) == ["completed"] * 9
    elsewhere = SweepStore(tmp_path / "elsewhere")
    trials = [row.config for row in read_plan(store)]
    assert len(list(work(trials, RunConfig(store=elsewhere.path)))) == 9
    assert trajectories(elsewhere).equals(trajectories(store))


@pytest.mark.ray
def test_on_a_cluster_workers_know_the_kind_of_a_trainable_of_ones_own(tmp_path: Path) -> None:
    tables = tomllib.loads(FILE_OF_TUNE)
    del tables["claims"]
    tables |= {"space": {"lr": {"uniform": [0.02, 0.4]}}, "search": {"algorithm": "tpe", "trials": 2}}
    run_plan(make_plan(load(tmp_path, text=tomli_w.dumps(tables))), store_root=tmp_path)
    assert states(SweepStore(tmp_path / "descent")) == ["completed"] * 2


def write_file(folder: Path, epochs: int, trials: int) -> Path:
    path = folder / "found.toml"
    tables = {
        **FILE,
        "base": {**FILE["base"], "epochs": epochs},
        "search": {"trials": trials, "startup_trials": 3},
    }
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
    return path


@pytest.mark.ray
@pytest.mark.faults
def test_sigkill_of_the_driver_then_the_same_command_loses_and_doubles_no_suggestion(tmp_path: Path) -> None:
    command = sweep_command(write_file(tmp_path, 40, 6), tmp_path / "runs", "local")
    store = SweepStore(tmp_path / "runs" / "found")
    process = start(command)
    infos: Callable[[], list[TrialInfo]] = lambda: [i for f in store.trials() if (i := f.info())]  # noqa: E731
    wait_until(lambda: sum(i.ended for i in infos()) >= 2 and any(i.state == "running" for i in infos()))
    assert kill_family(process) > 2
    before = planned_ids(store)
    ended = {info.trial_id: info for info in infos() if info.ended}
    assert 3 <= len(before) < 6
    assert {info.trial_id for info in infos()} <= set(before)  # it stood in the plan before it ran

    done = finish(command)
    assert done.returncode == 0, done.stdout
    after = planned_ids(store)
    assert after[: len(before)] == before
    assert len(after) == len(set(after)) == 6
    assert {f.trial_id for f in store.trials()} == set(after)
    for info in infos():
        assert info.state == "completed"
        assert info.trial_id not in ended or ended[info.trial_id] == info
        starts = [attempt.from_epoch for attempt in info.attempts]
        assert starts == sorted(starts)


def test_a_damaged_or_older_plan_loses_no_suggestion(tmp_path: Path) -> None:
    inline(spec_with(search__trials=5), tmp_path)
    store = SweepStore(tmp_path / "found")
    plan = read_plan(store)
    earlier = store.plan().slice(0, 2)
    for damage in (
        lambda: (store.path / "plan.parquet").write_bytes(b"PAR1"),
        lambda: files.write_table(earlier, store.path / "plan.parquet"),  # a driver that slept writes its own
        lambda: (store.path / "plan.parquet").unlink(),
    ):
        damage()
        assert with_known(make_plan(spec_with(search__trials=5)), store).rows == plan


def test_a_driver_that_slept_makes_no_second_suggestion_of_a_number(tmp_path: Path) -> None:
    spec = spec_with(search__trials=5)
    inline(spec_with(search__trials=2), tmp_path)
    store = SweepStore(tmp_path / "found")
    plan, config = with_known(make_plan(spec), store), RunConfig(store=store.path)
    sleeper, other = (Suggestions(plan, store, config, None, lambda: None) for _ in range(2))
    made = other.take()
    assert made is not None
    with pytest.raises(LeaseLostError, match="another process chooses"):
        sleeper.take()
    assert [row.config for row in with_known(make_plan(spec), store).rows][2:] == [made.config]
