"""SLURM from outside its jobs, through submitit: submit arrays, ask for all states in one query, cancel.

Works with accounting switched off: what the queue no longer knows, the store does.
"""

import io
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixsweep.cluster.places import SlurmPlace
from mixsweep.cluster.slurm import job_environment
from mixsweep.core.errors import UserError
from mixsweep.core.extras import require

# States from which a task may still run, or does.
LIVE = {
    "PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING",
    "SUSPENDED", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT", "RESV_DEL_HOLD",
}  # fmt: skip

# Why a task that waits will wait for ever: where limits are not enforced, it is accepted nevertheless.
NEVER = {
    "PartitionTimeLimit", "AccountNotAllowed", "AssociationNotAllowed", "InvalidAccount", "InvalidQOS",
    "QOSNotAllowed", "QOSTimeLimit", "AssociationTimeLimit", "AssocMaxWallDurationPerJobLimit",
    "QOSMaxWallDurationPerJobLimit", "BadConstraints",
}  # fmt: skip

# What a task that is held says of it, in squeue's words: somebody, or a failed launch, has stopped it there.
_HELD_STATES = {"REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_HELD_REASON = re.compile(r"held|JobHold", re.IGNORECASE)

_NO_ANSWER_SECONDS = 60


class SlurmError(UserError):
    """What the scheduler refused, in its own words."""


@dataclass(frozen=True)
class Task:
    """What the queue says of a job or an array's task: its state, why it waits, and on which node it is or was."""

    state: str
    reason: str
    node: str = ""  # of several nodes an expression: `n[1-2]`
    script: str = ""  # the file that was submitted; a site may rewrite a job's comment, but not this

    @property
    def is_live(self) -> bool:
        return self.state in LIVE

    @property
    def is_held(self) -> bool:
        """Whether it waits until somebody releases it."""
        return self.state in _HELD_STATES or (
            self.state == "PENDING" and bool(_HELD_REASON.search(self.reason))
        )

    @property
    def waits(self) -> bool:
        """Whether it is in the queue and does not run."""
        return self.state == "PENDING" or self.is_held


@dataclass(frozen=True)
class Limits:
    """What the cluster allows: tasks an array, and seconds from SIGTERM to SIGKILL."""

    array_tasks: int
    kill_wait_seconds: int


@dataclass(frozen=True, kw_only=True)
class Request:
    """What each job is to have. `cpus` and `gpus` are those of one of its `processes`, which spread over `nodes`."""

    name: str
    cpus: int
    gpus: int = 0
    processes: int = 1
    nodes: int = 1
    exclude: tuple[str, ...] = ()  # nodes


def submit(slurm: SlurmPlace, request: Request, calls: Sequence[Callable[[], Any]], folder: Path) -> str:
    """Submit calls as one array (or a plain job for a single call) and return its job id.

    Args:
        calls: each is pickled by submitit, so a function that nodes can import, with small arguments.
        folder: for submitit's files and the jobs' output, of this submission alone; nodes must see it.

    Raises:
        SlurmError: the scheduler refused; nothing is left in its queue.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = _executor(slurm, request, folder)
    with _outside_of_jobs(), redirect_stderr(io.StringIO()):  # what it prints is in its error too
        try:
            with executor.batch():
                jobs = [executor.submit(call) for call in calls]
        except (FailedJobError, FailedSubmissionError) as error:
            raise SlurmError(f"sbatch: {_own_words(str(error))}") from error
    return str(jobs[0].job_id).partition("_")[0]


def batch_script(slurm: SlurmPlace, request: Request, tasks: int, folder: Path) -> str:
    """The script that `submit` hands to sbatch."""
    executor = _executor(slurm, request, folder)
    if tasks > 1:
        executor.parameters["map_count"] = tasks
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def limits(slurm: SlurmPlace) -> Limits:
    """What the cluster's configuration says, in one query.

    Raises:
        SlurmError: there is no scheduler to be asked.
    """
    text = ask("scontrol", "show", "config")
    size = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.MULTILINE)
    wait = re.search(r"^KillWait\s*=\s*(\d+)", text, re.MULTILINE)
    most = int(size[1]) - 1 if size else slurm.array_limit  # indices below MaxArraySize, from 0 on
    return Limits(max(1, min(slurm.array_limit, most)), int(wait[1]) if wait else 30)


def check_partition(slurm: SlurmPlace) -> None:
    """Make sure that the partition exists and allows the time: not every cluster refuses by itself.

    Raises:
        SlurmError: in the scheduler's words.
    """
    names = slurm.partition.split(",") if slurm.partition else default_partitions()
    limits = {name: partition_facts(name).get("MaxTime", "UNLIMITED") for name in names}
    allowed = [most is None or slurm.time * 60 <= most for most in map(seconds_of, limits.values())]
    if names and not any(allowed) and "time" not in slurm.directives:
        said = ", ".join(f"partition {name} has MaxTime={most}" for name, most in limits.items())
        raise SlurmError(f"time = {slurm.time} minutes: {said} (scontrol show partition)")


def partition_facts(name: str) -> dict[str, str]:
    """What `scontrol show partition` says, by key.

    Raises:
        SlurmError: there is no such partition.
    """
    return dict(
        pair.split("=", 1) for pair in ask("scontrol", "show", "partition", name).split() if "=" in pair
    )


def tasks_of(job_ids: Iterable[str]) -> dict[str, Task]:
    """What the queue knows of these jobs, by job or array task (`12` or `12_3`), in one query.

    Ended ones are known for some minutes (MinJobAge), then they are left out.
    """
    wanted = sorted(set(job_ids))
    if not wanted:
        return {}
    done = _run(
        "squeue",
        "--noheader",
        "--array",
        "--states=all",
        "--format=%i|%T|%N|%r|%o",
        f"--jobs={','.join(wanted)}",
    )
    if done.returncode != 0 and "Invalid job id" not in done.stderr:
        raise SlurmError(f"squeue: {_own_words(done.stderr)}")
    rows = [line.strip().split("|", 4) for line in done.stdout.splitlines() if line.count("|") >= 4]
    return {job: Task(state, reason, node, script) for job, state, node, reason, script in rows}


def jobs_by_folder() -> dict[str, str]:
    """The ids of this user's jobs in the queue by the folders that they were submitted with, in one query."""
    rows = [line.split("|", 1) for line in ask("squeue", "--me", "--noheader", "--format=%F|%k").splitlines()]
    return {comment.strip(): job.strip() for job, comment in rows}


def ends_of(job_ids: Iterable[str]) -> dict[str, str]:
    """The last states of jobs and array tasks that the queue has forgotten, by accounting; {} without it."""
    wanted = sorted(set(job_ids), key=int)
    if not wanted:
        return {}
    try:
        done = _run("sacct", "-X", "-n", "-P", "--format=JobID,State", f"--jobs={','.join(wanted)}")
    except SlurmError:
        return {}
    rows = [line.split("|") for line in done.stdout.splitlines() if line.count("|") == 1]
    return {job: state.split()[0] for job, state in rows if state} if done.returncode == 0 else {}


def cancel(job_ids: Iterable[str], *, waiting_only: bool = False) -> None:
    """Cancel these jobs and no others; those that have ended are passed over."""
    wanted = sorted(set(job_ids))
    if wanted:
        _run("scancel", "--quiet", *(["--state=PENDING"] if waiting_only else []), *wanted)


def seconds_of(text: str) -> float | None:
    """SLURM's `1-02:03:04`, `02:03:04`, `03:04` or `3` (minutes) in seconds; None for UNLIMITED and the like."""
    if text.isdigit():
        return int(text) * 60.0
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def _executor(slurm: SlurmPlace, request: Request, folder: Path) -> Any:
    require("slurm", what="a batch script")
    from submitit import SlurmExecutor

    class Executor(SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 2  # a script can be shown where there is no srun; sbatch itself says if it is missing

    executor = Executor(folder=folder, max_num_timeout=0, python=slurm.python or None)
    optional = {
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "mem": slurm.mem,
        "constraint": slurm.constraint,
        "gres": slurm.gres,
        "exclude": ",".join(request.exclude),
        "comment": str(folder),  # by which jobs_by_folder finds it
    }
    per_node = request.processes // request.nodes
    if request.gpus and not slurm.gres:
        optional["gpus_per_node"] = str(request.gpus * per_node)
    executor.update_parameters(
        job_name=request.name,
        time=slurm.time,
        nodes=request.nodes,
        ntasks_per_node=per_node,
        cpus_per_task=request.cpus,
        array_parallelism=slurm.parallelism,
        signal_delay_s=min(slurm.warning_seconds, slurm.time * 10),  # a sixth of a short job's time
        stderr_to_stdout=True,
        # A step does not inherit the job's (from SLURM 22.05 on); and a rank that dies ends the others.
        srun_args=[
            f"--cpus-per-task={request.cpus}",
            *(["--kill-on-bad-exit=1"] if request.processes > 1 else []),
        ],
        setup=[
            f"export {job_environment.STARTED_AT}=$(date +%s)",
            *slurm.setup,
            *(f"export {key}={shlex.quote(value)}" for key, value in slurm.environment.items()),
        ],
        additional_parameters={"requeue": True, **slurm.directives},
        **{key: value for key, value in optional.items() if value},
    )
    return executor


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide an outer job's SLURM_* from a submit, or its counts and limits would be inherited."""
    hidden = {k: v for k, v in os.environ.items() if _is_of_a_job(k)}
    for key in hidden:
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _is_of_a_job(name: str) -> bool:
    if name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        return True
    return name.startswith("SLURM_") and name not in ("SLURM_CONF", "SLURM_CLUSTERS")


def default_partitions() -> list[str]:
    """The partition of a job that names none; none where there is no such default."""
    names = ask("sinfo", "--noheader", "--format=%P").split()
    return [name.rstrip("*") for name in names if name.endswith("*")]


def ask(*words: str) -> str:
    """What one of the scheduler's commands prints.

    Raises:
        SlurmError: it failed, is not here, or did not answer.
    """
    done = _run(*words)
    if done.returncode != 0:
        raise SlurmError(f"{' '.join(words)}: {_own_words(done.stderr or done.stdout)}")
    return done.stdout


def _run(*words: str) -> "subprocess.CompletedProcess[str]":
    try:
        # What a person has their listings filtered by must not hide a job from us.
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SQUEUE_", "SACCT_"))}
        return subprocess.run(
            words, capture_output=True, text=True, timeout=_NO_ANSWER_SECONDS, env=environment
        )
    except FileNotFoundError as error:
        raise SlurmError(f"{words[0]}: not found; is this a machine of the cluster?") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{words[0]}: no answer within {_NO_ANSWER_SECONDS} seconds") from error


def _own_words(text: str) -> str:
    """The scheduler's complaint without the repetitions of its command's name."""
    said = [line.rpartition("error:")[2].strip() for line in text.splitlines() if "error:" in line]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(said)) or (lines[-1] if lines else "failed without a word")
