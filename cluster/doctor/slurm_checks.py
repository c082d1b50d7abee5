"""Checks of a place of kind `slurm`: the scheduler from this host, and what a probe job finds on a compute node."""

import getpass
import re
import shutil
from dataclasses import replace
from pathlib import Path

from mixsweep.cluster.doctor.check_result import LITTLE_SPACE_BYTES, Check, format_size, format_versions
from mixsweep.cluster.doctor.host import PUBLIC_NAME, Folder
from mixsweep.cluster.doctor.machine_checks import check_data, check_gpus, check_python, check_store
from mixsweep.cluster.doctor.probe_job import NodeReport, Say, run_probe
from mixsweep.cluster.places import SlurmPlace
from mixsweep.cluster.slurm import client as slurm
from mixsweep.cluster.slurm.job_environment import MARGIN_SECONDS
from mixsweep.core.extras import require
from mixsweep.core.provenance import provenance

_COMMANDS = ("sbatch", "squeue", "scontrol", "scancel", "sinfo", "srun")
_MAX_CLOCK_OFFSET_SECONDS = 5.0

_NORMAL_REASONS = ("None", "Priority", "Resources")  # why a job is pending on a cluster that is only busy


def check_submitting() -> Check:
    """Check that this Python can submit, which needs no torch."""
    require("slurm", what="submitting")
    import submitit

    known = provenance()
    versions = known["versions"] | {"submitit": submitit.__version__}
    return Check("python", "ok", f"{known['python']}, {format_versions(versions)}")


def check_scheduler(place: SlurmPlace) -> list[Check]:
    """Check the scheduler's commands, its controller, and its limits for array tasks.

    Raises:
        SlurmError: the controller does not answer.
    """
    if missing := [name for name in _COMMANDS if not shutil.which(name)]:
        found = f"not found: {', '.join(missing)}"
        return [Check("scheduler", "failed", found, "run this on a login node, or load the SLURM module")]
    config = _configuration()
    host = re.sub(r"\(.*\)", "", config.get("SlurmctldHost[0]", ""))
    allowed = slurm.read_limits(place)
    tasks = f"{allowed.array_tasks} tasks an array, {allowed.kill_wait_seconds} s from SIGTERM to SIGKILL"
    kill = Check("arrays", "ok", tasks)
    if allowed.kill_wait_seconds < MARGIN_SECONDS:
        kill = Check("arrays", "warning", tasks, "too short to record why a trial was interrupted")
    requeue = "allowed"
    if config.get("JobRequeue") != "1":
        requeue = "off by default (JobRequeue=0), but each task requests it"
    return [
        Check("scheduler", "ok", f"SLURM {config.get('SLURM_VERSION', '?')}, controller {host}"),
        kill,
        Check("requeue", "ok", requeue),
    ]


def check_partition(place: SlurmPlace) -> list[Check]:
    """Check that the partitions exist, are up, have nodes and allow the place's time; check their preemption.

    Raises:
        SlurmError: no such partition, or its limit is below the time.
    """
    slurm.check_partition(place)
    names = _partitions_of(place)
    if not names:
        found = "none is given, and the cluster has no default"
        return [Check("partition", "failed", found, "set partition in the place")]
    return [*(_check_partition(name, place) for name in names), check_preemption(_configuration(), names)]


def check_preemption(config: dict[str, str], partitions: list[str]) -> Check:
    """Check what the cluster's configuration does to a preempted task."""
    kind = config.get("PreemptType", "preempt/none")
    if kind == "preempt/none":
        return Check("preemption", "ok", "none on this cluster")
    facts = [slurm.partition_settings(name) for name in partitions]
    modes = {config.get("PreemptMode", "OFF")}
    if kind == "preempt/partition_prio":
        modes = {fact.get("PreemptMode", "OFF") for fact in facts}
    grace = min(int(fact.get("GraceTime", 0)) for fact in facts)
    found = f"{'/'.join(sorted(modes))}, GraceTime {grace} s ({kind})"
    if any("CANCEL" in mode for mode in modes) and not grace:
        advice = "preempted tasks are not requeued: follow the sweep, use no --detach"
        return Check("preemption", "warning", found, advice)
    if any("SUSPEND" in mode or "GANG" in mode for mode in modes):
        return Check("preemption", "warning", found, "a suspended task holds its trials until it is resumed")
    return Check("preemption", "ok", found)


def check_accounting(place: SlurmPlace) -> list[Check]:
    """Check whether accounting can be queried, and whether the place's account belongs to this user."""
    config = _configuration()
    if "slurmdbd" not in config.get("AccountingStorageType", ""):
        found = "off: ends of jobs are read from the queue and the store"
        return [Check("accounting", "ok", found)]
    if missing := [name for name in ("sacct", "sacctmgr") if not shutil.which(name)]:
        found = f"on, but not found: {', '.join(missing)}"
        return [Check("accounting", "warning", found, "how old jobs ended stays unknown")]
    user = getpass.getuser()
    output = slurm.query("sacctmgr", "-n", "-P", "show", "associations", f"user={user}", "format=Account")
    accounts = sorted(set(output.split()))
    found = f"on; accounts of {user}: {', '.join(accounts) or 'none'}"
    if place.account and place.account not in accounts:
        enforced = "associations" in config.get("AccountingStorageEnforce", "")
        advice = f"account = {place.account} in the place is not one of them"
        return [Check("accounting", "failed" if enforced else "warning", found, advice)]
    return [Check("accounting", "ok", found)]


def check_by_job(
    place: SlurmPlace, store: Path, data: Path | None, wait_seconds: float, say: Say
) -> list[Check]:
    """Run a probe job, and check what it finds on a compute node.

    Raises:
        SlurmError: the scheduler refused.
    """
    probe = run_probe(place, store, data, wait_seconds, say)
    advice = "see setup and python of the place"
    checks = []
    if probe.broken_setup:
        checks = [Check("setup", "warning", f"this line fails: {probe.broken_setup}", advice)]
    if probe.pending_reason:
        found = f"{probe.job} did not start in {probe.seconds:.0f} s: {probe.pending_reason}; cancelled"
        state = "warning" if probe.pending_reason in _NORMAL_REASONS else "failed"
        return [Check("job", state, found, "a longer --wait, another partition, or --no-job")]
    if probe.report is None:
        return [*checks, Check("job", "failed", f"{probe.job} {probe.failure}", advice)]
    ran = Check("job", "ok", f"{probe.job} ran on {probe.report.node}, {probe.seconds:.0f} s in all")
    return [*checks, ran, *check_node(place, probe.report, probe.shared, probe.folder_here)]


def check_node(place: SlurmPlace, report: NodeReport, shared: bool, folder_here: Folder) -> list[Check]:
    """Check a node's report against the submitting host.

    Args:
        shared: whether the node could read what that host had written.
        folder_here: the store as that host sees it.
    """
    checks = [
        check_python(report.machine),
        check_gpus(report.machine, count_gpus(place)),
        check_store(report.folder),
    ]
    if checks[2].state == "ok" and not (shared and report.sees_lease):
        unseen = "a lease of this host" if shared else "what this host writes"
        checks[2] = Check(
            "store", "failed", f"{unseen} is not visible there", "choose a --store that all nodes share"
        )
    if report.data is not None:
        checks.append(check_data(report.data))
    checks += [_check_clock(folder_here, report), _check_versions(report), _check_requeue(report)]
    checks += [_check_internet(report), _check_tmp(report)]
    return [replace(check, name=f"node {check.name}") for check in checks]


def count_gpus(place: SlurmPlace) -> int:
    """The number of GPUs that a task asks for, by `gres` or by `gpus`."""
    if not place.gres:
        return place.gpus
    found = re.findall(r"(?:^|,)(?:gres/)?gpu(?:[:/][A-Za-z][\w.-]*)?(?::(\d+))?(?=,|\(|$)", place.gres)
    return sum(int(count or 1) for count in found)


def _check_partition(name: str, place: SlurmPlace) -> Check:
    facts = slurm.partition_settings(name)
    counts = slurm.query("sinfo", "--noheader", f"--partition={name}", "--format=%F").split()
    busy, idle, _, total = (sum(int(line.split("/")[column]) for line in counts) for column in range(4))
    found = (
        f"{name} {facts.get('State', '?').lower()}, {idle} of {total} nodes idle, "
        f"MaxTime {facts.get('MaxTime', '?')} (asked for: {place.time} minutes)"
    )
    if facts.get("State") != "UP":
        return Check(
            "partition", "failed", found, "its jobs do not start now: use another, or ask its admins"
        )
    if not busy + idle:
        return Check("partition", "failed", found, "none of its nodes works: use another, or ask its admins")
    return Check("partition", "ok", found)


def _check_clock(folder_here: Folder, report: NodeReport) -> Check:
    # Both hosts compared their clock with the time stamps of the same file system.
    ahead = folder_here.clock_seconds - report.folder.clock_seconds
    found = f"{ahead:+.1f} s against this host"
    if abs(ahead) < _MAX_CLOCK_OFFSET_SECONDS:
        return Check("clock", "ok", found)
    return Check("clock", "warning", found, "ask its admins: tasks pause and stop by their node's clock")


def _check_versions(report: NodeReport) -> Check:
    known = provenance()
    here = {"python": known["python"], **known["versions"]}
    there = {"python": report.machine.python, **report.machine.versions}
    differences = [
        f"{name} {there.get(name, 'none')} (here {version})"
        for name, version in here.items()  # a login node need not have all that trains
        if there.get(name) != version
    ]
    if differences:
        return Check("versions", "warning", ", ".join(differences), "change python or setup of the place")
    return Check("versions", "ok", "as here")


def _check_requeue(report: NodeReport) -> Check:
    if report.scheduler_error:
        return Check(
            "requeue", "warning", report.scheduler_error, "a task that runs out of time cannot be requeued"
        )
    if not report.requeue:
        return Check(
            "requeue", "warning", "off (Requeue=0)", "no task is requeued: change directives of the place"
        )
    return Check("requeue", "ok", "scontrol and squeue answer there")


def _check_internet(report: NodeReport) -> Check:
    if report.internet:
        return Check("internet", "ok", f"{PUBLIC_NAME[0]} can be reached")
    return Check("internet", "ok", f"{PUBLIC_NAME[0]} cannot be reached: mirror to W&B from another machine")


def _check_tmp(report: NodeReport) -> Check:
    free = report.machine.tmp_free_bytes
    if free < LITTLE_SPACE_BYTES:
        return Check("tmp", "warning", f"{format_size(free)} free", "set TMPDIR in environment")
    return Check("tmp", "ok", f"{format_size(free)} free")


def _configuration() -> dict[str, str]:
    """The scheduler's configuration by name."""
    text = slurm.query("scontrol", "show", "config")
    return dict(re.findall(r"^(\S+)\s*=\s*(.*?)\s*$", text, re.MULTILINE))


def _partitions_of(place: SlurmPlace) -> list[str]:
    return place.partition.split(",") if place.partition else slurm.default_partitions()
