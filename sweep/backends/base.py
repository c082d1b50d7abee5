"""The interface that every kind of place implements, and the table that finds a place's backend."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import ClassVar

from mixsweep.cluster.places import Place
from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import UserError
from mixsweep.core.records import Record
from mixsweep.core.store.store import SweepStore, TrialInfo
from mixsweep.sweep.planning.plan import Plan
from mixsweep.sweep.planning.schema import SweepSpec
from mixsweep.sweep.runtime.worker import WorkerSpec
from mixsweep.sweep.search.suggestions import SearchError

# By kind of place, and how it is used; imported when it is asked for.
_BACKENDS = {
    "debug": "mixsweep.sweep.backends.inline:InlineBackend",
    "local": "mixsweep.sweep.backends.ray.local:LocalRayBackend",
    "ray": "mixsweep.sweep.backends.ray.cluster:RayClusterBackend",
    "ray job": "mixsweep.sweep.backends.ray.job:RayJobBackend",
    "slurm array": "mixsweep.sweep.backends.slurm.backend:SlurmArrayBackend",
    "ray in a slurm job": "mixsweep.sweep.backends.slurm.backend:RayInSlurmJobBackend",
}


class RunError(UserError):
    """A sweep that cannot begin: nothing was allocated, and one line says why."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a command asks for beside its plan and its place.

    Args:
        store_root: the folder of sweeps.
        data_dir: where the images lie; None: SWEEP_DATA, or the place's own.
        limit: run no more than so many of the trials that are left.
        only: run only these trials of the plan.
        retry_failed: give failed trials a new try, whatever their kind.
        raise_errors: in `debug`, let an exception pass once it is recorded.
        detach: return as soon as all is submitted, where the place keeps it running.
        mirror: push the trials to W&B; what runs elsewhere does it there.
    """

    store_root: Path = Path("runs")
    data_dir: Path | None = None
    limit: int | None = None
    only: tuple[TrialConfig, ...] | None = None
    retry_failed: bool = False
    raise_errors: bool = False
    detach: bool = False
    mirror: bool = False


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """What a command hears while its trials run.

    Args:
        say: told what a user should know, in one line.
        on_record: called after each epoch, in `debug` only.
        on_end: called when a trial ends or halts.
        on_tick: called about twice a second while a cluster works.
        on_interrupt: called at the first Ctrl-C.
    """

    say: Callable[[str], None] = lambda text: None
    on_record: Callable[[Record], None] = lambda record: None
    on_end: Callable[[TrialInfo], None] = lambda info: None
    on_tick: Callable[[], None] = lambda: None
    on_interrupt: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """One command's work at a place: what is left of a plan, and how to train it.

    Args:
        plan: of the sweep file; of an adaptive one with what the store has of it.
        trials: those that are left, in the order in which they are to run.
        worker_spec: what each worker is told.
        searches: whether trials are chosen while others run.
        limit: choose no more than so many.
        detach: return as soon as all is submitted.
        callbacks: what the command hears.
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
        return SweepStore(self.worker_spec.run_config.store)

    def stop_requested(self) -> bool:
        """Whether somebody asked for a stop since the command was given."""
        return self.store.stop_requested(self.worker_spec.run_config.started_at)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command's trials stand when it ends.

    Args:
        interrupted: whether it stopped before all were done.
        counts: trials by state.
        unrecorded: failures that the store could not take (a full disk).
        detached: jobs were submitted, and nobody waited for them.
        job_exit_code: of a command that ran elsewhere.
    """

    interrupted: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    unrecorded: tuple[TrialInfo, ...] = ()
    detached: bool = False
    job_exit_code: int | None = None

    @property
    def exit_code(self) -> int:
        """0 done, 1 some trials failed (or are left), 130 interrupted."""
        if self.job_exit_code is not None:
            return self.job_exit_code
        if self.interrupted:
            return 130
        if self.detached:
            return 0
        done = sum(self.counts.get(state, 0) for state in ("completed", "stopped", "diverged"))
        return 0 if done == sum(self.counts.values()) and not self.unrecorded else 1


class Backend(ABC):
    """Runs trials at a place of one kind.

    The class attributes say what a kind of place can do; `check` refuses the rest before anything is allocated.
    """

    detaches: ClassVar[bool] = False  # trials go on when the command returns
    trains_ranks: ClassVar[bool] = True  # several processes train one trial
    spans_nodes: ClassVar[bool] = True  # on several nodes
    takes_custom_resources: ClassVar[bool] = False  # memory and custom resources, which Ray places by
    searches: ClassVar[bool] = False  # has a driver that lives as long as the sweep
    ends_with_command: ClassVar[bool] = True  # Ctrl-C and SIGTERM ask its trials to stop

    def __init__(self, place: Place):
        self.place = place

    def check(self, plan: Plan, options: RunOptions) -> None:
        """Refuse what this place cannot do.

        Raises:
            UserError: one line on what, and where to run it instead.
        """
        name, spec = self.place.name, plan.spec
        resources = spec.resources
        if options.detach and not self.detaches:
            raise RunError(f"--detach: place {name} works only as long as this command does")
        if resources.ranks > 1 and not self.trains_ranks:
            raise RunError(f"resources.ranks: place {name} trains a trial in one process; use another one")
        if resources.nodes > 1 and not self.spans_nodes:
            raise RunError(f"resources.nodes = {resources.nodes}: place {name} is one machine")
        if resources.ranks > 1 and spec.search is not None:
            raise RunError("resources.ranks: with [search] a trial has one process")
        if (resources.memory or resources.custom) and not self.takes_custom_resources:
            raise RunError(f"resources: memory and custom are Ray's; place {name} does not know them")
        if spec.search is None or options.only is not None:
            return
        if options.limit is not None and spec.search.algorithm == "pbt":
            raise SearchError("--limit: not with pbt, whose population trains together")
        if not self.searches:
            raise SearchError(
                f"[search]: {spec.search.algorithm} needs a driver that lives as long as the sweep, and place "
                f"{name} ({self.place.kind}) has none; use a Ray place: --place local"
            )

    def run_elsewhere(self, plan: Plan, options: RunOptions, callbacks: Callbacks) -> Outcome | None:
        """Where the store is out of reach, run the whole command there; None where it runs here."""
        return None

    @abstractmethod
    def run(self, sweep_run: SweepRun) -> int:
        """Run or submit the trials and follow them to their end; return how many a search has yet to choose.

        What has become of a trial is in the store.

        Raises:
            UserError: the place cannot be used, or no process could work.
        """

    def scripts(self, spec: SweepSpec, trials: int, store: SweepStore) -> list[str]:
        """What would be handed to a scheduler for so many trials of a sweep; nothing where there is none."""
        return []


def kind_of_backend(place: Place) -> str:
    """The kind of backend that a place has: a key of the table."""
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
