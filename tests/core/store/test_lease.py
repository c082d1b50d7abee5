"""core.store.lease: one writer at a time, whoever dies, sleeps or races."""

import errno
import json
import os
import socket
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from mixsweep.core.failures import LeaseLostError
from mixsweep.core.store import lease as lease_module
from mixsweep.core.store.lease import lease_is_live, take_lease


def take_or_fail(folder: Path) -> lease_module.Lease:
    lease = take_lease(folder)
    assert lease is not None
    return lease


def age(folder: Path, seconds: float) -> None:
    """Let the lease look as if its holder had not touched it for so long."""
    then = time.time() - seconds
    os.utime(folder / "lease", (then, then))


def hold(folder: Path, taken: Any, done: Any) -> None:
    with take_or_fail(folder):
        taken.set()
        done.wait(60)


def race(folders: list[Path], barrier: Any, winners: Any) -> None:
    for number, folder in enumerate(folders):
        barrier.wait(60)
        lease = take_lease(folder)
        barrier.wait(60)  # the winner keeps it until all have tried
        if lease is not None:
            winners.put((number, os.getpid()))
            lease.check()
            lease.release()


@pytest.mark.faults
@pytest.mark.parametrize("before", ["fresh", "stale", "dead"])
def test_of_eight_processes_that_race_for_a_lease_exactly_one_wins(
    tmp_path: Path, processes: ForkServerContext, before: str
) -> None:
    folders = [tmp_path / str(number) for number in range(25)]
    for folder in folders:
        folder.mkdir()
        host, born = ("elsewhere", "1") if before == "stale" else (lease_module._this_host(), "no such birth")
        if before != "fresh":
            held = {"token": "0" * 32, "host": host, "pid": os.getpid(), "born": born}
            (folder / "lease").write_text(json.dumps(held))
        if before == "stale":
            age(folder, 2 * lease_module.STALE_SECONDS)
    barrier, winners = processes.Barrier(8), processes.Queue()
    racers = [processes.Process(target=race, args=(folders, barrier, winners)) for _ in range(8)]
    for racer in racers:
        racer.start()
    won = [winners.get(timeout=60)[0] for _ in folders]
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0] * 8
    assert sorted(won) == list(range(len(folders)))
    assert winners.empty()
    assert [list(folder.iterdir()) for folder in folders] == [[]] * len(folders)


def test_a_lease_is_held_by_one_until_it_is_released(tmp_path: Path) -> None:
    folder = tmp_path / "made where it is absent"
    with take_or_fail(folder) as lease:
        assert take_lease(folder) is None
        assert lease_is_live(folder)
        lease.check()
    assert not lease_is_live(folder)
    take_or_fail(folder).release()


def test_a_released_lease_leaves_no_file(tmp_path: Path) -> None:
    with take_or_fail(tmp_path):
        take_lease(tmp_path)
        lease_is_live(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["lease"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.faults
def test_a_lease_is_kept_from_others_while_its_process_lives_and_free_at_once_when_it_is_killed(
    tmp_path: Path, processes: ForkServerContext
) -> None:
    taken, done = processes.Event(), processes.Event()
    holder = processes.Process(target=hold, args=(tmp_path, taken, done))
    holder.start()
    assert taken.wait(60)
    assert take_lease(tmp_path) is None
    assert lease_is_live(tmp_path)
    holder.kill()
    holder.join()
    assert not lease_is_live(tmp_path)
    take_or_fail(tmp_path).release()


def test_a_process_id_used_again_is_not_mistaken_for_the_holder(tmp_path: Path) -> None:
    held = {"token": "a", "host": lease_module._this_host(), "pid": os.getpid(), "born": "long ago"}
    (tmp_path / "lease").write_text(json.dumps(held))
    take_or_fail(tmp_path).release()


def test_another_hosts_lease_is_taken_only_once_it_is_stale(tmp_path: Path) -> None:
    (tmp_path / "lease").write_text(json.dumps({"token": "a", "host": "elsewhere", "pid": 1, "born": "1"}))
    age(tmp_path, lease_module.STALE_SECONDS / 2)
    assert take_lease(tmp_path) is None
    age(tmp_path, lease_module.STALE_SECONDS + 1)
    take_or_fail(tmp_path).release()


def test_the_heartbeat_keeps_a_lease_past_the_time_in_which_it_would_go_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(lease_module, "STALE_SECONDS", 1.0)
    with take_or_fail(tmp_path) as lease:
        for _ in range(12):
            time.sleep(0.1)
            assert take_lease(tmp_path) is None
        lease.check()


def test_a_holder_that_overslept_is_told_and_leaves_the_new_holders_lease_alone(tmp_path: Path) -> None:
    overslept = take_or_fail(tmp_path)
    age(tmp_path, 2 * lease_module.STALE_SECONDS)
    with take_or_fail(tmp_path) as new:
        with pytest.raises(LeaseLostError, match="taken over"):
            overslept.check()
        overslept.release()
        new.check()


def test_a_holder_whose_folder_was_removed_is_told(tmp_path: Path) -> None:
    with take_or_fail(tmp_path) as lease:
        (tmp_path / "lease").unlink()
        with pytest.raises(LeaseLostError):
            lease.check()


def test_the_marker_of_a_taker_that_died_does_not_block_for_ever(tmp_path: Path) -> None:
    (tmp_path / "lease").write_text(
        json.dumps({"token": "a" * 32, "host": "elsewhere", "pid": 1, "born": "1"})
    )
    age(tmp_path, 2 * lease_module.STALE_SECONDS)
    marker = tmp_path / ".lease.taking.aaaaaaaa"
    marker.touch()
    assert take_lease(tmp_path) is None
    assert marker.exists()  # its taker may be alive
    then = time.time() - 2 * lease_module.STALE_SECONDS
    os.utime(marker, (then, then))
    assert take_lease(tmp_path) is None  # clears the marker
    take_or_fail(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b'{"token": ', b"\xff\xfe", b"[1]", b"{}"])
def test_a_damaged_lease_is_held_while_it_is_fresh_and_then_taken(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lease").write_bytes(content)
    assert lease_is_live(tmp_path)
    assert take_lease(tmp_path) is None
    age(tmp_path, lease_module.STALE_SECONDS + 1)
    assert not lease_is_live(tmp_path)
    with take_or_fail(tmp_path) as lease:
        lease.check()
    assert list(tmp_path.iterdir()) == []


def test_a_holder_that_overslept_does_not_keep_the_new_holders_lease_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.05)
    with take_or_fail(tmp_path):
        content = (tmp_path / "lease").read_text()
        (tmp_path / "lease").write_text(json.dumps(json.loads(content) | {"token": "another's"}))
        age(tmp_path, 100)
        before = (tmp_path / "lease").stat().st_mtime
        time.sleep(0.3)
        assert (tmp_path / "lease").stat().st_mtime == before


def test_a_process_of_the_same_id_in_another_container_or_boot_is_not_taken_for_dead(tmp_path: Path) -> None:
    held = {"token": "a", "host": f"{socket.gethostname()} another boot", "pid": os.getpid(), "born": "then"}
    (tmp_path / "lease").write_text(json.dumps(held))
    assert lease_is_live(tmp_path)
    assert take_lease(tmp_path) is None


def test_a_file_system_without_links_has_leases_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with take_or_fail(tmp_path) as lease:
        lease.check()
        assert take_lease(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
