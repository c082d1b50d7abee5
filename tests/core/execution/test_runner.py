"""core.execution.runner: nothing lost, nothing run twice, and each failure's kind has its action."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixsweep.core import provenance, records, registry
from mixsweep.core.data.datasets import load_images
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.execution.runner import run_trial, work
from mixsweep.core.failures import DEATHS_WITHOUT_PROGRESS, TIMEOUTS_WITHOUT_PROGRESS, DataError, Interruption
from mixsweep.core.records import Record
from mixsweep.core.store.retention import Retention
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.crash_recovery import finalize_killed_attempt
from mixsweep.core.store.trial.folder import TrialFolder
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.store.trial.lease import lease_is_live
from mixsweep.core.store.trial.segments import write_segment
from mixsweep.core.store.trial.term import Term
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.core.trainables.image.records import has_diverged
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.core.training.trainer import Trial
from tests.support.trials import change_info, head_path, log_text, record_paths

Tiny = Callable[..., ImageConfig]


def new_command(store: Path, **values: Any) -> RunConfig:
    """The setting of a command that is given now."""
    return RunConfig(store=store, command_id=uuid.uuid4().hex, retention=Retention("all"), **values)


def run(configs: list[ImageConfig], run_config: RunConfig, **hooks: Any) -> list[TrialInfo]:
    return list(work(configs, run_config, **hooks))


def folder_of(store: Path, config: ImageConfig) -> TrialFolder:
    return SweepStore(store).trial(config.trial_id)


def info_of(store: Path, config: ImageConfig) -> TrialInfo:
    info = folder_of(store, config).info()
    assert info is not None
    return info


def ends_of(info: TrialInfo) -> list[str]:
    return [attempt.end for attempt in info.attempts]


def trajectory(store: Path, config: ImageConfig) -> list[dict[str, Any]]:
    """What must be equal bit for bit."""
    return folder_of(store, config).records().select(find_trainable().trajectory_columns).to_pylist()


def undisturbed(store: Path, configs: list[ImageConfig]) -> dict[str, list[dict[str, Any]]]:
    run(configs, new_command(store))
    return {config.trial_id: trajectory(store, config) for config in configs}


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[..., Any]], None]:
    """Registers a model for one test."""

    def add(name: str, build: Callable[..., Any]) -> None:
        monkeypatch.setitem(registry._registered["model"], name, build)

    return add


def test_work_completes_every_trial_and_yields_each_ones_end(tmp_path: Path, tiny: Tiny) -> None:
    configs = [tiny(seed=seed) for seed in range(3)]
    reported: list[Record] = []
    run_config = new_command(tmp_path, place="here", job="7")
    ends = run(configs, run_config, report=reported.append)
    assert [(end.trial_id, end.state) for end in ends] == [(c.trial_id, "completed") for c in configs]
    assert [(r.trial_id, r.epoch) for r in reported] == [(c.trial_id, e) for c in configs for e in (1, 2, 3)]
    for config, end in zip(configs, ends):
        folder, info = folder_of(tmp_path, config), info_of(tmp_path, config)
        assert replace(info, updated_at="") == replace(end, updated_at="")
        (attempt,) = info.attempts
        assert (attempt.number, attempt.place, attempt.job, attempt.end) == (1, "here", "7", "completed")
        assert attempt.pid == os.getpid()
        assert attempt.command_id == run_config.command_id
        assert attempt.started_at <= attempt.ended_at
        assert attempt.revision == info.provenance["revision"]
        assert info.provenance["images"] == [1437, 360]
        assert info.provenance["versions"]["torch"] == torch.__version__.partition("+")[0]
        rows = records.from_table(folder.records())
        assert [row.epoch for row in rows] == [1, 2, 3]
        assert [row["test_loss"] is None for row in rows] == [True, True, False]
        assert "epoch 3/3" in log_text(folder)
        assert (folder.load_checkpoint() or {})["epoch"] == 3
        assert not lease_is_live(folder.path)
        assert not [path for path in folder.path.iterdir() if path.name.startswith(".")]


def test_what_is_done_is_skipped_and_what_is_new_is_added(tmp_path: Path, tiny: Tiny) -> None:
    configs = [tiny(seed=seed) for seed in range(3)]
    run(configs[:2], new_command(tmp_path))
    before = [folder_of(tmp_path, config).stamp() for config in configs[:2]]
    files_before = [record_paths(folder_of(tmp_path, config)) for config in configs[:2]]
    ends = run(configs, new_command(tmp_path))
    assert [end.trial_id for end in ends] == [configs[2].trial_id]
    assert [record_paths(folder_of(tmp_path, c)) for c in configs[:2]] == files_before
    assert [folder_of(tmp_path, c).stamp()[1:] for c in configs[:2]] == [stamp[1:] for stamp in before]


def test_the_order_and_the_grouping_of_trials_change_no_bit(tmp_path: Path, tiny: Tiny) -> None:
    configs = [tiny(seed=seed, dropout=0.2) for seed in range(3)]
    expected = undisturbed(tmp_path / "together", configs)
    for config in reversed(configs):
        run([config], new_command(tmp_path / "apart"))
    assert {c.trial_id: trajectory(tmp_path / "apart", c) for c in configs} == expected


def test_a_rule_stops_a_trial_for_good_and_without_the_rule_it_goes_on(tmp_path: Path, tiny: Tiny) -> None:
    config = tiny(epochs=4)
    (end,) = run([config], new_command(tmp_path, stopping=True), decide=lambda record: record.epoch == 2)
    assert (end.state, end.epoch) == ("stopped", 2)
    assert run([config], new_command(tmp_path, stopping=True)) == []
    (end,) = run([config], new_command(tmp_path))
    assert (end.state, end.epoch) == ("completed", 4)
    expected = undisturbed(tmp_path / "straight", [config])
    assert trajectory(tmp_path, config) == expected[config.trial_id]


@pytest.mark.parametrize("reason", ["interrupted", "preempted", "timeout"])
def test_pauses_after_every_epoch_cost_no_retry_and_change_no_bit(
    tmp_path: Path, tiny: Tiny, reason: str
) -> None:
    config = tiny(epochs=8, dropout=0.2, schedule="cosine")
    expected = undisturbed(tmp_path / "straight", [config])
    for epoch in range(1, 8):
        answers = itertools.chain([""], itertools.repeat(reason))
        (end,) = run([config], new_command(tmp_path), pause=answers.__next__)
        assert (end.state, end.epoch) == ("interrupted", epoch)
    (end,) = run([config], new_command(tmp_path))
    assert ends_of(end) == [reason] * 7 + ["completed"]
    assert [attempt.from_epoch for attempt in end.attempts] == list(range(8))
    assert trajectory(tmp_path, config) == expected[config.trial_id]


def test_a_pause_before_the_first_trial_starts_nothing(tmp_path: Path, tiny: Tiny) -> None:
    assert run([tiny()], new_command(tmp_path), pause=lambda: "interrupted") == []
    assert folder_of(tmp_path, tiny()).info() is None


def test_more_epochs_extend_a_trial_and_only_its_last_row_has_test_figures(
    tmp_path: Path, tiny: Tiny
) -> None:
    short, long = tiny(epochs=2), tiny(epochs=5)
    run([short], new_command(tmp_path))
    (end,) = run([long], new_command(tmp_path))
    assert end.attempts[-1].from_epoch == 2
    expected = undisturbed(tmp_path / "straight", [long])
    assert trajectory(tmp_path, long) == expected[long.trial_id]
    assert [row["test_loss"] is None for row in trajectory(tmp_path, long)] == [True] * 4 + [False]
    assert run([short], new_command(tmp_path)) == []  # fewer epochs are done already


def test_extending_without_the_checkpoint_trains_from_the_start_to_the_same_figures(
    tmp_path: Path, tiny: Tiny
) -> None:
    run([tiny(epochs=2)], replace(new_command(tmp_path), retention=Retention("none")))
    (end,) = run([tiny(epochs=4)], new_command(tmp_path))
    assert end.attempts[-1].from_epoch == 0
    expected = undisturbed(tmp_path / "straight", [tiny(epochs=4)])
    assert trajectory(tmp_path, tiny()) == expected[tiny().trial_id]


def cut_records(folder: TrialFolder, epochs: int) -> None:
    """Leave only so many records, as somebody who edits the store by hand."""
    head = folder.belief().head
    assert head is not None
    table = folder.records().slice(0, epochs)
    for path in record_paths(folder):
        path.unlink()
    base = (write_segment(folder.path, head.term, 1, 1, table),)
    head_path(folder).write_bytes(replace(head, base=base).to_bytes())


def test_a_checkpoint_without_its_records_is_not_trusted(tmp_path: Path, tiny: Tiny) -> None:
    run([tiny(epochs=2)], new_command(tmp_path))
    folder = folder_of(tmp_path, tiny())
    cut_records(folder, 1)
    run([tiny(epochs=4)], new_command(tmp_path))
    expected = undisturbed(tmp_path / "straight", [tiny(epochs=4)])
    assert trajectory(tmp_path, tiny()) == expected[tiny().trial_id]


def test_a_trial_trained_again_from_the_start_keeps_its_rows_until_they_are_trained_over(
    tmp_path: Path, tiny: Tiny
) -> None:
    run([tiny(epochs=3)], replace(new_command(tmp_path), retention=Retention("none")))
    before = trajectory(tmp_path, tiny())
    answers = iter(["", "", "interrupted", "interrupted"])
    seen: list[int] = []
    run(
        [tiny(epochs=6)],
        new_command(tmp_path),
        pause=lambda: next(answers),
        report=lambda record: seen.append(folder_of(tmp_path, tiny()).records().num_rows),
    )
    assert seen == [3, 3]
    assert trajectory(tmp_path, tiny()) == before  # test figures included
    assert info_of(tmp_path, tiny()).epoch == 2
    (end,) = run([tiny(epochs=6)], new_command(tmp_path))
    assert end.attempts[-1].from_epoch == 2
    expected = undisturbed(tmp_path / "straight", [tiny(epochs=6)])
    assert trajectory(tmp_path, tiny()) == expected[tiny().trial_id]


def test_an_extended_trial_reports_at_the_epochs_that_it_has_passed(tmp_path: Path, tiny: Tiny) -> None:
    run([tiny(epochs=3)], new_command(tmp_path))
    asked: list[int] = []

    def decide(record: Record) -> bool:
        asked.append(record.epoch)
        return record.epoch == 2

    (end,) = run([tiny(epochs=6)], new_command(tmp_path, stopping=True), decide=decide)
    assert asked == [1, 2]
    assert (end.state, end.epoch) == ("stopped", 3)
    assert folder_of(tmp_path, tiny()).records().num_rows == 3


def test_retries_begin_anew_where_an_ended_trial_is_extended(
    tmp_path: Path, tiny: Tiny, register: Callable[..., None]
) -> None:
    failing = iter([True, False, True, False])

    def build(config: ImageConfig, classes: int) -> nn.Module:
        if next(failing):
            raise KeyError("layer")
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))

    register("moody", build)
    short = tiny(model="moody", epochs=1)
    run([short], new_command(tmp_path))
    run([short.with_values(epochs=2)], new_command(tmp_path))
    assert ends_of(info_of(tmp_path, short)) == ["bug", "completed", "bug", "completed"]


@pytest.mark.parametrize(("place", "is_checkout"), [("core", True), ("site-packages/core", False)])
def test_a_revision_is_the_packages_own_and_not_that_of_a_checkout_it_is_installed_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, is_checkout: bool
) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / place).mkdir(parents=True)
    monkeypatch.setattr(provenance, "_ROOT", (tmp_path / place).parent.resolve())
    found = provenance._git("rev-parse", "--is-inside-work-tree")
    assert found == (b"true\n" if is_checkout else b"")


# --- Several processes, and processes that die ---------------------------------------------------------


def work_through(store: Path, configs: list[ImageConfig], start: Any = None) -> None:
    if start is not None:
        start.wait(60)
    for _ in work(configs, RunConfig(store=store, retention=Retention("all"), checkpoint_share=0.5)):
        pass


@pytest.mark.faults
def test_processes_given_one_list_share_it_and_train_no_trial_twice(
    tmp_path: Path, tiny: Tiny, processes: ForkServerContext
) -> None:
    configs = [tiny(seed=seed, epochs=6) for seed in range(12)]
    start = processes.Barrier(3)
    workers = [processes.Process(target=work_through, args=(tmp_path, configs, start)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 3
    infos = [info_of(tmp_path, config) for config in configs]
    assert [ends_of(info) for info in infos] == [["completed"]] * len(configs)
    assert len({info.attempts[0].pid for info in infos}) > 1
    expected = undisturbed(tmp_path / "alone", configs[:3])
    assert {c.trial_id: trajectory(tmp_path, c) for c in configs[:3]} == expected


@pytest.mark.faults
def test_kills_at_any_time_lose_nothing_and_change_no_bit(
    tmp_path: Path, tiny: Tiny, processes: ForkServerContext
) -> None:
    configs = [tiny(seed=seed, epochs=15, dropout=0.2, augment="flip_crop") for seed in range(2)]
    expected = undisturbed(tmp_path / "straight", configs)
    store, rng = tmp_path / "killed", random.Random(5)
    kills = 0
    for _ in range(7):
        # A process that never gets anywhere is another matter: see the deadly trial below.
        enough = SweepStore(store).records().num_rows + rng.choice([1, 2, 4])
        worker = processes.Process(target=work_through, args=(store, configs))
        worker.start()
        while worker.is_alive() and SweepStore(store).records().num_rows < enough:
            time.sleep(0.005)
        worker.join(rng.uniform(0, 0.05))
        worker.kill()
        worker.join()
        if worker.exitcode == 0:
            break
        kills += 1
        for config in configs:  # what a reader finds at any time is whole, and a beginning of the truth
            rows = trajectory(store, config)
            truth = expected[config.trial_id]
            assert rows == truth[: len(rows)] or rows == [
                *truth[: len(rows) - 1], truth[len(rows) - 1] | {"test_loss": None, "test_accuracy": None}
            ]  # fmt: skip
            info = folder_of(store, config).info()
            assert info is None or info.state in ("lost", "completed")
    else:
        run(configs, new_command(store))
    assert kills >= 3
    assert {config.trial_id: trajectory(store, config) for config in configs} == expected
    for config in configs:
        info = info_of(store, config)
        assert set(ends_of(info)) <= {"killed", "completed"}
        assert ends_of(info)[-1] == info.state == "completed"
        assert [attempt.number for attempt in info.attempts] == list(range(1, len(info.attempts) + 1))
        kept, undisturbed_one = (
            folder_of(root, config).predictions() for root in (store, tmp_path / "straight")
        )
        assert kept is not None
        assert undisturbed_one is not None
        assert kept.prediction.tolist() == undisturbed_one.prediction.tolist()
        assert kept.confidence.tolist() == undisturbed_one.confidence.tolist()


def test_files_that_a_new_holder_has_replaced_are_no_failure_of_the_one_that_slept(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(epochs=4)
    folder = folder_of(tmp_path, config)

    def sleep(record: Record) -> None:
        if record.epoch == 2:
            (folder.path / "lease").unlink()
            (other,) = run([config], new_command(tmp_path))
            assert ends_of(other) == ["killed", "completed"]
            monkeypatch.setattr(Term, "_check", lambda term: None)  # it sleeps after each check

    assert run([config], new_command(tmp_path), report=sleep) == []
    assert ends_of(info_of(tmp_path, config)) == ["killed", "completed"]
    assert folder.damages() == ()
    assert trajectory(tmp_path, config) == undisturbed(tmp_path / "alone", [config])[config.trial_id]


def test_a_killed_attempt_ends_with_its_last_sign_of_life_at_its_last_record(
    tmp_path: Path, tiny: Tiny
) -> None:
    (end,) = run([tiny()], new_command(tmp_path))
    folder = folder_of(tmp_path, tiny())
    running = replace(end.attempts[0], end="", ended_at="")
    change_info(folder, replace(end, state="running", epoch=0, attempts=(running,)))
    for path in record_paths(folder):
        os.utime(path, (1e9, 1e9))
    for path in folder.logs():
        os.utime(path, (1e9 + 60, 1e9 + 60))
    dead = finalize_killed_attempt(folder, folder.info())
    assert dead is not None
    assert (dead.attempts[-1].end, dead.attempts[-1].ended_at) == ("killed", "2001-09-09T01:47:40+00:00")
    assert dead.epoch == 3


def kill_itself(config: ImageConfig, classes: int) -> nn.Module:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def work_on_a_deadly_trial(store: Path, configs: list[ImageConfig]) -> None:
    registry.register_model("deadly", kill_itself)
    work_through(store, configs)


@pytest.mark.faults
def test_a_trial_that_kills_its_process_each_time_ends_failed_and_holds_up_no_other(
    tmp_path: Path, tiny: Tiny, processes: ForkServerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._registered["model"], "deadly", kill_itself)
    deadly, sound = tiny(model="deadly", batch_size=64), tiny()
    for deaths in itertools.count():
        worker = processes.Process(target=work_on_a_deadly_trial, args=(tmp_path, [deadly, sound]))
        worker.start()
        worker.join(60)
        if worker.exitcode == 0:
            break
        assert worker.exitcode == -signal.SIGKILL
        assert deaths < 30, "the trial is tried for ever"
    info = info_of(tmp_path, deadly)
    assert info.state == "failed"
    assert ends_of(info) == ["killed"] * DEATHS_WITHOUT_PROGRESS + ["died"]
    assert not info.may_retry
    assert info_of(tmp_path, sound).state == "completed"


# --- Failures ------------------------------------------------------------------------------------------


def test_a_bug_is_retried_once_keeps_its_traceback_and_harms_no_other_trial(
    tmp_path: Path, tiny: Tiny, register: Callable[..., None]
) -> None:
    def build_badly(config: ImageConfig, classes: int) -> nn.Module:
        raise ZeroDivisionError("division of\nits own")

    register("bad", build_badly)
    bad, sound = tiny(model="bad"), tiny()
    ends = run([bad, sound], new_command(tmp_path))
    assert [(end.trial_id, end.state) for end in ends] == [
        (bad.trial_id, "failed"),
        (sound.trial_id, "completed"),
        (bad.trial_id, "failed"),
    ]
    info = info_of(tmp_path, bad)
    assert ends_of(info) == ["bug", "bug"]
    assert info.attempts[-1].message == "ZeroDivisionError: division of"
    assert "in build_badly" in log_text(folder_of(tmp_path, bad))
    assert run([bad], new_command(tmp_path)) == []


def test_a_failed_trial_is_tried_again_on_request_and_its_retries_begin_anew(
    tmp_path: Path, tiny: Tiny, register: Callable[..., None]
) -> None:
    mended = tmp_path / "mended"

    def build(config: ImageConfig, classes: int) -> nn.Module:
        if not mended.exists():
            raise KeyError("layer")
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))

    register("mendable", build)
    config = tiny(model="mendable")
    assert len(run([config], new_command(tmp_path))) == 2
    assert len(run([config], new_command(tmp_path, retry_failed=True))) == 2
    mended.touch()
    assert run([config], new_command(tmp_path)) == []
    (end,) = run([config], new_command(tmp_path, retry_failed=True))
    assert ends_of(end) == ["bug"] * 4 + ["completed"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate")])
def test_out_of_memory_is_tried_with_ever_smaller_micro_batches_then_given_up(
    tmp_path: Path, tiny: Tiny, register: Callable[..., None], error: Exception
) -> None:
    def build(config: ImageConfig, classes: int) -> nn.Module:
        raise error

    register("huge", build)
    config = tiny(model="huge")
    run([config], new_command(tmp_path))
    info = info_of(tmp_path, config)
    assert ends_of(info) == ["oom"] * 4
    assert [attempt.accumulate for attempt in info.attempts] == [1, 2, 4, 8]
    assert run([config], new_command(tmp_path)) == []


def test_micro_batches_go_on_until_they_fit_and_the_effective_batch_stays(
    tmp_path: Path, tiny: Tiny, register: Callable[..., None]
) -> None:
    class Narrow(nn.Module):
        """A linear model that has room for so many images in training."""

        def __init__(self, room: int, classes: int) -> None:
            super().__init__()
            self.room = room
            self.linear = nn.Linear(3072, classes)

        def forward(self, x: Tensor) -> Tensor:
            if self.training and len(x) > self.room:
                raise MemoryError
            return self.linear(x.flatten(1))

    register("narrow", lambda config, classes: Narrow(16, classes))
    register("wide", lambda config, classes: Narrow(64, classes))
    narrow, wide = tiny(model="narrow"), tiny(model="wide")
    run([narrow, wide], new_command(tmp_path))
    info = info_of(tmp_path, narrow)
    assert ends_of(info) == ["oom", "oom", "completed"]
    assert [attempt.accumulate for attempt in info.attempts] == [1, 2, 4]
    for one, other in zip(trajectory(tmp_path, narrow), trajectory(tmp_path, wide), strict=True):
        assert one["step"] == other["step"]
        assert one["valid_loss"] == pytest.approx(other["valid_loss"], rel=1e-4)


def test_a_diverged_trial_is_a_result_and_is_never_retried(tmp_path: Path, tiny: Tiny) -> None:
    config = tiny(optimizer="sgd", lr=1e8)
    (end,) = run([config], new_command(tmp_path))
    assert end.state == "diverged"
    assert ends_of(end) == ["diverged"]
    rows = records.from_table(folder_of(tmp_path, config).records())
    assert [has_diverged(row) for row in rows] == [False] * (len(rows) - 1) + [True]
    assert run([config], new_command(tmp_path, retry_failed=True)) == []


def test_missing_data_are_tried_again_by_the_next_command_and_not_within_one(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"

    def load(data_dir: Path | None) -> Any:
        if not there.exists():
            raise DataError("own: no images yet")
        return load_images("digits", None)

    monkeypatch.setitem(registry._registered["dataset"], "own", load)
    config = tiny(dataset="own")
    run_config = new_command(tmp_path)
    (end,) = run([config], run_config)
    assert (end.state, end.failure) == ("failed", "data")
    assert run([config], run_config) == []
    assert len(run([config], new_command(tmp_path))) == 1
    there.touch()
    (end,) = run([config], new_command(tmp_path))
    assert ends_of(end) == ["data", "data", "completed"]


def test_a_data_set_that_is_registered_again_is_loaded_again(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[int] = []

    def loader(number: int) -> Callable[..., Any]:
        def load(data_dir: Path | None) -> Any:
            loaded.append(number)
            return load_images("digits", None)

        return load

    first = loader(1)
    for load, seed in ((first, 1), (first, 2), (loader(2), 3)):
        monkeypatch.setitem(registry._registered["dataset"], "own", load)
        (end,) = run([tiny(dataset="own", seed=seed)], new_command(tmp_path))
        assert end.state == "completed"
    assert loaded == [1, 2]


def test_a_batch_larger_than_the_train_set_is_a_config_failure_and_terminal(
    tmp_path: Path, tiny: Tiny
) -> None:
    config = tiny(train_limit=10)
    (end,) = run([config], new_command(tmp_path))
    assert end.failure == "config"
    assert "batch_size = 64" in end.attempts[-1].message
    assert run([config], new_command(tmp_path)) == []


def test_a_debugger_gets_the_error_once_it_is_recorded(
    tmp_path: Path, tiny: Tiny, register: Callable[..., None]
) -> None:
    def build(config: ImageConfig, classes: int) -> nn.Module:
        raise KeyError("layer")

    register("raises", build)
    config = tiny(model="raises")
    with pytest.raises(KeyError):
        run([config], new_command(tmp_path, raise_errors=True))
    assert info_of(tmp_path, config).failure == "bug"


def test_a_debugger_is_not_called_for_what_has_an_action(
    tmp_path: Path, tiny: Tiny, register: Callable[..., None]
) -> None:
    rooms = iter([MemoryError(), None])

    def build(config: ImageConfig, classes: int) -> nn.Module:
        if error := next(rooms):
            raise error
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))

    register("tight", build)
    config = tiny(model="tight")
    run([config], new_command(tmp_path, raise_errors=True))
    assert ends_of(info_of(tmp_path, config)) == ["oom", "completed"]


def test_a_broken_device_is_recorded_and_ends_the_process(
    tmp_path: Path, tiny: Tiny, register: Callable[..., None]
) -> None:
    def build(config: ImageConfig, classes: int) -> nn.Module:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    register("breaking", build)
    config = tiny(model="breaking")
    for tries in range(1, 5):
        with pytest.raises(RuntimeError, match="illegal memory access"):
            run([config], replace(new_command(tmp_path), command_id="one"))
        assert ends_of(info_of(tmp_path, config)) == ["node"] * tries
    assert run([config], replace(new_command(tmp_path), command_id="one")) == []  # its retries are used up


def test_a_damaged_head_costs_its_trial_and_no_other_and_is_mended(tmp_path: Path, tiny: Tiny) -> None:
    bad, good = tiny(seed=1), tiny(seed=2)
    expected = undisturbed(tmp_path / "straight", [bad, good])
    run([bad], new_command(tmp_path))
    head_path(folder_of(tmp_path, bad)).write_text("{")
    assert folder_of(tmp_path, bad).info() is None
    (damage,) = folder_of(tmp_path, bad).damages()
    assert damage.endswith("1.json: damaged, its digest does not match")
    ends = run([bad, good], new_command(tmp_path))
    assert [(end.trial_id, end.state) for end in ends] == [
        (bad.trial_id, "completed"),
        (good.trial_id, "completed"),
    ]
    assert {c.trial_id: trajectory(tmp_path, c) for c in (bad, good)} == expected
    assert ends[0].attempts[-1].from_epoch == 3  # what was whole is not trained again


def test_an_end_that_cannot_be_written_down_is_tried_once_a_command(
    tmp_path: Path, tiny: Tiny, register: Callable[..., None]
) -> None:
    tries = itertools.count()

    def build(config: ImageConfig, classes: int) -> nn.Module:
        assert next(tries) < 5
        shutil.rmtree(folder_of(tmp_path, config).path)  # the lease too
        raise ConnectionResetError("the store went away")

    register("vanishing", build)
    assert [end.failure for end in run([tiny(model="vanishing")], new_command(tmp_path))] == ["bug"]
    assert next(tries) == 1


def exit_by_ray() -> BaseException:
    """What Ray raises in a worker whose driver is gone."""
    from ray._raylet import raise_sys_exit_with_custom_error_message

    with pytest.raises(SystemExit) as caught:
        raise_sys_exit_with_custom_error_message("The process receives a SIGTERM.", exit_code=1)
    return caught.value


@pytest.mark.parametrize(
    ("make", "end"),
    [(KeyboardInterrupt, "interrupted"), (exit_by_ray, "killed")],
    ids=["keyboard", "ray"],
)
def test_an_order_to_end_is_recorded_and_goes_through(
    tmp_path: Path, tiny: Tiny, make: Callable[[], BaseException], end: str
) -> None:
    config, error = tiny(), make()

    def interrupt(record: Record) -> None:
        raise error

    with pytest.raises(type(error)):
        run([config], new_command(tmp_path), report=interrupt)
    info = info_of(tmp_path, config)
    assert (info.state, ends_of(info), info.epoch) == ("interrupted", [end], 1)
    run([config], new_command(tmp_path))
    assert ends_of(info_of(tmp_path, config)) == [end, "completed"]
    expected = undisturbed(tmp_path / "straight", [config])
    assert trajectory(tmp_path, config) == expected[config.trial_id]


def test_a_users_own_exit_is_a_bug_with_its_traceback(tmp_path: Path, tiny: Tiny) -> None:
    config = tiny()

    def leave(record: Record) -> None:
        sys.exit(3)

    with pytest.raises(SystemExit):
        run([config], new_command(tmp_path), report=leave)
    info = info_of(tmp_path, config)
    assert (info.state, ends_of(info)) == ("failed", ["bug"])
    assert "sys.exit(3)" in log_text(folder_of(tmp_path, config))


def test_a_process_that_lost_its_lease_writes_nothing_more(tmp_path: Path, tiny: Tiny) -> None:
    config = tiny()
    folder = folder_of(tmp_path, config)
    seen: dict[str, bytes] = {}

    def steal(record: Record) -> None:
        (folder.path / "lease").write_text('{"token": "other", "host": "elsewhere", "pid": 1, "born": "1"}')
        kept = (path for path in folder.path.iterdir() if path.suffix in (".json", ".parquet"))
        seen.update({path.name: path.read_bytes() for path in kept})

    ends = (lambda record: False, lambda: "", steal)
    assert run_trial(config, folder, new_command(tmp_path), *ends) is None
    assert folder.records().num_rows == 1
    assert {name: (folder.path / name).read_bytes() for name in seen} == seen
    assert (folder.path / "lease").exists()  # the other's


# --- Disks ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs: run as root, outside of an unprivileged container")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def fill(disk: Path, room: int) -> Path:
    """Fill a disk up to so many bytes of room, in a file to be removed later."""
    filler = disk / "filler"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    filler.write_bytes(b"\0" * max(0, free - room))
    return filler


def assert_whole(folder: TrialFolder) -> None:
    """Every file of a trial is whole or not there; no half one is left beside."""
    folder.info()
    rows = folder.records().num_rows
    state = folder.load_checkpoint()
    assert state is None or state["epoch"] <= rows
    if folder.path.exists():
        assert not [path.name for path in folder.path.iterdir() if path.name.startswith(".")]


@pytest.mark.faults
@pytest.mark.parametrize("room", [0, 4096, 8192, 16384, 40_000, 200_000, 700_000, 900_000])
def test_a_full_disk_is_a_failure_of_its_kind_and_a_later_command_with_room_mends_it(
    small_disk: Path, tmp_path: Path, tiny: Tiny, room: int
) -> None:
    configs = [tiny(seed=seed) for seed in range(2)]
    expected = undisturbed(tmp_path / "straight", configs)
    store = small_disk / "runs"
    filler = fill(small_disk, room)
    ends = run(configs, new_command(store))
    assert [(end.state, end.failure) for end in ends][-1] == ("failed", "disk")
    for config in configs:
        assert_whole(folder_of(store, config))
    filler.unlink()
    run(configs, new_command(store))
    assert {config.trial_id: trajectory(store, config) for config in configs} == expected


@pytest.mark.faults
def test_a_disk_that_turns_read_only_in_the_middle_ends_the_trial_and_not_the_work(
    small_disk: Path, tmp_path: Path, tiny: Tiny
) -> None:
    configs = [tiny(seed=seed) for seed in range(2)]
    expected = undisturbed(tmp_path / "straight", configs)
    store = small_disk / "runs"

    def protect(record: Record) -> None:
        if record.epoch == 2:  # by a second mount over the first, which may have files open for writing
            subprocess.run(["mount", "--bind", small_disk, small_disk], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", small_disk], check=True)

    ends = run(configs, new_command(store), report=protect)
    assert [(end.state, end.failure) for end in ends] == [("failed", "disk")] * 2
    assert_whole(folder_of(store, configs[0]))
    subprocess.run(["umount", small_disk], check=True)
    (store / "trials" / configs[0].trial_id / "lease").unlink()  # or wait until it is stale
    run(configs, new_command(store))
    assert {config.trial_id: trajectory(store, config) for config in configs} == expected


def test_an_interruption_in_the_middle_of_an_epoch_ends_the_attempt_and_costs_no_retry(
    tmp_path: Path, tiny: Tiny
) -> None:
    config, undisturbed = tiny(), tmp_path / "undisturbed"
    run([config], new_command(undisturbed))

    def leave(record: Record) -> None:
        raise Interruption("preempted")

    for _ in range(4):
        with pytest.raises(Interruption):
            run([config], new_command(tmp_path), report=leave)
        assert info_of(tmp_path, config).state == "interrupted"
    (info,) = run([config], new_command(tmp_path))
    assert ends_of(info) == ["preempted"] * 4 + ["completed"]
    assert trajectory(tmp_path, config) == trajectory(undisturbed, config)


def leave_within(monkeypatch: pytest.MonkeyPatch, config: ImageConfig, epoch: int, reason: str) -> None:
    """Interrupt a trial in the middle of an epoch, each time."""
    original = Trial._train_epoch

    def train_epoch(trial: Trial) -> tuple[float, float, float]:
        if trial.config.trial_id == config.trial_id and trial.epoch + 1 == epoch:
            raise Interruption(reason)
        return original(trial)

    monkeypatch.setattr(Trial, "_train_epoch", train_epoch)


def test_an_epoch_that_never_fits_into_its_jobs_time_fails_the_trial_and_holds_up_no_other(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, short = tiny(lr=0.5), tiny()
    leave_within(monkeypatch, long, 1, "timeout")
    for _ in range(TIMEOUTS_WITHOUT_PROGRESS):
        with pytest.raises(Interruption):
            run([long, short], new_command(tmp_path))
    failed, done = run([long, short], new_command(tmp_path))
    assert ends_of(failed) == ["timeout"] * TIMEOUTS_WITHOUT_PROGRESS + ["died"]
    assert "does not fit into the job's time limit" in failed.attempts[-1].message
    assert done.state == "completed"


def test_a_trial_that_comes_on_between_two_time_limits_is_not_given_up(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(epochs=6)
    with monkeypatch.context() as patch:
        leave_within(patch, config, 1, "timeout")  # it began late in its job
        with pytest.raises(Interruption):
            run([config], new_command(tmp_path))
    for epoch in (3, 4):
        # From a checkpoint of whichever epoch: what counts is that it comes further each time.
        with monkeypatch.context() as patch:
            leave_within(patch, config, epoch, "timeout")
            with pytest.raises(Interruption):
                run([config], new_command(tmp_path))
        assert info_of(tmp_path, config).attempts[-1].to_epoch == epoch - 1
    (info,) = run([config], new_command(tmp_path))
    assert ends_of(info) == ["timeout"] * 3 + ["completed"]


def test_what_fails_after_a_trials_end_takes_nothing_back(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny()
    run_config = replace(new_command(tmp_path), retention=Retention("none"))

    def leave(*arguments: object) -> None:
        raise Interruption("preempted")

    monkeypatch.setattr(Retention, "apply", leave)
    with pytest.raises(Interruption):
        run([config], run_config)
    info = info_of(tmp_path, config)
    assert (info.state, ends_of(info)) == ("completed", ["completed"])


def test_a_strange_file_among_the_ranked_checkpoints_is_passed_over(tmp_path: Path, tiny: Tiny) -> None:
    kept = tmp_path / "kept" / "valid_accuracy-max"
    kept.mkdir(parents=True)
    (kept / ".DS_Store").touch()
    (kept / "notes_of mine").touch()
    (info,) = run([tiny()], new_command(tmp_path))
    assert info.state == "completed"
