"""core.store.store and core.records: what is written is read back; readers see whole files and derived states."""

import json
import math
import os
import shutil
import threading
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
from mixsweep.core.records import Record
from mixsweep.core.store import files
from mixsweep.core.store.compaction import compact
from mixsweep.core.store.store import SweepStore, since
from mixsweep.core.store.trial.folder import TrialFolder
from mixsweep.core.store.trial.info import Attempt, TrialInfo
from mixsweep.core.store.trial.lease import take_lease
from mixsweep.core.store.trial.term import Term
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.core.trainables.image.records import has_diverged
from mixsweep.core.trainables.kinds import find_trainable
from tests.support.records import make_record
from tests.support.trials import record_paths, write_trial

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


def config_of(name: str) -> ImageConfig:
    """A config for each letter."""
    return ImageConfig(lr=0.1, seed=ord(name))


def id_of(name: str) -> str:
    return config_of(name).trial_id


def info(name: str, state: str, *ends: str) -> TrialInfo:
    attempts = tuple(
        Attempt(number=n + 1, place="debug", host="h", pid=1, end=end) for n, end in enumerate(ends)
    )
    config = config_of(name)
    return TrialInfo(trial_id=config.trial_id, config=config, state=state, epoch=3, attempts=attempts)


def trained(store: SweepStore, name: str, epochs: int) -> TrialFolder:
    """A trial that has completed so many epochs."""
    folder = store.trial(id_of(name))
    rows = [record(id_of(name), epoch + 1) for epoch in range(epochs)]
    write_trial(folder, replace(info(name, "completed", "completed"), epoch=epochs), rows)
    return folder


def pairs(store: SweepStore) -> list[tuple[str, int]]:
    table = store.records()
    names = {id_of(name): name for name in "abc"}
    return sorted((names[trial_id], epoch) for trial_id, epoch in zip(
        table["trial_id"].to_pylist(), table["epoch"].to_pylist()
    ))  # fmt: skip


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=5))
def test_records_come_back_bit_for_bit(losses: list[float]) -> None:
    rows = [record("a" * 12, epoch + 1, train_loss=loss) for epoch, loss in enumerate(losses)]
    rows[-1] = rows[-1].with_metrics({"test_loss": 0.1, "test_accuracy": 1 / 3})
    assert records.from_table(records.to_table(rows, find_trainable().schema)) == rows


def test_a_file_of_records_has_units_and_keeps_nan(tmp_path: Path) -> None:
    folder = SweepStore(tmp_path).trial(id_of("a"))
    write_trial(
        folder, info("a", "running", ""), [record(id_of("a"), 1, train_loss=math.nan, valid_loss=math.inf)]
    )
    (path,) = record_paths(folder)
    schema = pq.read_schema(path)
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


def test_a_head_comes_back_and_says_the_identity_to_a_human(tmp_path: Path) -> None:
    folder = SweepStore(tmp_path).trial(id_of("a"))
    folder.path.mkdir(parents=True)
    assert folder.info() is None
    written = replace(
        info("a", "completed", "killed", "completed"),
        provenance={"python": "3.11", "command": "sweep r\udce9n"},
    )
    write_trial(folder, written)
    read = folder.info()
    assert read is not None
    assert replace(read, updated_at="") == written
    assert 0 <= since(read.updated_at) < 60
    identity = json.loads((folder.path / "1.json").read_text())["identity"]
    assert identity == {"lr": 0.1, "seed": 97}


def test_running_reads_lost_where_nobody_holds_the_trial(tmp_path: Path) -> None:
    folder = SweepStore(tmp_path).trial(id_of("a"))
    write_trial(folder, info("a", "running", ""))
    lease = take_lease(folder.path)
    assert lease is not None
    with lease:
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
    assert info("a", "failed", *ends).may_retry is may_retry
    assert info("a", "failed", *ends).failure == ends[-1]


def test_attempts_before_a_new_commands_try_do_not_count() -> None:
    assert replace(info("a", "failed", "bug", "bug", "bug"), retries_from=2).may_retry


def test_the_compacted_table_and_what_is_newer_make_every_record_once(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    trained(store, "a", 2)
    trained(store, "b", 1)
    compact(store)
    assert pairs(store) == [("a", 1), ("a", 2), ("b", 1)]
    trained(store, "a", 3)
    trained(store, "c", 1)
    expected = [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("c", 1)]
    assert pairs(store) == expected
    compact(store)
    assert pairs(store) == expected
    (tmp_path / "metrics.parquet").unlink()
    assert pairs(store) == expected


def test_readers_see_whole_files_while_a_writer_adds_and_replaces_them(tmp_path: Path) -> None:
    folder = SweepStore(tmp_path).trial(id_of("a"))
    done = threading.Event()
    errors: list[BaseException] = []

    def write() -> None:
        try:
            for attempt in range(4):
                lease = take_lease(folder.path)
                assert lease is not None
                with lease, Term(folder, lease) as term:
                    begun = info("a", "running", *["killed"] * attempt, "")
                    term.begin(begun)
                    for epoch in range(attempt * 40, attempt * 40 + 40):
                        term.append(record(id_of("a"), epoch + 1))
                        term.flush()
                    if attempt == 3:
                        term.seal(replace(info("a", "completed", *["killed"] * 3, "completed"), epoch=160))
        except BaseException as error:
            errors.append(error)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen, reads = 0, 0
    while not done.is_set():
        table = folder.records()
        read = folder.info()
        assert table["epoch"].to_pylist() == list(range(1, table.num_rows + 1))
        assert table.num_rows >= seen
        assert read is None or read.state in ("running", "lost", "completed")
        seen, reads = table.num_rows, reads + 1
    writer.join()
    assert not errors
    assert reads > 5
    assert folder.records().num_rows == 160
    assert len(record_paths(folder)) == 1


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
    trained(store, "a", 1)
    compact(store)
    folder = trained(store, "a", 2)
    for path in (*record_paths(folder), folder.path):
        os.utime(path, (1, 1))  # as a copy that keeps times leaves it
    assert pairs(store) == [("a", 1), ("a", 2)]
    compact(store)
    folder = trained(store, "b", 1)
    os.utime(folder.path, (1, 1))
    assert pairs(store) == [("a", 1), ("a", 2), ("b", 1)]


def test_unchanged_trials_are_read_from_the_compacted_table_and_removed_ones_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SweepStore(tmp_path)
    trained(store, "a", 1)
    trained(store, "b", 1)
    compact(store)
    shutil.rmtree(store.trial(id_of("b")).path)
    monkeypatch.setattr(TrialFolder, "records", None)  # nothing is left to be read anew
    assert pairs(store) == [("a", 1)]


def test_a_damaged_compacted_table_is_read_anew_from_the_trials(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    trained(store, "a", 2)
    (tmp_path / "metrics.parquet").write_bytes(b"PAR1 and no more")
    assert pairs(store) == [("a", 1), ("a", 2)]
    compact(store)
    assert files.read_records(tmp_path / "metrics.parquet", find_trainable().schema).num_rows == 2


def test_a_damaged_plan_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "plan.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"plan.parquet: damaged.*the same `sweep run` writes it again"):
        SweepStore(tmp_path).plan()
