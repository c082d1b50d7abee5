"""The interface of backends, and the table of backends by kind of place."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import ClassVar

from mixsweep.cluster.places import Place
from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import UserError
from mixsweep.core.records import Record
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.sweep.planning.forecast import RemainingWork
from mixsweep.sweep.planning.plan import Plan
from mixsweep.sweep.planning.schema import SweepSpec
from mixsweep.sweep.runtime.worker import WorkerSpec
from mixsweep.sweep.search.suggestions import SearchError

# Backends by kind of place and how it is used; a module is imported when its backend is used.
_BACKENDS = {
    "debug": "mixsweep.sweep.backends.inline:InlineBackend",
    "local": "mixsweep.sweep.backends.ray.local:LocalRayBackend",
    "ray": "mixsweep.sweep.backends.ray.cluster:RayClusterBackend",
    "ray job": "mixsweep.sweep.backends.ray.job:RayJobBackend",
    "slurm array": "mixsweep.sweep.backends.slurm.backend:SlurmArrayBackend",
    "ray in a slurm job": "mixsweep.sweep.backends.slurm.backend:RayInSlurmJobBackend",
}


class RunError(UserError):
    """A sweep that cannot start; nothing was allocated, and the message is one line."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of a `run` command, besides its plan and its place.

    Args:
        store_root: the folder of sweeps.
        data_dir: the folder of the image files; None: SWEEP_DATA, or the place's folder.
        limit: the largest number of the remaining trials to run; None: no limit.
        only: run only these trials of the plan.
        fresh: start this trial of the plan from scratch, whatever it has trained.
        retry_failed: run failed trials again, whatever the kind of failure.
        raise_errors: in `debug`, raise an exception again after it is recorded.
        detach: return once everything is submitted, where the place keeps it running.
        mirror: push the trials to W&B; a command that runs on a cluster pushes them there.
        more_evidence: add seeds for undecided claims afterwards (sweep.more_evidence); run_plan itself does not.
        budget: device-seconds that those may take; None: no limit.
    """

    store_root: Path = Path("runs")
    data_dir: Path | None = None
    limit: int | None = None
    only: tuple[TrialConfig, ...] | None = None
    fresh: TrialConfig | None = None
    retry_failed: bool = False
    raise_errors: bool = False
    detach: bool = False
    mirror: bool = False
    more_evidence: bool = False
    budget: float | None = None


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """Functions that are called while a command's trials run.

    Args:
        say: called with a line for the user.
        on_record: called after each epoch, in `debug` only.
        on_end: called when a trial ends or pauses.
        on_tick: called about twice a second while the trials run on a cluster.
        on_interrupt: called at the first Ctrl-C.
    """

    say: Callable[[str], None] = lambda text: None
    on_record: Callable[[Record], None] = lambda record: None
    on_end: Callable[[TrialInfo], None] = lambda info: None
    on_tick: Callable[[], None] = lambda: None
    on_interrupt: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """One run of a command at a place: the remaining trials of a plan, and how to train them.

    Args:
        plan: of the sweep file; for a search, with the trials that the store already has.
        trials: the remaining ones, in the order in which they are to run.
        worker_spec: for each worker process.
        searches: whether a search chooses trials while others run.
        limit: the largest number of trials to choose; None: no limit.
        detach: return once everything is submitted.
        callbacks: called while the trials run.
    """

    plan: Plan
    trials: tuple[TrialConfig, ...]
    worker_spec: WorkerSpec
    searches: bool = False
    limit: int | None = None
    detach: bool = False
    callbacks: Callbacks = Callbacks()

    @property
    def store(self) -> SweepStore:
        """The sweep's store."""
        return SweepStore(self.worker_spec.run_config.store)

    def stop_requested(self) -> bool:
        """Whether a stop was requested since the command started."""
        return self.worker_spec.run_config.stop_requested()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a command: the states of its trials when it ended.

    Args:
        interrupted: whether it stopped before all trials were done.
        counts: the number of trials by state.
        unrecorded: failures that could not be written to the store (a full disk).
        detached: whether it submitted jobs without waiting for them.
        job_exit_code: of a command that ran on a cluster as a job; None: it ran here.
    """

    interrupted: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    unrecorded: tuple[TrialInfo, ...] = ()
    detached: bool = False
    job_exit_code: int | None = None

    @property
    def exit_code(self) -> int:
        """0: all trials are done; 1: some failed or are left; 130: interrupted."""
        if self.job_exit_code is not None:
            return self.job_exit_code
        if self.interrupted:
            return 130
        if self.detached:
            return 0
        done = sum(self.counts.get(state, 0) for state in ("completed", "stopped", "diverged"))
        return 0 if done == sum(self.counts.values()) and not self.unrecorded else 1


@dataclass(frozen=True)
class SubmissionPreview:
    """What a batch scheduler would get.

    Args:
        scripts: the batch scripts.
        packing: how the trials are distributed over tasks and why, in one line; empty where the place says it.
    """

    scripts: tuple[str, ...] = ()
    packing: str = ""


class Backend(ABC):
    """Runs trials at places of one kind.

    The class attributes list what the kind can do; `check` refuses everything else before anything is allocated.
    """

    extras: ClassVar[tuple[str, ...]]  # of the package, that the process which runs a plan there needs
    detaches: ClassVar[bool] = False  # trials keep running after the command returns
    trains_ranks: ClassVar[bool] = True  # several processes can train one trial
    spans_nodes: ClassVar[bool] = True  # the ranks of a trial can be on several nodes
    takes_custom_resources: ClassVar[bool] = (
        False  # accepts memory and custom resources, by which Ray places trials
    )
    searches: ClassVar[bool] = False  # has a driver that runs as long as the sweep, which a search needs
    ends_with_command: ClassVar[bool] = True  # Ctrl-C and SIGTERM stop the trials
    passes_paths_on: ClassVar[bool] = True  # to a scheduler, which takes UTF-8 only

    def __init__(self, place: Place):
        self.place = place

    def check(self, plan: Plan, options: RunOptions) -> None:
        """Refuse a plan or options that this place cannot run.

        Raises:
            UserError: what it cannot do, and where to run it instead, in one line.
        """
        name, spec = self.place.name, plan.spec
        resources = spec.resources
        if self.passes_paths_on:
            _check_utf8(Path.cwd(), (options.store_root / spec.name).absolute())
        if options.detach and not self.detaches:
            raise RunError(f"--detach: place {name} works only as long as this command runs")
        if resources.ranks > 1 and not self.trains_ranks:
            raise RunError(f"resources.ranks: place {name} trains a trial in one process; use another one")
        if resources.ranks > 1 and not spec.trainable.multi_rank:
            raise RunError("resources.ranks: its trainable trains in one process; see multi_rank of a class")
        if resources.nodes > 1 and not self.spans_nodes:
            raise RunError(f"resources.nodes = {resources.nodes}: place {name} is one machine")
        if resources.ranks > 1 and spec.search is not None:
            raise RunError("resources.ranks: with [search] a trial has one process")
        if (resources.memory or resources.custom) and not self.takes_custom_resources:
            raise RunError(f"resources: memory and custom are Ray's; place {name} does not support them")
        if spec.search is None or options.only is not None:
            return
        if options.limit is not None and spec.search.algorithm == "pbt":
            raise SearchError("--limit: not with pbt, whose population trains together")
        if not self.searches:
            raise SearchError(
                f"[search]: {spec.search.algorithm} needs a driver that runs as long as the sweep, and place "
                f"{name} ({self.place.kind}) has none; use a Ray place: --place local"
            )

    def run_elsewhere(self, plan: Plan, options: RunOptions, callbacks: Callbacks) -> Outcome | None:
        """Run the whole command on the cluster if the store is only reachable there; return None if it runs here."""
        return None

    @abstractmethod
    def run(self, sweep_run: SweepRun) -> int:
        """Run or submit the trials, and follow them to their end; return how many a search has yet to choose.

        How each trial ended is in the store.

        Raises:
            UserError: the place cannot be used, or every worker process failed.
        """

    def submission(
        self, spec: SweepSpec, work: Sequence[RemainingWork], store: SweepStore
    ) -> SubmissionPreview:
        """What would be submitted to a batch scheduler for what is left of each trial; empty without one."""
        return SubmissionPreview()


def kind_of_backend(place: Place) -> str:
    """The kind of a place's backend: a key of the table."""
    if place.ray is not None:
        return "ray job" if place.ray.takes_jobs else "ray"
    if place.slurm is not None:
        return "ray in a slurm job" if place.slurm.launch == "ray" else "slurm array"
    return place.kind


def find_backend(place: Place) -> Backend:
    """The backend of a place."""
    module, _, name = _BACKENDS[kind_of_backend(place)].partition(":")
    backend: Backend = getattr(import_module(module), name)(place)
    return backend


def _check_utf8(*folders: Path) -> None:
    for folder in folders:
        try:
            str(folder).encode()
        except UnicodeEncodeError:
            raise RunError(
                f"{str(folder)!a}: not UTF-8, and schedulers take no other paths; --place debug does"
            ) from None
