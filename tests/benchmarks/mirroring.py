"""What a mirror beside a sweep costs its trials: the same sweep with and without it, in alternating pairs.

    python -m tests.benchmarks.mirroring [--pairs 4]

Each sweep runs one trial at a time in one process, `--place debug`; the mirror pushes online, to a server of this
machine. Compared are, pair by pair and trial by trial, the median seconds of an epoch's training and of the time
from one record to the next. The first epoch of a trial, which warms up, is left out.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from scipy import stats

from mixsweep.core.store.store import SweepStore
from tests.support.commands import ROOT
from tests.support.wandb_server import WandbServer

FILE = """
name = "pair"
[base]
dataset = "digits"
model = "mlp"
hidden = [1024, 512]
batch_size = 32
epochs = 15
[space]
lr = { grid_search = [0.003, 0.001, 0.0003, 0.0001] }
"""


def epoch_seconds(store: SweepStore) -> dict[str, tuple[float, float]]:
    """By trial, the median seconds of an epoch's training, and from one record to the next."""
    found = {}
    for folder in store.trials():
        rows = folder.records().to_pylist()
        training = median(row["train_seconds"] for row in rows[1:])
        apart = median((b["recorded_at"] - a["recorded_at"]).total_seconds() for a, b in pairwise(rows))
        found[folder.trial_id] = training, apart
    return found


def run(
    file: Path, root: Path, environment: dict[str, str], mirrored: bool
) -> dict[str, tuple[float, float]]:
    """Run the sweep once."""
    command = [sys.executable, "-m", "mixsweep", "run", str(file), "--place", "debug", "--store", str(root)]
    command += ["--mirror"] * mirrored
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    return epoch_seconds(SweepStore(root / "pair"))


def main() -> None:
    """Measure, and print the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=4)
    pairs = parser.parse_args().pairs
    load = os.getloadavg()[0]
    training: list[float] = []
    apart: list[float] = []
    with tempfile.TemporaryDirectory() as folder, WandbServer() as server:
        file = Path(folder, "pair.toml")
        file.write_text(FILE)
        environment = os.environ | server.environment()
        for number in range(pairs):
            found = {}
            for mirrored in (False, True) if number % 2 == 0 else (True, False):
                root = Path(folder, f"{number}-{mirrored}")
                found[mirrored] = run(file, root, environment, mirrored)
            rows = sum(len(run.history) for run in server.runs.values())
            print(f"pair {number + 1}: the server has {rows} epochs", flush=True)
            server.runs.clear()
            for trial_id, (plain_training, plain_apart) in found[False].items():
                training.append(found[True][trial_id][0] / plain_training)
                apart.append(found[True][trial_id][1] / plain_apart)
                print(
                    f"  {trial_id}  plain {1e3 * plain_training:.1f} ms, ratio {training[-1]:.3f}", flush=True
                )
    for name, ratios in (("training", training), ("from record to record", apart)):
        low, high = stats.t.interval(0.95, len(ratios) - 1, sum(ratios) / len(ratios), stats.sem(ratios))
        print(
            f"{name}: mirrored over plain, median {median(ratios):.3f}, mean {sum(ratios) / len(ratios):.3f} "
            f"(95 % CI {low:.3f} to {high:.3f}), worst {max(ratios):.3f}, n = {len(ratios)}"
        )
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
