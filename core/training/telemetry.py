"""An NVIDIA device's utilisation, memory and energy over an epoch, by NVML; nothing on a CPU.

A counter that a device lacks (energy on older devices, all counters on some virtual machines) is null in the records.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

_SAMPLE_SECONDS = 0.5


@dataclass(frozen=True)
class Reading:
    """The counters of one epoch; None if the device does not have one."""

    utilisation: float | None = None  # fraction
    memory_bytes: int | None = None
    energy_joules: float | None = None


class DeviceCounters:
    """Reads a device's counters over one epoch, from `begin` to `end`.

    Args:
        handle: NVML's handle of the device, or None if there is none.
    """

    def __init__(self, handle: Any):
        self._handle = handle
        self._energy: float | None = None
        self._samples: list[float] = []
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start the counters of an epoch."""
        if self._handle is None:
            return
        self._samples, self._over = [], threading.Event()
        self._energy = _energy_joules(self._handle)
        self._thread = threading.Thread(target=self._sample, args=(self._over,), daemon=True)
        self._thread.start()

    def end(self) -> Reading:
        """Stop the counters and return those of the epoch."""
        if self._handle is None or self._thread is None:
            return Reading()
        self._over.set()
        self._thread.join()
        self._thread = None
        energy = _energy_joules(self._handle)
        return Reading(
            utilisation=sum(self._samples) / len(self._samples) if self._samples else None,
            memory_bytes=_asked(lambda nvml: int(nvml.nvmlDeviceGetMemoryInfo(self._handle).used)),
            energy_joules=energy - self._energy if energy is not None and self._energy is not None else None,
        )

    def _sample(self, over: threading.Event) -> None:
        while True:
            share = _asked(lambda nvml: nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100)
            if share is not None:
                self._samples.append(share)
            if over.wait(_SAMPLE_SECONDS):
                return


def counters_of(device: torch.device) -> DeviceCounters:
    """The counters of the device that a trial computes on."""
    return DeviceCounters(
        _handle(str(torch.cuda.get_device_properties(device).uuid)) if _is_nvidia(device) else None
    )


def _is_nvidia(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.hip is None


@cache
def _handle(uuid: str) -> Any:
    """NVML's handle, found by UUID since CUDA_VISIBLE_DEVICES renumbers devices; None if NVML has none."""
    name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"

    def find(nvml: Any) -> Any:
        nvml.nvmlInit()
        return nvml.nvmlDeviceGetHandleByUUID(name)

    return _asked(find)


def _energy_joules(handle: Any) -> float | None:
    return _asked(lambda nvml: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000)


def _asked(question: Callable[[Any], Any]) -> Any:
    """NVML's answer, or None without NVML or on its errors: a counter must never fail a trial."""
    try:
        import pynvml  # type: ignore[import-untyped]
    except ImportError:
        return None
    try:
        return question(pynvml)
    except pynvml.NVMLError:
        return None
