"""Facts about the machine that this process runs on: Python, devices, folders, internet access.

Imports no third-party library at module level, so that a broken installation is reported instead of raised.
"""

import os
import re
import shutil
import socket
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from mixsweep.core.errors import UserError
from mixsweep.core.provenance import provenance
from mixsweep.core.store.trial.lease import take_lease

PUBLIC_NAME = ("api.wandb.ai", 443)

_CONNECT_SECONDS = 3.0
_BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
_NATIVE_BF16 = (8, 0)  # compute capability


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A CUDA device; `error` says why it cannot compute, or is empty."""

    name: str
    memory_bytes: int = 0
    free_bytes: int = 0
    has_bf16: bool = False
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine as this process sees it. `import_error` and `gpu_warning` are empty where all is well."""

    host: str
    python: str
    versions: dict[str, str]
    import_error: str
    cores: int  # available to this process
    bf16_flags: tuple[str, ...]  # the processor's flags for native bf16
    cuda: str  # the CUDA version that torch is built for
    driver: str  # the version of the NVIDIA kernel driver
    visible: str | None  # CUDA_VISIBLE_DEVICES
    gpus: tuple[Gpu, ...]
    gpu_warning: str
    tmp_free_bytes: int


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder that was written to, or the error; `clock_seconds`: its time stamps minus this process's clock."""

    free_bytes: int = 0
    clock_seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Data:
    """The image files that a folder holds, or the error."""

    files: int = 0
    size_bytes: int = 0
    error: str = ""


def inspect_machine() -> Machine:
    """Import torch, run a computation on each GPU, and return the facts of this machine."""
    known = provenance()
    import_error, cuda, gpu_warning = "", "", ""
    gpus: tuple[Gpu, ...] = ()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch
            import torchvision  # noqa: F401  (a build that does not match torch's fails here)

            import mixsweep.core.execution.runner  # noqa: F401
        cuda = torch.version.cuda or ""
        gpus, gpu_warning = _inspect_gpus()
    except Exception as error:  # a broken library can raise anything
        import_error = one_line(error)
    return Machine(
        host=known["host"],
        python=known["python"],
        versions=known["versions"],
        import_error=import_error,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        bf16_flags=_bf16_flags(),
        cuda=cuda,
        driver=_driver(),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        gpus=gpus,
        gpu_warning=gpu_warning,
        tmp_free_bytes=shutil.disk_usage(tempfile.gettempdir()).free,
    )


def inspect_folder(path: Path) -> Folder:
    """Try in a folder what the store needs: exclusive creates, time stamps, renames; leave nothing there."""
    try:
        with ensured_folder(path) as folder:
            scratch = folder / f".doctor-{uuid.uuid4().hex[:8]}"
            try:
                _check_lease(scratch)
                return Folder(free_bytes=shutil.disk_usage(folder).free, clock_seconds=_check_rename(scratch))
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return Folder(error=f"{where}{error.strerror or error}")


def inspect_data(path: Path) -> Data:
    """The CIFAR-10 files in a folder."""
    try:
        from mixsweep.core.data.cifar10 import source_files

        files = source_files(path)
        return Data(files=len(files), size_bytes=sum(file.stat().st_size for file in files))
    except Exception as error:
        return Data(error=one_line(error))


def reaches_internet() -> bool:
    """Whether a connection to a public host, or to the proxy of the environment, opens within seconds."""
    proxy = urlsplit(getproxies().get("https", ""))
    address = (proxy.hostname, proxy.port or 443) if proxy.hostname else PUBLIC_NAME

    def connect() -> None:
        with socket.create_connection(address, timeout=_CONNECT_SECONDS):
            pass

    return _succeeds_within(_CONNECT_SECONDS, connect)


@contextmanager
def ensured_folder(path: Path) -> Iterator[Path]:
    """Create a folder and its missing parents; on exit, remove those that were created and are empty."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield path
    finally:
        for one in missing:
            with suppress(OSError):  # it was not created, or is no longer empty
                one.rmdir()


def one_line(error: BaseException) -> str:
    """The text of an exception as one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _check_lease(folder: Path) -> None:
    """Check that a lease in this folder is exclusive and that its heartbeat shows.

    Raises:
        OSError: exclusive creates or time stamps do not work here.
    """
    lease = take_lease(folder)
    if lease is None:
        raise OSError("the lease of a new folder is already taken")
    with lease:
        if second := take_lease(folder):
            second.release()
            raise OSError("a file was created twice: exclusive creates do not work there")
        os.utime(folder / "lease", (1, 1))
        os.utime(folder / "lease")
        if (folder / "lease").stat().st_mtime <= 1:
            raise OSError("time stamps of files do not move there")


def _check_rename(folder: Path) -> float:
    """Replace a file by a rename; return its time stamp minus this process's clock, in seconds."""
    path, beside = folder / "file", folder / ".file"
    ahead = 0.0
    for content in ("before", "after"):
        before = time.time()
        with open(beside, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        ahead = beside.stat().st_mtime - (before + time.time()) / 2
        os.replace(beside, path)
    if path.read_text() != "after":
        raise OSError("after a rename the old content is still read")
    return ahead


def _inspect_gpus() -> tuple[tuple[Gpu, ...], str]:
    """The CUDA devices after a computation on each, and the first warning of torch."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        gpus = tuple(_inspect_gpu(index) for index in range(count))
    return gpus, " ".join(str(caught[0].message).split()) if caught else ""


def _inspect_gpu(index: int) -> Gpu:
    import torch

    name = f"GPU {index}"
    try:
        name = torch.cuda.get_device_name(index)
        torch.ones(8, device=f"cuda:{index}").sum().item()  # fails if torch has no kernels for the device
        free, total = torch.cuda.mem_get_info(index)
        has_bf16 = torch.cuda.get_device_capability(index) >= _NATIVE_BF16
    except Exception as error:
        return Gpu(name=name, error=one_line(error))
    return Gpu(name=name, memory_bytes=total, free_bytes=free, has_bf16=has_bf16)


def _driver() -> str:
    """The NVIDIA kernel driver's version, '' where none is loaded."""
    with suppress(OSError):
        if found := re.search(r"Kernel Module(?: for \S+)?\s+([\d.]+)", _read("/proc/driver/nvidia/version")):
            return found[1]
    return ""


def _bf16_flags() -> tuple[str, ...]:
    with suppress(OSError):
        found = re.search(r"^(?:flags|Features)\s*:(.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
        return tuple(flag for flag in _BF16_FLAGS if found and flag in found[1].split())
    return ()


def _read(path: str) -> str:
    return Path(path).read_text()


def _succeeds_within(seconds: float, call: Callable[[], None]) -> bool:
    """Whether a call returns in time; a thread, since name lookup ignores socket time-outs."""
    done: list[bool] = []

    def run() -> None:
        with suppress(OSError):
            call()
            done.append(True)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(done)
