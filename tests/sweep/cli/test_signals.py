"""A signal to one command stops that one; `sweep stop` stops all that were given before it."""

import os
import signal
import time
from pathlib import Path

import pytest

from mixsweep.core.store.store import SweepStore
from tests.support.commands import finish, kill_family, start, sweep_command, wait_until, write_sweep


def epochs(store: SweepStore) -> int:
    return sum(folder.records().num_rows for folder in store.trials())


def states(store: SweepStore) -> list[str]:
    return sorted(getattr(folder.info(), "state", "waiting") for folder in store.trials())


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_of_two_commands_on_one_sweep_a_signal_stops_the_one_that_got_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    file, root = write_sweep(tmp_path, epochs=60), tmp_path / "runs"
    store = SweepStore(root / "small")
    first = start(sweep_command(file, root, "debug"))
    wait_until(lambda: store.exists() and epochs(store) > 0)
    second = start(sweep_command(file, root, "debug"))
    try:
        wait_until(lambda: len(list(store.trials())) > 1)  # both are at work
        os.kill(first.pid, number)
        output, _ = first.communicate(timeout=120)
        assert first.returncode == 130, output
        assert "Stopped at a safe point" in output
        output, _ = second.communicate(timeout=200)
        assert second.returncode == 0, output
    finally:
        kill_family(first)
        kill_family(second)
    assert states(store) == ["completed"] * 6
    assert not (store.path / "stops").exists()


def test_sweep_stop_stops_a_command_and_the_next_one_runs_although_the_stop_is_dated_ahead(
    tmp_path: Path,
) -> None:
    file, root = write_sweep(tmp_path, epochs=40), tmp_path / "runs"
    store = SweepStore(root / "small")
    running = start(sweep_command(file, root, "debug"))
    try:
        wait_until(lambda: store.exists() and epochs(store) > 0)
        stopped = finish([*sweep_command(file, root, "debug")[:3], "stop", "small", "--store", str(root)])
        assert stopped.returncode == 0, stopped.stdout
        output, _ = running.communicate(timeout=120)
        assert running.returncode == 130, output
    finally:
        kill_family(running)
    ahead = time.time() + 365 * 86_400
    (store.path / "stop").write_text("2099-01-01T00:00:00+00:00")
    os.utime(store.path / "stop", (ahead, ahead))
    done = finish(sweep_command(file, root, "debug"))
    assert done.returncode == 0, done.stdout
    assert states(store) == ["completed"] * 6
