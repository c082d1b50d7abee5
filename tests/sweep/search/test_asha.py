"""sweep.search.asha: Ray's own ASHA, decided from files alone, once and for all."""

import math
import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from mixsweep.core import records
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.execution.runner import work
from mixsweep.core.records import Record
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.sweep.planning.schema import Stopping
from mixsweep.sweep.search import rungs
from mixsweep.sweep.search.asha import decide, make_decide, milestones
from mixsweep.sweep.search.rungs import CONTINUE, STOP, RungEntry, read_rung, rung_path
from tests.support.records import make_record
from tests.support.trials import write_trial

FACTORS = [1.5, 2.0, 2.5, 3.0, 4.0, 10.0]


class RayTrial:
    """What Ray Tune hands to a scheduler, as far as schedulers look."""

    def __init__(self, trial_id: str):
        self.trial_id = trial_id


def record(trial_id: str, epoch: int, value: float) -> Record:
    return make_record(
        trial_id=trial_id, epoch=epoch, step=epoch, train_loss=1.0, train_accuracy=0.5, valid_loss=value,
        valid_accuracy=value, lr=0.1, train_seconds=1.0, valid_seconds=1.0, images_per_second=1.0,
        peak_memory_bytes=1, attempt=1, recorded_at=records.now(),
    )  # fmt: skip


class Everyone(dict[str, int]):
    """Every trial is in the plan, with so many epochs."""

    def __init__(self, epochs: int):
        self._epochs = epochs

    def __contains__(self, trial_id: object) -> bool:
        return True

    def __getitem__(self, trial_id: str) -> int:
        return self._epochs


def name(number: int) -> str:
    return f"{number:012x}"


@settings(max_examples=60)
@given(
    data=st.data(),
    factor=st.sampled_from(FACTORS),
    grace=st.integers(1, 4),
    epochs=st.integers(1, 40),
    mode=st.sampled_from(["max", "min"]),
)
def test_decisions_are_those_of_rays_scheduler_driven_live(
    data: st.DataObject, factor: float, grace: int, epochs: int, mode: str, tmp_path_factory: Any
) -> None:
    rule = Stopping(grace_epochs=grace, reduction_factor=factor)
    store = SweepStore(tmp_path_factory.mktemp("sweep"))
    ours = make_decide(rule, store, "valid_loss", mode, Everyone(epochs))
    live = ASHAScheduler(
        "epoch", "value", mode, max_t=max(epochs, grace), grace_period=grace, reduction_factor=factor
    )
    count = data.draw(st.integers(2, 8))
    trials = {number: RayTrial(name(number)) for number in range(count)}
    for trial in trials.values():
        live.on_trial_add(None, trial)
    # Few different values, so that ties and cutoffs that are met exactly come up.
    values = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]) | st.floats(-1e6, 1e6)
    epoch_of = dict.fromkeys(trials, 0)
    while epoch_of:
        number = data.draw(st.sampled_from(sorted(epoch_of)))  # trials arrive in any order
        epoch_of[number] += 1
        epoch, value = epoch_of[number], data.draw(values)
        if epoch >= epochs:  # the last epoch ends a trial in either
            del epoch_of[number]
            assert not ours(record(name(number), epoch, value))
            continue
        theirs = live.on_trial_result(None, trials[number], {"epoch": epoch, "value": value})
        stopped = ours(record(name(number), epoch, value))
        assert stopped == (theirs == TrialScheduler.STOP), f"epoch {epoch}, trial {number}, {value}"
        if stopped:
            del epoch_of[number]


@pytest.mark.parametrize("seed", range(12))
def test_decisions_over_steps_are_those_of_rays_scheduler_with_step_as_its_time(
    seed: int, tmp_path: Path
) -> None:
    drawn = random.Random(seed)
    factor, grace, mode = drawn.choice(FACTORS), drawn.randint(1, 40), drawn.choice(["max", "min"])
    rule = Stopping(unit="step", grace_steps=grace, reduction_factor=factor)
    ours = make_decide(rule, SweepStore(tmp_path), "valid_loss", mode, Everyone(30))
    live = ASHAScheduler("step", "value", mode, max_t=10**6, grace_period=grace, reduction_factor=factor)
    trials = {number: RayTrial(name(number)) for number in range(4)}
    for trial in trials.values():
        live.on_trial_add(None, trial)
    at = dict.fromkeys(trials, (0, 0))
    while at:
        number = drawn.choice(sorted(at))
        epoch, step = at[number][0] + 1, at[number][1] + drawn.choice([1, 7, 100])
        at[number] = epoch, step
        if epoch == 20:
            del at[number]
            continue
        value = drawn.choice([0.0, 0.1, 0.25, 0.5, 0.9])
        row = replace(record(name(number), epoch, value), step=step)
        theirs = live.on_trial_result(None, trials[number], {"step": step, "value": value})
        stopped = ours(row)
        assert stopped == (theirs == TrialScheduler.STOP), f"step {step}, trial {number}, {value}"
        assert ours(row) == stopped  # trained again after a kill
        if stopped:
            del at[number]


def test_a_resumed_trial_enters_the_rung_that_it_would_have_entered(tmp_path: Path) -> None:
    store, rule = SweepStore(tmp_path), Stopping(unit="step", grace_steps=10)
    steps = (12, 100, 101)
    rows = [replace(record(name(1), n, 0.5), step=step) for n, step in enumerate(steps, start=1)]
    first = make_decide(rule, store, "valid_loss", "min", Everyone(9))
    assert not any(first(row) for row in rows[:2])
    begun = TrialInfo(trial_id=name(1), config=ImageConfig(), state="interrupted", epoch=2)
    write_trial(store.trial(name(1)), begun, rows[:2])
    resumed = make_decide(rule, store, "valid_loss", "min", Everyone(9))
    assert not resumed(replace(rows[2], attempt=2))
    rungs_of = {path.name: [entry.attempt for entry in read_rung(path)] for path in
                store.rungs_path("valid_loss", "min", "step").iterdir()}  # fmt: skip
    assert rungs_of == {"10": [1], "90": [1], "30": [2]}


def test_a_record_without_the_metric_enters_no_rung_and_the_last_one_is_not_compared(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    ours = make_decide(Stopping(unit="step", grace_steps=10), store, "valid_loss", "min", {name(1): 3})
    first = replace(record(name(1), 1, 0.5), step=12)
    assert not ours(first.with_metrics({"valid_loss": None}))
    assert not store.rungs_path("valid_loss", "min", "step").exists()
    assert not ours(replace(record(name(1), 2, 0.4), step=29))
    assert not ours(replace(record(name(1), 3, 0.3), step=90))
    (rung,) = store.rungs_path("valid_loss", "min", "step").iterdir()
    assert (rung.name, [entry.value for entry in read_rung(rung)]) == ("10", [0.4])
    assert not store.rungs_path("valid_loss", "min").exists()


@given(factor=st.sampled_from(FACTORS), grace=st.integers(1, 10), epochs=st.integers(1, 300))
def test_milestones_are_the_epochs_at_which_rays_rungs_record(factor: float, grace: int, epochs: int) -> None:
    rule = Stopping(grace_epochs=grace, reduction_factor=factor)
    live = ASHAScheduler("epoch", "value", "max", max_t=max(epochs, grace), grace_period=grace,
                         reduction_factor=factor)  # fmt: skip
    trial = RayTrial("a")
    live.on_trial_add(None, trial)
    rungs = live._brackets[0]._rungs
    recorded, found = 0, []
    for epoch in range(1, epochs):
        live.on_trial_result(None, trial, {"epoch": epoch, "value": 0.5})
        now = sum(bool(values) for _, values in rungs)
        if now > recorded:
            found.append(epoch)
        recorded = now
    assert milestones(rule, epochs) == tuple(found)


@pytest.mark.parametrize(
    ("grace", "factor", "epochs", "expected"),
    [
        (1, 3.0, 27, (1, 3, 9)),
        (3, 3.0, 15, (3, 9)),
        (1, 2.0, 16, (1, 2, 4, 8)),
        (2, 1.5, 10, (2, 3, 5, 7)),
        (5, 2.2, 200, (5, 11, 25, 54, 118)),
        (5, 3.0, 5, ()),
        (5, 3.0, 3, ()),
    ],
)
def test_milestones_lie_below_the_last_epoch(
    grace: int, factor: float, epochs: int, expected: tuple[int, ...]
) -> None:
    assert milestones(Stopping(grace_epochs=grace, reduction_factor=factor), epochs) == expected


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_a_decision_does_not_depend_on_the_order_in_which_a_rung_is_listed(
    values: list[float], rng: random.Random
) -> None:
    entries = [RungEntry(name(number), value, CONTINUE) for number, value in enumerate(values)]
    shuffled = rng.sample(entries, len(entries))
    for value in [*values, 0.0]:
        one, other = (decide(Stopping(), "max", listed, value) for listed in (entries, shuffled))
        assert one == other


def test_the_first_at_a_rung_goes_on_and_the_worst_of_many_is_stopped() -> None:
    assert decide(Stopping(), "max", [], 0.1) == CONTINUE
    others = [RungEntry(name(n), n / 10, CONTINUE) for n in range(1, 10)]
    assert decide(Stopping(), "max", others, 0.05) == STOP
    assert decide(Stopping(), "max", others, 0.95) == CONTINUE
    assert decide(Stopping(), "min", others, 0.05) == CONTINUE
    assert decide(Stopping(), "min", others, 0.95) == STOP


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_rungs_files_hold_every_value_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, value: float
) -> None:
    rung = tmp_path_factory.mktemp("rung")
    (rung / f"{name(1)}_{value!r}_{CONTINUE}").touch()  # as a version before 0.3 made it
    (rung / "a stray file").touch()
    made = rungs.enter_rung(rung, name(2), 3, value, lambda entries: STOP)
    assert read_rung(rung) == [RungEntry(name(1), value, CONTINUE), RungEntry(name(2), value, STOP, 3, 1)]
    assert made == read_rung(rung)[1]


def test_trials_that_left_the_plan_and_values_of_another_metric_do_not_compete(tmp_path: Path) -> None:
    rule, store = Stopping(), SweepStore(tmp_path)
    for number in range(1, 10):
        make_decide(rule, store, "valid_loss", "min", Everyone(9))(record(name(number), 1, 0.01))
    assert make_decide(rule, store, "valid_loss", "min", Everyone(9))(record(name(11), 1, 0.5))
    assert not make_decide(rule, store, "valid_loss", "min", {name(12): 9})(record(name(12), 1, 0.5))
    assert not make_decide(rule, store, "train_loss", "min", Everyone(9))(record(name(13), 1, 0.5))


def test_a_decision_is_recorded_and_holds_after_a_kill_whatever_came_since(tmp_path: Path) -> None:
    rule, store = Stopping(reduction_factor=2.0), SweepStore(tmp_path)

    def decider() -> Callable[[Record], bool]:
        """As a process started anew has it."""
        return make_decide(rule, SweepStore(tmp_path), "valid_accuracy", "max", Everyone(10))

    assert not decider()(record(name(1), 1, 0.2))
    assert not decider()(record(name(2), 1, 0.9))
    assert not decider()(record(name(4), 1, 0.8))
    assert decider()(record(name(3), 1, 0.1))
    rung = rung_path(store, "valid_accuracy", "max", 1)
    entries = {entry.trial_id: (entry.value, entry.decision) for entry in read_rung(rung)}
    assert entries == {
        name(1): (0.2, CONTINUE),
        name(2): (0.9, CONTINUE),
        name(3): (0.1, STOP),
        name(4): (0.8, CONTINUE),
    }
    # Today the first would be stopped; it was told to go on, and its resumed process hears the same.
    assert decide(rule, "max", read_rung(rung), 0.2) == STOP
    assert not decider()(record(name(1), 1, 0.2))
    assert decider()(record(name(3), 1, 0.1))
    assert len(read_rung(rung)) == 4


def test_two_stores_whose_files_were_made_in_another_order_decide_alike(tmp_path: Path) -> None:
    values = {name(number): random.Random(number).random() for number in range(9)}
    decisions = []
    for label, order in (("one", sorted(values)), ("other", sorted(values, reverse=True))):
        rung = tmp_path / label / "rungs" / "valid_loss-min" / "1"
        rung.mkdir(parents=True)
        for trial_id in order:
            (rung / f"{trial_id}_{values[trial_id]!r}_{CONTINUE}").touch()
        (rung / ".nfs0001").touch()
        ours = make_decide(Stopping(), SweepStore(tmp_path / label), "valid_loss", "min", Everyone(9))
        decisions.append([ours(record(f"f{number:011x}", 1, number / 20)) for number in range(20)])
    assert decisions[0] == decisions[1]
    assert set(decisions[0]) == {True, False}


def test_deleting_the_rungs_loses_decisions_and_no_result(
    tmp_path: Path, tiny: Callable[..., ImageConfig]
) -> None:
    rule = Stopping(reduction_factor=2.0)
    configs = [tiny(lr=lr, epochs=4) for lr in (1e-3, 1e-5, 1e-7)]
    run_config = RunConfig(store=tmp_path, stopping=True)
    store = SweepStore(tmp_path)
    ours = make_decide(rule, store, "valid_loss", "min", Everyone(4))
    ends = list(work(configs, run_config, ours))
    assert [end.state for end in ends] == ["completed", "stopped", "stopped"]
    before = store.records()
    for path in (tmp_path / "rungs").glob("*/*/*"):
        path.unlink()
    assert list(work(configs, run_config, ours)) == []  # what has ended has ended
    assert store.records().equals(before)
    better = tiny(lr=3e-3, epochs=4)
    (end,) = work([better], run_config, ours)  # and who comes next is the first at its rungs
    assert end.state == "completed"
    assert {entry.trial_id for entry in read_rung(rung_path(store, "valid_loss", "min", 1))} == {
        better.trial_id
    }


def test_a_sweep_killed_at_a_rung_and_resumed_decides_as_one_that_was_not(
    tmp_path: Path, tiny: Callable[..., ImageConfig]
) -> None:
    configs = [tiny(lr=lr, epochs=5) for lr in (1e-3, 1e-6, 1e-2, 1e-4)]
    rule = Stopping(reduction_factor=2.0)
    states = {}
    for label, pauses in (("straight", 0), ("paused", 1)):
        store = SweepStore(tmp_path / label)
        ours = make_decide(rule, store, "valid_loss", "min", Everyone(5))
        run_config = RunConfig(store=store.path, stopping=True)
        for config in configs:  # one after the other, so that the order of arrivals is the same
            for _ in range(8 * pauses + 1):
                asked = iter(["", "interrupted", "interrupted"] if pauses else [""] * 9)
                list(work([config], run_config, ours, asked.__next__))
        rungs = [rung_path(store, "valid_loss", "min", epoch) for epoch in (1, 2, 4)]
        entries = [[replace(entry, attempt=0) for entry in read_rung(rung)] for rung in rungs]
        ends = [getattr(store.trial(config.trial_id).info(), "state", "") for config in configs]
        states[label] = (ends, entries)
    assert states["paused"] == states["straight"]
    assert set(states["straight"][0]) == {"completed", "stopped"}


def test_without_a_rule_nothing_is_stopped_or_written(tmp_path: Path) -> None:
    ours = make_decide(None, SweepStore(tmp_path), "valid_loss", "min", Everyone(9))
    assert not any(ours(record(name(1), epoch, 1e9)) for epoch in range(1, 9))
    assert list(tmp_path.iterdir()) == []


def test_between_milestones_nothing_is_decided(tmp_path: Path) -> None:
    rule = replace(Stopping(), grace_epochs=3)
    ours = make_decide(rule, SweepStore(tmp_path), "valid_loss", "min", Everyone(9))
    assert not any(ours(record(name(1), epoch, 0.1)) for epoch in (1, 2, 4, 5, 8, 9))
    assert not (tmp_path / "rungs").exists()


def take_part(path: Path, numbers: list[int]) -> None:
    """Decide on these trials at one rung, as a process of its own."""
    ours = make_decide(Stopping(), SweepStore(path), "valid_loss", "min", Everyone(9))
    for number in numbers:
        ours(record(name(number), 1, random.Random(number).random()))


def decisions_of_ray(entries: list[RungEntry], rule: Stopping, mode: str) -> list[str]:
    """What Ray's scheduler decides when it is fed these values in this order."""
    live = ASHAScheduler(
        "epoch", "value", mode, max_t=3, grace_period=1, reduction_factor=rule.reduction_factor
    )
    found = []
    for entry in entries:
        trial = RayTrial(entry.trial_id)
        live.on_trial_add(None, trial)
        decision = live.on_trial_result(None, trial, {"epoch": 1, "value": entry.value})
        found.append(STOP if decision == TrialScheduler.STOP else CONTINUE)
    return found


@pytest.mark.faults
def test_many_processes_at_one_rung_decide_in_one_order_as_ray_does(
    tmp_path: Path, processes: ForkServerContext
) -> None:
    parts = [list(range(worker * 25, worker * 25 + 25)) for worker in range(6)]
    parts[5] = parts[4]  # two attempts at the same trials
    workers = [processes.Process(target=take_part, args=(tmp_path, part)) for part in parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    entries = read_rung(rung_path(SweepStore(tmp_path), "valid_loss", "min", 1))
    assert [entry.number for entry in entries] == list(range(1, 126))
    assert len({entry.trial_id for entry in entries}) == 125
    assert [entry.decision for entry in entries] == decisions_of_ray(entries, Stopping(), "min")


@given(
    values=st.lists(
        st.sampled_from([0.1, 0.5, 0.9, math.nan, math.inf, -math.inf]) | st.floats(-9, 9), max_size=30
    ),
    factor=st.sampled_from(FACTORS),
    mode=st.sampled_from(["max", "min"]),
)
def test_a_decision_is_rays_also_with_values_that_are_no_numbers(
    values: list[float], factor: float, mode: str
) -> None:
    rule, entries = Stopping(reduction_factor=factor), []
    for number, value in enumerate(values):
        decision = decide(rule, mode, entries, value)
        entries.append(RungEntry(name(number), value, decision, 1, number + 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert [entry.decision for entry in entries] == decisions_of_ray(entries, rule, mode)


def test_a_process_killed_between_number_and_entry_leaves_its_decision(tmp_path: Path) -> None:
    rung = tmp_path / "1"
    first = rungs.enter_rung(rung, name(1), 1, 0.5, lambda entries: STOP)
    (rung / first.name).unlink()
    assert read_rung(rung) == [first]
    assert (rung / first.name).exists()
    (rung / "000002").touch()  # a number whose file a power cut has emptied
    third = rungs.enter_rung(rung, name(2), 1, 0.5, lambda entries: CONTINUE)
    assert third.number == 3
    assert read_rung(rung) == [first, third]


def test_an_attempt_that_slept_gets_the_decision_of_the_one_that_took_over(tmp_path: Path) -> None:
    rung = tmp_path / "1"

    def take_over(entries: object) -> str:
        """While the first attempt decides, the second one enters."""
        if not (rung / "000001").exists():
            rungs.enter_rung(rung, name(1), 2, 0.7, lambda entries: STOP)
        return CONTINUE

    entry = rungs.enter_rung(rung, name(1), 1, 0.5, take_over)
    assert (entry.attempt, entry.value, entry.decision) == (2, 0.7, STOP)
    assert read_rung(rung) == [entry]


def test_a_metric_may_have_any_name(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    assert rung_path(store, "valid_accuracy", "max", 3) == tmp_path / "rungs" / "valid_accuracy-max" / "3"
    paths = {
        rung_path(store, metric, "min", 1) for metric in ("eval/loss", "eval%2Floss", "..", "bits per char Ω")
    }
    assert len(paths) == 4
    assert {path.parent.parent for path in paths} == {tmp_path / "rungs"}
