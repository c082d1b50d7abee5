"""A small job that looks around on a compute node, submitted as a trial would be, and what it reports."""

import json
import os
import re
import secrets
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mixsweep.cluster.doctor.host import (
    Data,
    Folder,
    Gpu,
    Machine,
    line_of,
    look_at_data,
    look_at_folder,
    look_at_machine,
    made,
    reaches_internet,
)
from mixsweep.cluster.places import SlurmPlace
from mixsweep.cluster.slurm import client as slurm
from mixsweep.cluster.slurm import job_environment
from mixsweep.cluster.slurm.client import Request, SlurmError, Task
from mixsweep.core.store.lease import take_lease

_MINUTES = 2
_WARNING_SECONDS = 10
_POLL_SECONDS = 0.5
_LONGEST_QUERY_SECONDS = 5.0
_LATE_SECONDS = 10.0  # for a file server to show what a job that ended has written
_BROKEN_LATE_SECONDS = 2.0  # the same, where there is only its output to be waited for
_LEAVE_SECONDS = 60.0  # for a cancelled job to leave the queue
_SETUP_FAILED = "sweep doctor: setup: "
_SETUP_DONE = "sweep doctor: setup is done"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a job found on its node."""

    node: str
    shared: str  # a file's content, as the node reads it
    sees_lease: bool  # whether one that the submitting host holds is respected there
    machine: Machine
    folder: Folder
    data: Data | None
    scheduler: str  # why it cannot be asked from there
    requeue: bool  # whether the scheduler lets the job come back
    internet: bool

    @staticmethod
    def from_json(text: str) -> "Report":
        values: dict[str, Any] = json.loads(text)
        machine = values["machine"]
        gpus = tuple(Gpu(**gpu) for gpu in machine["gpus"])
        values["machine"] = Machine(**machine | {"gpus": gpus, "bf16_flags": tuple(machine["bf16_flags"])})
        values["folder"] = Folder(**values["folder"])
        values["data"] = Data(**values["data"]) if values["data"] else None
        return Report(**values)


def report(folder: str, data: str) -> None:
    """Look around on this node and leave `report.json` in the doctor's folder; called by submitit in a job.

    Args:
        folder: holds `shared` and, with a lease of the submitting host, `held`.
        data: the images' folder, or ''.
    """
    path = Path(folder)
    lease = take_lease(path / "held")
    if lease:
        lease.release()
    trouble, requeue = _ask_scheduler()
    found = Report(
        node=job_environment.node_name(),
        shared=(path / "shared").read_text(),
        sees_lease=lease is None,
        machine=look_at_machine(),
        folder=look_at_folder(path),
        data=look_at_data(Path(data)) if data else None,
        scheduler=trouble,
        requeue=requeue,
        internet=reaches_internet(),
    )
    beside = path / ".report.json"
    beside.write_text(json.dumps(asdict(found)))
    os.replace(beside, path / "report.json")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the job. `report` is None where it did not come to that, and `ended` says why.

    `waits` is the queue's reason where the job never started, `broken_setup` the first setup line that failed.
    """

    job: str
    seconds: float
    report: Report | None
    shared: bool  # whether the node read what this host had written
    here: Folder  # the same folder, as this host sees it
    ended: str = ""
    waits: str = ""
    broken_setup: str = ""


def run_probe(
    place: SlurmPlace, store: Path, data: Path | None, wait_seconds: float, say: Callable[[str], None]
) -> Outcome:
    """Submit the job, wait for its report, and leave nothing of it, neither in the queue nor in the store.

    Args:
        wait_seconds: for it to start and to report; then it is cancelled.
        say: told what is being waited for.

    Raises:
        SlurmError: the scheduler refused.
        OSError: the store cannot be written.
    """
    with made(store):
        folder = store / f".doctor-{uuid.uuid4().hex[:8]}"
        lease = None
        try:
            lease = take_lease(folder / "held")
            text = secrets.token_hex(16)
            (folder / "shared").write_text(text)
            here = look_at_folder(folder)
            began = time.monotonic()
            request = Request(name="doctor", cpus=1, gpus=place.gpus)
            call = partial(report, str(folder), str(data or ""))
            name = slurm.submit(_small(place), request, [call], folder)
            told, task = None, None
            try:
                task = _await_report(name, folder, wait_seconds, say)
                told = _read_report(folder)
            finally:
                if told:
                    _await_end(name, _LATE_SECONDS, say)
                slurm.cancel([name])
                _await_end(name, _LEAVE_SECONDS, say)
            output = _output(folder)
            broken = [line.partition(_SETUP_FAILED)[2] for line in output if line.startswith(_SETUP_FAILED)]
            never_ran = task is not None and task.state == "PENDING"
            return Outcome(
                job=name,
                seconds=time.monotonic() - began,
                report=told,
                shared=told is not None and told.shared == text,
                here=here,
                ended="" if told or never_ran else _ending(name, task, output),
                waits=task.reason if task is not None and never_ran else "",
                broken_setup=broken[0] if broken else "",
            )
        finally:
            if lease:
                lease.release()
            shutil.rmtree(folder, ignore_errors=True)


def _small(place: SlurmPlace) -> SlurmPlace:
    """The place with minutes only, and with setup lines that tell which of them fails."""
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


def _await_report(name: str, folder: Path, wait_seconds: float, say: Callable[[str], None]) -> Task | None:
    """Wait for the report, the job's end, or the end of patience; return what the queue said last."""
    began = time.monotonic()
    deadline, next_query, pause = began + wait_seconds, began, _POLL_SECONDS
    task: Task | None = None
    while (now := time.monotonic()) < deadline and not _read_report(folder):
        if now >= next_query:
            task = slurm.tasks_of([name]).get(name)
            if task is not None and task.state == "PENDING" and task.reason in slurm.NEVER:
                return task
            pause = min(pause * 1.5, _LONGEST_QUERY_SECONDS)
            next_query = now + pause
            if task is None or not task.is_live:
                late = _LATE_SECONDS if task is None or task.state == "COMPLETED" else _BROKEN_LATE_SECONDS
                deadline, next_query = min(deadline, now + late), deadline
        what = (
            f"{task.state.lower()}{'' if task.reason == 'None' else f' ({task.reason})'}" if task else "ended"
        )
        say(f"job {name}: {what}, {now - began:.0f} of {wait_seconds:g} s")
        time.sleep(_POLL_SECONDS)
    return task


def _await_end(name: str, seconds: float, say: Callable[[str], None]) -> None:
    """Wait until nothing of a job runs any more."""
    deadline = time.monotonic() + seconds
    with suppress(SlurmError):
        while (task := slurm.tasks_of([name]).get(name)) and task.is_live and time.monotonic() < deadline:
            say(f"job {name}: {task.state.lower()}")
            time.sleep(_POLL_SECONDS)


def _read_report(folder: Path) -> Report | None:
    # A listing asks a file server anew; a name that was missing once may be remembered as such.
    if "report.json" not in os.listdir(folder):
        return None
    return Report.from_json((folder / "report.json").read_text())


def _output(folder: Path) -> list[str]:
    """What the job printed, line by line, without submitit's own."""
    texts = [path.read_text(errors="replace") for path in sorted(folder.glob("*.out"))]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("submitit INFO")]


def _ending(name: str, task: Task | None, output: list[str]) -> str:
    """Why there is no report: the state, the exit code, and the last words."""
    state = task.state if task else "ended"
    if task is not None and task.is_live:
        state = f"{state} without a report"
    code = ""
    with suppress(SlurmError):
        shown = re.search(r"\bExitCode=(\S+)", slurm.ask("scontrol", "show", "job", name))
        code = f", exit code {shown[1]}" if shown else ""
    # srun repeats at the end that a task failed; what failed stands before.
    own = [line for line in output if not line.startswith(("srun: ", _SETUP_FAILED, _SETUP_DONE))]
    words = own or [line for line in output if line.startswith("srun: ")]
    if not output:
        said = "it left no output; does its node see the store?"
    elif _SETUP_DONE not in output:
        said = f"within its setup lines; last words: {words[-1] if words else 'none'}"
    else:
        said = f"last words: {words[-1] if words else 'none'}"
    return f"{state}{code}; {said}"


def _ask_scheduler() -> tuple[str, bool]:
    """Why a task could not requeue itself from this node, and whether the scheduler lets it."""
    me = job_environment.job_id()
    try:
        if me not in slurm.tasks_of([me]):
            return f"squeue does not know job {me}", False
        return "", "Requeue=1" in slurm.ask("scontrol", "--oneliner", "show", "job", me).split()
    except slurm.SlurmError as error:
        return line_of(error), False
