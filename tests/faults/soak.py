"""Thousands of short trials in one command: memory, descriptors, temporary files and the time of a trial stay flat."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from mixsweep.core.store.store import SweepStore
from tests.faults.kills import MARK, ROOT, Place, marked, role_of
from tests.faults.stores import findings

SWEEP = """
name = "soak"
seeds = {seeds}
[base]
model = "mlp"
dataset = "digits"
hidden = [4]
batch_size = 64
train_limit = 64
valid_limit = 32
epochs = 1
[space]
lr = {{ grid_search = [1e-2, 1e-3] }}
[resources]
cpus = 1
[keep]
checkpoints = "none"
"""
_PARTS = 10
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Sample:
    """The state at one moment: trials that have begun, seconds since the start, and what the processes use."""

    trials: int
    seconds: float
    command_bytes: int
    largest_worker_bytes: int
    descriptors: int
    temporary_files: int


@dataclass
class Soak:
    """What a soak showed, and what is wrong with it."""

    samples: list[Sample] = field(default_factory=list)
    trials: int = 0
    problems: list[str] = field(default_factory=list)

    def table(self) -> str:
        """A row for each tenth of the trials, as Markdown."""
        head = (
            "| trials | ms a trial | command, MiB | largest worker, MiB | descriptors | temporary files |\n"
        )
        lines = [head + "|---|---|---|---|---|---|"]
        for before, now in zip(self.samples, self.samples[1:]):
            each = 1000 * (now.seconds - before.seconds) / max(1, now.trials - before.trials)
            lines.append(
                f"| {now.trials:,} | {each:.0f} | {now.command_bytes / 2**20:.0f} | "
                f"{now.largest_worker_bytes / 2**20:.0f} | {now.descriptors} | {now.temporary_files} |"
            )
        return "\n".join(lines)


def run_soak(place: Place, folder: Path, mark: str, trials: int) -> Soak:
    """Run a sweep of so many short trials, and look at what its processes use."""
    file = folder / "soak.toml"
    file.write_text(SWEEP.format(seeds=trials // 2), encoding="utf-8")
    root = folder / "stores"
    store = SweepStore(root / "soak")
    words = [*place.prefix(), sys.executable, "-m", "mixsweep", "run", str(file), "--store", str(root)]
    log = folder / "soak.log"
    soak = Soak()
    began = time.monotonic()
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [*words, *place.words(1)],
            cwd=ROOT,
            env={**os.environ, MARK: mark},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                place.help_on()
                count = len(store.trial_names())
                if count >= len(soak.samples) * trials / _PARTS:
                    soak.samples.append(_sample(mark, count, time.monotonic() - began, folder))
                time.sleep(_POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    soak.samples.append(_sample(mark, len(store.trial_names()), time.monotonic() - began, folder))
    soak.trials = len(store.trial_names())
    if process.returncode:
        soak.problems.append(f"exit code {process.returncode}: {log.read_text(errors='replace')[-1000:]}")
    if soak.trials != trials:
        soak.problems.append(f"{soak.trials} trials of {trials}")
    soak.problems += findings(store)[:20]
    soak.problems += _growth(soak.samples)
    return soak


def _growth(samples: list[Sample]) -> list[str]:
    """What is not flat, from the third tenth on: before, processes start and caches fill."""
    if len(samples) < 7:
        return []
    problems = []
    early, late = samples[2:5], samples[-4:-1]
    for name in ("command_bytes", "largest_worker_bytes", "descriptors", "temporary_files"):
        first = max(getattr(sample, name) for sample in early)
        last = min(getattr(sample, name) for sample in late)
        if last > 1.3 * first + 16:
            problems.append(f"{name.replace('_', ' ')} grow from {first:,} to {last:,}")
    first_rate, last_rate = _rate(early), _rate(late)
    if last_rate > 1.5 * first_rate:
        problems.append(
            f"a trial takes {1000 * first_rate:.0f} ms at first and {1000 * last_rate:.0f} ms at last"
        )
    return problems


def _rate(samples: list[Sample]) -> float:
    first, last = samples[0], samples[-1]
    return (last.seconds - first.seconds) / max(1, last.trials - first.trials)


def _sample(mark: str, count: int, seconds: float, folder: Path) -> Sample:
    command = worker = descriptors = 0
    for pid in marked(mark):
        with contextlib.suppress(OSError, IndexError):
            resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            descriptors += len(os.listdir(f"/proc/{pid}/fd"))
            if role_of(pid) == "command":
                command = max(command, resident)
            else:
                worker = max(worker, resident)
    own = [
        path for path in Path(tempfile.gettempdir()).glob("*") if path.name.startswith(("mixsweep-", "ms-"))
    ]
    left = list((folder / "stores" / "soak").glob(".*"))
    return Sample(count, seconds, command, worker, descriptors, len(own) + len(left))
