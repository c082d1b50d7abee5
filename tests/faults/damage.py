"""Damage one file of a store; every command then ends well and shows nothing false, and `run` mends it.

A case is `<state> <file> <damage> <seed>`.
"""

import csv
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from mixsweep.core.store.store import SweepStore
from tests.faults.commands import Commands, Done, Fault
from tests.faults.stores import age, differences, findings, lies, rows
from tests.faults.system_calls import SWEEP, TUNING, Result

STATES = ("waiting", "interrupted", "completed")
DAMAGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "empty": lambda content, rng: b"",
    "half": lambda content, rng: content[: len(content) // 2],
    "nuls": lambda content, rng: bytes(len(content)),
    "not-utf8": lambda content, rng: b"\xff\xfe\x80" + rng.randbytes(max(1, len(content) - 3)),
    "bit": lambda content, rng: _with_flipped_bit(content, rng),
    "gone": lambda content, rng: None,
}

# The victim is the first trial of the plan; `{trial}` is its id. A pattern may fit no file in some state.
FILES = {
    "sweep-file": "sweep.toml",
    "plan": "plan.parquet",
    "format": "format",
    "compacted": "metrics.parquet",
    "index": "trial-index.json",
    "forecast": "forecasts/*",
    "kept": "kept/*/*",
    "stop": "stop*",
    "rung": "rungs/*/*/*",
    "head": "trials/{trial}/[0-9]*.json",
    "records": "trials/{trial}/*.records.*",
    "checkpoint": "trials/{trial}/*.checkpoint.*",
    "predictions": "trials/{trial}/*.predictions.*",
    "log": "trials/{trial}/*.log",
    "lease": "trials/{trial}/lease",
    "report": "report/index.html",
    "mirror": "mirror/*",
}
_ACTIVATIONS = '["relu", "tanh"]'
READERS = (
    "status",
    "status small",
    "status small --json",
    "plan {file}",
    "show {trial}",
    "show {trial} --json",
    "logs {trial}",
    "export small --to {out}.csv",
    "report small",
    "mirror small --offline",
    "doctor --place debug",
    "stop small",
)


class Matrix:
    """Cases of damage in one state of the victim; the state is prepared once.

    Args:
        commands: starts the commands.
        state: of STATES.
        folder: for all stores.
    """

    def __init__(self, commands: Commands, state: str, folder: Path):
        self._commands, self._state = commands, state
        self._folder = folder / f"damage-{state}"
        self._folder.mkdir(parents=True)
        self._file = self._folder / "small.toml"
        text = SWEEP.format(epochs=3, activations=_ACTIVATIONS, keep="all")
        self._file.write_text(text, encoding="utf-8")
        self._undisturbed = SweepStore(self._folder / "undisturbed" / "small")
        self._expect(self._run(self._undisturbed.path.parent))
        self._victim = _first_of_plan(self._undisturbed)
        self._start = self._folder / "start"
        getattr(self, f"_make_{state}")()
        age(self._start)

    def _make_completed(self) -> None:
        self._expect(self._run(self._start))
        for words in ("report small", "mirror small --offline"):
            self._expect(self._command(self._start, words))

    def _make_interrupted(self) -> None:
        fault = Fault(root=self._start, at=f"rename:*{self._victim}/*.checkpoint.2.*:1", action="kill")
        self._run(self._start, fault)
        self._expect(self._command(self._start, "stop small"))

    def _make_waiting(self) -> None:
        other = next(name for name in self._undisturbed.trial_names() if name != self._victim)
        words = f"run {{file}} --place debug --trial {other}"
        self._expect(self._command(self._start, words))

    def cases(self, seed: int) -> list[str]:
        """Every file that this state has, with every damage."""
        return [
            f"{self._state} {name} {damage} {seed}"
            for name in FILES
            if self._found(SweepStore(self._start / "small"), name)
            for damage in DAMAGES
        ]

    def play(self, case: str) -> Result:
        """Damage a copy of the store, then give every command."""
        _, name, damage, _ = case.split()
        root = self._folder / "case"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self._start, root)
        store = SweepStore(root / "small")
        rng = random.Random(f"{case}")
        target = rng.choice(self._found(store, name))
        content = DAMAGES[damage](target.read_bytes(), rng)
        if content is None:
            target.unlink()
        else:
            target.write_bytes(content)
        problems: list[str] = []
        for words in READERS:
            problems += self._check(root, words, self._command(root, words), target)
        problems += [f"before `run`: {line}" for line in lies(store, self._undisturbed)]
        problems += self._check(root, "run", self._run(root), target, codes=(0,))
        if not problems or damage != "gone":
            problems += [f"after `run`: {line}" for line in self._after(store, name)]
        for words in READERS[:10] if name != "report" else ():
            problems += self._check(root, f"{words}, after `run`", self._command(root, words), target, (0,))
        return Result(case, str(target.relative_to(root)), problems)

    def _after(self, store: SweepStore, name: str) -> list[str]:
        ends = ("killed", "interrupted", "disk", "completed")
        found = findings(store) + differences(store, self._undisturbed, ends)
        # A completed trial needs its checkpoint only to be extended, and its predictions only for the report.
        is_spare = self._state == "completed" and name in ("checkpoint", "predictions")
        return [line for line in found if not (is_spare and f".{name}." in line)]

    def _found(self, store: SweepStore, name: str) -> list[Path]:
        found = store.path.glob(FILES[name].format(trial=self._victim))
        return sorted(path for path in found if path.is_file() and not path.name.startswith("."))

    def _check(
        self, root: Path, words: str, done: Done, target: Path, codes: Sequence[int] = (0, 1, 2)
    ) -> list[str]:
        problems = []
        lines = [line for line in done.output.splitlines() if line.strip()]
        if "Traceback" in done.output:
            problems.append(f"{words}: a traceback: …{done.output.strip()[-500:]}")
        if done.code not in codes:
            problems.append(f"{words}: exit code {done.code}: {done.output.strip()[-300:]}")
        elif done.code == 2 and (len(lines) != 1 or not lines[0].startswith("sweep:")):
            problems.append(f"{words}: exit code 2 with {len(lines)} lines: {done.output.strip()[-300:]}")
        told = [line for line in lines if target.name in line and "damaged" in line]
        if len(told) > 1:
            problems.append(f"{words}: {len(told)} lines about it: {told}")
        if words.startswith("export") and done.code == 0:
            problems += self._check_export(root)
        if words.startswith("show") and words.endswith("--json") and done.code == 0:
            problems += self._check_shown(done.output)
        return problems

    def _check_export(self, root: Path) -> list[str]:
        """Each number in the exported table is one that was recorded."""
        with open(f"{root}-out.csv", encoding="utf-8", newline="") as file:
            exported = list(csv.DictReader(file))
        truth = {key: set(values) for key, values in rows(self._undisturbed).items()}
        problems = []
        for row in exported:
            key = (row["trial_id"], int(row["epoch"]))
            for name in ("valid_loss", "train_loss", "valid_accuracy"):
                if repr(float(row[name])) not in truth.get(key, set()):
                    problems.append(f"export: {key} has {name} = {row[name]}, which was not recorded")
        return problems

    def _check_shown(self, output: str) -> list[str]:
        shown = json.loads(output)
        info = self._undisturbed.trial(self._victim).info()
        assert info is not None
        if shown.get("config", info.config.to_mapping()) != json.loads(json.dumps(info.config.to_mapping())):
            return [f"show: the config is {shown['config']}"]
        return []

    def _command(self, root: Path, words: str) -> Done:
        filled = words.format(file=self._file, trial=self._victim, out=f"{root}-out").split()
        return self._commands.run(*filled, "--store", str(root), tuning=TUNING)

    def _run(self, root: Path, fault: Fault | None = None) -> Done:
        words = ("run", str(self._file), "--place", "debug", "--store", str(root))
        return self._commands.run(*words, tuning=TUNING, fault=fault)

    @staticmethod
    def _expect(done: Done) -> None:
        if done.code:
            raise RuntimeError(f"exit code {done.code}: {done.output}")


def _first_of_plan(store: SweepStore) -> str:
    return str(store.plan()["trial_id"][0].as_py())


def _with_flipped_bit(content: bytes, rng: random.Random) -> bytes:
    if not content:
        return b"\x01"
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)
