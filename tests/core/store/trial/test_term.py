"""core.store.trial.term: whoever has lost a trial changes nothing that a reader believes, whenever it wakes."""

import contextlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mixsweep.core import records
from mixsweep.core.failures import LeaseLostError
from mixsweep.core.records import Record
from mixsweep.core.store import files
from mixsweep.core.store.trial import checkpoint, term
from mixsweep.core.store.trial.folder import TrialFolder
from mixsweep.core.store.trial.info import Attempt, TrialInfo
from mixsweep.core.store.trial.lease import Lease, take_lease
from mixsweep.core.store.trial.term import MERGE_AT, Term, amend
from mixsweep.core.trainables.image.config import ImageConfig
from tests.support.records import make_record
from tests.support.trials import record_paths

CONFIG = ImageConfig(dataset="digits")


def info(*ends: str) -> TrialInfo:
    """A trial with an attempt for each of these ends; the last one is its state."""
    attempts = tuple(Attempt(number=n + 1, place="debug", host="h", pid=1, end=e) for n, e in enumerate(ends))
    return TrialInfo(trial_id=CONFIG.trial_id, config=CONFIG, state=ends[-1] or "running", attempts=attempts)


def row(epoch: int, attempt: int = 1, **metrics: Any) -> Record:
    metrics = {"train_loss": 1 / epoch, "valid_loss": 2 / epoch, **metrics}
    return make_record(
        trial_id=CONFIG.trial_id,
        epoch=epoch,
        step=epoch,
        attempt=attempt,
        recorded_at=records.now(),
        **metrics,
    )


@pytest.fixture
def folder(tmp_path: Path) -> TrialFolder:
    return TrialFolder(tmp_path / CONFIG.trial_id)


def take(folder: TrialFolder) -> Lease:
    lease = take_lease(folder.path)
    assert lease is not None
    return lease


def steal(folder: TrialFolder) -> Lease:
    """The lease, although another process of this test holds it: as after a long sleep of that one."""
    (folder.path / "lease").unlink()
    return take(folder)


def epochs_and_attempts(folder: TrialFolder) -> list[tuple[int, int]]:
    table = folder.records()
    return list(zip(table["epoch"].to_pylist(), table["attempt"].to_pylist()))


def finish(folder: TrialFolder, lease: Lease, attempt: int = 2, epochs: int = 3) -> None:
    """Train the trial to its end as another process."""
    with lease, Term(folder, lease) as other:
        other.begin(info(*["killed"] * (attempt - 1), ""))
        for epoch in range(1, epochs + 1):
            other.append(row(epoch, attempt))
            other.save_checkpoint({"epoch": epoch})
        other.seal(replace(info(*["killed"] * (attempt - 1), "completed"), epoch=epochs))


WRITES: dict[str, Callable[[Term], None]] = {
    "a record": lambda one: (one.append(row(2)), one.flush())[1],
    "a checkpoint": lambda one: one.save_checkpoint({"epoch": 2}),
    "the info": lambda one: one.write_info(info("failed")),
    "the end": lambda one: one.seal(replace(info("completed"), epoch=2)),
    "nothing": lambda one: one.close(),
}


@pytest.mark.parametrize("pause", ["at the check", "at the rename"])
@pytest.mark.parametrize("write", WRITES, ids=str)
def test_a_writer_that_slept_while_another_finished_changes_nothing(
    folder: TrialFolder, write: str, pause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other takes over between the last check and the rename, the latest moment that there is."""
    lease = take(folder)
    sleeper = Term(folder, lease)
    sleeper.begin(info(""))
    sleeper.append(row(1))
    sleeper.save_checkpoint({"epoch": 1})
    after: dict[str, bytes] = {}

    def sleep() -> None:
        monkeypatch.undo()
        finish(folder, steal(folder))
        after.update({path.name: path.read_bytes() for path in folder.path.iterdir()})

    if pause == "at the rename":
        monkeypatch.setattr("os.replace", lambda *paths: (sleep(), __import__("os").replace(*paths))[1])
    else:
        monkeypatch.setattr(sleeper._lease, "check", lambda: (sleep(), lease.check())[1])
    with contextlib.suppress(LeaseLostError):
        WRITES[write](sleeper)
    monkeypatch.undo()
    if not after:
        sleep()
    read = folder.info(verify=True)
    assert read is not None
    assert (read.state, [attempt.end for attempt in read.attempts]) == ("completed", ["killed", "completed"])
    assert epochs_and_attempts(folder) == [(1, 2), (2, 2), (3, 2)]
    assert folder.load_checkpoint() == {"epoch": 3}
    for name, content in after.items():
        if name.startswith("2."):
            assert (folder.path / name).read_bytes() == content
    sleeper.close()
    lease.release()
    # And whoever comes next removes what the sleeper left.
    with take(folder) as next_lease, Term(folder, next_lease) as third:
        third.begin(read)
        leftovers = [path.name for path in folder.path.iterdir() if path.name.startswith("1.")]
        assert leftovers == []


def test_of_two_processes_that_take_the_next_term_one_wins(folder: TrialFolder) -> None:
    first = Term(folder, take(folder))
    second = Term(folder, steal(folder))
    second.begin(info(""))
    with pytest.raises(LeaseLostError):
        first.begin(info(""))
    # Even with a lease that it believes to hold, having slept since it read the files.
    lease = steal(folder)
    slept, third = Term(folder, lease), Term(folder, lease)
    third.begin(info("killed", ""))
    third.seal(info("killed", "completed"))
    with pytest.raises(LeaseLostError, match="taken over"):
        slept.begin(info("killed", ""))
    read = folder.info(verify=True)
    assert read is not None
    assert read.state == "completed"


def test_a_process_that_lost_the_trial_removes_what_it_wrote_in_vain_and_nothing_else(
    folder: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = take(folder)
    with Term(folder, lease) as sleeper:
        sleeper.begin(info(""))
        sleeper.append(row(1))
        sleeper.flush()
        monkeypatch.setattr(sleeper, "_check", lambda: None)  # it slept after each check
        with Term(folder, steal(folder)) as other:
            other.begin(info("killed", ""))
            sleeper.append(row(2))
            sleeper.flush()
            sleeper.save_checkpoint({"epoch": 2})
            other.append(row(2, 2))
            other.flush()
        assert len(folder.listing().all_segments) == 3
        before = epochs_and_attempts(folder)
    assert epochs_and_attempts(folder) == before == [(1, 1), (2, 2)]
    assert len(folder.listing().all_segments) == 2
    assert not folder.listing().checkpoints


def test_what_a_term_builds_on_is_named_and_later_files_of_the_one_before_do_not_count(
    folder: TrialFolder,
) -> None:
    first = Term(folder, take(folder))
    first.begin(info(""))
    first.append(row(1))
    with Term(folder, steal(folder)) as second:
        second.begin(info("killed", ""))
        head = second._head
        assert head is not None
        assert [segment.name for segment in head.base] == [path.name for path in record_paths(folder)]
        table = records.to_table([row(2, 1)], folder.records().schema)
        term.segments.write_segment(folder.path, 1, 2, 2, table)  # the first one wakes up
        checkpoint.write_state(folder.path, 1, {"epoch": 2})
        assert epochs_and_attempts(folder) == [(1, 1)]
        assert not folder.has_checkpoint()
        second.append(row(2, 2))
        second.flush()
        assert epochs_and_attempts(folder) == [(1, 1), (2, 2)]


def test_rows_of_an_earlier_attempt_count_until_their_epochs_are_recorded_again(folder: TrialFolder) -> None:
    with take(folder) as lease, Term(folder, lease) as first:
        first.begin(info(""))
        for epoch in (1, 2, 3):
            first.append(row(epoch))
    with take(folder) as lease, Term(folder, lease) as second:
        second.begin(info("killed", ""))
        second.append(row(2, 2))
        second.flush()
        assert epochs_and_attempts(folder) == [(1, 1), (2, 2), (3, 1)]
        second.seal(replace(info("killed", "stopped"), epoch=2))
    assert epochs_and_attempts(folder) == [(1, 1), (2, 2)]
    assert len(record_paths(folder)) == 1


def test_a_record_is_in_the_store_within_a_second_although_none_follows(folder: TrialFolder) -> None:
    with take(folder) as lease, Term(folder, lease) as one:
        one.begin(info(""))
        one.append(row(1))
        one.append(row(2))
        assert folder.records().num_rows == 1  # the first one is written at once
        waited = time.monotonic() + 5
        while folder.records().num_rows < 2 and time.monotonic() < waited:
            time.sleep(0.02)
        assert folder.records().num_rows == 2
        assert time.monotonic() < waited - 3


def test_an_error_of_a_late_write_reaches_the_training(
    folder: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with take(folder) as lease, Term(folder, lease) as one:
        one.begin(info(""))
        one.append(row(1))

        def full(*words: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(files, "write_bytes", full)
        one.append(row(2))
        one._flusher.join(10)  # type: ignore[union-attr]
        monkeypatch.undo()
        with pytest.raises(OSError, match="No space"):
            one.append(row(3))
        one._buffer.error = None


@pytest.mark.parametrize("count", [MERGE_AT - 1, MERGE_AT, 3 * MERGE_AT + 1, MERGE_AT**2 + MERGE_AT + 1])
def test_many_segments_become_few_and_no_row_is_lost(
    folder: TrialFolder, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    with take(folder) as lease, Term(folder, lease) as one:
        one.begin(info(""))
        for epoch in range(1, count + 1):
            one.append(row(epoch))
            one.flush()
        assert len(record_paths(folder)) < 3 * MERGE_AT
        assert folder.records()["epoch"].to_pylist() == list(range(1, count + 1))
    with take(folder) as lease, Term(folder, lease) as two:
        two.begin(info("killed", ""))
        assert len(record_paths(folder)) <= MERGE_AT
        assert folder.records()["epoch"].to_pylist() == list(range(1, count + 1))


def test_the_time_of_a_record_does_not_grow_with_their_number(folder: TrialFolder) -> None:
    """Appending is linear: a hundred thousand records take seconds, and the last tenth no longer than the first."""
    count, tenths = 100_000, []
    with take(folder) as lease, Term(folder, lease) as one:
        one.begin(info(""))
        made = [row(epoch) for epoch in range(1, count + 1)]
        for start in range(0, count, count // 10):
            begun = time.process_time()
            for record in made[start : start + count // 10]:
                one.append(record)
            one.flush()
            tenths.append(time.process_time() - begun)
        one.seal(replace(info("completed"), epoch=count))
    assert folder.records().num_rows == count
    assert len(record_paths(folder)) == 1
    assert max(tenths[-3:]) < 4 * sorted(tenths)[5]


def test_records_may_have_any_metrics_some_missing(folder: TrialFolder) -> None:
    with take(folder) as lease, Term(folder, lease) as one:
        one.begin(info(""))
        one.append(row(1, **{"bits per char/Ω": 2.5}))
        one.flush()
        one.append(row(2, hits=3))
        one.flush()
        one.append(row(3, hits=0.5))
    table = folder.records()
    assert table["bits per char/Ω"].to_pylist() == [2.5, None, None]
    assert table["hits"].to_pylist() == [None, 3, 0.5]
    assert table["valid_loss"].to_pylist() == [2.0, 1.0, 2 / 3]


def test_only_the_last_row_has_test_figures(folder: TrialFolder) -> None:
    finish(folder, take(folder), attempt=1, epochs=1)
    with take(folder) as lease, Term(folder, lease) as one:
        one.begin(info("completed", ""))
        one.append(row(2, 2, test_loss=0.5))
        one.append(row(3, 2, test_loss=0.25))
        assert one.records()["test_loss"].to_pylist() == [None, None, 0.25]
        one.seal(replace(info("completed", "completed"), epoch=3))
    assert folder.records()["test_loss"].to_pylist() == [None, None, 0.25]


def test_a_change_of_state_keeps_records_and_checkpoints(folder: TrialFolder) -> None:
    finish(folder, take(folder), attempt=1)
    before = folder.records()
    with take(folder) as lease:
        amend(folder, lease, replace(info("completed"), state="stopped", epoch=3))
    read = folder.info(verify=True)
    assert read is not None
    assert read.state == "stopped"
    assert folder.records().equals(before)
    assert folder.load_checkpoint() == {"epoch": 3}
    assert math.isclose(folder.records()["train_loss"][2].as_py(), 1 / 3)


def test_readers_never_miss_a_row_while_segments_are_merged(
    folder: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(term, "MERGE_AT", 4)
    reached, over = [0], threading.Event()

    def write() -> None:
        with take(folder) as lease, Term(folder, lease) as one:
            one.begin(info(""))
            for epoch in range(1, 300):
                one.append(row(epoch))
                one.flush()
                reached[0] = epoch
            one.seal(replace(info("completed"), epoch=299))
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not over.is_set():
        least = reached[0]
        epochs = folder.records()["epoch"].to_pylist()
        assert epochs == list(range(1, len(epochs) + 1))
        assert len(epochs) >= least
    writer.join()
