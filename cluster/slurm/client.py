"""SLURM commands: submit arrays through submitit, query the states of many jobs at once, cancel.

Submitit writes the batch scripts and passes them to sbatch. What a script starts is a module of ours with its
arguments, not submitit's own entry point, which would execute a pickle from the store.

Works without accounting: the store records how trials ended after the queue has forgotten their jobs.
"""

import io
import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixsweep.cluster.places import SlurmPlace
from mixsweep.cluster.slurm import job_environment
from mixsweep.core.errors import UserError
from mixsweep.core.extras import require
from mixsweep.core.secret_text import is_secret_variable, looks_secret
from mixsweep.core.store import files

_log = logging.getLogger(__name__)

# States of a task that runs, or may still run.
LIVE_STATES = {
    "PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING",
    "SUSPENDED", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT", "RESV_DEL_HOLD",
}  # fmt: skip

# Reasons of pending tasks that can never start. Where limits are not enforced, sbatch accepts such tasks.
NEVER_STARTING_REASONS = {
    "PartitionTimeLimit", "AccountNotAllowed", "AssociationNotAllowed", "InvalidAccount", "InvalidQOS",
    "QOSNotAllowed", "QOSTimeLimit", "AssociationTimeLimit", "AssocMaxWallDurationPerJobLimit",
    "QOSMaxWallDurationPerJobLimit", "BadConstraints",
}  # fmt: skip

# States and reasons of a task that is held, by a person or after a failed launch.
_HELD_STATES = {"REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_HELD_REASON = re.compile(r"held|JobHold", re.IGNORECASE)

_QUERY_TIMEOUT_SECONDS = 60


class SlurmError(UserError):
    """A scheduler command failed; the message quotes it in one line."""


@dataclass(frozen=True)
class QueuedTask:
    """A job or array task as squeue shows it: its state, the reason it is pending, and its node."""

    state: str
    reason: str
    node: str = ""  # for several nodes an expression: `n[1-2]`
    script: str = ""  # the batch script; a site may rewrite a job's comment, but not this

    @property
    def is_live(self) -> bool:
        """Whether it runs, or may still run."""
        return self.state in LIVE_STATES

    @property
    def is_held(self) -> bool:
        """Whether it stays pending until it is released."""
        return self.state in _HELD_STATES or (
            self.state == "PENDING" and bool(_HELD_REASON.search(self.reason))
        )

    @property
    def is_waiting(self) -> bool:
        """Whether it is pending or held."""
        return self.state == "PENDING" or self.is_held


@dataclass(frozen=True)
class SlurmLimits:
    """The cluster's limits: tasks per array, and seconds from SIGTERM to SIGKILL."""

    array_tasks: int
    kill_wait_seconds: int


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """The resources of a job. `cpus` and `gpus` are per process; the `processes` spread over `nodes`."""

    name: str
    cpus: int
    gpus: int = 0
    processes: int = 1
    nodes: int = 1
    exclude: tuple[str, ...] = ()  # nodes not to use


def submit(
    slurm: SlurmPlace, request: JobRequest, module: Sequence[str], folder: Path, *, tasks: int = 1
) -> str:
    """Submit one array of tasks (or a plain job for a single one) and return its job id.

    Args:
        module: the name of the Python module that each task runs, and its arguments.
        folder: gets the batch script, the jobs' output, and files of mode 0600 with the lines of the place that look
            like secrets; used by this submission only, visible on all nodes.

    Raises:
        SlurmError: the scheduler refused the job; nothing is queued.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    folder.mkdir(parents=True, exist_ok=True)
    setup = _setup_lines(slurm, folder)
    for path, line in setup.private.items():
        files.write_bytes(path, f"{line}\n".encode(errors="surrogateescape"), mode=0o600)
    executor = _executor(slurm, request, setup.lines, folder, tasks)
    with _without_job_variables(), redirect_stderr(io.StringIO()):  # submitit prints what its error holds too
        try:
            job = executor._submit_command(_command(slurm, module))
        except (FailedJobError, FailedSubmissionError) as error:
            raise SlurmError(f"sbatch: {_error_line(str(error))}") from error
    _log.info("submitted job %s of %d tasks from %s", job.job_id, tasks, folder)
    return str(job.job_id)


def batch_script(
    slurm: SlurmPlace, request: JobRequest, module: Sequence[str], folder: Path, *, tasks: int = 1
) -> str:
    """The batch script that `submit` passes to sbatch."""
    executor = _executor(slurm, request, _setup_lines(slurm, folder).lines, folder, tasks)
    return executor._make_submission_file_text(_command(slurm, module), "")


def read_limits(slurm: SlurmPlace) -> SlurmLimits:
    """Read the limits from the cluster's configuration, in one query.

    Raises:
        SlurmError: no scheduler answers.
    """
    text = query("scontrol", "show", "config")
    size = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.MULTILINE)
    wait = re.search(r"^KillWait\s*=\s*(\d+)", text, re.MULTILINE)
    most = int(size[1]) - 1 if size else slurm.array_limit  # indices start at 0 and stay below MaxArraySize
    return SlurmLimits(max(1, min(slurm.array_limit, most)), int(wait[1]) if wait else 30)


def check_partition(slurm: SlurmPlace) -> None:
    """Check that the partition exists and allows the time limit, which not every sbatch does.

    Raises:
        SlurmError: it does not.
    """
    names = slurm.partition.split(",") if slurm.partition else default_partitions()
    limits = {name: partition_settings(name).get("MaxTime", "UNLIMITED") for name in names}
    allowed = [most is None or slurm.time * 60 <= most for most in map(seconds_of, limits.values())]
    if names and not any(allowed) and "time" not in slurm.directives:
        found = ", ".join(f"partition {name} has MaxTime={most}" for name, most in limits.items())
        raise SlurmError(f"time = {slurm.time} minutes: {found} (scontrol show partition)")


def count_slots(slurm: SlurmPlace, request: JobRequest) -> int:
    """The number of tasks that the partition's nodes can run at once, if nobody else uses them; at least 1.

    Raises:
        SlurmError: no scheduler answers, or there is no such partition.
    """
    names = slurm.partition.split(",") if slurm.partition else default_partitions()
    slots = 0
    for name in names:
        facts = partition_settings(name)
        has = dict(pair.split("=", 1) for pair in facts.get("TRES", "").split(",") if "=" in pair)
        cpus = int(facts.get("TotalCPUs", "0")) // (request.cpus * request.processes)
        gpus = int(has.get("gres/gpu", "0")) // (request.gpus * request.processes) if request.gpus else cpus
        slots += min(cpus, gpus)
    return max(1, slots)


def partition_settings(name: str) -> dict[str, str]:
    """The settings that `scontrol show partition` prints, by name.

    Raises:
        SlurmError: there is no such partition.
    """
    return dict(
        pair.split("=", 1) for pair in query("scontrol", "show", "partition", name).split() if "=" in pair
    )


def query_tasks(job_ids: Iterable[str]) -> dict[str, QueuedTask]:
    """The tasks of these jobs in the queue, by job or array task (`12` or `12_3`), in one query.

    The queue forgets ended jobs after some minutes (MinJobAge); they are absent from the result.
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
        raise SlurmError(f"squeue: {_error_line(done.stderr)}")
    rows = [line.strip().split("|", 4) for line in done.stdout.splitlines() if line.count("|") >= 4]
    return {job: QueuedTask(state, reason, node, script) for job, state, node, reason, script in rows}


def jobs_by_folder() -> dict[str, str]:
    """The ids of this user's queued jobs by submission folder, in one query."""
    rows = [
        line.split("|", 1) for line in query("squeue", "--me", "--noheader", "--format=%F|%k").splitlines()
    ]
    return {comment.strip(): job.strip() for job, comment in rows}


def query_final_states(job_ids: Iterable[str]) -> dict[str, str]:
    """The final states of jobs and array tasks from accounting, by id; {} where there is no accounting."""
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
    """Cancel these jobs; ended ones are ignored."""
    wanted = sorted(set(job_ids))
    if wanted:
        _run("scancel", "--quiet", *(["--state=PENDING"] if waiting_only else []), *wanted)


def seconds_of(text: str) -> float | None:
    """A SLURM duration (`1-02:03:04`, `02:03:04`, `03:04`, or minutes) in seconds; None for UNLIMITED and the like."""
    if text.isdigit():
        return int(text) * 60.0
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


@dataclass(frozen=True)
class _Setup:
    """What a batch script does before Python starts: its lines, and private files with those that look like secrets."""

    lines: list[str]
    private: dict[Path, str]


def _setup_lines(slurm: SlurmPlace, folder: Path) -> _Setup:
    """The setup of a place's jobs. Who may read a script, in the queue or in the store, may not read its secrets."""
    lines: list[str] = []
    private: dict[Path, str] = {}

    def add(line: str, name: str, is_secret: bool) -> None:
        if is_secret:
            path = folder / f"secret-{len(private) + 1}.sh"
            private[path] = line
            line = f". {shlex.quote(str(path))}  # {name}, which looks like a secret"
        lines.append(line)

    for line in slurm.setup:
        add(line, "a setup line", looks_secret(line))
    for name, value in slurm.environment.items():
        add(f"export {name}={shlex.quote(value)}", name, is_secret_variable(name, value))
    return _Setup(lines, private)


def _command(slurm: SlurmPlace, module: Sequence[str]) -> str:
    python = slurm.python or shlex.quote(sys.executable)
    return f"{python} -u -m {shlex.join(module)}"


def _executor(slurm: SlurmPlace, request: JobRequest, setup: Sequence[str], folder: Path, tasks: int) -> Any:
    require("slurm", what="a batch script")
    from submitit import SlurmExecutor

    class Executor(SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 2  # submitit refuses without srun; scripts can be shown without it, and sbatch reports its absence

    executor = Executor(folder=folder, max_num_timeout=0)
    optional = {
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "mem": slurm.mem,
        "constraint": slurm.constraint,
        "gres": slurm.gres,
        "exclude": ",".join(request.exclude),
        "comment": str(folder),  # read by jobs_by_folder
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
        # From SLURM 22.05 on a step does not inherit the job's CPUs. A rank that dies ends the others.
        srun_args=[
            f"--cpus-per-task={request.cpus}",
            *(["--kill-on-bad-exit=1"] if request.processes > 1 else []),
        ],
        setup=[
            f"export {job_environment.STARTED_AT}=$(date +%s)",
            *setup,
        ],
        additional_parameters={"requeue": True, **slurm.directives},
        **{key: value for key, value in optional.items() if value},
    )
    if tasks > 1:
        executor.parameters["map_count"] = tasks
    return executor


@contextmanager
def _without_job_variables() -> Iterator[None]:
    """Hide the SLURM variables of an outer job, whose limits sbatch would inherit."""
    hidden = {k: v for k, v in os.environ.items() if _is_job_variable(k)}
    for key in hidden:
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _is_job_variable(name: str) -> bool:
    if name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        return True
    return name.startswith("SLURM_") and name not in ("SLURM_CONF", "SLURM_CLUSTERS")


def default_partitions() -> list[str]:
    """The cluster's default partition; an empty list where it has none."""
    names = query("sinfo", "--noheader", "--format=%P").split()
    return [name.rstrip("*") for name in names if name.endswith("*")]


def query(*words: str) -> str:
    """The output of one of the scheduler's commands.

    Raises:
        SlurmError: it failed, is not installed, or did not answer.
    """
    done = _run(*words)
    if done.returncode != 0:
        raise SlurmError(f"{' '.join(words)}: {_error_line(done.stderr or done.stdout)}")
    return done.stdout


def _run(*words: str) -> "subprocess.CompletedProcess[str]":
    try:
        # A user's own filters of listings must not hide a job here.
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SQUEUE_", "SACCT_"))}
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_QUERY_TIMEOUT_SECONDS,
            env=environment,
        )
        _log.debug("%s: exit code %d", shlex.join(words), done.returncode)
        return done
    except FileNotFoundError as error:
        raise SlurmError(f"{words[0]}: not found; run this on a machine of the cluster") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{words[0]}: no answer within {_QUERY_TIMEOUT_SECONDS} seconds") from error


def _error_line(text: str) -> str:
    """The scheduler's error messages as one line, without prefixes and repetitions."""
    errors = [line.rpartition("error:")[2].strip() for line in text.splitlines() if "error:" in line]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(errors)) or (lines[-1] if lines else "failed without a message")
