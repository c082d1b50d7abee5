"""Population based training: Ray's decisions from values alone, parentage, and that a kill changes nothing."""

import json
import random
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from mixsweep.analysis.frames import load_trials
from mixsweep.analysis.report.report import write_report
from mixsweep.cluster.places import find_place
from mixsweep.core.errors import ConfigError
from mixsweep.core.store import files
from mixsweep.core.store.integrity import check_sweep
from mixsweep.core.store.retention import remove_checkpoints
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.folder import TrialFolder
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.store.trial.transfer import copy_checkpoint
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.sweep.backends.base import RunOptions
from mixsweep.sweep.backends.ray.search_driver import hold_driver_lease
from mixsweep.sweep.planning.parse import parse_spec
from mixsweep.sweep.planning.plan import Plan, make_plan, read_plan, save_plan
from mixsweep.sweep.planning.schema import SpecError, SweepSpec
from mixsweep.sweep.run import make_run_config, run_plan
from mixsweep.sweep.runtime.worker import make_worker_spec, run_trials
from mixsweep.sweep.search.pbt import Population, PopulationDecision, decide, decision_path, exploited_configs
from mixsweep.sweep.search.suggestions import SearchError, with_known
from mixsweep.sweep.search.trial_source import TrialRequest
from mixsweep.sweep.status_reader import StatusReader
from tests.support.commands import finish, kill_family, start, sweep_command, trajectories, wait_until
from tests.support.trials import checkpoint_path, write_checkpoint

FILE: dict[str, Any] = {
    "name": "peers",
    "base": {
        "dataset": "digits", "hidden": [16], "epochs": 6, "batch_size": 64, "train_limit": 256,
        "valid_limit": 100, "augment": "none", "optimizer": "momentum",
    },
    "space": {"lr": {"loguniform": [1e-4, 0.3]}, "momentum": {"choice": [0.5, 0.7, 0.9]}},
    "search": {"algorithm": "pbt", "population": 4, "interval_epochs": 2, "mutate": ["lr", "momentum"]},
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


EIGHT = spec_with(search__population=8)


def test_the_worst_quarter_goes_on_from_the_best_one_with_values_of_its_own() -> None:
    members = list(make_plan(EIGHT).trials)
    assert len({config.trial_id for config in members}) == 8
    decision = decide(EIGHT, 2, members, [0.1, 0.9, 0.5, 0.4, 0.2, 0.6, 0.8, 0.3])
    ids = [config.trial_id for config in members]
    assert [exploit is not None for exploit in decision.exploits] == [i in (0, 4) for i in range(8)]
    after = exploited_configs(decision, members)
    for place, config in enumerate(after):
        if place not in (0, 4):
            assert config == members[place]
            continue
        parent = members[ids.index(config.parent.partition("@")[0])]
        assert parent in (members[1], members[6])
        assert config.begins_after == 2
        assert config.lr != parent.lr
        assert 1e-4 <= config.lr <= 0.3
        assert config.momentum in (0.5, 0.7, 0.9)
        assert config.with_values(lr=parent.lr, momentum=parent.momentum, parent="") == parent
    assert len({config.trial_id for config in after}) == 8


def test_derived_fields_follow_the_values_that_change() -> None:
    spec = spec_with(search__population=8, derive__weight_decay="lr / 100")
    members = list(make_plan(spec).trials)
    assert all(config["weight_decay"] == pytest.approx(config["lr"] / 100) for config in members)
    decision = decide(spec, 2, members, [0.1, 0.9, 0.5, 0.4, 0.2, 0.6, 0.8, 0.3])
    after = exploited_configs(decision, members)
    assert all(config["weight_decay"] == pytest.approx(config["lr"] / 100) for config in after)
    assert sum(config["weight_decay"] not in {c["weight_decay"] for c in members} for config in after) == 2
    assert exploited_configs(PopulationDecision.from_mapping(decision.to_mapping()), members) == after
    plain = decide(EIGHT, 2, list(make_plan(EIGHT).trials), [0.1, 0.9, 0.5, 0.4, 0.2, 0.6, 0.8, 0.3])
    changed = [e and {n: v for n, v in e.values.items() if n != "weight_decay"} for e in decision.exploits]
    assert changed == [e and dict(e.values) for e in plain.exploits]


@pytest.mark.parametrize(
    ("derive", "said"),
    [
        (
            {"batch_size": "int(64 * lr) + 1"},
            "derive.batch_size: changes with [search] mutate, but a trained state",
        ),
        ({"epochs": "4 + 2"}, "derive.epochs: not with pbt: a population is compared at the same epochs"),
    ],
)
def test_what_a_trained_state_depends_on_cannot_follow(derive: dict[str, str], said: str) -> None:
    tables = {**FILE, "base": {k: v for k, v in FILE["base"].items() if k not in derive}, "derive": derive}
    with pytest.raises(SpecError) as caught:
        parse_spec(tables)
    assert said in str(caught.value)


def test_a_decision_depends_on_its_values_alone_and_draws_from_nobody_elses_numbers() -> None:
    members = list(make_plan(EIGHT).trials)
    values = [random.random() for _ in members]
    before = random.getstate()
    one = decide(EIGHT, 2, members, values)
    assert random.getstate() == before
    random.seed(5)
    assert decide(EIGHT, 2, members, values) == one
    assert PopulationDecision.from_mapping(json.loads(json.dumps(one.to_mapping()))) == one
    assert decide(EIGHT, 4, members, values).exploits != one.exploits
    assert decide(spec_with(search__population=8, search_seed=9), 2, members, values) != one


def test_a_loss_is_better_when_it_is_smaller() -> None:
    spec = spec_with(metric="valid_loss", search__population=8)
    members = list(make_plan(spec).trials)
    decision = decide(spec, 2, members, [0.1, 0.9, 0.5, 0.4, 0.2, 0.6, 0.8, 0.3])
    assert [exploit is not None for exploit in decision.exploits] == [i in (1, 6) for i in range(8)]


def test_what_diverged_is_the_worst_and_never_a_parent() -> None:
    members = list(make_plan(EIGHT).trials)
    decision = decide(EIGHT, 2, members, [None, 0.9, float("nan"), 0.4, 0.2, 0.6, 0.8, 0.3])
    assert [exploit is not None for exploit in decision.exploits] == [i in (0, 2) for i in range(8)]
    assert decide(EIGHT, 2, members, [None] * 8).exploits == (None,) * 8
    one_left = decide(EIGHT, 2, members, [None] * 7 + [0.5])
    assert {e.parent for e in one_left.exploits if e} <= {members[7].trial_id}


def test_two_heirs_of_one_parent_are_two_trials() -> None:
    spec = spec_with(search__population=4, search__quantile=0.5, search__mutate=["momentum"])
    for seed in range(20):
        plan = make_plan(replace(spec, search_seed=seed))
        after = exploited_configs(decide(plan.spec, 2, plan.trials, [0.1, 0.2, 0.8, 0.9]), plan.trials)
        assert len({config.trial_id for config in after}) == 4


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"search__trials": 3}, "search.trials: unknown key"),
    ({"search__population": 1}, "search.population: 1 is not an integer of 2 or more"),
    ({"search__mutate": []}, "search.mutate: missing: fields of [space] among lr"),
    ({"search__mutate": ["lrr"]}, "'lrr' is not known; did you mean 'lr'?"),
    ({"search__mutate": ["dropout"]}, "search.mutate[0]: 'dropout' is not in [space]"),
    ({"search__quantile": 0.6}, "search.quantile: 0.6 is not above 0 and at most 0.5"),
    ({"search__resample": 1.5}, "search.resample: 1.5 is not from 0 to 1"),
    ({"search__interval_epochs": 6}, "search.interval_epochs: 6 leaves nothing to compare in 6 epochs"),
    ({"stopping": {"rule": "asha"}}, "stopping: not with pbt"),
    ({"samples": 2}, "samples: not with [search]: write search.population"),
    ({"when": {"lr": {"optimizer": "sgd"}}}, "search.mutate[0]: 'lr' has a condition in [when]"),
    ({"base__parent": "44136fa355b3@3"}, "base.parent: is written only by a population"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "complaint"), WRONG, ids=[next(iter(c)) for c, _ in WRONG])
def test_what_no_population_can_be_is_one_line(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec_with(**changes)
    assert complaint in str(caught.value)


def test_a_population_is_run_whole_and_by_a_driver(tmp_path: Path) -> None:
    plan = make_plan(spec_with())
    with pytest.raises(SearchError, match=r"pbt needs a driver .* place debug"):
        run_plan(plan, place="debug", store_root=tmp_path)
    with pytest.raises(SearchError, match="--limit: not with pbt"):
        run_plan(plan, place="local", store_root=tmp_path, options=RunOptions(limit=2))


def test_a_parent_is_a_trial_and_an_epoch() -> None:
    assert ImageConfig(parent="44136fa355b3@12").begins_after == 12
    for wrong in ("44136fa355b3", "44136fa355b3@0", "x@1", "44136fa355b3@1.5"):
        with pytest.raises(ConfigError, match="parent"):
            ImageConfig(parent=wrong)


def inline(
    spec: SweepSpec,
    root: Path,
    legs: int = 1000,
    before_leg: Callable[[TrialRequest], None] = lambda request: None,
) -> Plan:
    """Train a population with one trial at a time in this process, for so many legs; the plan afterwards."""
    store = SweepStore(root / spec.name)
    run_config = make_run_config(spec, store, find_place("local"))
    worker_spec = make_worker_spec(make_plan(spec), run_config)
    with hold_driver_lease(store) as lease:
        save_plan(with_known(make_plan(spec), store), store)
        trial_source = Population(make_plan(spec), store, run_config, lease.check)
        while legs and not trial_source.is_over() and (request := trial_source.take()) is not None:
            before_leg(request)
            list(run_trials(worker_spec.until(request.until), [request.config]))
            trial_source.ended(request)
            legs -= 1
    return with_known(make_plan(spec), store)


def test_members_are_compared_once_their_workers_have_left_them(tmp_path: Path) -> None:
    spec = spec_with()
    store, plan = SweepStore(tmp_path / spec.name), make_plan(spec)
    run_config = make_run_config(spec, store, find_place("local"))
    save_plan(plan, store)
    with hold_driver_lease(store) as lease:
        source = Population(plan, store, run_config, lease.check)
        requests = [request for _ in plan.trials if (request := source.take()) is not None]
        for request in requests:
            list(run_trials(make_worker_spec(plan, run_config).until(request.until), [request.config]))
        assert len(requests) == len(plan.trials) == 4
        for request in requests[1:]:
            source.ended(request)
        assert source.take() is None  # the first one's worker may still hold its lease
        assert len(source.plan.trials) == 4
        source.ended(requests[0])
        assert source.take() is not None
        assert len(source.plan.trials) == 5


def infos(store: SweepStore) -> dict[str, TrialInfo]:
    return {folder.trial_id: info for folder in store.trials() if (info := folder.info())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepStore, Plan]:
    """A population trained to its end, undisturbed."""
    root = tmp_path_factory.mktemp("whole")
    plan = inline(spec_with(), root)
    return SweepStore(root / "peers"), plan


def test_an_heir_goes_on_from_its_parents_checkpoint_and_says_so(whole: tuple[SweepStore, Plan]) -> None:
    store, plan = whole
    heirs = [config for config in plan.trials if config.parent]
    assert len(plan.trials) == 6
    assert [config.begins_after for config in heirs] == [2, 4]
    states = {trial_id: info.state for trial_id, info in infos(store).items()}
    assert sorted(states.values()) == ["completed"] * 4 + ["stopped"] * 2
    assert list(check_sweep(store)) == []
    assert [row["parent"] for row in store.plan().to_pylist() if row["parent"]] == [h.parent for h in heirs]
    for heir in heirs:
        parent, _, epoch = heir.parent.partition("@")
        rows = store.trial(heir.trial_id).records().to_pylist()
        before = store.trial(parent).records().to_pylist()
        assert [row["epoch"] for row in rows] == list(range(int(epoch) + 1, len(rows) + int(epoch) + 1))
        assert rows[0]["step"] > before[heir.begins_after - before[0]["epoch"]]["step"]
        assert all(row["lr"] == heir.lr for row in rows)
        info = store.trial(heir.trial_id).info()
        assert info is not None
        assert info.attempts[0].from_epoch == int(epoch)
        ends = [attempt.end for attempt in info.attempts]
        assert ends[:-1] == ["paused"] * (len(ends) - 1)
    # It begins where its parent stood: far better than a trial that begins anew.
    first = store.trial(heirs[0].trial_id).records().to_pylist()[0]
    parent_rows = store.trial(heirs[0].parent.partition("@")[0]).records().to_pylist()
    assert first["valid_accuracy"] > parent_rows[0]["valid_accuracy"]


def test_readers_see_a_population_and_a_plan_from_before_there_were_parents(
    whole: tuple[SweepStore, Plan], tmp_path: Path
) -> None:
    store, plan = whole
    trials = load_trials(store.path)
    assert sorted(trials["parent"]) == sorted(config.parent for config in plan.trials)
    assert write_report([store.path], tmp_path / "report").is_file()
    (best,) = (t for t in [StatusReader(store).read().best] if t)
    labels = [trial.label for trial in StatusReader(store).read().trials]
    assert sum(" parent=" in label for label in labels) == 2
    assert best.state == "completed"

    old = SweepStore(tmp_path / "old")
    shutil.copytree(store.path, old.path)
    files.write_table(store.plan().drop_columns(["parent"]), old.path / "plan.parquet")
    assert set(load_trials(old.path)["parent"]) == {""}
    assert {row.config.parent for row in read_plan(old)} == {""}


def test_in_pieces_a_population_does_what_it_would_have_done_at_once(
    whole: tuple[SweepStore, Plan], tmp_path: Path
) -> None:
    store, plan = whole
    for _ in range(7):
        again = inline(spec_with(), tmp_path, legs=2)
    assert again.rows == plan.rows
    pieces = SweepStore(tmp_path / "peers")
    assert trajectories(pieces).equals(trajectories(store))
    for epoch in (2, 4):
        (path,) = (store.path / "population" / "valid_accuracy-max").glob(f"{epoch}.*.json")
        assert path.read_text() == (pieces.path / path.relative_to(store.path)).read_text()


def test_a_recorded_decision_is_kept_whatever_the_values_say_later(tmp_path: Path) -> None:
    spec, store = spec_with(), SweepStore(tmp_path / "peers")
    inline(spec, tmp_path, legs=5)
    path = decision_path(store, spec, 2, make_plan(spec).trials)
    decided = files.read_json(path)
    (heir,) = [heir for heir in decided["heirs"] if heir]
    heir["values"]["lr"] = 0.0123
    files.write_json(path, decided)
    plan = inline(spec, tmp_path)
    assert any(config.lr == 0.0123 and config.parent for config in plan.trials)
    assert files.read_json(path) == decided


def test_an_heir_without_its_checkpoint_fails_by_that_name_and_the_others_go_on(tmp_path: Path) -> None:
    spec, store = spec_with(), SweepStore(tmp_path / "peers")

    def lose(request: TrialRequest) -> None:
        if request.config.begins_after == 2:
            remove_checkpoints(store.trial(request.config.trial_id))

    plan = inline(spec, tmp_path, before_leg=lose)
    lost = next(config for config in plan.trials if config.begins_after == 2)
    info = store.trial(lost.trial_id).info()
    assert info is not None
    assert (info.state, info.failure) == ("failed", "parent")
    assert f"no checkpoint of {lost.parent} to continue from" in info.attempts[-1].message
    assert store.trial(lost.trial_id).records().num_rows == 0
    others = [i.state for i in infos(store).values() if i.trial_id != lost.trial_id]
    assert sorted(others) == ["completed"] * 4 + ["stopped"]  # the failed one, as the worst, has an heir


def test_hyperparameters_are_the_heirs_own_though_the_optimizers_state_is_its_parents(tmp_path: Path) -> None:
    import torch

    from mixsweep.core.data.datasets import load_images
    from mixsweep.core.training.trainer import Trial

    images, cpu = load_images("digits", None), torch.device("cpu")
    parent = Trial(make_plan(spec_with()).trials[0].with_values(epochs=1), images, cpu)
    next(parent.train())
    own = parent.config.with_values(momentum=0.123, weight_decay=0.01, lr=0.05)
    heir = Trial(own, images, cpu)
    heir.restore(parent.state())
    (group,) = heir.optimizer.param_groups
    assert (group["momentum"], group["weight_decay"]) == (0.123, 0.01)
    buffers = [s["momentum_buffer"] for s in heir.optimizer.state.values()]
    theirs = [s["momentum_buffer"] for s in parent.optimizer.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(buffers, theirs, strict=True))


def test_a_copied_checkpoint_is_whole_and_a_damaged_one_is_not_copied(tmp_path: Path) -> None:
    source, target, other = (TrialFolder(tmp_path / name) for name in ("source", "target", "other"))
    for folder in (target, other):
        folder.path.mkdir()
    assert not copy_checkpoint(source, target)
    write_checkpoint(source, {"epoch": 3})
    assert copy_checkpoint(source, target)
    assert target.load_checkpoint() == {"epoch": 3}
    path = checkpoint_path(source)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    assert not copy_checkpoint(source, other)
    assert list(other.path.iterdir()) == []


@pytest.mark.ray
@pytest.mark.faults
def test_sigkill_of_the_driver_then_the_same_command_ends_as_if_nothing_had_been(
    whole: tuple[SweepStore, Plan], tmp_path: Path
) -> None:
    file = tmp_path / "peers.toml"
    file.write_text(tomli_w.dumps(FILE), encoding="utf-8")
    command = sweep_command(file, tmp_path / "runs", "local")
    store = SweepStore(tmp_path / "runs" / "peers")
    process = start(command)
    first = decision_path(store, whole[1].spec, 2, make_plan(whole[1].spec).trials)
    wait_until(first.exists)
    assert kill_family(process) > 2
    done = finish(command)
    assert done.returncode == 0, done.stdout
    assert trajectories(store).equals(trajectories(whole[0]))
    assert store.plan().equals(whole[0].plan())
    states = sorted(info.state for info in infos(store).values())
    assert states == ["completed"] * 4 + ["stopped"] * 2
