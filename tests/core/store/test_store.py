"""core.store.store and core.records: what is written is read back; readers see whole files and derived states."""

import json
import math
import os
import shutil
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixsweep.core import records
from mixsweep.core.errors import UserError
from mixsweep.core.failures import LeaseLostError
from mixsweep.core.records import Record
from mixsweep.core.store import files
from mixsweep.core.store.checkpoint import save_checkpoint
from mixsweep.core.store.compaction import compact
from mixsweep.core.store.lease import take_lease
from mixsweep.core.store.store import Attempt, SweepStore, TrialFolder, TrialInfo, since
from mixsweep.core.trainables.image_config import ImageConfig
from mixsweep.core.trainables.image_records import has_diverged
from mixsweep.core.trainables.kinds import find_trainable
from tests.support.records import make_record

MOMENT = records.now()


def record(trial_id: str, epoch: int, **values: Any) -> Record:
    sound = make_record(
        trial_id=trial_id,
        epoch=epoch,
        step=epoch * 4,
        train_loss=1 / epoch,
        train_accuracy=0.5,
        valid_loss=1.25,
        valid_accuracy=0.25,
        lr=1e-3,
        train_seconds=0.5,
        valid_seconds=0.25,
        images_per_second=512.0,
        peak_memory_bytes=2**33,
        attempt=1,
        recorded_at=MOMENT,
    )
    return sound.with_metrics(values)


def write_trial(store: SweepStore, name: str, epochs: int) -> None:
    folder = store.trial(name)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_records([record(name, epoch + 1) for epoch in range(epochs)])


def pairs(store: SweepStore) -> list[tuple[str, int]]:
    table = store.records()
    return sorted(zip(table["trial_id"].to_pylist(), table["epoch"].to_pylist()))


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=5))
def test_records_come_back_bit_for_bit(losses: list[float]) -> None:
    rows = [record("a" * 12, epoch + 1, train_loss=loss) for epoch, loss in enumerate(losses)]
    rows[-1] = rows[-1].with_metrics({"test_loss": 0.1, "test_accuracy": 1 / 3})
    assert records.from_table(records.to_table(rows, find_trainable().schema)) == rows


def test_a_metrics_file_holds_the_schema_with_units_and_keeps_nan(tmp_path: Path) -> None:
    write_trial(SweepStore(tmp_path), "a", 2)
    folder = SweepStore(tmp_path).trial("a")
    folder.write_records([record("a", 1, train_loss=math.nan, valid_loss=math.inf)])
    schema = pq.read_schema(folder.metrics_path)
    assert schema.names == find_trainable().schema.names
    assert schema.field("train_seconds").metadata[b"unit"] == b"s"
    (row,) = records.from_table(folder.records())
    assert math.isnan(row["train_loss"])
    assert row["valid_loss"] == math.inf
    assert has_diverged(row)


def test_a_trial_without_records_has_an_empty_table(tmp_path: Path) -> None:
    assert SweepStore(tmp_path).trial("a").records().schema == find_trainable().schema
    assert SweepStore(tmp_path).records().num_rows == 0
    assert list(SweepStore(tmp_path / "absent").trials()) == []


def info(state: str, *ends: str) -> TrialInfo:
    attempts = tuple(
        Attempt(number=n + 1, place="debug", host="h", pid=1, end=end) for n, end in enumerate(ends)
    )
    config = ImageConfig(lr=0.1, hidden=(8, 4))
    return TrialInfo(trial_id=config.trial_id, config=config, state=state, epoch=3, attempts=attempts)


def test_trial_json_comes_back_and_says_the_identity_to_a_human(tmp_path: Path) -> None:
    folder = SweepStore(tmp_path).trial("a")
    folder.path.mkdir(parents=True)
    assert folder.info() is None
    written = replace(info("completed", "killed", "completed"), provenance={"python": "3.11", "dirty": True})
    folder.write_info(written)
    read = folder.info()
    assert read is not None
    assert replace(read, updated_at="") == written
    assert 0 <= since(read.updated_at) < 60
    assert json.loads((folder.path / "trial.json").read_text())["identity"] == {"hidden": [8, 4], "lr": 0.1}


def test_running_reads_lost_where_nobody_holds_the_trial(tmp_path: Path) -> None:
    folder = SweepStore(tmp_path).trial("a")
    lease = take_lease(folder.path)
    assert lease is not None
    with lease:
        folder.write_info(info("running", ""))
        assert getattr(folder.info(), "state", "") == "running"
    assert getattr(folder.info(), "state", "") == "lost"


@pytest.mark.parametrize(
    ("ends", "may_retry"),
    [
        (["bug"], True),
        (["bug", "bug"], False),
        (["oom", "oom", "oom"], True),
        (["oom", "oom", "oom", "oom"], False),
        (["oom", "oom", "oom", "bug"], True),
        (["killed", "preempted", "timeout", "bug"], True),
        (["config"], False),
        (["data"], False),
        (["disk"], False),
    ],
)
def test_a_failed_trial_may_be_retried_as_often_as_its_kind_says(ends: list[str], may_retry: bool) -> None:
    assert info("failed", *ends).may_retry is may_retry
    assert info("failed", *ends).failure == ends[-1]


def test_attempts_before_a_new_commands_try_do_not_count() -> None:
    assert replace(info("failed", "bug", "bug", "bug"), retries_from=2).may_retry


def test_the_compacted_table_and_what_is_newer_make_every_record_once(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    write_trial(store, "a", 2)
    write_trial(store, "b", 1)
    compact(store)
    past = (tmp_path / "metrics.parquet").stat().st_mtime - 100
    for name in ("a", "b"):
        os.utime(store.trial(name).metrics_path, (past, past))
    assert pairs(store) == [("a", 1), ("a", 2), ("b", 1)]
    write_trial(store, "a", 3)
    write_trial(store, "c", 1)
    expected = [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("c", 1)]
    assert pairs(store) == expected
    compact(store)
    assert pairs(store) == expected
    (tmp_path / "metrics.parquet").unlink()
    assert pairs(store) == expected


def test_readers_see_whole_files_while_a_writer_replaces_them(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    folder = store.trial("a")
    write_trial(store, "a", 1)
    folder.write_info(info("completed", "completed"))
    done = threading.Event()

    def write() -> None:
        for epochs in range(1, 60):
            write_trial(store, "a", epochs)
            folder.write_info(replace(info("completed", "completed"), epoch=epochs))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen, reads = 0, 0
    while not done.is_set():
        table = folder.records()
        read = folder.info()
        assert table["epoch"].to_pylist() == list(range(1, table.num_rows + 1))
        assert table.num_rows >= seen
        assert read is not None
        assert read.state == "completed"
        seen, reads = table.num_rows, reads + 1
    writer.join()
    assert reads > 5


def test_a_write_that_fails_leaves_the_file_before_and_nothing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    files.write_bytes(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_stop_is_meant_for_commands_given_before_it(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    before = records.now().isoformat()
    assert not store.stop_requested(before)
    time.sleep(0.002)
    store.request_stop()
    assert store.stop_requested(before)
    time.sleep(0.002)
    assert not store.stop_requested(records.now().isoformat())


def test_trials_are_the_folders_in_order_of_their_ids(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    for name in ("b", "a", ".hidden"):
        store.trial(name).path.mkdir(parents=True)
    (store.trials_path / "stray.txt").touch()
    assert [folder.trial_id for folder in store.trials()] == ["a", "b"]


def test_the_present_is_kept_to_the_millisecond_that_the_store_keeps() -> None:
    moment = records.now()
    assert moment.microsecond % 1000 == 0
    assert moment.utcoffset() == timedelta(0)


def test_compaction_hides_no_newer_record_whatever_the_files_times_say(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    write_trial(store, "a", 1)
    compact(store)
    write_trial(store, "a", 2)
    os.utime(store.trial("a").metrics_path, (1, 1))  # as a copy that keeps times leaves it
    assert pairs(store) == [("a", 1), ("a", 2)]
    compact(store)
    write_trial(store, "b", 1)
    os.utime(store.trial("b").metrics_path, (1, 1))
    assert pairs(store) == [("a", 1), ("a", 2), ("b", 1)]


def test_unchanged_trials_are_read_from_the_compacted_table_and_removed_ones_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SweepStore(tmp_path)
    write_trial(store, "a", 1)
    write_trial(store, "b", 1)
    compact(store)
    shutil.rmtree(store.trial("b").path)
    monkeypatch.setattr(TrialFolder, "records", None)  # nothing is left to be read anew
    assert pairs(store) == [("a", 1)]


def test_a_damaged_compacted_table_is_read_anew_from_the_trials(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    write_trial(store, "a", 2)
    (tmp_path / "metrics.parquet").write_bytes(b"PAR1 and no more")
    assert pairs(store) == [("a", 1), ("a", 2)]
    compact(store)
    assert files.read_records(tmp_path / "metrics.parquet", find_trainable().schema).num_rows == 2


def test_a_fence_that_raises_keeps_a_write_from_being_seen(tmp_path: Path) -> None:
    folder = SweepStore(tmp_path).trial("a")
    write_trial(SweepStore(tmp_path), "a", 1)
    folder.write_info(info("running", ""))
    before = {path.name: path.read_bytes() for path in folder.path.iterdir()}

    def lost() -> None:
        raise LeaseLostError("taken over")

    for write in (
        lambda: folder.write_records([], lost),
        lambda: folder.write_info(info("completed", "completed"), lost),
        lambda: save_checkpoint(folder.path, {"epoch": 1}, lost),
    ):
        with pytest.raises(LeaseLostError):
            write()
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == before


def test_a_trial_json_of_a_newer_version_is_read_and_a_damaged_one_says_what_to_do(tmp_path: Path) -> None:
    folder = SweepStore(tmp_path).trial("a")
    folder.path.mkdir(parents=True)
    folder.write_info(info("completed", "completed"))
    path = folder.path / "trial.json"
    values = json.loads(path.read_text())
    values["mood"] = values["attempts"][0]["weather"] = "fine"
    path.write_text(json.dumps(values))
    assert getattr(folder.info(), "state", "") == "completed"
    path.write_text("{")
    with pytest.raises(UserError, match=r"damaged .* move it away, the trial's records stay"):
        folder.info()


def test_a_damaged_plan_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "plan.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"plan.parquet: damaged; move it away"):
        SweepStore(tmp_path).plan()
