"""The submissions of a sweep: one numbered folder per array job in the sweep's `jobs/`.

Its submission.json holds the trials of each task and the worker spec; the batch script and the jobs' output are in
the same folder, and with mode 0600 what nobody else may read: lines of the place that look like secrets, and the
token of the ranks. A task keeps its worker spec, but reads its trials from the store's plan when it starts, so that a
pending or requeued task trains as many epochs as a later command asks for. The trials as submitted are kept for
those that are no longer in the plan.
"""

import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mixsweep.cluster.slurm import client as slurm
from mixsweep.cluster.slurm.client import QueuedTask
from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import UserError
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.store import files
from mixsweep.core.store.store import SweepStore

_NAME = "submission.json"
_TRIALS = "trials.json"
_TOKEN = "token"

_VISIBLE_SECONDS = 60.0  # for a file server to show what the submitting host has written


@dataclass(frozen=True, kw_only=True)
class Submission:
    """An array job, or a plain job if it has one task. Times are per task."""

    submission_id: str
    place: str
    tasks: tuple[tuple[str, ...], ...]  # the ids of each task's trials
    job_id: str = ""  # empty until the scheduler has accepted it
    worker: Mapping[str, Any] = field(
        default_factory=dict
    )  # WorkerSpec.to_mapping; empty from older versions
    exclude: tuple[str, ...] = ()  # nodes not to use
    minutes: int = 60
    warning_seconds: int = 120
    kill_wait_seconds: int = 30

    def task_id(self, index: int) -> str:
        """The scheduler's id of a task: `12_3`, or `12` if it is the only one."""
        return f"{self.job_id}_{index}" if len(self.tasks) > 1 else self.job_id

    @property
    def run_config(self) -> RunConfig:
        """The run config of its tasks.

        Raises:
            UserError: an older version submitted it.
        """
        if not self.worker:
            raise UserError(
                f"jobs/{self.submission_id}: submitted by an older version; the same `sweep run` submits it again"
            )
        return RunConfig.from_mapping(self.worker["run_config"])

    def stop_requested(self) -> bool:
        """Whether a stop was requested after its command; never for a submission of an older version."""
        return bool(self.worker) and self.run_config.stop_requested()

    @property
    def trial_ids(self) -> set[str]:
        """The ids of the trials of all tasks."""
        return {trial_id for task in self.tasks for trial_id in task}


def jobs_path(store: SweepStore) -> Path:
    """The folder of all submissions."""
    return store.path.absolute() / "jobs"


def submission_folder(store: SweepStore, submission_id: str) -> Path:
    """The folder of a submission: its files, its batch script, and the output of its jobs."""
    return jobs_path(store) / submission_id


def next_submission_id(store: SweepStore, after: int = 0) -> str:
    """The id of the next submission, or of the one `after` it."""
    taken = [int(path.name) for path in jobs_path(store).glob("*") if path.name.isdigit()]
    return f"{max(taken, default=0) + 1 + after:04}"


def save_submission(store: SweepStore, submission: Submission) -> None:
    """Write or replace a submission's file."""
    text = json.dumps(asdict(submission), indent=1, ensure_ascii=False) + "\n"
    folder = submission_folder(store, submission.submission_id)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_bytes(folder / _NAME, text.encode())


def save_trials(store: SweepStore, submission_id: str, trials: Sequence[TrialConfig]) -> None:
    """Save a submission's trials as its command has them."""
    folder = submission_folder(store, submission_id)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps([config.to_mapping() for config in trials], ensure_ascii=False)
    files.write_bytes(folder / _TRIALS, text.encode())


def save_token(store: SweepStore, submission_id: str) -> None:
    """Save a secret for the ranks of a submission's tasks, readable by its owner only."""
    path = submission_folder(store, submission_id) / _TOKEN
    files.write_bytes(path, secrets.token_hex(16).encode(), mode=0o600)


def read_token(store: SweepStore, submission_id: str) -> str:
    """The secret of a submission's ranks.

    Raises:
        UserError: it has none, or it cannot be read.
    """
    try:
        return (submission_folder(store, submission_id) / _TOKEN).read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise UserError(
            f"jobs/{submission_id}/{_TOKEN}: {error}; the same `sweep run` submits its trials again"
        ) from error


def await_submission(store_path: str, submission_id: str) -> None:
    """Wait until a submission that the scheduler has started is visible on this node."""
    path = submission_folder(SweepStore(store_path), submission_id)
    deadline = time.monotonic() + _VISIBLE_SECONDS
    # Listing a folder queries the file server; the absence of a single name may be cached.
    while time.monotonic() < deadline and not (path.is_dir() and _NAME in os.listdir(path)):
        time.sleep(0.5)


def trials_as_submitted(store: SweepStore, submission_id: str) -> dict[str, TrialConfig]:
    """A submission's trials by id, as they were submitted."""
    text = (submission_folder(store, submission_id) / _TRIALS).read_text(encoding="utf-8")
    configs = map(store.trainable.config_from_store, json.loads(text))
    return {config.trial_id: config for config in configs}


def read_submission(store: SweepStore, submission_id: str) -> Submission:
    """A submission by its id.

    Raises:
        FileNotFoundError: there is none.
        UserError: its file cannot be read.
    """
    path = submission_folder(store, submission_id) / _NAME
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = {name: values[name] for name in Submission.__dataclass_fields__ if name in values}
        known |= {"tasks": tuple(map(tuple, values["tasks"])), "exclude": tuple(values.get("exclude", ()))}
        return Submission(**known)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); move it away") from error


def submissions(store: SweepStore) -> Iterator[Submission]:
    """All submissions of a sweep, oldest first."""
    for path in sorted(jobs_path(store).glob(f"*/{_NAME}")):
        with suppress(FileNotFoundError):  # the scheduler refused it, and its command has deleted it
            yield read_submission(store, path.parent.name)


def tasks_in_queue(candidates: Sequence[Submission], store: SweepStore) -> dict[str, QueuedTask]:
    """The queued tasks of these submissions, by task id, in one query.

    A job id alone is ambiguous: another cluster that uses the same store, or one whose ids started again, may have a
    different job under it. A job belongs to a submission if its script is in the submission's folder.
    """
    folders: dict[str, set[str]] = {}
    for submission in candidates:
        if submission.job_id:
            folder = os.path.realpath(submission_folder(store, submission.submission_id))
            folders.setdefault(submission.job_id, set()).add(folder)
    tasks = slurm.query_tasks(folders)
    return {
        task_id: task
        for task_id, task in tasks.items()
        if _script_folder(task.script) in folders[task_id.partition("_")[0]]
    }


@cache
def _script_folder(script: str) -> str:
    return os.path.realpath(os.path.dirname(script))


def assigned_trials(
    candidates: Sequence[Submission], queue: Mapping[str, QueuedTask], store: SweepStore
) -> set[str]:
    """The ids of the trials that a live task will train; tasks of a stopped command train no more."""
    assigned: set[str] = set()
    for submission in candidates:
        if submission.stop_requested():
            continue
        folder = os.path.realpath(submission_folder(store, submission.submission_id))
        for index, trial_ids in enumerate(submission.tasks):
            task = queue.get(submission.task_id(index))
            if task is not None and task.is_live and _script_folder(task.script) == folder:
                assigned.update(trial_ids)
    return assigned
