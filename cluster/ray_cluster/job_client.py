"""Jobs of a Ray cluster: submitted, followed, asked and found again through its job server."""

import asyncio
import http.client
import json
import logging
import os
import re
import shlex
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixsweep.cluster.places import RayPlace
from mixsweep.cluster.ray_cluster.connection import prepare, wrong_token
from mixsweep.cluster.ray_cluster.head_monitor import ClusterError
from mixsweep.core.extras import require

_REACH_SECONDS = 5.0
_POLL_SECONDS = 1.0
_ASK_SECONDS = 2.0  # between two questions whether the server is there, while its log is followed
_MOST_LOST = 5  # times in a row that a connection may break, or that a question may stay unanswered

_LIVE = ("PENDING", "RUNNING")

_TALKERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)

# What a job that only answers prints comes after this line; before it Ray speaks.
_ANSWER = "--- answer ---"


@dataclass(frozen=True)
class Job:
    """A job: its id, Ray's word for its state, and the exit code of its driver where that has ended."""

    job_id: str
    state: str
    exit_code: int | None = None
    message: str = ""

    @property
    def is_live(self) -> bool:
        return self.state in _LIVE


class JobServer:
    """A cluster's job server.

    Raises:
        ClusterError: nobody answers at the address, or the token is not taken; within seconds.
    """

    def __init__(self, place: RayPlace):
        require("ray", what=f"address {place.address}")
        prepare(place)
        self._place = place
        self.ray_version = _version_at(place.address)
        from ray.job_submission import JobSubmissionClient

        for name in _TALKERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            self._client = JobSubmissionClient(place.address)
        except Exception as error:
            raise ClusterError(f"address {place.address}: {_one_line(error)}") from error

    def jobs_of(self, sweep: str) -> list[Job]:
        """The jobs that have run a sweep, oldest first."""
        found = [(d.start_time or 0, _job(d)) for d in self._client.list_jobs() if d.submission_id]
        return [job for _, job in sorted(found, key=lambda f: f[0]) if _is_of(job.job_id, sweep)]

    def submit(self, sweep: str, words: Sequence[str], working_dir: Path) -> Job:
        """Start a sweep's next job, or find the one that another command has started just now."""
        number = 1 + max((_number(job.job_id) for job in self.jobs_of(sweep)), default=0)
        job_id = f"{_prefix(sweep)}{number}"
        try:
            self._submit(job_id, shlex.join([*shlex.split(self._place.python), *words]), working_dir, sweep)
        except RuntimeError as error:
            if "already" not in str(error):
                raise ClusterError(
                    f"address {self._place.address}: the job was refused: {_one_line(error)}"
                ) from error
        return self.job(job_id)

    def job(self, job_id: str) -> Job:
        return _job(self._client.get_job_info(job_id))

    def log(self, job_id: str) -> str:
        """All that a job has written."""
        return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, write: Callable[[str], None]) -> Job:
        """Write a job's log as it grows, until the job has ended.

        Raises:
            ClusterError: the connection was lost again and again, or nobody answers any more.
        """
        once, lost = _Once(write), 0
        while True:
            try:
                asyncio.run(self._tail(job_id, once))
                _version_at(self._place.address)  # in time, which the next question is not
                job = self.job(job_id)
                lost = 0
            except BrokenPipeError:  # our own reader is gone
                raise
            except _SilentError as error:
                raise ClusterError(self._lost_line(job_id, error)) from error
            except (RuntimeError, OSError, ClusterError) as error:  # aiohttp's and requests' own are OSErrors
                lost = 1 if once.answered else lost + 1
                if lost > _MOST_LOST:
                    raise ClusterError(self._lost_line(job_id, error)) from error
                time.sleep(_POLL_SECONDS)
                continue
            if not job.is_live:
                return job
            time.sleep(_POLL_SECONDS)

    async def _tail(self, job_id: str, once: "_Once") -> None:
        """Write what comes, as long as the server answers: a host that is gone does not end a connection.

        Raises:
            _SilentError: it has not answered several times in a row.
        """
        once.answered, unanswered = False, 0

        async def read() -> None:
            once.begin()
            async for text in self._client.tail_job_logs(job_id):
                once.write(text)

        reading = asyncio.create_task(read())
        try:
            while not (await asyncio.wait({reading}, timeout=_ASK_SECONDS))[0]:
                try:
                    await asyncio.to_thread(_version_at, self._place.address)
                    once.answered, unanswered = True, 0
                except ClusterError as error:
                    unanswered += 1
                    if unanswered > _MOST_LOST:
                        raise _SilentError(str(error)) from error
            await reading
        finally:
            reading.cancel()

    def _lost_line(self, job_id: str, error: Exception) -> str:
        try:
            _version_at(self._place.address)
            why = f"lost while following {job_id}: {_one_line(error)}"
        except ClusterError:
            why = f"the cluster's head is gone: its job server does not answer while following {job_id}"
        return (
            f"address {self._place.address}: {why}; once it is back, the same command follows it, or resumes"
        )

    def ask(self, words: Sequence[str], working_dir: Path, write: Callable[[str], None]) -> int:
        """Run a command on the cluster, write what it prints, and leave nothing of it; return its exit code."""
        job_id = f"mixsweep-ask-{uuid.uuid4().hex[:12]}"
        command = shlex.join([*shlex.split(self._place.python), *words])
        self._submit(job_id, f"echo {shlex.quote(_ANSWER)}; exec {command}", working_dir, "")
        answer = _Answer(job_id, write)
        try:
            job = self.follow(job_id, answer.write)
        except KeyboardInterrupt:
            self._client.stop_job(job_id)
            raise
        if job.exit_code is None and job.state != "SUCCEEDED":
            raise ClusterError(f"address {self._place.address}: {job.message or job.state}")
        self._client.delete_job(job_id)
        return job.exit_code or 0

    def _submit(self, job_id: str, entrypoint: str, working_dir: Path, sweep: str) -> None:
        variables = {**self._place.environment, "PYTHONUNBUFFERED": "1"}
        if columns := _columns():
            variables["COLUMNS"] = columns
        self._client.submit_job(
            entrypoint=entrypoint,
            submission_id=job_id,
            runtime_env={"working_dir": str(working_dir), "env_vars": variables},
            metadata={"sweep": sweep} if sweep else {},
        )


class _SilentError(ClusterError):
    """A job server that answers no question, though a connection to it may stand."""


class _Once:
    """Writes a text that may come again from its beginning, and each part of it once."""

    answered = False  # whether the server has answered a question meanwhile

    def __init__(self, write: Callable[[str], None]):
        self._write = write
        self._written = 0
        self._seen = 0

    def begin(self) -> None:
        self._seen = 0

    def write(self, text: str) -> None:
        fresh = text[max(0, self._written - self._seen) :]
        self._seen += len(text)
        self._written = max(self._written, self._seen)
        if fresh:
            self._write(fresh)


class _Answer:
    """Passes on what a job itself prints: all after a mark, but for what Ray may say late."""

    def __init__(self, job_id: str, write: Callable[[str], None]):
        self._of_ray = re.compile(rf"^Running entrypoint for job {job_id}:.*\n", re.MULTILINE)
        self._write = write
        self._before: str | None = ""

    def write(self, text: str) -> None:
        if self._before is not None:
            _, mark, after = (self._before + text).partition(_ANSWER + "\n")
            self._before = None if mark else self._before + text
            text = after
        self._write(self._of_ray.sub("", text))


def _prefix(sweep: str) -> str:
    """How the ids of a sweep's jobs begin; other letters than Ray's own could not be part of an address."""
    return (
        "mixsweep-" + re.sub(r"[^A-Za-z0-9_.-]", lambda m: f"+{ord(m[0]):x}+", sweep).replace("+", "_") + "-"
    )


def _is_of(job_id: str, sweep: str) -> bool:
    return job_id.startswith(_prefix(sweep)) and job_id[len(_prefix(sweep)) :].isdecimal()


def _number(job_id: str) -> int:
    return int(job_id.rpartition("-")[2])


def _job(details: Any) -> Job:
    state = getattr(details.status, "value", str(details.status))
    return Job(details.submission_id or "", state, details.driver_exit_code, details.message or "")


def _columns() -> str:
    try:
        return str(os.get_terminal_size().columns)
    except OSError:
        return ""


def _version_at(address: str) -> str:
    """The version of the Ray whose job server answers and lets us in; Ray itself would wait for minutes."""
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    headers: Mapping[str, str] = get_auth_headers_if_auth_enabled({})
    request = urllib.request.Request(f"{address.rstrip('/')}/api/version", headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=_REACH_SECONDS) as answer:
            return str(json.load(answer).get("ray_version", "of unknown version"))
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise ClusterError(wrong_token(address)) from error
        raise ClusterError(f"address {address}: answers {error.code}; it is no Ray job server") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ClusterError(
            f"address {address}: nobody answers there ({reason}); is it the head's http://HOST:8265?"
        ) from error


def _one_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
