"""The Tune driver: a sweep on a Ray cluster.

Ray Tune places and restarts; which trial comes next, and what has become of it, is the store's word. So a
Tune trial here is a slot: an actor that takes one trial after the other from the plan until nothing is left.
The driver holds a fixed number of slots however many trials there are, an actor is never started anew
between two trials, and one that dies is started again and finds its trial where its checkpoint left it.

In an adaptive sweep the plan grows as it runs, so there each of Tune's trials is one of ours, which a trial source
hands out through Tune's own searcher; actors go on from one to the next as well.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mixsweep.core.config import TrialConfig
from mixsweep.core.scratch import scratch_folder
from mixsweep.core.store.store import SweepStore, TrialInfo
from mixsweep.sweep.runtime.retry import Ending, RetryLoop, in_background
from mixsweep.sweep.runtime.worker import WorkerSpec, run_trials
from mixsweep.sweep.search.trial_source import TrialRequest, TrialSource, to_tune_searcher

# What a slot's process does with its trials.
Train = Callable[[WorkerSpec, Sequence[TrialConfig]], Iterator[TrialInfo]]

# Enough for any cluster that one sweep fills; slots beyond its size wait and are passed over at the end.
MAX_SLOTS = 256

_RESTARTS = 3  # of one slot whose process dies; the launcher looks afterwards whether anything is left


@dataclass(frozen=True, kw_only=True)
class RaySlots:
    """The slots of a cluster: Tune actors that take trials in turn.

    Args:
        count: how many trials the cluster holds at once.
        needs: what a trial needs of its node, by Ray's names.
        train: what each slot does with its trials.
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
    """Run Tune again until every trial is terminal or held elsewhere, or halted.

    Args:
        on_end: called in this process for each trial that came to an end or a halt.
        on_tick: called about twice a second while Tune works; what it raises ends the run.
        halt: see RetryLoop, as patience_seconds and workers_pause.

    Raises:
        UserError: processes die, and nothing is trained.
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
    """Run trials on the Ray cluster that this process is connected to, and return when no slot finds more.

    Args:
        trials: what is left to do.
        worker_spec: how; the store must be reachable from every node.
        on_end: called in this process for each trial that came to an end or a halt.

    Returns:
        a line for each slot that died for good: not a trial's failure, but a process that could not work.
    """
    from ray import tune

    count = max(1, min(len(trials), slots.count, MAX_SLOTS))
    return _run_tune(trials, worker_spec, slots, on_end, {"slot": tune.grid_search(list(range(count)))}, {})


def run_source_on_ray(
    trial_source: TrialSource, worker_spec: WorkerSpec, slots: RaySlots, on_end: Callable[[TrialInfo], None]
) -> list[str]:
    """Run what a trial source hands out, and return when it is over; else as run_on_ray."""
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

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # its errors come back as ours
    needs = slots.needs
    if worker_spec.run_config.ranks > 1:
        # A slot whose trials have ranks only waits for them; Tune wants it to ask for something.
        needs = {"memory": 1}
    trainable = tune.with_resources(
        tune.with_parameters(_slot_class(), trials=trials, worker_spec=worker_spec, train=slots.train),
        tune.PlacementGroupFactory([{name: value for name, value in needs.items() if value}]),
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


def _end_callback(on_end: Callable[[TrialInfo], None]) -> Any:
    from ray.tune import Callback

    class EndOfTrial(Callback):
        def __init__(self, on_end: Callable[[TrialInfo], None] | None = None):
            self._on_end = on_end

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
            if result.get("ended") and self._on_end:
                self._on_end(TrialInfo.from_json(result["ended"]))

        def __getstate__(self) -> dict[str, Any]:
            return {"_on_end": None}  # Tune pickles its callbacks into its snapshots, which nobody reads

    return EndOfTrial(on_end)


def _slot_class() -> type:
    from ray import tune

    class Slot(tune.Trainable):
        """An actor that works through the store's plan, or one request of an adaptive one; a step is a trial's end."""

        def setup(
            self,
            config: dict[str, Any],
            trials: Sequence[TrialConfig],
            worker_spec: WorkerSpec,
            train: Train,
        ) -> None:
            self._trials, self._worker_spec, self._train = trials, worker_spec, train
            self._ends = self._begin(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._ends = self._begin(new_config)
            return True

        def _begin(self, config: dict[str, Any]) -> Iterator[TrialInfo]:
            if "request" not in config:
                return self._train(self._worker_spec, self._trials)
            request = TrialRequest.from_json(config["request"])
            return self._train(self._worker_spec.until(request.until), [request.config])

        def step(self) -> dict[str, Any]:
            info = next(self._ends, None)
            return {"ended": info.to_json() if info else "", "done": info is None}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Nothing: a trial's checkpoint is in its folder."""

        def load_checkpoint(self, checkpoint: Any) -> None:
            """Nothing, as above."""

    return Slot
