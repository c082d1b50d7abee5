"""Worker processes: the worker spec that a command gives them, and how they run trials, at every kind of place."""

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
    """All that a worker needs from its command, so that it does not read the sweep file.

    Args:
        run_config: where and how to train.
        metric: the metric that the stopping rule compares.
        mode: `max` or `min`.
        epochs: the epoch budgets of the plan's trials by id, which the stopping rule compares.
        stopping: the stopping rule, or None.
        imports: the user's files that register models and data sets.
        project: the root of the project that they import from.
        grows: whether the plan grows while it runs, so that epoch budgets are read from the store.
        version: the mixsweep version of the command.
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
        """This spec with all trials limited to this epoch; None: no limit."""
        return self.with_run_config(until=epoch)

    def with_run_config(self, **values: Any) -> "WorkerSpec":
        """This spec with some values of the run config replaced."""
        return replace(self, run_config=replace(self.run_config, **values))

    def to_mapping(self) -> dict[str, Any]:
        """This spec as JSON values, without `epochs`, which an array task reads from the store's plan."""
        stopping = None if self.stopping is None else asdict(self.stopping)
        nested = {
            "run_config": self.run_config.to_mapping(),
            "stopping": stopping,
            "imports": list(self.imports),
        }
        names = ("metric", "mode", "project", "grows", "version")
        return {**nested, **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], epochs: Mapping[str, int]) -> "WorkerSpec":
        """The worker spec of `to_mapping`, with these epoch budgets.

        Raises:
            UserError: another version of mixsweep wrote it.
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
    """Check that this process has the mixsweep version of the process that started it.

    Raises:
        UserError: it has another version.
    """
    if version != __version__:
        raise UserError(
            f"this process has mixsweep {__version__}, and was started by {version or 'an older version'}; "
            "install the same version on both sides, then run the same command again"
        )


class _GrowingEpochs(Mapping[str, int]):
    """The epoch budgets of a growing plan by trial id; a missing id causes the plan to be read again."""

    def __init__(self, store: SweepStore):
        self._store = store
        self._epochs: dict[str, int] = {}
        self._stamp: tuple[int, int] | None = None

    def __getitem__(self, trial_id: str) -> int:
        if trial_id not in self._epochs:
            facts = (self._store.path / "plan.parquet").stat()
            stamp = (facts.st_mtime_ns, facts.st_ino)
            if stamp != self._stamp:  # an unchanged plan does not have the trial
                self._epochs = {row.trial_id: row.config.epochs for row in read_plan(self._store)}
                self._stamp = stamp
        return self._epochs[trial_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._epochs)

    def __len__(self) -> int:
        return len(self._epochs)


def prepare_worker(worker_spec: WorkerSpec) -> Callable[[Record], bool]:
    """Import the user's files; return the stopping decision that training calls after each epoch.

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
    """Run those of these trials that are free; yield each trial's end.

    Args:
        on_record: called after each epoch.
        pause: returns the reason to pause, as in core.execution.runner.work; None: pause on a stop request only.
    """
    from mixsweep.core.execution.runner import work  # imports torch, which a driver does not need

    run_config = worker_spec.run_config
    store = SweepStore(run_config.store)
    return work(
        trials,
        run_config,
        decide=prepare_worker(worker_spec),
        pause=pause or (lambda: "interrupted" if store.stop_requested(run_config.started_at) else ""),
        report=on_record,
    )
