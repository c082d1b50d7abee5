"""Check a place before an allocation is spent on it: each check is one line, and none raises.

At a place of kind `slurm` the last checks are made by a small real job, submitted as a trial would be.
"""

import getpass
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mixsweep.cluster.doctor.host import (
    PUBLIC_NAME,
    Data,
    Folder,
    Gpu,
    Machine,
    line_of,
    look_at_data,
    look_at_folder,
    look_at_machine,
)
from mixsweep.cluster.doctor.probe_job import Report, run_probe
from mixsweep.cluster.places import Place, RayPlace, SlurmPlace
from mixsweep.cluster.slurm import client as slurm
from mixsweep.cluster.slurm.job_environment import MARGIN_SECONDS
from mixsweep.core.extras import EXTRAS, is_installed, require
from mixsweep.core.provenance import provenance

STATES = ("ok", "warning", "failed")

_COMMANDS = ("sbatch", "squeue", "scontrol", "scancel", "sinfo", "srun")
_ROOM_BYTES = 2**30  # less is little
_CLOCK_SECONDS = 5.0
_OLDEST_TORCH = (2, 11)

_BUSY = ("None", "Priority", "Resources")  # why a job waits where nothing is wrong

Say = Callable[[str], None]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: `state` is one of STATES; `advice` says what to do, where something is to do."""

    name: str
    state: str
    found: str
    advice: str = ""


def examine(
    place: Place,
    store: Path,
    data: Path | None,
    *,
    with_job: bool = True,
    wait_seconds: float = 300.0,
    say: Say = lambda line: None,
) -> Iterator[Check]:
    """Check a place, one thing after the other; leaves nothing behind, neither in the store nor in a queue.

    Args:
        store: the folder of sweeps; it need not exist.
        data: where the images lie, None if nobody said.
        with_job: at a `slurm` place, run a job too; left out where a check before it failed.
        wait_seconds: for that job to start and to report; then it is cancelled.
        say: told what is being waited for.
    """
    looks: dict[str, Callable[[], list[Check]]] = {
        "store": lambda: [check_store(look_at_folder(store))],
        "data": lambda: [_data_here(data)],
    }
    if place.ray is not None:
        # Where it takes jobs, store and data are over there.
        looks = {"cluster": partial(check_cluster, place.ray), **({} if place.ray.takes_jobs else looks)}
    elif place.slurm is None:
        looks = {"python": partial(check_machine, place), **looks}
        if place.kind == "local":
            looks["ray"] = lambda: [check_ray()]
    else:
        looks = {
            "python": lambda: [check_submitting()],
            **looks,
            "scheduler": partial(check_scheduler, place.slurm),
            "partition": partial(check_partition, place.slurm),
            "accounting": partial(check_accounting, place.slurm),
        }
    looks["extras"] = lambda: [check_extras()]
    some_failed = False
    for name, look in looks.items():
        for check in _without_raising(name, look):
            some_failed |= check.state == "failed"
            yield check
    if place.slurm is not None and with_job:
        if some_failed:
            yield Check("job", "warning", "not tried", "first mend what failed")
        else:
            yield from _without_raising(
                "job", partial(check_by_job, place.slurm, store.absolute(), data, wait_seconds, say)
            )


def check_machine(place: Place) -> list[Check]:
    """Python, processor and GPUs of this machine."""
    here = look_at_machine()
    found = f"{here.cores} cores, {_bf16_of(here)}"
    if place.cpus and place.cpus > here.cores:
        cores = Check("processor", "warning", f"{found}; the place says cpus = {place.cpus}", "lower it")
    else:
        cores = Check("processor", "ok", found)
    return [check_python(here), cores, check_gpus(here, place.gpus)]


def check_python(machine: Machine) -> Check:
    """Whether a trial's imports work, and with which versions."""
    found = f"{machine.python}, {_versions(machine.versions)}"
    if machine.broken:
        return Check("python", "failed", f"{found}: {machine.broken}", "pip install 'mixsweep[train]'")
    if _is_old(machine.versions.get("torch", "")):
        return Check("python", "warning", found, f"torch is older than {'.'.join(map(str, _OLDEST_TORCH))}")
    return Check("python", "ok", found)


def check_gpus(machine: Machine, wanted: int | None) -> Check:
    """The CUDA devices that torch can use, or why it cannot; `wanted` is how many were asked for."""
    gpus = machine.gpus
    if broken := [gpu for gpu in gpus if gpu.error]:
        return Check("gpus", "failed", f"{broken[0].name}: {broken[0].error}", "is torch built for it?")
    found = ", ".join(map(_describe, gpus)) or "none"
    if not gpus and machine.driver and machine.visible not in ("", "-1"):
        built = f"torch is built for CUDA {machine.cuda}" if machine.cuda else "torch is built without CUDA"
        said = f" ({machine.gpu_trouble})" if machine.gpu_trouble else ""
        mismatch = f"none usable: the driver is {machine.driver}, {built}{said}"
        return Check(
            "gpus", "failed" if wanted else "warning", mismatch, "install a torch that fits the driver"
        )
    if wanted and len(gpus) < wanted:
        hidden = "" if machine.visible is None else f" (CUDA_VISIBLE_DEVICES={machine.visible})"
        return Check(
            "gpus", "failed", f"{found}{hidden}; {wanted} asked for", "see gpus or gres of the place"
        )
    if not gpus and machine.driver:
        found = f"none: CUDA_VISIBLE_DEVICES={machine.visible} hides them"
    if crowded := [gpu for gpu in gpus if gpu.free_bytes < gpu.memory_bytes / 2]:
        return Check("gpus", "warning", found, f"somebody else uses {crowded[0].name}")
    return Check("gpus", "ok", found)


def check_store(folder: Folder) -> Check:
    """Whether a folder can hold sweeps: exclusive creates, renames, moving time stamps, room."""
    if folder.error:
        return Check("store", "failed", folder.error, "another --store, or make it writable")
    stamps = f", its clock {folder.clock_seconds:+.1f} s" if abs(folder.clock_seconds) >= 0.5 else ""
    found = f"writable, {_size(folder.free_bytes)} free{stamps}"
    if folder.free_bytes < _ROOM_BYTES:
        return Check("store", "warning", found, "make room: checkpoints will not fit")
    return Check("store", "ok", found)


def check_cluster(place: RayPlace) -> list[Check]:
    """Whether a Ray cluster lets this machine in, and what it has."""
    from mixsweep.cluster.ray_cluster.connection import attached, nodes
    from mixsweep.cluster.ray_cluster.job_client import JobServer

    if place.takes_jobs:
        return [Check("cluster", "ok", f"takes jobs; Ray {JobServer(place).ray_version}")]
    require("ray", what=f"address {place.address}")
    with attached(place, None):
        found = nodes()
    has = ", ".join(f"{sum(n.has.get(name, 0.0) for n in found):g} {name}s" for name in ("CPU", "GPU"))
    return [Check("cluster", "ok", f"{len(found)} nodes with {has}")]


def check_ray() -> Check:
    """Whether Ray, which `local` starts, can be imported."""
    require("ray", what="place local")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
    return Check("ray", "ok", f"{ray.__version__}")


def check_extras() -> Check:
    """Which extras of the package are installed; what needs another one fails by itself."""
    here = [extra for extra in EXTRAS if is_installed(extra)]
    missing = [extra for extra in EXTRAS if extra not in here]
    found = f"installed: {', '.join(here) or 'none'}"
    return Check("extras", "ok", f"{found}; not installed: {', '.join(missing)}" if missing else found)


def check_submitting() -> Check:
    """Whether this Python can submit; torch is not needed for that."""
    require("slurm", what="submitting")
    import submitit

    known = provenance()
    versions = known["versions"] | {"submitit": submitit.__version__}
    return Check("python", "ok", f"{known['python']}, {_versions(versions)}")


def check_scheduler(place: SlurmPlace) -> list[Check]:
    """The commands, the controller, and what its configuration means for tasks.

    Raises:
        SlurmError: there is no controller to be asked.
    """
    if missing := [name for name in _COMMANDS if not shutil.which(name)]:
        found = f"not found: {', '.join(missing)}"
        return [Check("scheduler", "failed", found, "run it on a login node, or load the module of SLURM")]
    config = _configuration()
    host = re.sub(r"\(.*\)", "", config.get("SlurmctldHost[0]", ""))
    allowed = slurm.limits(place)
    tasks = f"{allowed.array_tasks} tasks an array, {allowed.kill_wait_seconds} s from SIGTERM to SIGKILL"
    kill = Check("arrays", "ok", tasks)
    if allowed.kill_wait_seconds < MARGIN_SECONDS:
        kill = Check("arrays", "warning", tasks, "too short to write down why a trial was left")
    requeue = "allowed"
    if config.get("JobRequeue") != "1":
        requeue = "not by itself (JobRequeue=0), but each task asks for it"
    return [
        Check("scheduler", "ok", f"SLURM {config.get('SLURM_VERSION', '?')}, controller {host}"),
        kill,
        Check("requeue", "ok", requeue),
    ]


def check_partition(place: SlurmPlace) -> list[Check]:
    """Whether the partitions exist, are up, have nodes, and allow the place's time; and what preempts there.

    Raises:
        SlurmError: no such partition, or its limit is below the time.
    """
    slurm.check_partition(place)
    names = _names(place)
    if not names:
        found = "none is given, and the cluster has no default"
        return [Check("partition", "failed", found, "set partition in the place")]
    return [*(_check_partition(name, place) for name in names), check_preemption(_configuration(), names)]


def check_preemption(config: dict[str, str], partitions: list[str]) -> Check:
    """What happens to a task that has to make room, by the cluster's configuration."""
    kind = config.get("PreemptType", "preempt/none")
    if kind == "preempt/none":
        return Check("preemption", "ok", "none on this cluster")
    facts = [slurm.partition_facts(name) for name in partitions]
    modes = {config.get("PreemptMode", "OFF")}
    if kind == "preempt/partition_prio":
        modes = {fact.get("PreemptMode", "OFF") for fact in facts}
    grace = min(int(fact.get("GraceTime", 0)) for fact in facts)
    found = f"{'/'.join(sorted(modes))}, GraceTime {grace} s ({kind})"
    if any("CANCEL" in mode for mode in modes) and not grace:
        advice = "tasks do not come back by themselves: follow the sweep, no --detach"
        return Check("preemption", "warning", found, advice)
    if any("SUSPEND" in mode or "GANG" in mode for mode in modes):
        return Check("preemption", "warning", found, "a suspended task keeps its trials until it goes on")
    return Check("preemption", "ok", found)


def check_accounting(place: SlurmPlace) -> list[Check]:
    """Whether ends of jobs can be looked up, and whether the account is this user's."""
    config = _configuration()
    if "slurmdbd" not in config.get("AccountingStorageType", ""):
        found = "off: ends of jobs are read from the queue and the store"
        return [Check("accounting", "ok", found)]
    if missing := [name for name in ("sacct", "sacctmgr") if not shutil.which(name)]:
        found = f"on, but not found: {', '.join(missing)}"
        return [Check("accounting", "warning", found, "the ends of old jobs stay unknown")]
    user = getpass.getuser()
    said = slurm.ask("sacctmgr", "-n", "-P", "show", "associations", f"user={user}", "format=Account")
    accounts = sorted(set(said.split()))
    found = f"on; accounts of {user}: {', '.join(accounts) or 'none'}"
    if place.account and place.account not in accounts:
        enforced = "associations" in config.get("AccountingStorageEnforce", "")
        advice = f"account = {place.account} in the place is none of them"
        return [Check("accounting", "failed" if enforced else "warning", found, advice)]
    return [Check("accounting", "ok", found)]


def check_by_job(
    place: SlurmPlace, store: Path, data: Path | None, wait_seconds: float, say: Say
) -> list[Check]:
    """What a job finds on a compute node.

    Raises:
        SlurmError: the scheduler refused.
    """
    done = run_probe(place, store, data, wait_seconds, say)
    advice = "see setup and python of the place"
    checks = []
    if done.broken_setup:
        checks = [Check("setup", "warning", f"this line fails: {done.broken_setup}", advice)]
    if done.waits:
        found = f"{done.job} did not start in {done.seconds:.0f} s: {done.waits}; cancelled"
        state = "warning" if done.waits in _BUSY else "failed"
        return [Check("job", state, found, "a longer --wait, another partition, or --no-job")]
    if done.report is None:
        return [*checks, Check("job", "failed", f"{done.job} {done.ended}", advice)]
    ran = Check("job", "ok", f"{done.job} ran on {done.report.node}, {done.seconds:.0f} s in all")
    return [*checks, ran, *check_node(place, done.report, done.shared, done.here)]


def check_node(place: SlurmPlace, told: Report, shared: bool, here: Folder) -> list[Check]:
    """What a node's report means, compared with the submitting host.

    Args:
        shared: whether the node read what that host had written.
        here: the store as that host sees it.
    """
    checks = [check_python(told.machine), check_gpus(told.machine, gpus_of(place)), check_store(told.folder)]
    if checks[2].state == "ok" and not (shared and told.sees_lease):
        unseen = "a lease of this host" if shared else "what this host writes"
        checks[2] = Check("store", "failed", f"{unseen} is not seen there", "a --store that all nodes share")
    if told.data is not None:
        checks.append(_check_data(told.data))
    checks += [_check_clock(here, told), _check_versions(told), _check_requeue(told)]
    checks += [_check_internet(told), _check_tmp(told)]
    return [replace(check, name=f"node {check.name}") for check in checks]


def gpus_of(place: SlurmPlace) -> int:
    """How many GPUs a task asks for, by `gres` or by `gpus`."""
    if not place.gres:
        return place.gpus
    found = re.findall(r"(?:^|,)(?:gres/)?gpu(?:[:/][A-Za-z][\w.-]*)?(?::(\d+))?(?=,|\(|$)", place.gres)
    return sum(int(count or 1) for count in found)


def _without_raising(name: str, look: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    try:
        yield from look()
    except Exception as error:  # a doctor that dies of a finding is of no use
        yield Check(name, "failed", line_of(error))


def _data_here(data: Path | None) -> Check:
    if data is None:
        return Check("data", "warning", "no folder given; digits needs none", "--data DIR or SWEEP_DATA")
    return _check_data(look_at_data(data))


def _check_data(data: Data) -> Check:
    if data.error:
        return Check("data", "failed", data.error)
    return Check("data", "ok", f"{data.files} files, {_size(data.size_bytes)}")


def _check_partition(name: str, place: SlurmPlace) -> Check:
    facts = slurm.partition_facts(name)
    counts = slurm.ask("sinfo", "--noheader", f"--partition={name}", "--format=%F").split()
    busy, idle, _, total = (sum(int(line.split("/")[column]) for line in counts) for column in range(4))
    found = (
        f"{name} {facts.get('State', '?').lower()}, {idle} of {total} nodes idle, "
        f"MaxTime {facts.get('MaxTime', '?')} (asked for: {place.time} minutes)"
    )
    if facts.get("State") != "UP":
        return Check("partition", "failed", found, "jobs of it do not start now: another, or ask its admins")
    if not busy + idle:
        return Check("partition", "failed", found, "no node of it works: another, or ask its admins")
    return Check("partition", "ok", found)


def _check_clock(here: Folder, told: Report) -> Check:
    # Both compared themselves with the stamps that the same file system gives.
    ahead = here.clock_seconds - told.folder.clock_seconds
    found = f"{ahead:+.1f} s against this host"
    if abs(ahead) < _CLOCK_SECONDS:
        return Check("clock", "ok", found)
    return Check("clock", "warning", found, "ask its admins: tasks leave and stop by their node's clock")


def _check_versions(told: Report) -> Check:
    known = provenance()
    mine = {"python": known["python"], **known["versions"]}
    theirs = {"python": told.machine.python, **told.machine.versions}
    other = [
        f"{name} {theirs.get(name, 'none')} (here {version})"
        for name, version in mine.items()  # a login node need not have all that trains
        if theirs.get(name) != version
    ]
    if other:
        return Check("versions", "warning", ", ".join(other), "see python and setup of the place")
    return Check("versions", "ok", "as here")


def _check_requeue(told: Report) -> Check:
    if told.scheduler:
        return Check("requeue", "warning", told.scheduler, "a task that runs out of time cannot come back")
    if not told.requeue:
        return Check(
            "requeue", "warning", "off (Requeue=0)", "no task comes back: see directives of the place"
        )
    return Check("requeue", "ok", "scontrol and squeue answer there")


def _check_internet(told: Report) -> Check:
    if told.internet:
        return Check("internet", "ok", f"{PUBLIC_NAME[0]} can be reached")
    return Check("internet", "ok", f"{PUBLIC_NAME[0]} cannot be reached: mirror to W&B from another machine")


def _check_tmp(told: Report) -> Check:
    free = told.machine.tmp_free_bytes
    if free < _ROOM_BYTES:
        return Check("tmp", "warning", f"{_size(free)} free", "set TMPDIR in environment")
    return Check("tmp", "ok", f"{_size(free)} free")


def _configuration() -> dict[str, str]:
    """The cluster's settings by name."""
    text = slurm.ask("scontrol", "show", "config")
    return dict(re.findall(r"^(\S+)\s*=\s*(.*?)\s*$", text, re.MULTILINE))


def _names(place: SlurmPlace) -> list[str]:
    return place.partition.split(",") if place.partition else slurm.default_partitions()


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _is_old(version: str) -> bool:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) < _OLDEST_TORCH


def _bf16_of(machine: Machine) -> str:
    return f"bf16 native ({', '.join(machine.bf16_flags)})" if machine.bf16_flags else "no native bf16"


def _describe(gpu: Gpu) -> str:
    bf16 = "native" if gpu.has_bf16 else "emulated"
    return f"{gpu.name}, {_size(gpu.free_bytes)} of {_size(gpu.memory_bytes)} free, bf16 {bf16}"


def _size(count: int) -> str:
    """Bytes for a reader."""
    return f"{count / 2**30:.0f} GiB" if count >= 10 * 2**30 else f"{count / 2**20:,.0f} MiB"
