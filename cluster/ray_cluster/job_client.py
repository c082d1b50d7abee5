"""Client of a Ray cluster's job server: submit, find and follow jobs, run a command and return its output."""

import asyncio
import hashlib
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
from typing import Any

from mixsweep.cluster.places import RayPlace
from mixsweep.cluster.ray_cluster.connection import set_ray_environment, wrong_token_message
from mixsweep.cluster.ray_cluster.head_monitor import ClusterError
from mixsweep.core.extras import require
from mixsweep.core.provenance import SUBMITTER_VERSION
from mixsweep.core.verbosity import verbosity_variables
from mixsweep.core.version import __version__

_CONNECT_SECONDS = 5.0
_POLL_SECONDS = 1.0
_PROBE_SECONDS = 2.0  # between two checks of the server while a log is followed
_MAX_FAILURES = 5  # lost connections, or unanswered checks, in a row

_LIVE = ("PENDING", "RUNNING")

_NOISY_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)

# Printed before a command's own output, which separates it from Ray's.
_OUTPUT_MARK = "--- answer ---"


@dataclass(frozen=True)
class RayJob:
    """A Ray job: its id, Ray's name of its state, and the exit code of its driver once that has ended."""

    job_id: str
    state: str
    exit_code: int | None = None
    message: str = ""

    @property
    def is_live(self) -> bool:
        """Whether it is pending or running."""
        return self.state in _LIVE


class JobServer:
    """A cluster's job server.

    Raises:
        ClusterError: nothing answers at the address, or the token is rejected; within seconds.
    """

    def __init__(self, place: RayPlace):
        require("ray", what=f"address {place.address}")
        set_ray_environment(place)
        self._place = place
        self.ray_version = _server_version(place.address)
        from ray.job_submission import JobSubmissionClient

        for name in _NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            self._client = JobSubmissionClient(place.address)
        except Exception as error:
            raise ClusterError(f"address {place.address}: {_one_line(error)}") from error

    def jobs_of(self, sweep: str) -> list[RayJob]:
        """All jobs of a sweep, oldest first."""
        found = [(d.start_time or 0, _job(d)) for d in self._client.list_jobs() if d.submission_id]
        return [job for _, job in sorted(found, key=lambda f: f[0]) if _is_job_of(job.job_id, sweep)]

    def submit(self, sweep: str, words: Sequence[str], runtime_env: Mapping[str, object]) -> RayJob:
        """Start a sweep's next job, or return the one that another command has just started."""
        number = 1 + max((_job_number(job.job_id) for job in self.jobs_of(sweep)), default=0)
        job_id = f"{_job_prefix(sweep)}{number}"
        try:
            self._submit(job_id, shlex.join([*shlex.split(self._place.python), *words]), runtime_env, sweep)
        except RuntimeError as error:
            if "already" not in str(error):
                raise ClusterError(
                    f"address {self._place.address}: the job server refused the job: {_one_line(error)}"
                ) from error
        return self.job(job_id)

    def job(self, job_id: str) -> RayJob:
        """The job with this id."""
        return _job(self._client.get_job_info(job_id))

    def log(self, job_id: str) -> str:
        """The whole log of a job."""
        return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, write: Callable[[str], None]) -> RayJob:
        """Write a job's log as it grows; return the job once it has ended.

        Raises:
            ClusterError: the connection broke too often in a row, or the server no longer answers.
        """
        writer, lost = _LogWriter(write), 0
        while True:
            try:
                asyncio.run(self._tail(job_id, writer))
                _server_version(self._place.address)  # bounded in time, unlike the next call
                job = self.job(job_id)
                lost = 0
            except BrokenPipeError:  # the reader of our output has left
                raise
            except _NoAnswerError as error:
                raise ClusterError(self._lost_message(job_id, error)) from error
            except (
                RuntimeError,
                OSError,
                ClusterError,
            ) as error:  # aiohttp's and requests' errors are OSErrors
                lost = 1 if writer.answered else lost + 1
                if lost > _MAX_FAILURES:
                    raise ClusterError(self._lost_message(job_id, error)) from error
                time.sleep(_POLL_SECONDS)
                continue
            if not job.is_live:
                return job
            time.sleep(_POLL_SECONDS)

    async def _tail(self, job_id: str, writer: "_LogWriter") -> None:
        """Write the log while the server answers checks; the loss of its host would not close the connection.

        Raises:
            _NoAnswerError: several checks in a row were not answered.
        """
        writer.answered, unanswered = False, 0

        async def read() -> None:
            writer.begin()
            async for text in self._client.tail_job_logs(job_id):
                writer.write(text)

        reading = asyncio.create_task(read())
        try:
            while not (await asyncio.wait({reading}, timeout=_PROBE_SECONDS))[0]:
                try:
                    await asyncio.to_thread(_server_version, self._place.address)
                    writer.answered, unanswered = True, 0
                except ClusterError as error:
                    unanswered += 1
                    if unanswered > _MAX_FAILURES:
                        raise _NoAnswerError(str(error)) from error
            await reading
        finally:
            reading.cancel()

    def _lost_message(self, job_id: str, error: Exception) -> str:
        try:
            _server_version(self._place.address)
            why = f"lost while following {job_id}: {_one_line(error)}"
        except ClusterError:
            why = f"the cluster's head is gone: its job server stopped answering while following {job_id}"
        return f"address {self._place.address}: {why}; run the same command again once it is back"

    def run_command(
        self, words: Sequence[str], runtime_env: Mapping[str, object], write: Callable[[str], None]
    ) -> int:
        """Run a command on the cluster as a job, write its output, delete the job; return the exit code."""
        job_id = f"mixsweep-command-{uuid.uuid4().hex[:12]}"
        command = shlex.join([*shlex.split(self._place.python), *words])
        self._submit(job_id, f"echo {shlex.quote(_OUTPUT_MARK)}; exec {command}", runtime_env, "")
        output = _OutputFilter(job_id, write)
        try:
            job = self.follow(job_id, output.write)
        except KeyboardInterrupt:
            self._client.stop_job(job_id)
            raise
        if job.exit_code is None and job.state != "SUCCEEDED":
            raise ClusterError(f"address {self._place.address}: {job.message or job.state}")
        self._client.delete_job(job_id)
        return job.exit_code or 0

    def _submit(self, job_id: str, entrypoint: str, runtime_env: Mapping[str, object], sweep: str) -> None:
        variables = {
            **verbosity_variables(),
            **self._place.environment,
            "PYTHONUNBUFFERED": "1",
            SUBMITTER_VERSION: __version__,
        }
        if columns := _columns():
            variables["COLUMNS"] = columns
        self._client.submit_job(
            entrypoint=entrypoint,
            submission_id=job_id,
            runtime_env={**runtime_env, "env_vars": variables},
            metadata={"sweep": sweep} if sweep else {},
        )


class _NoAnswerError(ClusterError):
    """A job server that does not answer, though a connection to it may be open."""


class _LogWriter:
    """Writes a log that each connection sends from its beginning, and every part of it once."""

    answered = False  # whether the server has answered a check on this connection

    def __init__(self, write: Callable[[str], None]):
        self._write = write
        self._written = 0
        self._seen = 0

    def begin(self) -> None:
        """A new connection sends the log from its beginning."""
        self._seen = 0

    def write(self, text: str) -> None:
        new = text[max(0, self._written - self._seen) :]
        self._seen += len(text)
        self._written = max(self._written, self._seen)
        if new:
            self._write(new)


class _OutputFilter:
    """Writes a command's own output: what follows the mark, without a line of Ray that may come late."""

    def __init__(self, job_id: str, write: Callable[[str], None]):
        self._ray_line = re.compile(rf"^Running entrypoint for job {job_id}:.*\n", re.MULTILINE)
        self._write = write
        self._before: str | None = ""

    def write(self, text: str) -> None:
        if self._before is not None:
            _, mark, output = (self._before + text).partition(_OUTPUT_MARK + "\n")
            self._before = None if mark else self._before + text
            text = output
        self._write(self._ray_line.sub("", text))


def _job_prefix(sweep: str) -> str:
    """The prefix of the ids of a sweep's jobs, without characters that a URL path cannot hold.

    A name with such characters gets a digest, so that `a b` and `a_20_b` have jobs of their own.
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]", lambda m: f"_{ord(m[0]):x}_", sweep)
    own = "" if plain == sweep else f"-x{hashlib.sha256(sweep.encode()).hexdigest()[:8]}"
    return f"mixsweep-{plain}{own}-"


def _is_job_of(job_id: str, sweep: str) -> bool:
    return job_id.startswith(_job_prefix(sweep)) and job_id[len(_job_prefix(sweep)) :].isdecimal()


def _job_number(job_id: str) -> int:
    return int(job_id.rpartition("-")[2])


def _job(details: Any) -> RayJob:
    state = getattr(details.status, "value", str(details.status))
    return RayJob(details.submission_id or "", state, details.driver_exit_code, details.message or "")


def _columns() -> str:
    try:
        return str(os.get_terminal_size().columns)
    except OSError:
        return ""


def _server_version(address: str) -> str:
    """The Ray version of the job server; fails within seconds, where Ray's client would wait for minutes."""
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    headers: Mapping[str, str] = get_auth_headers_if_auth_enabled({})
    request = urllib.request.Request(f"{address.rstrip('/')}/api/version", headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=_CONNECT_SECONDS) as response:
            return str(json.load(response).get("ray_version", "of unknown version"))
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise ClusterError(wrong_token_message(address)) from error
        raise ClusterError(
            f"address {address}: answers HTTP {error.code}; it is no Ray job server"
        ) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ClusterError(
            f"address {address}: nothing answers there ({reason}); give the head's http://HOST:8265"
        ) from error


def _one_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
