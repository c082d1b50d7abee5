"""The records of the built-in image trainer: their metrics, and the test for divergence."""

import math

from mixsweep.core.records import ENERGY, UTILISATION, Metric, Record

METRICS = (
    Metric(
        name="train_loss",
        unit="nats",
        doc="mean over the epoch's train samples, in train mode; label smoothing included",
        better="min",
        is_objective=True,
        is_reproducible=True,
    ),
    Metric(
        name="train_accuracy",
        unit="fraction",
        doc="over the epoch's train samples, in train mode",
        better="max",
        is_objective=True,
        is_reproducible=True,
    ),
    Metric(
        name="valid_loss",
        unit="nats",
        doc="mean over the valid samples",
        better="min",
        is_objective=True,
        is_reproducible=True,
    ),
    Metric(
        name="valid_accuracy",
        unit="fraction",
        doc="over the valid samples",
        better="max",
        is_objective=True,
        is_reproducible=True,
    ),
    Metric(
        name="test_loss",
        unit="nats",
        doc="mean over the test samples; last row of a finished trial",
        better="min",
        is_test=True,
        is_reproducible=True,
    ),
    Metric(
        name="test_accuracy",
        unit="fraction",
        doc="over the test samples; last row, as above",
        better="max",
        is_test=True,
        is_reproducible=True,
    ),
    Metric(name="lr", doc="learning rate of the epoch's last step", is_reproducible=True),
    Metric(name="train_seconds", unit="s", doc="time of the epoch's training steps", better="min"),
    Metric(name="valid_seconds", unit="s", doc="time to infer the valid images once", better="min"),
    Metric(name="images_per_second", unit="images/s", doc="train images over train_seconds", better="max"),
    Metric(
        name="peak_memory_bytes",
        unit="B",
        doc="device memory allocated; on CPU the process's own peak",
        type=int,
        better="min",
    ),
    Metric(name=UTILISATION, unit="fraction", doc="of the epoch's time that the GPU was busy; NVML"),
    Metric(
        name="device_memory_bytes",
        unit="B",
        doc="of the GPU in use at the epoch's end, by all processes; NVML",
        type=int,
    ),
    Metric(name=ENERGY, unit="J", doc="used by the GPU in the epoch, for all processes; NVML", better="min"),
)


def has_diverged(record: Record) -> bool:
    """Whether a loss is NaN or infinite."""
    return not (math.isfinite(record["train_loss"]) and math.isfinite(record["valid_loss"]))


def progress(record: Record) -> str:
    """Losses, accuracies, learning rate and speed of an epoch, on one line."""
    m = record.metrics
    return (
        f"train {m['train_loss']:.4f} {m['train_accuracy']:.4f}  "
        f"valid {m['valid_loss']:.4f} {m['valid_accuracy']:.4f}  lr {m['lr']:.3g}  "
        f"{m['images_per_second']:.0f} images/s"
    )
