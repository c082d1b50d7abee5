"""cluster.ray_cluster.head_monitor and job_client without a cluster: a lost head is detected, a slow one is kept."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mixsweep.cluster.places import RayPlace
from mixsweep.cluster.ray_cluster import job_client
from mixsweep.cluster.ray_cluster.head_monitor import ClusterError
from mixsweep.cluster.ray_cluster.job_client import JobServer, RayJob
from tests.support.commands import ROOT

# A driver whose head answers at once, or never.
_DRIVER = """
import sys, time
from mixsweep.cluster.ray_cluster.head_monitor import HeadMonitor, HeadGoneError
def query():
    if sys.argv[1] == "silent":
        time.sleep(600)
    return {}
with HeadMonitor("here:1", query) as head:
    print("started", flush=True)
    end = time.monotonic() + float(sys.argv[2])
    try:
        while time.monotonic() < end:
            head.check()
            time.sleep(0.05)
    except HeadGoneError as error:
        sys.exit(str(error))
"""


def driver(*words: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"RAY_gcs_rpc_server_reconnect_timeout_s": "4"}
    command = [sys.executable, "-c", _DRIVER, *words]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def test_a_head_that_never_answers_is_reported_as_gone() -> None:
    process = driver("silent", "60")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr.startswith("address here:1: the cluster's head is gone: no answer for 4.1 s;")


def test_a_driver_that_was_suspended_polls_its_head_again_before_it_gives_up() -> None:
    process = driver("lively", "9")
    process.send_signal(signal.SIGSTOP)
    time.sleep(5)
    process.send_signal(signal.SIGCONT)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, "")


class Server(JobServer):
    """A job server whose log never ends by itself, and whose job has ended once it does."""

    def __init__(self, seconds: float):
        self._place = RayPlace(address="http://here:1")
        self._seconds = seconds
        self._client: Any = self

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield "begun\n"
        await asyncio.sleep(self._seconds)
        yield "ended\n"

    def job(self, job_id: str) -> RayJob:
        return RayJob(job_id, "SUCCEEDED", 0)


@pytest.mark.parametrize(("every", "seconds"), [(2, 1.0), (1, 60.0)], ids=["slow", "gone"])
def test_following_continues_with_a_slow_server_and_ends_without_one(
    monkeypatch: pytest.MonkeyPatch, every: int, seconds: float
) -> None:
    asked: list[None] = []

    def answer(address: str) -> str:
        asked.append(None)
        if len(asked) % every == 0:
            raise ClusterError("nothing answers there")
        return "2.60.0"

    monkeypatch.setattr(job_client, "_server_version", answer)
    monkeypatch.setattr(job_client, "_PROBE_SECONDS", 0.01)
    written: list[str] = []
    if every == 1:
        with pytest.raises(ClusterError, match="the cluster's head is gone"):
            Server(seconds).follow("one", written.append)
        assert (len(asked), written) == (job_client._MAX_FAILURES + 2, ["begun\n"])
    else:
        Server(seconds).follow("one", written.append)
        assert len(asked) > 4 * job_client._MAX_FAILURES
        assert written == ["begun\n", "ended\n"]
