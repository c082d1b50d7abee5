"""A sweep as a job of a Ray cluster: the same command line, run over there, and its log read here.

The store is on the cluster, so what is asked of a sweep by name is asked there too, by a small job.
"""

import sys
from collections.abc import Callable, Sequence

import tomli_w

from mixsweep.cluster.places import Place
from mixsweep.cluster.ray_cluster import packaging
from mixsweep.cluster.ray_cluster.job_client import Job, JobServer
from mixsweep.core.scratch import scratch_folder
from mixsweep.sweep.planning.schema import SweepSpec

_FILE = "submitted-sweep.toml"


def run_as_job(spec: SweepSpec, place: Place, words: Sequence[str], detach: bool) -> int:
    """What `sweep run` does at a place that takes jobs: submit or find the job, and follow it; the exit code.

    Args:
        words: further ones of `sweep run`, for the job.
    """
    job = submit_sweep(spec, place, words, say)
    there = f"--place {place.name}"
    if detach:
        say(f"It goes on by itself: sweep status {spec.name} {there}")
        return 0
    try:
        code, message = follow_sweep(place, job, write_out)
    except KeyboardInterrupt:
        say(
            f"\nIts job goes on. The same command follows it again, `sweep stop {spec.name} {there}` ends it."
        )
        return 130
    if message:
        say(f"{job.job_id}: {message}")
    return code


def write_out(text: str) -> None:
    """Print a piece of a log."""
    sys.stdout.write(text)
    sys.stdout.flush()


def say(line: str) -> None:
    """Print a line of ours."""
    write_out(line + "\n")


def submit_sweep(spec: SweepSpec, place: Place, words: Sequence[str], say: Callable[[str], None]) -> Job:
    """Start a sweep's job, or find the one that runs already.

    Args:
        words: further words of `sweep run`.

    Raises:
        ClusterError, PackagingError: it cannot be submitted, in one line; nothing was.
    """
    assert place.ray is not None
    server = JobServer(place.ray)
    if running := running_job(server, spec.name):
        say(f"Job {running.job_id} runs this sweep already; following it.")
        return running
    with scratch_folder() as folder:
        places = packaging.stage(folder, spec.imports, place.ray.exclude)
        source = {**spec.source, "imports": [places[name] for name in spec.imports]}
        (folder / _FILE).write_text(tomli_w.dumps(source), encoding="utf-8")
        (folder / "places.toml").write_text(tomli_w.dumps(_as_seen_there(place)), encoding="utf-8")
        run = ["-m", "mixsweep", "run", _FILE, "--place", place.name, "--store", place.ray.store, *words]
        job = server.submit(spec.name, run, folder)
    say(f"Submitted as job {job.job_id}.")
    return job


def running_job(server: JobServer, sweep: str) -> Job | None:
    """The job that runs a sweep now."""
    return next((job for job in server.jobs_of(sweep) if job.is_live), None)


def follow_sweep(place: Place, job: Job, write: Callable[[str], None]) -> tuple[int, str]:
    """Write a sweep's log until its job ends; return the exit code, and what Ray says where it has none."""
    assert place.ray is not None
    ended = JobServer(place.ray).follow(job.job_id, write)
    if ended.exit_code is not None:
        return ended.exit_code, ""
    return (0, "") if ended.state == "SUCCEEDED" else (1, f"{ended.state}: {ended.message}".strip())


def ask(place: Place, words: Sequence[str], write: Callable[[str], None]) -> int:
    """Run another command of ours where the store is; return its exit code."""
    assert place.ray is not None
    server = JobServer(place.ray)
    with scratch_folder() as folder:
        packaging.stage(folder, (), place.ray.exclude)
        return server.ask(["-m", "mixsweep", *words, "--store", place.ray.store], folder, write)


def log_of(place: Place, sweep: str, follow: bool, write: Callable[[str], None]) -> bool:
    """Write the log of a sweep's newest job; False where it never had one."""
    assert place.ray is not None
    server = JobServer(place.ray)
    jobs = server.jobs_of(sweep)
    if not jobs:
        return False
    if follow:
        server.follow(jobs[-1].job_id, write)
    else:
        write(server.log(jobs[-1].job_id))
    return True


def _as_seen_there(place: Place) -> dict[str, dict[str, object]]:
    """The place for a process on the cluster, which is the driver."""
    assert place.ray is not None
    there: dict[str, object] = {"kind": "ray", "address": "auto", "shared": place.ray.shared}
    if place.ray.memory:
        there["memory"] = place.ray.memory
    if place.ray.resources:
        there["resources"] = dict(place.ray.resources)
    if place.data:
        there["data"] = str(place.data)
    return {place.name: there}
