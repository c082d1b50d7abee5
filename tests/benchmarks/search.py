"""TPE against random search: the same trials' budget, the same space, several search seeds, on digits.

    python -m tests.benchmarks.search [--seeds 5] [--trials 24] [--epochs 5] [--startup 10]

Both run as the product runs them, on one Ray of this machine: TPE through Tune and the store, random search as a
planned sweep. What is compared is the best valid accuracy that a search has found, seed by seed; and, since
the best of many flatters, the mean over what each chose after TPE's startup trials.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import optuna
import ray
import torch
from scipy import stats

from mixsweep.cluster.places import find_place
from mixsweep.cluster.ray_cluster.nodes import local_ray
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.backends.ray.search_driver import hold_driver_lease, run_search
from mixsweep.sweep.backends.ray.tune_driver import RaySlots, run_on_ray
from mixsweep.sweep.planning.parse import parse_spec
from mixsweep.sweep.planning.plan import make_plan, read_plan, save_plan
from mixsweep.sweep.planning.schema import SweepSpec
from mixsweep.sweep.run import make_run_config
from mixsweep.sweep.runtime.worker import make_worker_spec

BASE = {"dataset": "digits", "model": "mlp", "augment": "none", "batch_size": 64}
SPACE = {
    "lr": {"loguniform": [1e-5, 1.0]},
    "hidden": {"choice": [[4], [8], [16], [32], [64], [128]]},
}


def spec_of(how: str, seed: int, trials: int, epochs: int, startup: int) -> SweepSpec:
    """The sweep of one contestant with one search seed."""
    tables: dict[str, Any] = {
        "name": f"{how}-{seed}",
        "search_seed": seed,
        "base": {**BASE, "epochs": epochs},
        "space": SPACE,
        "keep": {"checkpoints": "none"},
    }
    more = {"samples": trials}
    if how == "tpe":
        more = {"search": {"algorithm": "tpe", "trials": trials, "startup_trials": startup}}
    return parse_spec({**tables, **more})


def run(spec: SweepSpec, root: Path, slots: int) -> list[float]:
    """Run a sweep on the cluster of this process; each trial's last valid accuracy, in the plan's order."""
    store = SweepStore(root / spec.name)
    plan = make_plan(spec)
    run_config = make_run_config(spec, store, find_place("local"))
    worker_spec = make_worker_spec(plan, run_config)
    if spec.search:
        with hold_driver_lease(store) as lease:
            run_search(
                plan,
                worker_spec,
                RaySlots(count=slots, needs={"CPU": 1}),
                limit=None,
                on_end=lambda info: None,
                say=print,
                fence=lease.check,
            )
    else:
        save_plan(plan, store)
        run_on_ray(plan.trials, worker_spec, RaySlots(count=slots, needs={"CPU": 1}), lambda info: None)
    last = {row["trial_id"]: row for row in store.records().sort_by("epoch").to_pylist()}
    return [last[row.trial_id]["valid_accuracy"] for row in read_plan(store)]


def summary(found: dict[str, Sequence[Sequence[float]]], startup: int) -> list[str]:
    """Lines of figures: medians with their ranges, and the paired differences."""
    lines = []
    for what, figure in (
        ("best valid accuracy", max),
        (f"mean valid accuracy of the trials after the first {startup}", lambda v: mean(v[startup:])),
    ):
        by_who = {who: [figure(list(values)) for values in runs] for who, runs in found.items()}
        for who, figures in by_who.items():
            spread = f"({min(figures):.4f}–{max(figures):.4f})"
            lines.append(f"{what}, {who}: median {median(figures):.4f} {spread}, n = {len(figures)}")
        gains = [a - b for a, b in zip(by_who["tpe"], by_who["random"], strict=True)]
        test = ""
        if len(gains) > 1:
            low, high = stats.t.interval(0.95, len(gains) - 1, mean(gains), stats.sem(gains))
            test = f", 95 % t-interval {low:+.4f} to {high:+.4f}"
        won, drawn = sum(gain > 0 for gain in gains), sum(gain == 0 for gain in gains)
        lines.append(
            f"{what}, tpe - random by seed: mean {mean(gains):+.4f}{test}; "
            f"tpe ahead {won}, equal {drawn}, behind {len(gains) - won - drawn}"
        )
    return lines


def main() -> None:
    """Run it and print the figures."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("seeds", 5), ("trials", 24), ("epochs", 5), ("startup", 10), ("slots", 1)):
        options.add_argument(f"--{name}", type=int, default=default)
    options.add_argument("--json", type=Path, help="write all values there")
    asked = options.parse_args()
    found: dict[str, list[list[float]]] = {"tpe": [], "random": []}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, local_ray(asked.slots, 0):
        for seed in range(asked.seeds):
            for who, runs in found.items():
                spec = spec_of(who, seed, asked.trials, asked.epochs, asked.startup)
                runs.append(run(spec, Path(folder), asked.slots))
                print(f"seed {seed}, {who}: best {max(runs[-1]):.4f}", flush=True)
    print(
        f"\n{asked.seeds} search seeds of {asked.trials} trials of {asked.epochs} epochs, {asked.slots} at a time"
    )
    for line in summary(found, asked.startup):
        print(line)
    versions = f"torch {torch.__version__}, Ray {ray.__version__}, Optuna {optuna.__version__}"
    where = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    print(f"{where}, {versions}; {time.monotonic() - start:.0f} s")
    if asked.json:
        asked.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
