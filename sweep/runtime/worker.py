"""What a process that trains does, in every place: units of work by the sweep's rule and the store's requests."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mixsweep.core import registry
from mixsweep.core.execution.run_config import RunConfig, Unit
from mixsweep.core.records import Record
from mixsweep.core.store.store import SweepStore, TrialInfo
from mixsweep.sweep.planning.parse import parse_spec
from mixsweep.sweep.planning.plan import Plan, read_plan
from mixsweep.sweep.search.asha import make_decide


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """What a command tells its workers: how to train, and the sweep file as that command read it."""

    run_config: RunConfig
    source: Mapping[str, Any]
    epochs: Mapping[str, int]  # of every trial of the plan, by id: those that a stopping rule compares
    grows: bool = False  # the plan does while it runs, so that its epochs are read from the store

    def until(self, epoch: int | None) -> "WorkerSpec":
        """The same, but to train no trial further than this epoch."""
        return replace(self, run_config=replace(self.run_config, until=epoch))


def make_worker_spec(plan: Plan, run_config: RunConfig) -> WorkerSpec:
    """The orders of a command that runs this plan."""
    epochs = {config.trial_id: config.epochs for config in plan.trials}
    grows = plan.spec.search is not None
    return WorkerSpec(run_config=run_config, source=plan.spec.source, epochs=epochs, grows=grows)


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


def run_trials(
    worker_spec: WorkerSpec,
    units: Sequence[Unit],
    on_record: Callable[[Record], None] = lambda record: None,
    pause: Callable[[], str] | None = None,
) -> Iterator[TrialInfo]:
    """Run what is free of these units; yield each trial's end.

    Args:
        pause: asked after each epoch, as core.execution.runner has it; None: only whether the store asks for a stop.
    """
    from mixsweep.core.execution.runner import work  # torch, which a driver does without

    run_config = worker_spec.run_config
    store = SweepStore(run_config.store)
    for file in worker_spec.source.get("imports", []):
        registry.import_file(Path(file))
    spec = parse_spec(worker_spec.source)
    epochs = _GrowingEpochs(store) if worker_spec.grows else worker_spec.epochs
    return work(
        units,
        run_config,
        decide=make_decide(spec.stopping, store, spec.metric, spec.mode, epochs),
        pause=pause or (lambda: "interrupted" if store.stop_requested(run_config.started_at) else ""),
        report=on_record,
    )
