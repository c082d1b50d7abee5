"""Checks of a machine, from what `host` found on it: Python, processor, GPUs, store and data."""

import re
from pathlib import Path

from mixsweep.cluster.doctor.check_result import LITTLE_SPACE_BYTES, Check, format_size, format_versions
from mixsweep.cluster.doctor.host import Data, Folder, Gpu, Machine, inspect_data, inspect_machine
from mixsweep.cluster.places import Place
from mixsweep.core.extras import EXTRAS, is_installed

_OLDEST_TORCH = (2, 11)


def check_machine(place: Place) -> list[Check]:
    """Check Python, processor and GPUs of this machine."""
    machine = inspect_machine()
    found = f"{machine.cores} cores, {_bf16_of(machine)}"
    if place.cpus and place.cpus > machine.cores:
        cores = Check(
            "processor", "warning", f"{found}; the place has cpus = {place.cpus}", "lower cpus in the place"
        )
    else:
        cores = Check("processor", "ok", found)
    return [check_python(machine), cores, check_gpus(machine, place.gpus)]


def check_python(machine: Machine) -> Check:
    """Check that what a trial imports can be imported, and is recent enough."""
    found = f"{machine.python}, {format_versions(machine.versions)}"
    if machine.import_error:
        return Check("python", "failed", f"{found}: {machine.import_error}", "pip install 'mixsweep[train]'")
    if _is_old(machine.versions.get("torch", "")):
        return Check("python", "warning", found, f"torch is older than {'.'.join(map(str, _OLDEST_TORCH))}")
    return Check("python", "ok", found)


def check_gpus(machine: Machine, wanted: int | None) -> Check:
    """Check the CUDA devices that torch can use; `wanted` is how many the place or sweep asks for."""
    gpus = machine.gpus
    if broken := [gpu for gpu in gpus if gpu.error]:
        return Check(
            "gpus",
            "failed",
            f"{broken[0].name}: {broken[0].error}",
            "install a torch built for this GPU",
        )
    found = ", ".join(map(_describe, gpus)) or "none"
    if not gpus and machine.driver and machine.visible not in ("", "-1"):
        built = f"torch is built for CUDA {machine.cuda}" if machine.cuda else "torch is built without CUDA"
        detail = f" ({machine.gpu_warning})" if machine.gpu_warning else ""
        mismatch = f"none usable: the driver is {machine.driver}, {built}{detail}"
        return Check(
            "gpus", "failed" if wanted else "warning", mismatch, "install a torch that fits the driver"
        )
    if wanted and len(gpus) < wanted:
        hidden = "" if machine.visible is None else f" (CUDA_VISIBLE_DEVICES={machine.visible})"
        return Check(
            "gpus", "failed", f"{found}{hidden}; {wanted} asked for", "change gpus or gres of the place"
        )
    if not gpus and machine.driver:
        found = f"none: CUDA_VISIBLE_DEVICES={machine.visible} hides them"
    if crowded := [gpu for gpu in gpus if gpu.free_bytes < gpu.memory_bytes / 2]:
        return Check("gpus", "warning", found, f"another process uses {crowded[0].name}")
    return Check("gpus", "ok", found)


def check_store(folder: Folder) -> Check:
    """Check that a folder can hold sweeps: exclusive creates, renames, time stamps, free space."""
    if folder.error:
        return Check("store", "failed", folder.error, "choose another --store, or make it writable")
    clock = f", its clock {folder.clock_seconds:+.1f} s" if abs(folder.clock_seconds) >= 0.5 else ""
    found = f"writable, {format_size(folder.free_bytes)} free{clock}"
    if folder.free_bytes < LITTLE_SPACE_BYTES:
        return Check("store", "warning", found, "free some space: checkpoints will not fit")
    return Check("store", "ok", found)


def check_data(data: Data) -> Check:
    """Check that a data folder holds the image files."""
    if data.error:
        return Check("data", "failed", data.error)
    return Check("data", "ok", f"{data.files} files, {format_size(data.size_bytes)}")


def check_data_here(data: Path | None) -> Check:
    """Check the data folder as this machine sees it; None: no folder was given."""
    if data is None:
        return Check(
            "data", "warning", "no folder given; digits needs none", "give --data DIR or set SWEEP_DATA"
        )
    return check_data(inspect_data(data))


def check_extras() -> Check:
    """List the installed extras of the package; what needs another one says so by itself."""
    here = [extra for extra in EXTRAS if is_installed(extra)]
    missing = [extra for extra in EXTRAS if extra not in here]
    found = f"installed: {', '.join(here) or 'none'}"
    return Check("extras", "ok", f"{found}; not installed: {', '.join(missing)}" if missing else found)


def _is_old(version: str) -> bool:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) < _OLDEST_TORCH


def _bf16_of(machine: Machine) -> str:
    return f"bf16 native ({', '.join(machine.bf16_flags)})" if machine.bf16_flags else "no native bf16"


def _describe(gpu: Gpu) -> str:
    bf16 = "native" if gpu.has_bf16 else "emulated"
    return f"{gpu.name}, {format_size(gpu.free_bytes)} of {format_size(gpu.memory_bytes)} free, bf16 {bf16}"
