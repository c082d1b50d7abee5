"""What a doctor asks of the machine that it is on: Python, devices, folders, internet.

Needs the standard library alone until it tries the rest, so that a broken installation is told, not met.
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
from mixsweep.core.store.lease import take_lease

PUBLIC_NAME = ("api.wandb.ai", 443)

_CONNECT_SECONDS = 3.0
_BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
_NATIVE_BF16 = (8, 0)  # compute capability


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A CUDA device; `error` says why it cannot compute."""

    name: str
    memory_bytes: int = 0
    free_bytes: int = 0
    has_bf16: bool = False
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine as this process finds it. `broken` and `gpu_trouble` are complaints, '' where there are none."""

    host: str
    python: str
    versions: dict[str, str]
    broken: str  # what an import said
    cores: int  # that this process may use
    bf16_flags: tuple[str, ...]  # of the processor
    cuda: str  # the version that torch is built for
    driver: str  # of the kernel
    visible: str | None  # CUDA_VISIBLE_DEVICES
    gpus: tuple[Gpu, ...]
    gpu_trouble: str
    tmp_free_bytes: int


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder that has been written to, or the error; `clock_seconds` is how far its stamps are ahead of us."""

    free_bytes: int = 0
    clock_seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Data:
    """The images' files that a folder holds, or why it holds none."""

    files: int = 0
    size_bytes: int = 0
    error: str = ""


def look_at_machine() -> Machine:
    """This machine and its Python, with torch imported and each GPU tried."""
    known = provenance()
    broken, cuda, trouble = "", "", ""
    gpus: tuple[Gpu, ...] = ()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch
            import torchvision  # noqa: F401  (a build that does not match torch's fails here)

            import mixsweep.core.execution.runner  # noqa: F401
        cuda = torch.version.cuda or ""
        gpus, trouble = _look_at_gpus()
    except Exception as error:  # a library that is there but broken raises anything
        broken = line_of(error)
    return Machine(
        host=known["host"],
        python=known["python"],
        versions=known["versions"],
        broken=broken,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        bf16_flags=_bf16_flags(),
        cuda=cuda,
        driver=_driver(),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        gpus=gpus,
        gpu_trouble=trouble,
        tmp_free_bytes=shutil.disk_usage(tempfile.gettempdir()).free,
    )


def look_at_folder(path: Path) -> Folder:
    """Do in a folder what the store does: exclusive creates, time stamps, replaced files; leaves nothing there."""
    try:
        with made(path) as folder:
            place = folder / f".doctor-{uuid.uuid4().hex[:8]}"
            try:
                _hold_a_lease(place)
                return Folder(free_bytes=shutil.disk_usage(folder).free, clock_seconds=_replace_a_file(place))
            finally:
                shutil.rmtree(place, ignore_errors=True)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return Folder(error=f"{where}{error.strerror or error}")


def look_at_data(path: Path) -> Data:
    """CIFAR-10's files in a folder."""
    try:
        from mixsweep.core.data.cifar10 import source_files

        files = source_files(path)
        return Data(files=len(files), size_bytes=sum(file.stat().st_size for file in files))
    except Exception as error:
        return Data(error=line_of(error))


def reaches_internet() -> bool:
    """Whether a connection to a public name, or to the proxy that the environment names, opens within seconds."""
    proxy = urlsplit(getproxies().get("https", ""))
    name = (proxy.hostname, proxy.port or 443) if proxy.hostname else PUBLIC_NAME

    def connect() -> None:
        with socket.create_connection(name, timeout=_CONNECT_SECONDS):
            pass

    return _succeeds_within(_CONNECT_SECONDS, connect)


@contextmanager
def made(path: Path) -> Iterator[Path]:
    """A folder, made with its parents where it is missing; what is made and left empty is removed again."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield path
    finally:
        for one in missing:
            with suppress(OSError):  # it was not made, or is used by now
                one.rmdir()


def line_of(error: BaseException) -> str:
    """An exception as one line."""
    said = " ".join(str(error).split())
    return said if isinstance(error, UserError) else f"{type(error).__name__}: {said}"


def _hold_a_lease(folder: Path) -> None:
    """Raises OSError where a lease would not keep others out or could not show that its holder lives."""
    lease = take_lease(folder)
    if lease is None:
        raise OSError("a new folder seems to be held by another process")
    with lease:
        if second := take_lease(folder):
            second.release()
            raise OSError("a file was created twice: exclusive creates do not work there")
        os.utime(folder / "lease", (1, 1))
        os.utime(folder / "lease")
        if (folder / "lease").stat().st_mtime <= 1:
            raise OSError("time stamps of files do not move there")


def _replace_a_file(folder: Path) -> float:
    """Replace a file by a rename, and return how many seconds its stamp is ahead of this process's clock."""
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
        raise OSError("a renamed file still shows what it replaced")
    return ahead


def _look_at_gpus() -> tuple[tuple[Gpu, ...], str]:
    """The CUDA devices, each with a computation tried, and what torch complains of."""
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        gpus = tuple(_look_at_gpu(index) for index in range(count))
    return gpus, " ".join(str(said[0].message).split()) if said else ""


def _look_at_gpu(index: int) -> Gpu:
    import torch

    name = f"GPU {index}"
    try:
        name = torch.cuda.get_device_name(index)
        torch.ones(8, device=f"cuda:{index}").sum().item()  # fails where torch has no kernels for it
        free, total = torch.cuda.mem_get_info(index)
        has_bf16 = torch.cuda.get_device_capability(index) >= _NATIVE_BF16
    except Exception as error:
        return Gpu(name=name, error=line_of(error))
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
    """Whether a call returns in time; looking up a name heeds no time-out of its own."""
    done: list[bool] = []

    def run() -> None:
        with suppress(OSError):
            call()
            done.append(True)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(done)
