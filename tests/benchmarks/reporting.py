"""How long a report and an export of a large sweep take, and how much memory: `python -m tests.benchmarks.reporting`.

Each runs in a process of its own, over a store of made-up trials that `sweep run` would have compacted.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from mixsweep.core.store.compaction import compact
from mixsweep.core.store.store import SweepStore
from tests.support.synthetic_store import SyntheticPart, write_sweep

_RATES = 40
_MEASURE = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
told = {"rc": done.returncode, "cpu": used.ru_utime + used.ru_stime, "kib": used.ru_maxrss, "said": done.stderr[-2000:]}
print(json.dumps(told))
"""


@dataclass(frozen=True)
class Took:
    """What a command took.

    Args:
        seconds: by the clock.
        cpu_seconds: of its processors.
        peak_bytes: of its memory.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def write_large(folder: Path, points: int, seeds: int = 5, epochs: int = 30) -> SweepStore:
    """A finished, compacted sweep of `points` combinations of two fields."""
    columns = points // _RATES
    space = {
        "lr": [round(1e-5 * 1.2**i, 9) for i in range(_RATES)],
        "dropout": [round(i / (columns + 1), 6) for i in range(columns)],
    }
    part = SyntheticPart(name="large", base={"hidden": (64,)}, space=space, final={})
    store = write_sweep(folder / "large", [part], seeds=seeds, epochs=epochs)
    compact(store)
    return store


def measure(*words: str) -> Took:
    """Run a command line of `sweep` and return what it took.

    Raises:
        RuntimeError: it failed.
    """
    begun = time.perf_counter()
    command = [sys.executable, "-c", _MEASURE, sys.executable, "-m", "mixsweep", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    if told["rc"]:
        raise RuntimeError(f"sweep {' '.join(words)}: {told['said']}")
    return Took(time.perf_counter() - begun, told["cpu"], told["kib"] * 1024)


def main() -> None:
    """Print the figures of a report and an export of 2,000 points × 5 seeds × 30 epochs, or of another size."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--store", type=Path, help="a sweep's folder to take instead of a new one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = given.store or write_large(root, given.points).path
        for name, words in (
            ("report", ("report", str(store), "--out", str(root / "page"))),
            ("export", ("export", str(store), "--to", str(root / "table.parquet"))),
        ):
            took = measure(*words)
            mib = took.peak_bytes / 2**20
            print(f"{name}: {took.seconds:.1f} s, {took.cpu_seconds:.1f} s of CPU, {mib:.0f} MiB at most")
        print(f"page: {(root / 'page' / 'index.html').stat().st_size / 1e6:.1f} MB")
        load, memory = os.getloadavg()[0], resource.getpagesize() * os.sysconf("SC_PHYS_PAGES") / 2**30
        print(
            f"{os.cpu_count()} processors, {memory:.0f} GiB, load {load:.1f}, Python {sys.version.split()[0]}"
        )


if __name__ == "__main__":
    main()
