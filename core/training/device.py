"""The device that a trial computes on: choice, threads, clocks and memory."""

import ctypes
import platform
import resource
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch


def choose_device(gpus: float, local_rank: int = 0) -> torch.device:
    """The visible CUDA device if the trial may use one, else the CPU.

    If the ranks of a host all see the same devices, `local_rank` selects one for each.
    """
    if gpus <= 0 or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def device_name(device: torch.device) -> str:
    """The name of the GPU or the processor, recorded with timings."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def prepare_process(threads: int) -> None:
    """Configure arithmetic and memory the same in every place.

    The number of threads determines the order of floating-point sums, so it is set from the trial's resources;
    `fp32` means IEEE single precision on a GPU too; and the allocator keeps its large blocks.
    """
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    _keep_large_blocks()


@cache
def _keep_large_blocks() -> None:
    # Returning each step's activations to the kernel costs 8 to 35 % of a CPU step (docs/log.md).
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_trim_threshold, m_mmap_max = -1, -4
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a host clock measures the device's time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak that peak_memory_bytes returns."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # if refused, the peak since the process started is reported
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM


def peak_memory_bytes(device: torch.device) -> int:
    """The peak of bytes allocated on a GPU since the reset; on the CPU the process's peak resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def release_memory(device: torch.device) -> None:
    """Release the memory of a finished trial before the next one starts."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
