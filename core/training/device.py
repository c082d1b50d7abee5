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

    Where a host's ranks all see its devices, each has its own by `local_rank`.
    """
    if gpus <= 0 or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def device_name(device: torch.device) -> str:
    """What a reader of a timing needs to know: the GPU's or the processor's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def prepare_process(threads: int) -> None:
    """Make arithmetic and memory behave alike in every place.

    The number of threads shapes the order of floating-point sums, so it comes from the trial's resources;
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
    """Wait for the device, so that a host clock tells the device's time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new count for peak_memory_bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # where it is refused, the peak since the process began has to do
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM


def peak_memory_bytes(device: torch.device) -> int:
    """Bytes allocated on a GPU at most since the reset; on the CPU the process's resident peak."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def release_memory(device: torch.device) -> None:
    """Give the memory of a finished trial back before the next one starts."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
