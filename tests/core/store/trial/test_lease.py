"""core.store.trial.lease: one writer at a time, whoever dies, sleeps or races."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from mixsweep.core.failures import LeaseLostError
from mixsweep.core.store.trial import lease as lease_module
from mixsweep.core.store.trial.lease import lease_is_live, lease_is_undecided, take_lease

# No clock is wrong by so much, so that a lease this old is dead without being watched.
LONG_DEAD = lease_module._LONG_DEAD_SECONDS + lease_module.STALE_SECONDS + 1


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
            age(folder, LONG_DEAD)
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


HOLDS_THE_LOCK = """
import ctypes, sys, time
from pathlib import Path
from mixsweep.core.store.trial import lease as lease_module
lease_module.HEARTBEAT_SECONDS = 0.1
lease = lease_module.take_lease(Path(sys.argv[1]))
with lease.beat_apart():
    print("holds it", flush=True)
    ctypes.PyDLL(None).usleep(4_000_000)  # a call that does not release the interpreter's lock
    lease.check()
    print("still has it", flush=True)
    time.sleep(60)
"""


@pytest.mark.faults
def test_a_holder_whose_threads_stand_still_keeps_its_lease_and_one_that_is_stopped_or_killed_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "STALE_SECONDS", 1.5)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS_THE_LOCK, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds it\n"
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
        (helper,) = map(int, children.read_text().split())
        end = time.monotonic() + 3.5
        while time.monotonic() < end:
            assert lease_is_live(tmp_path)
            time.sleep(0.05)
        assert holder.stdout.readline() == "still has it\n"
        holder.send_signal(signal.SIGSTOP)
        time.sleep(2.0)
        assert not lease_is_live(tmp_path)
        take_or_fail(tmp_path).release()
        holder.kill()
        holder.wait()
        end = time.monotonic() + 10
        while Path(f"/proc/{helper}").exists() and time.monotonic() < end:
            time.sleep(0.05)
        assert not Path(f"/proc/{helper}").exists()
    finally:
        holder.kill()
        holder.communicate()


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
    age(tmp_path, LONG_DEAD)
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
    age(tmp_path, LONG_DEAD)
    with take_or_fail(tmp_path) as new:
        with pytest.raises(LeaseLostError, match="taken over"):
            overslept.check()
        overslept.release()
        new.check()


def test_a_holder_whose_folder_was_removed_is_told(tmp_path: Path) -> None:
    with take_or_fail(tmp_path / "gone") as lease:
        shutil.rmtree(tmp_path / "gone")
        with pytest.raises(LeaseLostError):
            lease.check()


def test_a_lease_that_somebody_deleted_is_taken_again_unless_another_has_it(tmp_path: Path) -> None:
    with take_or_fail(tmp_path) as lease:
        (tmp_path / "lease").unlink()
        lease.check()
        assert take_lease(tmp_path) is None
        (tmp_path / "lease").unlink()
        with take_or_fail(tmp_path) as other:
            with pytest.raises(LeaseLostError):
                lease.check()
            other.check()


@pytest.mark.parametrize("content", [
    b"", b'{"token": ', b"\xff\xfe", b"[1]", b"{}", b'{"token": null, "host": "h", "pid": 1, "born": "1"}',
    b'{"token": "t", "host": "h", "pid": "x", "born": "1"}', b'{"token": "t", "host": 3, "pid": 1, "born": "1"}',
    b'{"token": "t", "host": "h", "pid": -1, "born": "1"}', b"[" * 100_000,
])  # fmt: skip
def test_a_damaged_lease_is_held_while_it_is_fresh_and_then_taken(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lease").write_bytes(content)
    assert lease_is_live(tmp_path)
    assert take_lease(tmp_path) is None
    age(tmp_path, LONG_DEAD)
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


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EMLINK])
def test_a_file_system_without_links_has_leases_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "link", refuse)
    with take_or_fail(tmp_path) as lease:
        lease.check()
        assert take_lease(tmp_path) is None
        age(tmp_path, LONG_DEAD)
        with take_or_fail(tmp_path) as other:
            with pytest.raises(LeaseLostError):
                lease.check()
            other.check()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [errno.EEXIST, errno.EIO, errno.ETIMEDOUT, errno.ESTALE])
def test_a_link_whose_reply_was_lost_is_the_makers_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    link = os.link

    def lose(*arguments: Any) -> None:
        link(*arguments)
        raise (
            OSError(error, os.strerror(error)) if error != errno.EEXIST else FileExistsError(error, "exists")
        )

    monkeypatch.setattr(os, "link", lose)
    with take_or_fail(tmp_path) as lease:
        lease.check()
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_utime_has_heartbeats_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.05)
    utime = os.utime

    def refuse(path: Any, *words: Any, **options: Any) -> None:
        if isinstance(path, int):
            raise OSError(errno.EPERM, "Operation not permitted")
        utime(path, *words, **options)

    monkeypatch.setattr(os, "utime", refuse)
    with take_or_fail(tmp_path) as lease:
        age(tmp_path, 1000)
        time.sleep(0.3)
        assert time.time() - (tmp_path / "lease").stat().st_mtime < 10
        lease.check()


@pytest.mark.parametrize("seconds", [3600.0, -3600.0, lease_module.STALE_SECONDS + 1])
def test_a_lease_of_another_host_with_another_clock_is_watched_and_taken_only_if_it_does_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(lease_module, "OBSERVE_SECONDS", 0.4)
    content = json.dumps({"token": "a", "host": "elsewhere", "pid": 1, "born": "1"})
    (tmp_path / "lease").write_text(content)
    for beat in range(6):
        age(tmp_path, seconds - 0.1 * beat)  # its holder lives, and touches it by its own clock
        assert take_lease(tmp_path) is None
        assert lease_is_undecided(tmp_path)
        time.sleep(0.1)
    time.sleep(0.5)  # it dies
    assert not lease_is_undecided(tmp_path)
    take_or_fail(tmp_path).release()


def test_a_dead_host_of_yesterday_is_not_watched(tmp_path: Path) -> None:
    (tmp_path / "lease").write_text(json.dumps({"token": "a", "host": "elsewhere", "pid": 1, "born": "1"}))
    age(tmp_path, 86_400)
    assert not lease_is_undecided(tmp_path)
    take_or_fail(tmp_path).release()


def test_a_stopped_process_of_this_host_loses_a_stale_lease_at_once_and_a_running_one_is_watched(
    tmp_path: Path,
) -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        born = lease_module._born(sleeper.pid)
        held = {"token": "a", "host": lease_module._this_host(), "pid": sleeper.pid, "born": born}
        (tmp_path / "lease").write_text(json.dumps(held))
        age(tmp_path, lease_module.STALE_SECONDS + 1)
        assert lease_is_undecided(tmp_path)
        sleeper.send_signal(signal.SIGSTOP)
        waited = time.monotonic() + 10
        while lease_is_undecided(tmp_path) and time.monotonic() < waited:
            time.sleep(0.01)
        take_or_fail(tmp_path).release()
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_process_that_sleeps_before_it_releases_a_lease_removes_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process takes the lease between its look at it and its rename."""
    rename, others = os.rename, []

    def sleep(*paths: Any) -> None:
        monkeypatch.setattr(os, "rename", rename)
        age(tmp_path, LONG_DEAD)
        others.append(take_or_fail(tmp_path))
        rename(*paths)

    lease = take_or_fail(tmp_path)
    monkeypatch.setattr(os, "rename", sleep)
    lease.release()
    others[0].check()
    assert take_lease(tmp_path) is None
    others[0].release()
    assert list(tmp_path.iterdir()) == []


def leave_dead(folder: Path) -> None:
    """A lease of a host that died long ago."""
    (folder / "lease").write_text(json.dumps({"token": "a", "host": "elsewhere", "pid": 1, "born": "1"}))
    age(folder, LONG_DEAD)


def test_a_process_that_sleeps_before_it_takes_over_leaves_the_new_holder_its_lease_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two look at a dead holder's lease; one takes its place while the other sleeps; a third looks in all the time."""
    look, others, thirds = lease_module._verdict, [], []

    def sleep(path: Path, held: dict[str, Any]) -> Any:
        verdict = look(path, held)
        monkeypatch.setattr(lease_module, "_verdict", look)
        others.append(take_or_fail(tmp_path))
        for name in ("rename", "replace", "link", "unlink"):
            look_in_after(name, getattr(os, name))
        return verdict

    def look_in_after(name: str, real: Any) -> None:
        def call(*arguments: Any, **options: Any) -> Any:
            result = real(*arguments, **options)
            with monkeypatch.context() as patch:
                patch.setattr(os, name, real)
                thirds.append(take_lease(tmp_path))
            return result

        monkeypatch.setattr(os, name, call)

    leave_dead(tmp_path)
    monkeypatch.setattr(lease_module, "_verdict", sleep)
    assert take_lease(tmp_path) is None
    monkeypatch.undo()
    assert thirds
    assert not any(thirds)
    others[0].check()
    others[0].release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["here", "elsewhere"])
def test_a_process_that_dies_while_it_takes_over_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(lease_module, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(lease_module, "OBSERVE_SECONDS", 0.3)
    leave_dead(tmp_path)

    def die(*paths: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(lease_module.files, "move", die)
        patch.setattr(Path, "unlink", lambda path, **options: None)
        patch.setattr(lease_module, "_this_host", lambda: "elsewhere" if host == "elsewhere" else host)
        patch.setattr(lease_module, "_born", lambda pid: "no such birth")
        with pytest.raises(MemoryError):
            take_lease(tmp_path)
    if host == "here":
        monkeypatch.setattr(lease_module, "_this_host", lambda: host)
    else:  # only time tells
        assert take_lease(tmp_path) is None
        while lease_is_undecided(tmp_path):
            time.sleep(0.05)
    lease = take_or_fail(tmp_path)
    lease.check()
    assert take_lease(tmp_path) is None
    lease.release()


HIDDEN = """
import os, subprocess, sys, time
from pathlib import Path
subprocess.run(["mount", "-t", "proc", "-o", "remount,hidepid=2", "proc", "/proc"], check=True)
from mixsweep.core.store.trial.lease import lease_is_live, take_lease
folder = Path(sys.argv[1])
lease = take_lease(folder)
os.chmod(folder, 0o777)
if os.fork() == 0:
    os.setgid(65534); os.setuid(65534)
    assert not Path(f"/proc/{os.getppid()}/stat").exists()
    assert lease_is_live(folder)
    assert take_lease(folder) is None
    print("left alone", flush=True)
    os._exit(0)
os.wait()
lease.check()
lease.release()
"""


def test_a_process_that_cannot_be_seen_is_not_taken_for_dead(tmp_path: Path) -> None:
    words = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", textwrap.dedent(HIDDEN)]
    os.chmod(tmp_path, 0o777)
    for parent in tmp_path.parents:
        if str(parent).startswith("/tmp/"):
            os.chmod(parent, 0o755)
    done = subprocess.run([*words, str(tmp_path / "held")], capture_output=True, text=True)
    if "mount" in done.stderr and "left alone" not in done.stdout:
        pytest.skip("needs the right to mount /proc with hidepid: run as root")
    assert "left alone" in done.stdout, done.stderr
    assert done.returncode == 0, done.stderr


def test_a_process_whose_name_is_no_utf_8_is_seen(tmp_path: Path) -> None:
    program = os.path.join(os.fsencode(tmp_path), b"r\xe9sum\xe9")
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    sleeper = subprocess.Popen([program, "60"])
    try:
        born = lease_module._born(sleeper.pid)
        assert born.isdecimal()
        held = {"token": "a", "host": lease_module._this_host(), "pid": sleeper.pid, "born": born}
        (tmp_path / "lease").write_text(json.dumps(held))
        assert lease_is_live(tmp_path)
    finally:
        sleeper.kill()
        sleeper.wait()
    assert not lease_is_live(tmp_path)
