"""Records timed: a trial of a class of one's own that computes nothing, and Ray Tune's reports of a function.

Each runs in a process of its own, which prints its measurement as the last line, in JSON:
`python -m tests.benchmarks.recording WHO RECORDS FOLDER`. CPU time is that of the process that writes the records.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mixsweep import field
from tests.benchmarks.comparison import Comparison, Figure
from tests.support.commands import ROOT

MOST_CPU_MS = 5.0  # a record with everything on: the target
RECORDS_PER_SECOND = 1000.0  # without a rule: the target
_STRETCH = 10_000  # records at the start and at the end that are compared
_FILE = 'name = "walk"\ntrainable = "{code}:Walk"\n[base]\nrounds = {records}\n'

# All that may follow a record: a rule that decides, checkpoints that are kept, files that are kept.
_EVERYTHING = '[keep]\ncheckpoints = "all"\n[stopping]\nrule = "asha"\ngrace_epochs = 1\n'


@dataclass(frozen=True, kw_only=True)
class Config:
    rounds: int = field(1, low=1, budget=True)
    seed: int = 0


class Walk:
    """A trainable that computes nothing; it writes down when it was asked for records."""

    Config = Config
    metrics: ClassVar[dict[str, str]] = {"loss": "min"}

    def __init__(self, config: Config, run: Any):
        self.config, self.run, self.round = config, run, 0

    def train(self) -> Iterator[dict[str, float]]:
        clock = _Clock(self.config.rounds)
        while self.round < self.config.rounds:
            clock.tick(self.round)
            self.round += 1
            if self.round % 100 == 1:
                (self.run.artifacts / "sample.txt").write_text(str(self.round))
            yield {"loss": 1 / self.round}

    def state(self) -> dict[str, int]:
        return {"round": self.round}

    def restore(self, state: dict[str, int]) -> None:
        self.round = state["round"]


class _Clock:
    """Writes down this process's CPU and wall seconds before some records: both ends, and one stretch from each."""

    def __init__(self, records: int):
        stretch, self._last = _stretch(records), records - 1
        self._at = {0, stretch, self._last - stretch, self._last}
        self._marks: dict[int, tuple[float, float]] = {}

    def tick(self, record: int) -> None:
        if record in self._at:
            self._marks[record] = time.process_time(), time.perf_counter()
        if record == self._last:
            Path(os.environ["BENCH_MARKS"]).write_text(json.dumps(self._marks))


def _stretch(records: int) -> int:
    return min(_STRETCH, records // 3)


def against_tune(records: int, rounds: int) -> Comparison:
    """As many records of one trial by us and by a function that reports to Tune with its default loggers."""
    measured: dict[str, list[float]] = {"ours": [], "tune": []}
    for _ in range(rounds):
        for who, seconds in measured.items():
            seconds.append(record_once(who, records)["seconds"])
    return Comparison(
        part="f",
        ours=f"{records:,} records of one trial",
        theirs="Ray Tune's reports, default loggers",
        ours_seconds=tuple(measured["ours"]),
        theirs_seconds=tuple(measured["tune"]),
    )


def of_one_trial(records: int, with_everything: int) -> list[Figure]:
    """What a record costs in a long trial, at its start and at its end, and in one with everything on."""
    long, everything = record_once("ours", records), record_once("everything", with_everything)
    return [
        Figure(part="f", what=f"{records:,} records", values=(records / long["seconds"],), unit="records/s"),
        Figure(part="f", what="the same, by CPU time", values=(1000 / long["cpu_ms"],), unit="records/s"),
        Figure(part="f", what="its first records", values=(long["first_cpu_ms"],), unit="ms of CPU"),
        Figure(part="f", what="its last records", values=(long["last_cpu_ms"],), unit="ms of CPU"),
        Figure(
            part="f",
            what=f"a record of {with_everything:,} with a rule, checkpoints and files",
            values=(everything["cpu_ms"],),
            unit="ms of CPU",
        ),
    ]


def record_once(who: str, records: int) -> dict[str, float]:
    """Record one trial in a process of its own and return what it measured.

    Raises:
        RuntimeError: it failed, with the end of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="mixsweep-bench-") as folder:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        environment = {"PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", "BENCH_MARKS": f"{folder}/marks"}
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name, who, str(records), folder],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    if done.returncode != 0:
        raise RuntimeError(f"the records by {who!r} failed:\n{done.stdout[-2000:]}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _ours(records: int, folder: Path, more: str = "") -> None:
    """A sweep of one trial in `debug`."""
    from mixsweep.core.store.store import SweepStore
    from mixsweep.sweep.planning.parse import load_spec
    from mixsweep.sweep.planning.plan import make_plan
    from mixsweep.sweep.run import run_plan

    file = folder / "walk.toml"
    file.write_text(_FILE.format(code=__file__, records=records) + more)
    plan = make_plan(load_spec(file))
    outcome = run_plan(plan, place="debug", store_root=folder)
    written = SweepStore(folder / "walk").records(["epoch"]).num_rows
    if outcome.counts != {"completed": 1} or written != records:
        raise RuntimeError(f"{outcome.counts}, {written} records in the store")


def _everything(records: int, folder: Path) -> None:
    _ours(records, folder, _EVERYTHING)


def _tune(records: int, folder: Path) -> None:
    """Ray Tune at its defaults: a function that reports."""
    import ray
    from ray import tune

    def function(config: dict[str, Any]) -> None:
        clock = _Clock(records)
        for number in range(records):
            clock.tick(number)
            tune.report({"loss": 1 / (number + 1)})

    ray.init(address="local", num_cpus=1, num_gpus=0)
    tune.Tuner(function, run_config=tune.RunConfig(storage_path=str(folder))).fit()
    ray.shutdown()


_RECORDERS: dict[str, Callable[[int, Path], None]] = {"ours": _ours, "everything": _everything, "tune": _tune}


def main(who: str, records: str, folder: str) -> None:
    """Record one trial and print what it measured."""
    count = int(records)
    _RECORDERS[who](count, Path(folder))
    marks = {int(at): times for at, times in json.loads(Path(os.environ["BENCH_MARKS"]).read_text()).items()}

    def cpu_ms(first: int, last: int) -> float:
        return 1000 * (marks[last][0] - marks[first][0]) / (last - first)

    stretch, last = _stretch(count), count - 1
    measured = {
        "seconds": (marks[last][1] - marks[0][1]) * count / last,
        "cpu_ms": cpu_ms(0, last),
        "first_cpu_ms": cpu_ms(0, stretch),
        "last_cpu_ms": cpu_ms(last - stretch, last),
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main(*sys.argv[1:])
