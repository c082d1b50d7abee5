"""core.training.telemetry: what a device tells of an epoch, and nothing where there is none."""

import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mixsweep.core import records
from mixsweep.core.data.datasets import Images
from mixsweep.core.store import files
from mixsweep.core.store.compaction import compact
from mixsweep.core.store.store import SweepStore
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.core.training import telemetry
from mixsweep.core.training.telemetry import DeviceCounters, Reading, counters_of
from mixsweep.core.training.trainer import Trial
from mixsweep.sweep.status_reader import StatusReader
from tests.support.synthetic_store import SyntheticPart, give_energy, write_sweep
from tests.support.trials import as_format_1

NEW = ("device_utilisation", "device_memory_bytes", "device_energy_joules")


def test_on_a_cpu_the_columns_are_null(tiny: Callable[..., ImageConfig], digits: Images) -> None:
    assert counters_of(torch.device("cpu")).end() == Reading()
    (record, *_) = Trial(tiny(epochs=1), digits, torch.device("cpu")).train()
    assert [record[name] for name in NEW] == [None] * 3
    assert records.from_table(records.to_table([record], find_trainable().schema)) == [record]


def _nvml(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
    """A driver that answers so; an exception is raised."""
    module = types.ModuleType("pynvml")
    module.NVMLError = type("NVMLError", (Exception,), {})  # type: ignore[attr-defined]

    def answer(name: str) -> Callable[..., Any]:
        def asked(handle: Any) -> Any:
            value = answers[name]() if name in answers else None
            if value is None:
                raise module.NVMLError("Not Supported")  # type: ignore[attr-defined]
            return value

        return asked

    for name in ("UtilizationRates", "MemoryInfo", "TotalEnergyConsumption"):
        setattr(module, f"nvmlDeviceGet{name}", answer(name))
    monkeypatch.setitem(sys.modules, "pynvml", module)


def test_an_epochs_figures_are_a_mean_an_end_and_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    millijoules = iter([5_000_000, 5_250_000])
    _nvml(
        monkeypatch,
        UtilizationRates=lambda: types.SimpleNamespace(gpu=80),
        MemoryInfo=lambda: types.SimpleNamespace(used=3 * 2**30),
        TotalEnergyConsumption=lambda: next(millijoules),
    )
    monkeypatch.setattr(telemetry, "_SAMPLE_SECONDS", 0.01)
    before = threading.active_count()
    one = DeviceCounters("handle")
    one.begin()
    assert threading.active_count() == before + 1
    assert one.end() == Reading(0.8, 3 * 2**30, 250.0)
    assert threading.active_count() == before
    assert one.end() == Reading()


def test_a_counter_that_a_device_lacks_is_null_and_fails_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    _nvml(monkeypatch, MemoryInfo=lambda: types.SimpleNamespace(used=7))
    one = DeviceCounters("handle")
    one.begin()
    assert one.end() == Reading(None, 7, None)


def test_records_of_a_version_without_these_columns_are_read_and_summed_with_newer_ones(
    tmp_path: Path,
) -> None:
    part = SyntheticPart(name="old", base={"model": "mlp"}, space={"lr": [0.1, 0.01]}, final={})
    store: SweepStore = write_sweep(tmp_path / "old", [part], seeds=1, epochs=2)
    first, _ = store.trials()
    give_energy(store, 1.8e6)
    as_format_1(first)
    files.write_table(
        files.read_table(first.path / "metrics.parquet").drop_columns(list(NEW)),
        first.path / "metrics.parquet",
    )
    assert first.records().schema.names == find_trainable().schema.names
    assert first.records()["device_energy_joules"].null_count == 2
    for _ in range(2):
        assert StatusReader(store).read().energy_joules == 3.6e6
        assert store.records()["device_energy_joules"].null_count == 2
        compact(store)
    assert not set(NEW) & set(find_trainable().trajectory_columns)
