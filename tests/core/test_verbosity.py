"""core.verbosity: quiet until asked, then on stderr, and in processes that inherit the environment."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mixsweep.core.store.trial.checkpoint import load_state, write_state
from mixsweep.core.store.trial.lease import take_lease
from tests.support.commands import ROOT
from tests.sweep.cli.test_app import sweep, write

TAKE = (
    "import sys, pathlib\n"
    "from mixsweep.core.store.trial.lease import take_lease\n"
    "take_lease(pathlib.Path(sys.argv[1])).release()\n"
)


def taken_by_another(folder: Path, **environment: str) -> str:
    """What a process that takes a lease writes to its standard error."""
    done = subprocess.run(
        [sys.executable, "-c", TAKE, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr


@pytest.mark.parametrize("value", ["", "0"])
def test_a_process_that_nobody_asks_is_quiet(value: str, tmp_path: Path) -> None:
    assert taken_by_another(tmp_path, SWEEP_VERBOSE=value) == ""


def test_a_process_that_inherits_the_variable_logs_with_time_and_module(tmp_path: Path) -> None:
    line = taken_by_another(tmp_path, SWEEP_VERBOSE="1")
    wanted = rf"\d\d:\d\d:\d\d mixsweep\.core\.store\.trial\.lease\[\d+\]: {re.escape(str(tmp_path))}: lease taken\n"
    assert re.fullmatch(wanted, line), line


def test_the_command_logs_on_stderr_and_prints_the_same(tmp_path: Path) -> None:
    file = write(tmp_path, epochs=1)
    command = ("run", file, "--place", "debug", "--limit", "1", "--store")
    loud = sweep("-v", *command, tmp_path / "a")
    quiet = sweep(*command, tmp_path / "b")
    assert (loud.returncode, quiet.returncode, quiet.stderr) == (0, 0, "")
    assert "mixsweep.core.store.trial.lease[" in loud.stderr
    assert "mixsweep.core.store.trial.checkpoint[" in loud.stderr
    assert "mixsweep." not in loud.stdout
    assert "Traceback" not in loud.stderr


def test_a_lease_that_is_held_is_told_of_with_its_holder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "mixsweep")
    held = take_lease(tmp_path)
    assert held is not None
    with held:
        assert take_lease(tmp_path) is None
    assert f"{tmp_path}: skipped, its lease is held by process {os.getpid()} of " in caplog.text


def test_a_damaged_checkpoint_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "mixsweep")
    made = write_state(tmp_path, 1, {"epoch": 1})
    (tmp_path / made.name).write_bytes(b"damaged")
    assert load_state(tmp_path, [made]) is None
    assert f"{tmp_path / made.name}: damaged, its digest does not match" in caplog.text
