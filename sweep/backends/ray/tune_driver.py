"""The Tune driver: run trials on the Ray cluster that this process is connected to.

Ray Tune places and restarts processes; the store decides which trial comes next and records its end. So a Tune trial
is a slot here: an actor that takes one trial after the other from the plan until none is left. The number of slots
does not depend on the number of trials, an actor serves many trials, and one that dies is restarted and resumes its
trial from the checkpoint.

The plan of an adaptive sweep grows while it runs. There each Tune trial is one of ours, handed out by a trial source
through a Tune searcher; actors are reused as well.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mixsweep.core.config import TrialConfig
from mixsweep.core.scratch import scratch_folder
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.trainables.kinds import declare
from mixsweep.sweep.runtime.retry import Ending, RetryLoop, in_background
from mixsweep.sweep.runtime.worker import WorkerSpec, run_trials
from mixsweep.sweep.search.trial_source import TrialRequest, TrialSource, to_tune_searcher
from mixsweep.sweep.trainables.tune import SOURCE as TUNE

# How a slot's process runs its trials; yields each trial's end.
Train = Callable[[WorkerSpec, Sequence[TrialConfig]], Iterator[TrialInfo]]

# More than one sweep fills; slots that the cluster has no room for wait, and find nothing left at the end.
MAX_SLOTS = 256

_RESTARTS = 3  # of a slot whose process dies; the retry loop then checks what is left


@dataclass(frozen=True, kw_only=True)
class RaySlots:
    """The slots of a cluster: Tune actors that take trials in turn.

    Args:
        count: how many trials the cluster holds at once.
        needs: of a trial, by Ray's resource names.
        train: how each slot runs its trials.
    """

    count: int
    needs: Mapping[str, float]
    train: Train = run_trials


def run_until_done(
    trials: Sequence[TrialConfig],
    worker_spec: WorkerSpec,
    slots: RaySlots,
    *,
    on_end: Callable[[TrialInfo], None],
    on_tick: Callable[[], None],
    halt: Callable[[], bool],
    patience_seconds: float = 0.0,
    workers_pause: bool = False,
) -> Ending:
    """Run Tune again until every trial is terminal or held elsewhere, or `halt` returns True.

    Args:
        on_end: called in this process for each trial that ended or paused.
        on_tick: called about twice a second while Tune works; what it raises ends the run.
        halt, patience_seconds, workers_pause: as in RetryLoop.

    Raises:
        UserError: every worker process failed and nothing was trained.
    """
    return RetryLoop(
        store=SweepStore(worker_spec.run_config.store),
        run_config=worker_spec.run_config,
        run=lambda left: in_background(partial(run_on_ray, left, worker_spec, slots, on_end), on_tick),
        halt=halt,
        patience_seconds=patience_seconds,
        workers_pause=workers_pause,
    ).run_all(trials)


def run_on_ray(
    trials: Sequence[TrialConfig],
    worker_spec: WorkerSpec,
    slots: RaySlots,
    on_end: Callable[[TrialInfo], None],
) -> list[str]:
    """Run trials until no slot finds a free one.

    Args:
        trials: those that are left.
        worker_spec: for the workers; every node must reach its store.
        on_end: called in this process for each trial that ended or paused.

    Returns:
        a line for each slot that died after all its restarts. A failed trial is not among them.
    """
    from ray import tune

    count = max(1, min(len(trials), slots.count, MAX_SLOTS))
    return _run_tune(trials, worker_spec, slots, on_end, {"slot": tune.grid_search(list(range(count)))}, {})


def run_source_on_ray(
    trial_source: TrialSource, worker_spec: WorkerSpec, slots: RaySlots, on_end: Callable[[TrialInfo], None]
) -> list[str]:
    """As run_on_ray, for the trials that a trial source hands out."""
    count = max(1, min(slots.count, MAX_SLOTS))
    search = {
        "search_alg": to_tune_searcher(trial_source),
        "num_samples": -1,
        "max_concurrent_trials": count,
    }
    return _run_tune([], worker_spec, slots, on_end, {}, search)


def _run_tune(
    trials: Sequence[TrialConfig],
    worker_spec: WorkerSpec,
    slots: RaySlots,
    on_end: Callable[[TrialInfo], None],
    param_space: dict[str, Any],
    search: dict[str, Any],
) -> list[str]:
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # its errors are returned below
    needs = slots.needs
    if worker_spec.run_config.ranks > 1:
        # A slot of multi-rank trials only waits for its rank groups, but Tune requires some resource.
        needs = {"memory": 1}
    trainable = tune.with_resources(
        tune.with_parameters(_slot_class(), trials=trials, worker_spec=worker_spec, train=slots.train),
        tune.PlacementGroupFactory(_bundles(worker_spec, needs), strategy="STRICT_PACK"),
    )
    with scratch_folder() as scratch:
        results = tune.Tuner(
            trainable,
            param_space=param_space,
            tune_config=tune.TuneConfig(reuse_actors=True, **search),
            run_config=tune.RunConfig(
                name="slots",
                storage_path=str(scratch),
                callbacks=[_end_callback(on_end)],
                failure_config=tune.FailureConfig(max_failures=_RESTARTS),
                verbose=0,
            ),
        ).fit()
    return [str(error).strip().splitlines()[-1] for error in results.errors]


def _bundles(worker_spec: WorkerSpec, needs: Mapping[str, float]) -> list[dict[str, float]]:
    """The resources of a slot's own process, then those of the tasks and actors that its trial may start.

    Only a trainable of Ray Tune starts some: its process has the GPU, and they have the CPUs, since its process waits
    for them. All others have everything themselves.
    """
    wanted = {name: value for name, value in needs.items() if value}
    if worker_spec.definition is None or worker_spec.definition.source != TUNE:
        return [wanted]
    own = {name: value for name, value in wanted.items() if name == "GPU"}
    return [own, {name: value for name, value in wanted.items() if name not in own}]


def _end_callback(on_end: Callable[[TrialInfo], None]) -> Any:
    from ray.tune import Callback

    class EndOfTrial(Callback):
        def __init__(self, on_end: Callable[[TrialInfo], None] | None = None):
            self._on_end = on_end

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
            if result.get("ended") and self._on_end:
                self._on_end(TrialInfo.from_json(result["ended"]))

        def __getstate__(self) -> dict[str, Any]:
            return {"_on_end": None}  # Tune pickles callbacks into its snapshots, which are never read

    return EndOfTrial(on_end)


def _slot_class() -> type:
    from ray import tune

    class Slot(tune.Trainable):
        """An actor that runs the trials of a plan, or one request of a trial source; each step ends a trial."""

        def setup(
            self,
            config: dict[str, Any],
            trials: Sequence[TrialConfig],
            worker_spec: WorkerSpec,
            train: Train,
        ) -> None:
            self._trials, self._worker_spec, self._train = trials, worker_spec, train
            if worker_spec.definition is not None:  # a request names its trial's kind
                declare(worker_spec.definition)
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._config = new_config
            self._ends = self._begin()
            return True

        def _begin(self) -> Iterator[TrialInfo]:
            if "request" not in self._config:
                return self._train(self._worker_spec, self._trials)
            request = TrialRequest.from_json(self._config["request"])
            return self._train(self._worker_spec.until(request.until), [request.config])

        def step(self) -> dict[str, Any]:
            try:
                info = next(self._ends, None)
            except Exception:
                # Tune may repeat the step in this actor: a generator that has raised would only end.
                self._ends = self._begin()
                raise
            return {"ended": info.to_json() if info else "", "done": info is None}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Save nothing: a trial's checkpoint is in its folder."""

        def load_checkpoint(self, checkpoint: Any) -> None:
            """Load nothing, as above."""

    return Slot
