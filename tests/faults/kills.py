"""Kill, end, stop and cut off at random whatever takes part in a sweep; nothing is lost, and no process is left.

A campaign repeats by its place, seed and number of faults, as far as the machine's own timing allows.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mixsweep.core.store.store import SweepStore
from tests.faults.stores import INTERRUPTED, age, common_differences, differences, findings, lies
from tests.support.commands import wait_until

ROOT = Path(__file__).parents[2]
MARK = "MIXSWEEP_FAULTS"  # in the environment of each process that belongs to a campaign

MODEL = """
import os, time
from torch import nn
from mixsweep import register_model

class Slow(nn.Module):
    def forward(self, x):
        if self.training:
            time.sleep(float(os.environ.get("STEP_SECONDS", "0")))
        return x

def build(config, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 16), nn.ReLU(), Slow(), nn.Linear(16, classes))

register_model("slow", build)
"""
SWEEP = """
name = "many"
seeds = {seeds}
imports = ["slow.py"]
{rule}
[base]
model = "slow"
dataset = "digits"
batch_size = 64
train_limit = 256
valid_limit = 100
epochs = {epochs}
[space]
lr = {{ grid_search = [1e-2, 3e-3, 1e-3] }}
[resources]
cpus = 1
[keep]
checkpoints = "best:2"
"""
RULE = '[stopping]\nrule = "asha"\ngrace_epochs = 1\nreduction_factor = 2\n'
# Ends of attempts that a fault may cause; none of them ends a trial.
ENDS = (*INTERRUPTED, "node", "rendezvous", "port", "disk")
_STEP_SECONDS = 0.05
_MOST_ENDINGS = 12  # commands that end before their sweep has, after the last fault
_PROGRESS_SECONDS = 40.0  # without a new record in this time, the next fault comes anyway


@dataclass(frozen=True)
class Fault:
    """What was done to whom."""

    what: str
    role: str
    pid: int = 0


@dataclass
class Outcome:
    """A campaign: its faults, what was trained, and what is wrong."""

    faults: list[Fault] = field(default_factory=list)
    trials: int = 0
    epochs: int = 0
    problems: list[str] = field(default_factory=list)

    def by_kind(self) -> dict[str, int]:
        """How many faults of each kind and role."""
        return dict(Counter(f"{fault.what} {fault.role}" for fault in self.faults).most_common())


class Place(ABC):
    """Where a campaign's sweep runs, and what can fail there."""

    name: str
    commands = 1  # that run the sweep at the same time

    @abstractmethod
    def words(self, number: int) -> list[str]:
        """What the command with this number has beside `sweep run FILE --store DIR`."""

    def prefix(self) -> list[str]:
        """What stands before the command."""
        return []

    def faults(self) -> Mapping[str, Callable[[random.Random], bool]]:
        """Faults of its own, by name; each returns whether it could be done."""
        return {}

    def help_on(self) -> None:  # noqa: B027
        """Called again and again: what a person or an operator would do meanwhile."""

    def mend(self) -> None:  # noqa: B027
        """Called after a round's last fault: start again what is down."""


class Kills:
    """A campaign of random faults.

    Args:
        place: where.
        folder: for the sweep file, and for stores in its folder `stores`.
        mark: of the campaign's processes.
        seed: of what happens when, and to whom.
        with_rule: whether a stopping rule compares the trials.
        seeds, epochs: of the sweep, which has three trials a seed.
    """

    def __init__(
        self,
        place: Place,
        folder: Path,
        mark: str,
        seed: int,
        with_rule: bool = False,
        seeds: int = 4,
        epochs: int = 10,
    ):
        self._place, self._folder, self._rng = place, folder, random.Random(f"{place.name} {seed}")
        self._with_rule, self.mark = with_rule, mark
        (folder / "slow.py").write_text(MODEL, encoding="utf-8")
        self._file = folder / "many.toml"
        text = SWEEP.format(seeds=seeds, epochs=epochs, rule=RULE if with_rule else "")
        self._file.write_text(text, encoding="utf-8")
        self._outcome = Outcome()
        undisturbed = folder / "undisturbed"
        words = [*self._sweep("run", undisturbed), "--place", "debug"]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=self._environment(0.0))
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        self._undisturbed = SweepStore(undisturbed / "many")

    def play(self, count: int, a_round: int = 12) -> Outcome:
        """Do so many faults, in rounds with a new store each; after each round the store must be whole."""
        number = 0
        while len(self._outcome.faults) < count:
            number += 1
            self._round(
                self._folder / "stores" / f"round-{number}", min(a_round, count - len(self._outcome.faults))
            )
            if self._outcome.problems:
                break
        return self._outcome

    def _round(self, root: Path, count: int) -> None:
        store = SweepStore(root / "many")
        began = len(self._outcome.faults)
        running: list[subprocess.Popen[str]] = []
        log = self._folder / f"{root.name}.log"
        try:
            while len(self._outcome.faults) - began < count and not self._has_ended(store):
                self._keep_running(running, root, log)
                self._wait_for_progress(store, running)
                self._strike()
                self._outcome.problems += [f"a reader is told {line}" for line in self._lies(store)]
            self._place.mend()
            self._finish(running, store, root, log)
        finally:
            for process in running:
                if process.poll() is None:
                    process.kill()
                process.wait()
        self._check(store, root, log)

    def _keep_running(self, running: list["subprocess.Popen[str]"], root: Path, log: Path) -> None:
        for number in range(self._place.commands):
            if number == len(running):
                running.append(self._start(root, number, log))
            elif running[number].poll() is not None:
                running[number] = self._start(root, number, log)

    def _start(self, root: Path, number: int, log: Path) -> "subprocess.Popen[str]":
        words = [*self._place.prefix(), *self._sweep("run", root), *self._place.words(number)]
        with open(log, "a", encoding="utf-8") as output:
            output.write(f"--- {' '.join(words[-6:])}\n")
            output.flush()
            return subprocess.Popen(
                words,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self._environment(_STEP_SECONDS),
                text=True,
                start_new_session=True,
            )

    def _wait_for_progress(self, store: SweepStore, running: list["subprocess.Popen[str]"]) -> None:
        """Wait until an epoch more is recorded: five deaths at one epoch end a trial, as they should."""
        before, end = store.records().num_rows, time.monotonic() + _PROGRESS_SECONDS
        while time.monotonic() < end and store.records().num_rows <= before + 1:
            if all(process.poll() is not None for process in running):
                return
            self._place.help_on()
            time.sleep(0.05)
        time.sleep(self._rng.uniform(0, 0.5))

    def _strike(self) -> None:
        """Do one fault, to one of the roles that are there."""
        roles = self.processes()
        own = self._place.faults()
        name = self._rng.choice(sorted([*roles, *own]) or [""])
        if name in own:
            if own[name](self._rng):
                self._outcome.faults.append(Fault(name, ""))
            return
        if not name:
            return
        pid = self._rng.choice(roles[name])
        # A command also gets what a person, or the end of the shell that gave it, sends.
        more = ("SIGHUP", "SIGINT") if name == "command" else ()
        what = self._rng.choice(("SIGKILL", "SIGKILL", "SIGTERM", "SIGSTOP", *more))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, getattr(signal, what))
            self._outcome.faults.append(Fault(what, name, pid))
            if what == "SIGSTOP":
                time.sleep(self._rng.uniform(0.5, 6.0))
                os.kill(pid, signal.SIGCONT)

    def _finish(
        self, running: list["subprocess.Popen[str]"], store: SweepStore, root: Path, log: Path
    ) -> None:
        """The same command, until it says that all is done."""
        for _ in range(_MOST_ENDINGS):
            for process in running:
                end = time.monotonic() + 300
                while process.poll() is None and time.monotonic() < end:
                    self._place.help_on()
                    time.sleep(0.2)
                if process.poll() is None:
                    self._outcome.problems.append("a command did not end within five minutes")
                    return
            codes = [process.returncode for process in running]
            if codes == [0] and self._has_ended(store):
                return
            running[:] = [self._start(root, 0, log)]
        self._outcome.problems.append(f"after {_MOST_ENDINGS} commands the sweep has not ended")

    def _check(self, store: SweepStore, root: Path, log: Path) -> None:
        age(root)
        words = [*self._place.prefix(), *self._sweep("run", root), *self._place.words(1)]
        last = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=self._environment(0.0))
        problems = [] if last.returncode == 0 else [f"the last command: {last.stdout}{last.stderr}"]
        problems += findings(store) + self._lies(store)
        if not self._with_rule:
            problems += differences(store, self._undisturbed, ENDS)
        problems += self._orphans()
        if "Traceback" in (text := log.read_text(encoding="utf-8", errors="replace")):
            start = text.index("Traceback")
            problems.append(f"a command printed a traceback: {text[max(0, start - 300) : start + 1500]}")
        self._outcome.problems += problems
        self._outcome.trials += len(store.trial_names())
        self._outcome.epochs += store.records().num_rows

    def _lies(self, store: SweepStore) -> list[str]:
        if not store.exists():
            return []
        if not self._with_rule:
            return lies(store, self._undisturbed)
        return common_differences(store, self._undisturbed)

    def _has_ended(self, store: SweepStore) -> bool:
        infos = [folder.info() for folder in store.trials()]
        planned = len(self._undisturbed.trial_names())
        return len(infos) == planned and all(info is not None and info.ended for info in infos)

    def _orphans(self) -> list[str]:
        """Processes of the sweep that are left although no command runs."""
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not self.processes(), 60)
        return [f"process {pid} is left, a {role}" for role, pids in self.processes().items() for pid in pids]

    def processes(self) -> dict[str, list[int]]:
        """Process ids of what takes part now, by role."""
        found: dict[str, list[int]] = {}
        for pid in marked(self.mark):
            if role := role_of(pid):
                found.setdefault(role, []).append(pid)
        return {role: sorted(pids) for role, pids in found.items()}

    def _sweep(self, *words: object) -> list[str]:
        name, root = words
        return [sys.executable, "-m", "mixsweep", str(name), str(self._file), "--store", str(root)]

    def _environment(self, step_seconds: float) -> dict[str, str]:
        return {**os.environ, MARK: self.mark, "STEP_SECONDS": str(step_seconds), "WANDB_MODE": "offline"}


def marked(mark: str) -> Iterator[int]:
    """The living processes that were started with this mark in their environment."""
    wanted = f"{MARK}={mark}".encode()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
            if state not in "ZX" and wanted in (path / "environ").read_bytes().split(b"\0"):
                yield int(path.name)


def role_of(pid: int) -> str:
    """What a process does in a sweep; '' for one that is of no interest."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return ""
    line = " ".join(words)
    if line.startswith("ray::"):
        return "idle worker" if "IDLE" in line else "worker"
    program = Path(words[0]).name
    if program in ("raylet", "gcs_server", "slurmstepd", "srun"):
        return program
    if "mixsweep" in words and "mirror" in words:
        return "mirror"
    if "mixsweep" in words and "run" in words:
        return "command"
    if "job_entry" in line:
        return "array task"
    return ""
