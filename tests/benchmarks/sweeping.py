"""Sweeps timed: one-step trials by the local place and by Ray Tune as it comes, the first record, the driver.

Each sweep runs in a process of its own, which prints its measurement as the last line, in JSON:
`python -m tests.benchmarks.sweeping WHO TRIALS CPUS FOLDER`. Ray is imported inside the timer, on both sides.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.comparison import Comparison, Figure
from tests.support.commands import ROOT, kill_family, start, sweep_command

# One optimizer step of a tiny MLP on real images, as in the limit of very many, very short trials.
ONE_STEP = {
    "model": "mlp",
    "hidden": [16],
    "dataset": "digits",
    "augment": "none",
    "batch_size": 64,
    "train_limit": 64,
    "valid_limit": 100,
    "epochs": 1,
}
FASTER_THAN_TUNE = 10.0  # the target


def against_tune(trials: int, cpus: int, rounds: int) -> list[Comparison]:
    """A sweep of one-step trials by us and by Tune's defaults, with and without the start and end of Ray.

    Raises:
        RuntimeError: the two did not train the same trials to the same losses.
    """
    measured: dict[str, list[dict[str, Any]]] = {who: [] for who in _SWEEPS}
    for _ in range(rounds):
        for who, runs in measured.items():
            runs.append(sweep_once(who, trials, cpus))
    losses = [run["train_losses"] for runs in measured.values() for run in runs]
    if any(other != losses[0] for other in losses):
        raise RuntimeError("the contestants' train losses differ: they did not run the same trials")
    tune = measured["tune"]
    whole = [run["seconds"] for run in measured["local"]]
    started = [run["seconds"] for run in measured["started"]]
    return [
        Comparison(
            part="c",
            ours=f"{trials} one-step trials, {what}",
            theirs="Ray Tune's defaults",
            ours_seconds=tuple(ours),
            theirs_seconds=tuple(theirs),
            target=FASTER_THAN_TUNE,
        )
        for what, ours, theirs in (
            ("Ray's start included", whole, [run["seconds"] + run["start_seconds"] for run in tune]),
            ("Ray's start apart", started, [run["seconds"] for run in tune]),
        )
    ]


def first_record(place: str, rounds: int) -> Figure:
    """Seconds from the command `sweep run` to the first trial's records in the store."""
    return Figure(
        part="d",
        what=f"command to first record, {place}",
        values=tuple(_first_record_seconds(place) for _ in range(rounds)),
        unit="s",
    )


def driver_memory(counts: Sequence[int], cpus: int) -> list[Figure]:
    """Peak resident memory of the driver's process over few and over many trials, and what a trial adds."""
    few, many = counts
    peaks = {trials: sweep_once("local", trials, cpus)["peak_bytes"] for trials in (few, many)}
    figures = [
        Figure(part="e", what=f"driver's peak memory, {trials} trials", values=(peak / 2**20,), unit="MiB")
        for trials, peak in peaks.items()
    ]
    added = (peaks[many] - peaks[few]) / (many - few) / 2**10
    return [*figures, Figure(part="e", what="added by a trial", values=(added,), unit="KiB")]


def sweep_once(who: str, trials: int, cpus: int) -> dict[str, Any]:
    """Run one sweep in a process of its own and return what it measured.

    Raises:
        RuntimeError: it failed, with the end of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="mixsweep-bench-") as folder:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name, who, str(trials), str(cpus), folder],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    if done.returncode != 0:
        raise RuntimeError(f"the sweep by {who!r} failed:\n{done.stdout[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _first_record_seconds(place: str) -> float:
    with tempfile.TemporaryDirectory(prefix="mixsweep-bench-") as folder:
        file, store = Path(folder, "first.toml"), Path(folder, "runs")
        base = "".join(f"{key} = {json.dumps(value)}\n" for key, value in ONE_STEP.items())
        file.write_text(f'name = "first"\n[base]\n{base}[space]\nlr = {{ grid_search = [1e-2, 1e-3] }}\n')
        begin = time.perf_counter()
        process = start(sweep_command(file, store, place))
        try:
            while not any(store.glob("*/trials/*/*.parquet")):
                if process.poll() is not None:
                    raise RuntimeError(f"the sweep ended without a record:\n{process.communicate()[0]}")
                time.sleep(0.002)
            seconds = time.perf_counter() - begin
            process.communicate(timeout=120)
        finally:
            if process.poll() is None:
                kill_family(process)
    return seconds


def _local(trials: int, cpus: int, folder: Path) -> dict[str, Any]:
    """All of `sweep run --place local` but the terminal: Ray's start and end, the trials, the store."""
    from mixsweep.cluster.places import Place
    from mixsweep.core.store.store import SweepStore
    from mixsweep.sweep.planning.plan import make_plan
    from mixsweep.sweep.run import run_plan

    plan = make_plan(_spec(trials))
    begin = time.perf_counter()
    run_plan(plan, place=Place(name="local", kind="local", cpus=cpus, gpus=0), store_root=folder)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, **_losses(SweepStore(folder / plan.spec.name))}


def _started(trials: int, cpus: int, folder: Path) -> dict[str, Any]:
    """What the local place does once its Ray is up, to the compacted store."""
    from mixsweep.cluster.places import Place
    from mixsweep.cluster.ray_cluster.nodes import local_ray
    from mixsweep.core.store.compaction import compact
    from mixsweep.core.store.store import SweepStore
    from mixsweep.sweep.backends.ray.tune_driver import RaySlots, run_on_ray
    from mixsweep.sweep.planning.plan import make_plan, save_plan
    from mixsweep.sweep.run import make_run_config
    from mixsweep.sweep.runtime.worker import make_worker_spec

    plan = make_plan(_spec(trials))
    store = SweepStore(folder / plan.spec.name)
    with local_ray(cpus, 0):
        begin = time.perf_counter()
        worker_spec = make_worker_spec(
            plan, make_run_config(plan.spec, store, Place(name="local", kind="local"))
        )
        save_plan(plan, store)
        run_on_ray(plan.trials, worker_spec, RaySlots(count=cpus, needs={"CPU": 1}), lambda info: None)
        compact(store)
        seconds = time.perf_counter() - begin
    return {"seconds": seconds, **_losses(store)}


def _tune(trials: int, cpus: int, folder: Path) -> dict[str, Any]:
    """Ray Tune as its documentation shows it, at its defaults: a function that reports with a checkpoint."""
    from mixsweep.sweep.planning.plan import make_plan

    configs = [config.to_mapping() for config in make_plan(_spec(trials)).trials]
    begin = time.perf_counter()
    import ray
    from ray import tune

    ray.init(address="local", num_cpus=cpus, num_gpus=0)
    start_seconds = time.perf_counter() - begin
    begin = time.perf_counter()
    results = tune.Tuner(
        tune.with_resources(_trainable, {"cpu": 1}),
        param_space={"trial": tune.grid_search(configs)},
        run_config=tune.RunConfig(storage_path=str(folder)),
    ).fit()
    seconds = time.perf_counter() - begin
    begin = time.perf_counter()
    ray.shutdown()
    start_seconds += time.perf_counter() - begin
    losses = sorted(result.metrics["train_loss"] for result in results)
    return {"seconds": seconds, "start_seconds": start_seconds, "train_losses": losses}


def _trainable(config: dict[str, Any]) -> None:
    """One trial for Tune, by the same trainer."""
    import torch
    from ray import tune

    from mixsweep.core.data.datasets import load_images
    from mixsweep.core.trainables.image.config import ImageConfig
    from mixsweep.core.training import device as devices
    from mixsweep.core.training.trainer import Trial

    devices.prepare_process(1)
    trial_config = ImageConfig.from_mapping(config["trial"])
    trial = Trial(trial_config, load_images(trial_config.dataset, None), torch.device("cpu"))
    for record in trial.train():
        with tempfile.TemporaryDirectory() as folder:
            torch.save(trial.state(), Path(folder, "checkpoint.pt"))
            figures = {"train_loss": record["train_loss"], "valid_accuracy": record["valid_accuracy"]}
            tune.report(figures, checkpoint=tune.Checkpoint.from_directory(folder))


# The contestants, in the order of a round.
_SWEEPS: dict[str, Callable[[int, int, Path], dict[str, Any]]] = {
    "local": _local,
    "tune": _tune,
    "started": _started,
}


def _spec(trials: int) -> Any:
    from mixsweep.sweep.planning.parse import parse_spec

    return parse_spec({"name": "one-step", "seeds": trials, "base": ONE_STEP, "space": {}})


def _losses(store: Any) -> dict[str, Any]:
    return {"train_losses": sorted(store.records()["train_loss"].to_pylist())}


def _peak_bytes() -> int:
    """This process's resident peak. Not getrusage's: that one begins with the parent's."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def main(who: str, trials: str, cpus: str, folder: str) -> None:
    """Run one sweep and print what it measured."""
    measured = _SWEEPS[who](int(trials), int(cpus), Path(folder))
    print(json.dumps(measured | {"peak_bytes": _peak_bytes()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
