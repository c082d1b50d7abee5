"""What `tests.benchmarks.gpu` checks and times on a device. A section returns what it found, as JSON values.

Without a data folder everything runs on digits in miniature, which is how a CPU tests this program.
"""

import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from mixsweep.core.data.datasets import Images, load_images
from mixsweep.core.records import ENERGY, UTILISATION, Record
from mixsweep.core.store.store import SweepStore
from mixsweep.core.trainables.image.config import OPTIMIZERS, ImageConfig
from mixsweep.core.trainables.image.costs import forward_macs
from mixsweep.core.training import device as devices
from mixsweep.core.training.trainer import Trial
from mixsweep.sweep.planning.parse import parse_spec
from mixsweep.sweep.planning.plan import make_plan
from mixsweep.sweep.run import run_plan

_MIXER: Mapping[str, Any] = {"model": "mixer"}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "best mixer": {**_MIXER, "embed_dim": 512, "blocks": 8, "dropout": 0.4, "optimizer": "adam"},
    "resnet18": {"model": "resnet18", "optimizer": "adam"},
    "mixer, patch 4": {**_MIXER, "patch_size": 4},
    "mlp": {"model": "mlp"},
    "mixer, patch 2": {**_MIXER, "patch_size": 2},
    "mixer, patch 8": {**_MIXER, "patch_size": 8},
    "mixer, patch 16": {**_MIXER, "patch_size": 16},
}
_ALSO_FP32 = ("resnet18", "mixer, patch 4", "best mixer", "mlp")
_ALSO_COMPILED = ("resnet18", "mixer, patch 4")
SHARING = ("resnet18", "best mixer")  # the models that several trials at once are timed with

_SMALL: Mapping[str, Any] = {"dataset": "digits", "batch_size": 32, "valid_limit": 64, "augment": "none"}
_SMALL_MODELS: Mapping[str, Mapping[str, Any]] = {
    "mlp": {"hidden": (64,)},
    "resnet18": {},
    "mixer": {"embed_dim": 32, "blocks": 2},
}
_FIRST_LOSS = 1e-4  # relative difference of the first step's loss: the forward pass alone
_FIRST_UPDATE = 1e-3  # of the valid loss after one update
_LATER = 2e-3  # of losses after more; or ten times what another order of sums does on the CPU

_FULL_EPOCH = 45_000
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Bench:
    """Where to compute and on what, and until when."""

    device: torch.device
    data_dir: Path | None
    ends_at: float  # of time.monotonic()
    at_once: tuple[int, ...] = (1, 2, 4)

    @property
    def seconds_left(self) -> float:
        return self.ends_at - time.monotonic()

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"


def facts(bench: Bench) -> dict[str, Any]:
    """The machine and the versions."""
    found: dict[str, Any] = {
        "device": devices.device_name(bench.device),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "time": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }
    if bench.on_gpu:
        query = "--query-gpu=driver_version,memory.total,clocks.max.sm,power.limit"
        shown = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True)
        found["nvidia_smi"] = shown.stdout.strip()
    return found


def correctness(bench: Bench) -> dict[str, Any]:
    """Each model and optimizer on the device against the CPU in fp32, step by step; n = 4 steps.

    A control says how much of a later difference is rounding: the CPU again with one thread, in another order of sums.
    Adam's first steps are signs of gradients, so that a rounding error in one near zero becomes a step of full size.
    """
    digits, found = load_images("digits", None), {}
    many = max(2, min(8, os.cpu_count() or 2))
    for model, values in _SMALL_MODELS.items():
        for optimizer in OPTIMIZERS:
            if bench.seconds_left < 0:
                return {**found, "cut_short": True}
            batch = 32 if bench.on_gpu else 8
            size = {"batch_size": batch, "train_limit": batch, "valid_limit": 2 * batch}
            config = ImageConfig(
                **{**_SMALL, **size, "model": model, "optimizer": optimizer, "epochs": 4, **values}
            )
            here = _losses(config, digits, _CPU, many)
            apart = _differences(_losses(config, digits, bench.device, many), here)
            control = _differences(_losses(config, digits, _CPU, 1), here)
            found[f"{model}, {optimizer}"] = {
                "first_loss": apart[0],
                "after_one_update": apart[1],
                "later": max(apart[2:]),
                "control_later": max(control[2:]),
                "equal": is_equal(apart, control),
            }
    devices.prepare_process(many)
    return found


def is_equal(apart: Sequence[float], control: Sequence[float]) -> bool:
    """Whether losses that are so far apart, step by step, are equal up to rounding, whose effect the control shows."""
    later = max(_LATER, 10 * max(control[2:]))
    return (
        apart[0] < _FIRST_LOSS and apart[1] < max(_FIRST_UPDATE, 10 * control[1]) and max(apart[2:]) < later
    )


def precision_and_resume(bench: Bench) -> dict[str, Any]:
    """bf16 beside fp32; a trial resumed from a saved state beside one that goes on, also by deterministic kernels."""
    digits, found = load_images("digits", None), {}
    size = {"train_limit": 256} if bench.on_gpu else {"train_limit": 32, "batch_size": 8, "valid_limit": 16}
    for model in ("resnet18", "mixer"):
        if bench.seconds_left < 0:
            return {**found, "cut_short": True}
        base = {**_SMALL, "model": model, **_SMALL_MODELS[model], **size, "epochs": 3}
        losses = {
            precision: [
                row["train_loss"]
                for row in Trial(ImageConfig(**base, precision=precision), digits, bench.device).train()
            ]
            for precision in ("fp32", "bf16")
        }
        found[model] = {
            "train_loss": losses,
            "bf16_is_near": abs(losses["bf16"][0] / losses["fp32"][0] - 1) < 0.05,
            "bf16_learns": losses["bf16"][-1] < losses["bf16"][0],
            "resumed": _resumed(ImageConfig(**base), digits, bench.device),
        }
        with _deterministic():
            found[model]["resumed, deterministic kernels"] = _resumed(
                ImageConfig(**base), digits, bench.device
            )
    return found


def out_of_memory(bench: Bench) -> dict[str, Any]:
    """A sweep whose only trial does not fit into a part of the device's memory: it ends, in more micro-batches."""
    if not bench.on_gpu:
        return {"skipped": "no CUDA device"}
    fits = ImageConfig(**{**_SMALL, "model": "resnet18", "batch_size": 256, "train_limit": 256, "epochs": 1})
    record = next(Trial(fits, load_images("digits", None), bench.device).train())
    devices.release_memory(bench.device)
    limit = 1.7 * record["peak_memory_bytes"] + torch.cuda.memory_reserved(bench.device)
    total = torch.cuda.get_device_properties(bench.device).total_memory
    large = {**_SMALL, "model": "resnet18", "batch_size": 1024, "epochs": 1}
    spec = parse_spec({"name": "large", "seeds": 1, "base": large, "space": {"lr": {"grid_search": [1e-3]}}})
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), bench.device)
    try:
        with tempfile.TemporaryDirectory() as folder:
            run_plan(make_plan(spec), place="debug", store_root=folder)
            infos = [trial.info() for trial in SweepStore(Path(folder) / "large").trials()]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, bench.device)
        devices.release_memory(bench.device)
    info = next(info for info in infos if info is not None)
    ends = [attempt.end for attempt in info.attempts]
    return {
        "limit_gib": limit / 2**30,
        "state": info.state,
        "ends": ends,
        "micro_batches": [attempt.accumulate for attempt in info.attempts],
        "recognised_and_mended": info.state == "completed" and "oom" in ends,
    }


def marked_tests(bench: Bench) -> dict[str, Any]:
    """The suite's tests that need a GPU, if pytest is here."""
    words = ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "gpu", "tests/core"]
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=max(20, min(120, bench.seconds_left)),
    )
    return {"exit_code": done.returncode, "last_lines": (done.stdout + done.stderr).splitlines()[-5:]}


def matrix_peak(bench: Bench) -> dict[str, float]:
    """Measured TFLOP/s of a bf16 matrix product, 8192 cubed on a GPU: the mean of twenty after five to warm up."""
    side = 8192 if bench.on_gpu else 256
    one, other = (torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        one @ other
    devices.synchronize(bench.device)
    begun = time.perf_counter()
    for _ in range(20):
        one @ other
    devices.synchronize(bench.device)
    return {"tflops": 20 * 2 * side**3 / (time.perf_counter() - begun) / 1e12}


def throughput(bench: Bench) -> dict[str, Any]:
    """One trial alone: images a second over two epochs of 100 steps after one to warm up, and its share of the peak."""
    images, peak, found = _images(bench), matrix_peak(bench)["tflops"], {}
    plans = [(name, "bf16", False) for name in MODELS]
    plans += [(name, "fp32", False) for name in _ALSO_FP32]
    plans += [(name, "bf16", True) for name in _ALSO_COMPILED if bench.on_gpu]  # minutes on a CPU
    for name, precision, compiled in plans:
        if bench.seconds_left < (60 if compiled else 10):
            found["cut_short"] = True
            break
        config = _config(bench, MODELS[name], precision=precision, epochs=3)
        records = list(Trial(config, images, bench.device, compile=compiled).train())
        rate = sum(record["images_per_second"] for record in records[1:]) / 2
        flops = 3 * 2 * (forward_macs(config) or 0.0) * rate
        found[f"{name}, {precision}{', compiled' * compiled}"] = {
            "images_per_second": rate,
            "seconds_of_45000": _FULL_EPOCH / rate,
            "valid_images": config.valid_limit or 5000,
            "valid_seconds": records[-1]["valid_seconds"],
            "tflops": flops / 1e12,
            "share_of_bf16_peak": flops / 1e12 / peak,
            "first_epoch_seconds": records[0]["train_seconds"],
            "peak_memory_gib": records[-1]["peak_memory_bytes"] / 2**30,
            "utilisation": records[-1][UTILISATION],
            "energy_joules": records[-1][ENERGY],
        }
        devices.release_memory(bench.device)
    return found


def profile(bench: Bench) -> dict[str, Any]:
    """What bounds a step: kernels' time beside the clock's, launches a step, and the longest kernels."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    images, found = _images(bench), {}
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.on_gpu else [])]
    for name in ("resnet18", "mixer, patch 4", "best mixer"):
        if bench.seconds_left < 0:
            return {**found, "cut_short": True}
        config = _config(bench, MODELS[name], precision="bf16", epochs=3)
        steps = 20 if bench.on_gpu else 2
        config = config.with_values(train_limit=steps * config.batch_size, valid_limit=16)
        training = Trial(config, images, bench.device).train()
        next(training)
        plain = next(training)["train_seconds"]
        with profiled(activities=activities) as trace:
            next(training)
        kind = "CUDA" if bench.on_gpu else "CPU"
        spent = "self_device_time_total" if bench.on_gpu else "self_cpu_time_total"
        kernels = [row for row in trace.key_averages() if str(row.device_type).endswith(kind)]
        kernels.sort(key=lambda row: -getattr(row, spent))
        busy = sum(getattr(row, spent) for row in kernels) / 1e6
        found[name] = {
            "step_milliseconds": 1e3 * plain / steps,
            "kernel_milliseconds_a_step": 1e3 * busy / steps,  # with those of one small validation batch
            "kernels_a_step": sum(row.count for row in kernels) / steps,
            "longest": [
                [row.key[:80], row.count, round(getattr(row, spent) / busy / 1e6, 4)] for row in kernels[:8]
            ],
        }
        devices.release_memory(bench.device)
    return found


def side_by_side(bench: Bench) -> dict[str, Any]:
    """Images a second of all processes together, where several trials share the device, each in its own process."""
    found: dict[str, Any] = {}
    seconds = 6.0 if bench.on_gpu else 0.2
    for name in SHARING:
        if bench.seconds_left < 45 and bench.on_gpu:
            found["cut_short"] = True
            break
        rates = _rates(bench, name, seconds)
        found[name] = {
            str(count): {"images_per_second": sum(each), "each": each} for count, each in rates.items()
        }
    return found


def best_count(found: Mapping[str, Any]) -> int:
    """How many trials at once are fastest, from `side_by_side`: a larger number must gain five in a hundred."""
    models = [found[name] for name in SHARING if name in found]
    shared = set.intersection(*(set(rates) for rates in models)) if models else {"1"}
    best, speed = 1, 1.0
    for count in sorted(map(int, shared)):
        relative = sum(
            rates[str(count)]["images_per_second"] / rates["1"]["images_per_second"] for rates in models
        ) / max(1, len(models))
        if relative > 1.05 * speed:
            best, speed = count, relative
    return best


def train_on_demand(name: str, data_dir: Path | None) -> None:
    """Train one model for as many seconds as each line of stdin says, and print images a second; for `side_by_side`."""
    bench = Bench(devices.choose_device(1.0), data_dir, float("inf"))
    config = _config(bench, MODELS[name], precision="bf16", epochs=1_000_000)
    config = config.with_values(
        valid_limit=16, train_limit=min(config.train_limit or 0, 50 * config.batch_size)
    )
    training = Trial(config, _images(bench), bench.device).train()
    next(training)
    print("ready", flush=True)
    for line in sys.stdin:
        begun, images = time.perf_counter(), 0
        while time.perf_counter() - begun < float(line):
            record = next(training)
            images += round(record["images_per_second"] * record["train_seconds"])
        print(images / (time.perf_counter() - begun), flush=True)


def _rates(bench: Bench, name: str, seconds: float) -> dict[int, list[float]]:
    words = ["-m", "tests.benchmarks.gpu", "--one", name]
    words += [] if bench.data_dir is None else ["--data", str(bench.data_dir)]
    running = [
        subprocess.Popen([sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(max(bench.at_once))
    ]
    try:
        for process in running:
            _line(process.stdout)
        rates = {}
        for count in bench.at_once:
            for process in running[:count]:
                assert process.stdin is not None
                process.stdin.write(f"{seconds}\n")
                process.stdin.flush()
            rates[count] = [float(_line(process.stdout)) for process in running[:count]]
        return rates
    finally:
        for process in running:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


def _line(stream: IO[str] | None) -> str:
    line = stream.readline() if stream is not None else ""
    if not line:
        raise RuntimeError("a process of several at once has ended; its error is in the log")
    return line.strip()


def _losses(config: ImageConfig, images: Images, device: torch.device, threads: int) -> list[float]:
    """Train and valid loss after each epoch."""
    devices.prepare_process(threads)
    rows: Iterator[Record] = Trial(config, images, device).train()
    return [row[name] for row in rows for name in ("train_loss", "valid_loss")]


def _differences(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [abs(a - b) / abs(b) for a, b in zip(one, other, strict=True)]


def _resumed(config: ImageConfig, images: Images, device: torch.device) -> dict[str, Any]:
    """Train losses of a trial that goes on, and of one that is restored from its saved state after an epoch."""
    whole = Trial(config, images, device)
    training = whole.train()
    next(training)
    saved = io.BytesIO()
    torch.save(whole.state(), saved)
    going_on = [row["train_loss"] for row in training]
    again = Trial(config, images, device)
    again.restore(torch.load(io.BytesIO(saved.getvalue()), map_location=device, weights_only=True))
    resumed = [row["train_loss"] for row in again.train()]
    return {
        "going_on": going_on,
        "resumed": resumed,
        "bit_for_bit": going_on == resumed,
        "relative_difference": max(_differences(resumed, going_on)),
    }


@contextmanager
def _deterministic() -> Iterator[None]:
    """Kernels that give the same bits each time, where torch has them."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False


def _images(bench: Bench) -> Images:
    return load_images("digits" if bench.data_dir is None else "cifar10", bench.data_dir).to(bench.device)


def _config(bench: Bench, values: Mapping[str, Any], **others: Any) -> ImageConfig:
    """A measured config: 100 steps an epoch of CIFAR-10; in miniature, two of digits."""
    limits: dict[str, Any] = {"train_limit": 12_800}
    if bench.data_dir is None:
        limits = {"dataset": "digits", "train_limit": 16, "valid_limit": 16, "batch_size": 8}
        if values["model"] == "mixer":
            limits |= {"embed_dim": 16, "blocks": 1}
    return ImageConfig(**{**values, **limits, **others})


def as_json(found: Any) -> str:
    """Found values as JSON."""
    return json.dumps(found, indent=1, default=str) + "\n"
