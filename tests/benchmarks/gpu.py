"""Checks and timings on a GPU, then the study at full size, on a bare machine without Ray, submitit, wandb and network.

    python -m tests.benchmarks.gpu --data DIR --out DIR --minutes 8

The sections run in the order of SECTIONS, each within its own limit of time, and what they find is written to
`gpu.json` as it is found; one that fails or is cut short is written down, and the next goes on. The study's sweeps get
the time that is left, in as many processes as were seen to be fastest; they share one store outside of DIR. At the end,
at the time's limit and on SIGTERM, the store without checkpoints is put into `store.tar.gz`. The same command goes on
where it stopped: by the store and `gpu.json` if they are still there, or from a copy of DIR given as --earlier.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mixsweep.core.training import device as devices
from tests.benchmarks import gpu_sections as sections
from tests.benchmarks.gpu_sections import Bench, as_json

PRESETS = ("best-mixer", "best-resnet18", "patch-sizes", "learning-rates", "mixer-widths")

# Each with the most seconds that it may begin new work in, of eight minutes in all.
SECTIONS: Mapping[str, tuple[Callable[[Bench], Any], float]] = {
    "facts": (sections.facts, 10),
    "correctness": (sections.correctness, 40),
    "precision and resume": (sections.precision_and_resume, 30),
    "out of memory": (sections.out_of_memory, 20),
    "gpu tests": (sections.marked_tests, 60),
    "matrix peak": (sections.matrix_peak, 10),
    "profile": (sections.profile, 30),
    "throughput": (sections.throughput, 100),
    "side by side": (sections.side_by_side, 90),
}
_RESERVE = 45.0  # seconds before the end in which processes reach a safe point and the store is archived
_LARGEST_ARCHIVE = 15 * 2**20


class Stopped(BaseException):
    """SIGTERM or Ctrl-C: what there is gets written, and the program ends."""


@dataclass
class Study:
    """The study's sweeps: `run` starts one process a slot, and a slot that gets free takes the next sweep."""

    store: Path
    logs: Path
    words: Sequence[str]  # of `sweep run`, after the sweep's name
    slots: int
    ends_at: float  # of time.monotonic(): when the processes are told to stop

    def run(self, presets: Sequence[str]) -> dict[str, Any]:
        """Run the sweeps, those first that come first; return the exit codes by sweep, and what they last said."""
        waiting = [(preset, slot) for preset in presets for slot in range(self.slots)]
        running: list[tuple[str, subprocess.Popen[bytes], Path]] = []
        ended: dict[str, Any] = {}
        self.logs.mkdir(parents=True, exist_ok=True)
        try:
            while (waiting or running) and time.monotonic() < self.ends_at:
                while waiting and len(running) < self.slots:
                    running.append(self._start(*waiting.pop(0)))
                for entry in [entry for entry in running if entry[1].poll() is not None]:
                    running.remove(entry)
                    _note(ended, entry)
                time.sleep(0.2)
        finally:
            for _, process, _ in running:
                process.send_signal(signal.SIGTERM)
            for entry in running:
                with suppress(subprocess.TimeoutExpired):
                    entry[1].wait(max(1.0, self.ends_at + _RESERVE - 15 - time.monotonic()))
                entry[1].kill()
                entry[1].wait()
                _note(ended, entry)
        return ended

    def _start(self, preset: str, slot: int) -> tuple[str, subprocess.Popen[bytes], Path]:
        log = self.logs / f"{preset}-{slot}.log"
        command = [sys.executable, "-m", "mixsweep", "run", preset, "--place", "debug", "--store", self.store]
        with open(log, "ab") as output:
            return preset, subprocess.Popen([*command, *self.words], stdout=output, stderr=output), log


def _note(ended: dict[str, Any], entry: tuple[str, subprocess.Popen[bytes], Path]) -> None:
    preset, process, log = entry
    last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-1:]
    ended.setdefault(preset, []).append({"exit_code": process.returncode, "last_line": " ".join(last)})


def completed(store: Path) -> dict[str, Any]:
    """What has completed of each sweep in a store: states, and each trial's figures."""
    from mixsweep import load_trials

    found: dict[str, Any] = {}
    for path in sorted(store.glob("*/plan.parquet")):
        try:
            trials = load_trials(path.parent)
            figures = ["trial_id", "point", "replica", "state", "epochs_trained"]
            figures += [name for name in trials.columns if name.startswith("final_")]
            found[path.parent.name] = {
                "states": trials["state"].value_counts().to_dict(),
                "trials": json.loads(trials[figures].to_json(orient="records")),
            }
        except Exception as error:  # a sweep of which nothing has begun, or a damaged one
            found[path.parent.name] = {"failed": f"{type(error).__name__}: {error}"}
    return found


def archive(store: Path, logs: Path, out: Path) -> str:
    """Put a store without its checkpoints, and the processes' logs, into `store.tar.gz`; return what was done."""
    made = out / ".store.tar.gz"
    with tarfile.open(made, "w:gz") as file:
        for folder, name in ((store, "store"), (logs, "logs")):
            if folder.is_dir():
                file.add(folder, name, filter=lambda entry: None if ".checkpoint." in entry.name else entry)
    made.replace(out / "store.tar.gz")
    size = (out / "store.tar.gz").stat().st_size
    return f"{size} bytes" + (", too large to be sent back in one file" if size > _LARGEST_ARCHIVE else "")


def go_on_from(earlier: Path, store: Path, out: Path) -> None:
    """Take over the store and the figures of an earlier run's folder, unless this machine has them."""
    if not store.exists() and (earlier / "store.tar.gz").is_file():
        fresh = store.with_name(f".{store.name}.unpacked")
        shutil.rmtree(fresh, ignore_errors=True)
        with tarfile.open(earlier / "store.tar.gz") as file:
            file.extractall(fresh, filter="data")
        if (fresh / "store").is_dir():
            (fresh / "store").replace(store)
        shutil.rmtree(fresh)
    if not (out / "gpu.json").exists() and (earlier / "gpu.json").is_file():
        shutil.copy(earlier / "gpu.json", out / "gpu.json")


def run_sections(
    names: Sequence[str], bench: Bench, found: dict[str, Any], save: Callable[[], None], again: bool
) -> None:
    """Run sections, each within its time, and keep what each found, or how it failed; skip those that are done."""
    for name in names:
        section, seconds = SECTIONS[name]
        done = found.get(name, {})
        if not again and done and "failed" not in done["result"] and "cut_short" not in done["result"]:
            continue
        if bench.seconds_left < 15:
            found.setdefault(name, {"seconds": 0, "result": {"cut_short": True}})
            continue
        begun = time.monotonic()
        try:
            result = section(replace(bench, ends_at=min(bench.ends_at, begun + seconds)))
        except Exception as error:
            result = {"failed": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        found[name] = {"seconds": round(time.monotonic() - begun, 1), "result": result}
        print(f"{name}, {found[name]['seconds']} s: {json.dumps(result, default=str)[:1500]}", flush=True)
        save()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="the folder with CIFAR-10; left out: digits, in miniature")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    parser.add_argument("--store", type=Path, help="the study's store; left out: beside --out")
    parser.add_argument("--earlier", type=Path, help="a copy of an earlier run's --out: go on from it")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 2, 4], help="processes to be timed")
    parser.add_argument("--processes", type=int, help="of the study; left out: as many as were fastest")
    parser.add_argument(
        "--sections", nargs="*", choices=[*SECTIONS, "study"], help="these alone, and again if they are done"
    )
    parser.add_argument("--presets", nargs="*", default=list(PRESETS))
    parser.add_argument(
        "--set", action="append", default=[], help="for each sweep of the study, as `sweep run`'s"
    )
    parser.add_argument("--one", choices=list(sections.MODELS), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is left to do in the time given."""
    options = _options(arguments)
    if options.one:
        sections.train_on_demand(options.one, options.data)
        return 0
    ends_at = time.monotonic() + 60 * options.minutes
    out, device = options.out, devices.choose_device(1.0)
    store = options.store or out.with_name(f"{out.name}-store")
    logs = store.with_name(f"{store.name}-logs")
    out.mkdir(parents=True, exist_ok=True)
    if options.earlier:
        go_on_from(options.earlier, store, out)
    bench = Bench(device, options.data, ends_at - _RESERVE, tuple(sorted({1, *options.at_once})))
    results = out / "gpu.json"
    found: dict[str, Any] = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}

    def save() -> None:
        beside = results.with_name(".gpu.json")
        beside.write_text(as_json(found), encoding="utf-8")
        beside.replace(results)

    def stop(number: int, frame: Any) -> None:
        raise Stopped

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        wanted = options.sections if options.sections is not None else [*SECTIONS, "study"]
        chosen = [name for name in SECTIONS if name in wanted]
        run_sections(chosen, bench, found, save, again=options.sections is not None)
        if "study" in wanted and bench.seconds_left > 15:
            timed = found.get("side by side", {}).get("result", {})
            slots = options.processes or sections.best_count({} if "failed" in timed else timed)
            settings = ['base.precision="bf16"', *options.set]
            words = [word for setting in settings for word in ("--set", setting)]
            words += ["--data", str(options.data)] if options.data else []
            begun = time.monotonic()
            ended = Study(store, logs, words, slots, bench.ends_at).run(options.presets)
            found.setdefault("study", []).append(
                {"seconds": round(time.monotonic() - begun, 1), "at_once": slots, "processes": ended}
            )
        return 0
    except Stopped:
        print("stopped; writing what there is", flush=True)
        return 130
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would lose what the first one saves
        save()
        try:
            found["archive"] = archive(store, logs, out)
        except OSError as error:
            found["archive"] = f"failed: {error}"
        found["completed"] = completed(store)
        save()
        print(json.dumps({name: sweep.get("states", sweep) for name, sweep in found["completed"].items()}))


if __name__ == "__main__":
    sys.exit(main())
