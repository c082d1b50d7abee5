"""Pause or kill a command at one of its system calls on the store; then another one finishes; then compare.

A case is `<scenario> <way> <call>:<pattern>:<number>`, and repeats by these three words.
"""

import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mixsweep.core.store.store import SweepStore
from tests.faults.commands import Commands, Done, Fault
from tests.faults.stores import age, common_differences, differences, findings, lies
from tests.support.trials import as_format_1

SWEEP = """
name = "small"
question = "Which activation?"
[base]
model = "mlp"
dataset = "digits"
hidden = [8]
batch_size = 64
train_limit = 192
valid_limit = 64
epochs = {epochs}
[space]
activation = {{ grid_search = {activations} }}
[keep]
checkpoints = "{keep}"
"""
RULE = '[stopping]\nrule = "asha"\ngrace_epochs = 1\nreduction_factor = 2\n'

# Each record is a segment, each epoch has a checkpoint, segments are merged: a short trial does what a long one does.
TUNING = {"flush_seconds": 0, "checkpoint_share": 1.0, "merge_at": 2}

WRITES = (
    "create",
    "write",
    "fsync",
    "rename",
    "link",
    "unlink",
    "rmdir",
    "mkdir",
    "utime",
    "truncate",
    "chmod",
)
# How long the others believe that a process has slept: its lease is stale, or its temporary files are leftovers too.
SLEEPS = {"pause": 2 / 60, "sleep": 2.0}
WAYS = ("pause", "sleep", "kill", "torn")


@dataclass(frozen=True)
class Scenario:
    """A command on a store in some state.

    Args:
        name: how it is called.
        words: of the command, without `--store`; `{file}` is the sweep file.
        prepare: brings a store into its state, given the commands, the sweep file and the store's folder.
        sweep: the text of the sweep file.
        equal: whether the whole store must equal an undisturbed one although two processes share the work.
    """

    name: str
    words: tuple[str, ...] = ("run", "{file}", "--place", "debug")
    prepare: Callable[[Commands, Path, Path], None] = lambda commands, file, store: None
    sweep: str = SWEEP.format(epochs=3, activations='["relu", "tanh"]', keep="best:1")
    equal: bool = True


@dataclass(frozen=True)
class Result:
    """What a case showed: where it struck, '' if the command had ended before; and what is wrong."""

    case: str
    struck: str
    problems: list[str] = field(default_factory=list)


def _train(commands: Commands, file: Path, store: Path) -> None:
    _expect(commands.run("run", str(file), "--place", "debug", "--store", str(store), tuning=TUNING), 0)


def _train_shorter(commands: Commands, file: Path, store: Path) -> None:
    words = ("run", str(file), "--place", "debug", "--store", str(store), "--set", "base.epochs=2")
    _expect(commands.run(*words, tuning=TUNING), 0)


def _kill_midway(commands: Commands, file: Path, store: Path) -> None:
    fault = Fault(root=store, at="rename:*.checkpoint.2.*:1", action="kill")
    words = ("run", str(file), "--place", "debug", "--store", str(store))
    _expect(commands.run(*words, tuning=TUNING, fault=fault), -9)


def _write_format_1(commands: Commands, file: Path, store: Path) -> None:
    _kill_midway(commands, file, store)
    sweep = SweepStore(store / "small")
    for folder in sweep.trials():
        as_format_1(folder)
    (sweep.path / "format").unlink(missing_ok=True)


def _expect(done: Done, code: int) -> None:
    if done.code != code:
        raise RuntimeError(f"exit code {done.code}, not {code}: {done.output}")


SCENARIOS = {
    one.name: one
    for one in (
        Scenario("train"),
        Scenario("resume", prepare=_kill_midway),
        Scenario("extend", prepare=_train_shorter),
        Scenario("upgrade", prepare=_write_format_1),
        Scenario(
            "rule",
            sweep=SWEEP.format(epochs=3, activations='["relu", "tanh", "gelu", "sigmoid"]', keep="none")
            + RULE,
            equal=False,
        ),
        Scenario("stop", words=("stop", "small"), prepare=_train),
        Scenario("report", words=("report", "small"), prepare=_train),
        Scenario("mirror", words=("mirror", "small", "--offline"), prepare=_train),
    )
}


class Campaign:
    """Cases of one scenario: its store is prepared once, and what it must become is trained once.

    Args:
        commands: starts the commands.
        scenario: which.
        folder: for all stores.
    """

    def __init__(self, commands: Commands, scenario: Scenario, folder: Path):
        self._commands, self.scenario = commands, scenario
        self._folder = folder / scenario.name
        self._folder.mkdir(parents=True)
        self._file = self._folder / "small.toml"
        self._file.write_text(scenario.sweep, encoding="utf-8")
        self._start = self._folder / "start"
        self._start.mkdir()
        scenario.prepare(commands, self._file, self._start)
        age(self._start)
        undisturbed = self._folder / "undisturbed"
        shutil.copytree(self._start, undisturbed)
        trace = self._folder / "trace"
        _expect(self._run(undisturbed, Fault(root=undisturbed, trace=trace)), 0)
        self.calls = read_trace(trace)
        if scenario.words[0] == "run":
            _expect(self._run(undisturbed), 0)
        self._undisturbed = SweepStore(undisturbed / "small")

    def cases(self, ways: Sequence[str], calls: Iterable[str] = WRITES) -> list[str]:
        """Every case: each call on the store, in each of these ways."""
        wanted = {*calls}
        points = [point for point in numbered(self.calls) if point.partition(":")[0] in wanted]
        return [
            f"{self.scenario.name} {way} {point}"
            for way in ways
            for point in points
            if way != "torn" or point.startswith("write:")
        ]

    def play(self, case: str) -> Result:
        """Play one case.

        Raises:
            TimeoutError: a command did not end.
        """
        _, way, at = case.split(" ", 2)
        store = self._folder / "case"
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(self._start, store)
        trace = self._folder / "case-trace"
        trace.unlink(missing_ok=True)
        fault = Fault(root=store, at=at, action="stop" if way in SLEEPS else way, trace=trace)
        first = self._commands.start(*self._words(store), tuning=TUNING, fault=fault)
        problems: list[str] = []
        done = first.wait(stops=True)
        if done is None:
            problems += self._while_it_sleeps(store, SLEEPS[way])
            first.wake()
            done = first.wait()
            assert done is not None
            problems += _wrong_end("the command that slept", done, (0,))
        elif done.code != -9:
            problems += _wrong_end("the command", done, (0,))
        age(store)
        problems += _wrong_end("the same command again", self._run(store), (0,))
        problems += self._compare(store, shared=way in SLEEPS)
        struck = next((line[2:] for line in trace.read_text().splitlines() if line.startswith("! ")), "")
        return Result(case, struck, problems)

    def _while_it_sleeps(self, store: Path, hours: float) -> list[str]:
        sweep = SweepStore(store / "small")
        truths = (self._undisturbed, SweepStore(self._start / "small"))
        problems = lies(sweep, *truths) if self.scenario.equal and sweep.exists() else []
        if sweep.exists():
            problems += _wrong_end(
                "status", self._commands.run("status", "small", "--store", str(store)), (0,)
            )
        age(store, hours)
        problems += _wrong_end("the command that took over", self._run(store), (0,))
        return problems

    def _compare(self, store: Path, shared: bool) -> list[str]:
        sweep = SweepStore(store / "small")
        problems: list[str] = []
        if self.scenario.words[0] != "run":  # which clears what others have left
            words = ("run", str(self._file), "--place", "debug", "--store", str(store))
            problems += _wrong_end("run", self._commands.run(*words), (0,))
        problems += findings(sweep)
        if self.scenario.equal or not shared:
            return problems + differences(sweep, self._undisturbed)
        return problems + common_differences(sweep, self._undisturbed)

    def _run(self, store: Path, fault: Fault | None = None) -> Done:
        return self._commands.run(*self._words(store), tuning=TUNING, fault=fault)

    def _words(self, store: Path) -> list[str]:
        return [word.format(file=self._file) for word in self.scenario.words] + ["--store", str(store)]


def read_trace(path: Path) -> list[tuple[str, str]]:
    """The calls of a trace: what, and on which path below the root."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [(call, rest) for call, _, rest in (line.removeprefix("! ").partition(" ") for line in lines)]


def numbered(calls: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Each call as `<call>:<pattern>:<number>`: names that differ from run to run are `*` in the pattern."""
    counts: Counter[tuple[str, str]] = Counter()
    for call, path in calls:
        pattern = _pattern(path)
        counts[call, pattern] += 1
        yield f"{call}:{pattern}:{counts[call, pattern]}"


def sample(cases: Sequence[str], count: int, seed: int) -> list[str]:
    """So many cases, of as many different kinds (way, call, kind of file) as there are."""
    rng = random.Random(seed)
    kinds: dict[tuple[str, ...], list[str]] = {}
    for case in cases:
        _, way, point = case.split(" ", 2)
        call, pattern, _ = point.split(":")
        kinds.setdefault((way, call, re.sub(r"[0-9]+", "", pattern)), []).append(case)
    groups = list(kinds.values())
    rng.shuffle(groups)
    chosen: list[str] = []
    while len(chosen) < min(count, len(cases)):
        for group in groups:
            if len(chosen) < count and (left := [case for case in group if case not in chosen]):
                chosen.append(rng.choice(left))
    return chosen


def _pattern(path: str) -> str:
    return re.sub(r"[0-9a-f]{8,64}|(?<=checkpoint\.)[0-9]{3,}", "*", path) or "*"


def _wrong_end(who: str, done: Done, codes: Sequence[int]) -> list[str]:
    problems = []
    if done.code not in codes:
        problems.append(f"{who}: exit code {done.code}: {done.output.strip()[-300:]}")
    if "Traceback" in done.output:
        problems.append(f"{who}: a traceback: {done.output.strip()[-1500:]}")
    return problems
