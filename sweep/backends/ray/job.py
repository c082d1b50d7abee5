"""The backend that runs a sweep as a job of a Ray cluster: the same command line there, its log here.

The store is on the cluster, so other commands about a sweep run there too, each as a small job.
"""

import glob
import sys
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import tomli_w

from mixsweep.cluster.places import Place
from mixsweep.cluster.ray_cluster import packaging
from mixsweep.cluster.ray_cluster.connection import ClusterError
from mixsweep.cluster.ray_cluster.job_client import JobServer, RayJob
from mixsweep.core.scratch import scratch_folder
from mixsweep.sweep.backends.base import Backend, Callbacks, Outcome, RunOptions, SweepRun
from mixsweep.sweep.planning.command_schema import CommandSpec
from mixsweep.sweep.planning.plan import Plan
from mixsweep.sweep.planning.schema import SweepSpec
from mixsweep.sweep.planning.user_code import module_of

_FILE = "submitted-sweep.toml"
_COMMAND = "command"  # the folder of a command's code in the job's working folder


class RayJobBackend(Backend):
    """A place of kind `ray` whose address is a job server's: the whole command runs on the cluster as a job."""

    extras: ClassVar[tuple[str, ...]] = ("ray",)
    detaches: ClassVar[bool] = True
    takes_custom_resources: ClassVar[bool] = True
    searches: ClassVar[bool] = True

    def check(self, plan: Plan, options: RunOptions) -> None:
        super().check(plan, options)
        if plan.spec.command is not None:
            _check_inputs(plan.spec.command.table.inputs, self.place)

    def run_elsewhere(self, plan: Plan, options: RunOptions, callbacks: Callbacks) -> Outcome:
        """Submit the sweep's job, or find the running one, and follow it."""
        arguments = _arguments_of(options)
        job = submit_sweep(plan.spec, self.place, arguments, callbacks.say)
        place = f"--place {self.place.name}"
        if options.detach:
            callbacks.say(f"The job keeps running; follow it with: sweep status {plan.spec.name} {place}")
            return Outcome(detached=True)
        try:
            code, message = follow_sweep(self.place, job, write_out)
        except KeyboardInterrupt:
            callbacks.say(
                f"\nThe job keeps running. The same command follows it again; `sweep stop {plan.spec.name} {place}` "
                "ends it."
            )
            return Outcome(interrupted=True)
        if message:
            callbacks.say(f"{job.job_id}: {message}")
        return Outcome(job_exit_code=code)

    def run(self, sweep_run: SweepRun) -> int:
        raise AssertionError("the whole command runs on the cluster")


def _arguments_of(options: RunOptions) -> list[str]:
    """A command's options as arguments of `sweep run`."""
    arguments: list[str] = []
    for name, value in (("limit", options.limit), ("data", options.data_dir)):
        arguments += [f"--{name}", str(value)] if value is not None else []
    arguments += [word for config in options.only or () for word in ("--trial", config.trial_id)]
    arguments += ["--fresh", options.fresh.trial_id] if options.fresh is not None else []
    arguments += ["--budget", _seconds_text(options.budget)] if options.budget is not None else []
    flags = {
        "--retry-failed": options.retry_failed,
        "--mirror": options.mirror,
        "--more-evidence": options.more_evidence,
    }
    return [*arguments, *(flag for flag, given in flags.items() if given)]


def _seconds_text(seconds: float) -> str:
    """`0.25s`: exactly these seconds, as the command line reads them."""
    return f"{Decimal(repr(seconds)).normalize():f}s"


def write_out(text: str) -> None:
    """Print a piece of a log."""
    sys.stdout.write(text)
    sys.stdout.flush()


def submit_sweep(
    spec: SweepSpec, place: Place, arguments: Sequence[str], say: Callable[[str], None]
) -> RayJob:
    """Start a sweep's job, or return the one that is already running.

    Args:
        arguments: more arguments of `sweep run`.

    Raises:
        ClusterError, PackagingError: nothing was submitted; the message is one line.
    """
    assert place.ray is not None
    server = JobServer(place.ray)
    if running := running_job(server, spec.name):
        say(f"Job {running.job_id} runs this sweep already; following it.")
        return running
    with scratch_folder() as folder:
        shipment = packaging.stage(folder, spec.imports, spec.project, place.ray.exclude)
        if shipment.notice:
            say(shipment.notice)
        source = dict(spec.source)
        if spec.imports:
            source |= {"imports": list(shipment.imports), "project": "."}
            if "trainable" in source and not module_of(source["trainable"]):
                cls = str(source["trainable"]).rpartition(":")[2]
                source["trainable"] = f"{shipment.imports[0]}:{cls}"
        if spec.command is not None:
            source |= _ship_command(spec.command, source, shipment.working_dir)
        (shipment.working_dir / _FILE).write_text(tomli_w.dumps(source), encoding="utf-8")
        places = tomli_w.dumps(_place_on_cluster(place))
        (shipment.working_dir / "places.toml").write_text(places, encoding="utf-8")
        run = ["-m", "mixsweep", "run", _FILE, "--place", place.name, "--store", place.ray.store, *arguments]
        job = server.submit(spec.name, run, shipment.runtime_env)
    say(f"Submitted as job {job.job_id}.")
    return job


def _check_inputs(inputs: Sequence[str], place: Place) -> None:
    """Refuse inputs that the nodes of a job server would not find."""
    for name in inputs:
        if not Path(name).is_absolute():
            raise ClusterError(
                f"command.inputs: {name!r}: place {place.name} is a job server, whose nodes do not see this folder; "
                "write the absolute path that it has there"
            )


def _ship_command(command: CommandSpec, source: Mapping[str, Any], working_dir: Path) -> dict[str, Any]:
    """Put a command's code among the files that are shipped; return the keys of the sweep file that name it there.

    Raises:
        PackagingError: a file of it may not be shipped.
    """
    if command.code is None:
        return {"project": "."}
    packaging.stage_code(working_dir / _COMMAND, command.code, Path(source["project"]))
    named = [glob.escape(name) for name in command.code.files]
    return {"project": _COMMAND, "command": {**source["command"], "code": named}}


def running_job(server: JobServer, sweep: str) -> RayJob | None:
    """A sweep's live job, or None."""
    return next((job for job in server.jobs_of(sweep) if job.is_live), None)


def follow_sweep(place: Place, job: RayJob, write: Callable[[str], None]) -> tuple[int, str]:
    """Write a job's log until the job ends; return the exit code, and Ray's message where the driver left none."""
    assert place.ray is not None
    ended = JobServer(place.ray).follow(job.job_id, write)
    if ended.exit_code is not None:
        return ended.exit_code, ""
    return (0, "") if ended.state == "SUCCEEDED" else (1, f"{ended.state}: {ended.message}".strip())


def run_on_cluster(place: Place, words: Sequence[str], write: Callable[[str], None]) -> int:
    """Run another mixsweep command on the cluster, where the store is; return its exit code."""
    assert place.ray is not None
    server = JobServer(place.ray)
    with scratch_folder() as folder:
        runtime_env = packaging.stage(folder).runtime_env
        return server.run_command(["-m", "mixsweep", *words, "--store", place.ray.store], runtime_env, write)


def write_job_log(place: Place, sweep: str, follow: bool, write: Callable[[str], None]) -> bool:
    """Write the log of a sweep's newest job; return False where it has none."""
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


def _place_on_cluster(place: Place) -> dict[str, dict[str, object]]:
    """The places.toml for the job, whose process is the driver on the cluster."""
    assert place.ray is not None
    table: dict[str, object] = {"kind": "ray", "address": "auto", "shared": place.ray.shared}
    if place.ray.memory:
        table["memory"] = place.ray.memory
    if place.ray.resources:
        table["resources"] = dict(place.ray.resources)
    if place.data:
        table["data"] = str(place.data)
    return {place.name: table}
