"""The doctor's probe job: a small SLURM job, submitted as a trial would be, that reports what its node offers."""

import json
import os
import re
import secrets
import shutil
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mixsweep.cluster.doctor.host import (
    Data,
    Folder,
    Gpu,
    Machine,
    ensured_folder,
    inspect_data,
    inspect_folder,
    inspect_machine,
    one_line,
    reaches_internet,
)
from mixsweep.cluster.places import SlurmPlace
from mixsweep.cluster.slurm import client as slurm
from mixsweep.cluster.slurm import job_environment
from mixsweep.cluster.slurm.client import JobRequest, QueuedTask, SlurmError
from mixsweep.core.store.trial.lease import take_lease

_MODULE = "mixsweep.cluster.doctor.probe_job"
_MINUTES = 2
_WARNING_SECONDS = 10
_POLL_SECONDS = 0.5
_LONGEST_QUERY_SECONDS = 5.0
_VISIBLE_SECONDS = 10.0  # for a file server to show what an ended job has written
_FAILED_VISIBLE_SECONDS = 2.0  # the same for a failed job, of which only the output is needed
_CANCEL_SECONDS = 60.0  # for a cancelled job to leave the queue
_SETUP_FAILED = "sweep doctor: setup: "
_SETUP_DONE = "sweep doctor: setup is done"

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """What the probe job found on its node."""

    node: str
    shared: str  # the content of a file that the submitting host wrote
    sees_lease: bool  # whether a lease that the submitting host holds keeps the node out
    machine: Machine
    folder: Folder
    data: Data | None
    scheduler_error: str  # why the scheduler cannot be queried there
    requeue: bool  # whether the scheduler may requeue the job
    internet: bool

    @staticmethod
    def from_json(text: str) -> "NodeReport":
        """The report that `write_report` left."""
        values: dict[str, Any] = json.loads(text)
        machine = values["machine"]
        gpus = tuple(Gpu(**gpu) for gpu in machine["gpus"])
        values["machine"] = Machine(**machine | {"gpus": gpus, "bf16_flags": tuple(machine["bf16_flags"])})
        values["folder"] = Folder(**values["folder"])
        values["data"] = Data(**values["data"]) if values["data"] else None
        return NodeReport(**values)


def write_report(folder: str, data: str) -> None:
    """Inspect this node and write `report.json` into the doctor's folder; what the job runs.

    Args:
        folder: holds `shared`, and `held` with a lease of the submitting host.
        data: the folder of the image files, or ''.
    """
    path = Path(folder)
    lease = take_lease(path / "held")
    if lease:
        lease.release()
    scheduler_error, requeue = _query_scheduler()
    report = NodeReport(
        node=job_environment.node_name(),
        shared=(path / "shared").read_text(),
        sees_lease=lease is None,
        machine=inspect_machine(),
        folder=inspect_folder(path),
        data=inspect_data(Path(data)) if data else None,
        scheduler_error=scheduler_error,
        requeue=requeue,
        internet=reaches_internet(),
    )
    beside = path / ".report.json"
    beside.write_text(json.dumps(asdict(report)))
    os.replace(beside, path / "report.json")


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """How the probe job ended.

    Args:
        job: its id.
        seconds: from the submission to the end.
        report: None where the job wrote none; then `failure` or `pending_reason` says why.
        shared: whether the node read what this host had written.
        folder_here: the doctor's folder as this host sees it.
        failure: how a job without a report ended.
        pending_reason: the queue's reason where the job never started.
        broken_setup: the first setup line that failed.
    """

    job: str
    seconds: float
    report: NodeReport | None
    shared: bool
    folder_here: Folder
    failure: str = ""
    pending_reason: str = ""
    broken_setup: str = ""


def run_probe(
    place: SlurmPlace, store: Path, data: Path | None, wait_seconds: float, say: Say
) -> ProbeResult:
    """Submit the probe job, wait for its report, and return how it ended; leave nothing in the queue or the store.

    Args:
        wait_seconds: how long the job may take to start and to report before it is cancelled.
        say: called with a line on what is being waited for.

    Raises:
        SlurmError: the scheduler refused.
        OSError: the store cannot be written.
    """
    with ensured_folder(store):
        folder = store / f".doctor-{uuid.uuid4().hex[:8]}"
        lease = None
        try:
            lease = take_lease(folder / "held")
            text = secrets.token_hex(16)
            (folder / "shared").write_text(text)
            folder_here = inspect_folder(folder)
            began = time.monotonic()
            request = JobRequest(name="doctor", cpus=1, gpus=place.gpus)
            name = slurm.submit(_probe_place(place), request, (_MODULE, str(folder), str(data or "")), folder)
            report, task = None, None
            try:
                task = _await_report(name, folder, wait_seconds, say)
                report = _read_report(folder)
            finally:
                if report:
                    _await_end(name, _VISIBLE_SECONDS, say)
                slurm.cancel([name])
                _await_end(name, _CANCEL_SECONDS, say)
            output = _output(folder)
            broken = [line.partition(_SETUP_FAILED)[2] for line in output if line.startswith(_SETUP_FAILED)]
            never_ran = task is not None and task.state == "PENDING"
            return ProbeResult(
                job=name,
                seconds=time.monotonic() - began,
                report=report,
                shared=report is not None and report.shared == text,
                folder_here=folder_here,
                failure="" if report or never_ran else _describe_end(name, task, output),
                pending_reason=task.reason if task is not None and never_ran else "",
                broken_setup=broken[0] if broken else "",
            )
        finally:
            if lease:
                lease.release()
            shutil.rmtree(folder, ignore_errors=True)


def _probe_place(place: SlurmPlace) -> SlurmPlace:
    """The place with a short time limit, and with setup lines that print which of them fails."""
    return replace(
        place,
        time=_MINUTES,
        warning_seconds=_WARNING_SECONDS,
        setup=(
            f"trap 'echo \"{_SETUP_FAILED}$BASH_COMMAND\"' ERR",
            *place.setup,
            f"trap - ERR; echo '{_SETUP_DONE}'",
        ),
        directives={key: value for key, value in place.directives.items() if key != "time"},
    )


def _await_report(name: str, folder: Path, wait_seconds: float, say: Say) -> QueuedTask | None:
    """Wait for the report, the job's end or the time-out; return the task as the queue last showed it."""
    began = time.monotonic()
    deadline, next_query, pause = began + wait_seconds, began, _POLL_SECONDS
    task: QueuedTask | None = None
    while (now := time.monotonic()) < deadline and not _read_report(folder):
        if now >= next_query:
            task = slurm.query_tasks([name]).get(name)
            if task is not None and task.state == "PENDING" and task.reason in slurm.NEVER_STARTING_REASONS:
                return task
            pause = min(pause * 1.5, _LONGEST_QUERY_SECONDS)
            next_query = now + pause
            if task is None or not task.is_live:
                succeeded = task is None or task.state == "COMPLETED"
                rest = _VISIBLE_SECONDS if succeeded else _FAILED_VISIBLE_SECONDS
                deadline, next_query = min(deadline, now + rest), deadline
        state = (
            f"{task.state.lower()}{'' if task.reason == 'None' else f' ({task.reason})'}" if task else "ended"
        )
        say(f"job {name}: {state}, {now - began:.0f} of {wait_seconds:g} s")
        time.sleep(_POLL_SECONDS)
    return task


def _await_end(name: str, seconds: float, say: Say) -> None:
    """Wait until no process of a job runs."""
    deadline = time.monotonic() + seconds
    with suppress(SlurmError):
        while (task := slurm.query_tasks([name]).get(name)) and task.is_live and time.monotonic() < deadline:
            say(f"job {name}: {task.state.lower()}")
            time.sleep(_POLL_SECONDS)


def _read_report(folder: Path) -> NodeReport | None:
    # Listing a folder queries the file server; the absence of a single name may be cached.
    if "report.json" not in os.listdir(folder):
        return None
    return NodeReport.from_json((folder / "report.json").read_text())


def _output(folder: Path) -> list[str]:
    """The lines that the job printed."""
    texts = [path.read_text(errors="replace") for path in sorted(folder.glob("*.out"))]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [line for line in lines if line]


def _describe_end(name: str, task: QueuedTask | None, output: list[str]) -> str:
    """Why there is no report: the state, the exit code and the last output line."""
    state = task.state if task else "ended"
    if task is not None and task.is_live:
        state = f"{state} without a report"
    code = ""
    with suppress(SlurmError):
        shown = re.search(r"\bExitCode=(\S+)", slurm.query("scontrol", "show", "job", name))
        code = f", exit code {shown[1]}" if shown else ""
    # At the end srun repeats that a task failed; the cause stands before.
    from_job = [line for line in output if not line.startswith(("srun: ", _SETUP_FAILED, _SETUP_DONE))]
    lines = from_job or [line for line in output if line.startswith("srun: ")]
    if not output:
        detail = "it left no output; does its node see the store?"
    elif _SETUP_DONE not in output:
        detail = f"within its setup lines; last output: {lines[-1] if lines else 'none'}"
    else:
        detail = f"last output: {lines[-1] if lines else 'none'}"
    return f"{state}{code}; {detail}"


def _query_scheduler() -> tuple[str, bool]:
    """Why a task on this node could not requeue itself ("" if it can), and whether the scheduler allows it."""
    job = job_environment.job_id()
    try:
        if job not in slurm.query_tasks([job]):
            return f"squeue does not know job {job}", False
        return "", "Requeue=1" in slurm.query("scontrol", "--oneliner", "show", "job", job).split()
    except slurm.SlurmError as error:
        return one_line(error), False


if __name__ == "__main__":
    write_report(*sys.argv[1:])
