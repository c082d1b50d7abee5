"""What a process that trains is told, and does, in every place."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mixsweep.core import registry
from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import UserError
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.records import Record
from mixsweep.core.store.store import SweepStore, TrialInfo
from mixsweep.core.version import __version__
from mixsweep.sweep.planning.plan import Plan, read_plan
from mixsweep.sweep.planning.schema import Stopping
from mixsweep.sweep.search.asha import make_decide


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """What a command tells its workers, so that none of them reads the sweep file.

    Args:
        run_config: where and how to train.
        metric: what the stopping rule compares.
        mode: `max` or `min`.
        epochs: the epoch budgets of the plan's trials, by id: those that a stopping rule compares.
        stopping: the rule; None: there is none.
        imports: the user's files, which register models and data sets.
        project: the root of the project that they import from.
        grows: whether the plan grows while it runs, so that its epochs are read from the store.
        version: of the mixsweep that the command is.
    """

    run_config: RunConfig
    metric: str
    mode: str
    epochs: Mapping[str, int]
    stopping: Stopping | None = None
    imports: tuple[str, ...] = ()
    project: str = ""
    grows: bool = False
    version: str = __version__

    def until(self, epoch: int | None) -> "WorkerSpec":
        """The same, but to train no trial further than this epoch."""
        return self.with_run_config(until=epoch)

    def with_run_config(self, **values: Any) -> "WorkerSpec":
        """The same with some values of the run config changed."""
        return replace(self, run_config=replace(self.run_config, **values))

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON values, without `epochs`, which a task reads from the store's plan."""
        stopping = None if self.stopping is None else asdict(self.stopping)
        own = {
            "run_config": self.run_config.to_mapping(),
            "stopping": stopping,
            "imports": list(self.imports),
        }
        names = ("metric", "mode", "project", "grows", "version")
        return {**own, **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], epochs: Mapping[str, int]) -> "WorkerSpec":
        """What to_mapping gave, with these epochs.

        Raises:
            UserError: another version wrote it.
        """
        check_version(values["version"])
        stopping = values["stopping"]
        return cls(
            **{
                **values,
                "run_config": RunConfig.from_mapping(values["run_config"]),
                "stopping": None if stopping is None else Stopping(**stopping),
                "imports": tuple(values["imports"]),
                "epochs": epochs,
            }
        )


def make_worker_spec(plan: Plan, run_config: RunConfig) -> WorkerSpec:
    """The worker spec of a command that runs this plan."""
    spec = plan.spec
    return WorkerSpec(
        run_config=run_config,
        metric=spec.metric,
        mode=spec.mode,
        epochs={config.trial_id: config.epochs for config in plan.trials},
        stopping=spec.stopping,
        imports=spec.imports,
        project=spec.project,
        grows=spec.search is not None,
    )


def check_version(version: str) -> None:
    """Make sure that this process is the mixsweep that it was started by.

    Raises:
        UserError: it is another version.
    """
    if version != __version__:
        raise UserError(
            f"this process has mixsweep {__version__}, and was started by {version or 'an older one'}; "
            "install the same version on both sides, then run the same command again"
        )


class _GrowingEpochs(Mapping[str, int]):
    """The epochs of a growing plan's trials: read anew when one is asked for that it did not have."""

    def __init__(self, store: SweepStore):
        self._store = store
        self._epochs: dict[str, int] = {}
        self._stamp: tuple[int, int] | None = None

    def __getitem__(self, trial_id: str) -> int:
        if trial_id not in self._epochs:
            facts = (self._store.path / "plan.parquet").stat()
            stamp = (facts.st_mtime_ns, facts.st_ino)
            if stamp != self._stamp:  # else whatever is asked for is of no plan
                self._epochs = {row.trial_id: row.config.epochs for row in read_plan(self._store)}
                self._stamp = stamp
        return self._epochs[trial_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._epochs)

    def __len__(self) -> int:
        return len(self._epochs)


def prepare_worker(worker_spec: WorkerSpec) -> Callable[[Record], bool]:
    """Import the user's files; return the decision that the training asks for after each epoch.

    Raises:
        UserError: this process has another version than the command.
    """
    check_version(worker_spec.version)
    registry.import_files(worker_spec.imports, worker_spec.project)
    store = SweepStore(worker_spec.run_config.store)
    epochs = _GrowingEpochs(store) if worker_spec.grows else worker_spec.epochs
    return make_decide(worker_spec.stopping, store, worker_spec.metric, worker_spec.mode, epochs)


def run_trials(
    worker_spec: WorkerSpec,
    trials: Sequence[TrialConfig],
    on_record: Callable[[Record], None] = lambda record: None,
    pause: Callable[[], str] | None = None,
) -> Iterator[TrialInfo]:
    """Run what is free of these trials; yield each trial's end.

    Args:
        pause: asked after each epoch, as core.execution.runner has it; None: only whether the store asks for a stop.
    """
    from mixsweep.core.execution.runner import work  # torch, which a driver does without

    run_config = worker_spec.run_config
    store = SweepStore(run_config.store)
    return work(
        trials,
        run_config,
        decide=prepare_worker(worker_spec),
        pause=pause or (lambda: "interrupted" if store.stop_requested(run_config.started_at) else ""),
        report=on_record,
    )
