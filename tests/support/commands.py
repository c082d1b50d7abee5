"""Runs the real command line in real processes, and looks at what is left of them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.trainables.kinds import find_trainable

ROOT = Path(__file__).parents[2]

# Six small trials of real images: three activations, two seeds.
SMALL_SWEEP = """
name = "small"
question = "Which activation?"
seeds = 2
[base]
model = "mlp"
dataset = "digits"
hidden = [64, 32]
batch_size = 32
epochs = {epochs}
[space]
activation = {{ grid_search = ["relu", "tanh", "sigmoid"] }}
"""


def write_sweep(folder: Path, epochs: int = 6, extra: str = "") -> Path:
    """A sweep file of six trials in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "small.toml"
    path.write_text(SMALL_SWEEP.format(epochs=epochs) + extra, encoding="utf-8")
    return path


def sweep_command(file: Path, store: Path, place: str, *more: str) -> list[str]:
    """`sweep run` as a person types it."""
    return [
        sys.executable,
        "-m",
        "mixsweep",
        "run",
        str(file),
        "--place",
        place,
        "--store",
        str(store),
        *more,
    ]


def start(command: list[str], folder: Path = ROOT) -> "subprocess.Popen[str]":
    """Start a command in a process group of its own, as a shell does."""
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=_as_from_a_terminal,
    )


def _as_from_a_terminal() -> None:
    """A shell without job control has its background jobs ignore Ctrl-C, and so would their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(
    command: list[str], timeout: float = 240, folder: Path = ROOT
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    process = start(command, folder)
    try:
        output, _ = process.communicate(timeout=timeout)
    except BaseException:
        kill_family(process)
        raise
    return subprocess.CompletedProcess(command, process.returncode, output, "")


def lines_said(output: str) -> list[str]:
    """The lines of a command's output, without the one that announces a new store."""
    return [line for line in output.splitlines() if not line.startswith("A new store begins at ")]


def kill_family(process: "subprocess.Popen[str]") -> int:
    """SIGKILL a process and all that descend from it; return how many there were."""
    family = _descendants(process.pid)
    for pid in (process.pid, *family):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()
    return 1 + len(family)


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: it did not come true in time.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("waited in vain")
        time.sleep(0.05)


def infos(store: SweepStore) -> list[TrialInfo]:
    """What the store says of all trials that have begun."""
    return [info for trial in store.trials() if (info := trial.info())]


def trajectories(store: SweepStore) -> pa.Table:
    """All records of a sweep that must be equal wherever it ran, in a fixed order."""
    table = store.records().select(find_trainable().trajectory_columns)
    return table.sort_by([("trial_id", "ascending"), ("epoch", "ascending")])


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *_descendants(child)]
    return found
