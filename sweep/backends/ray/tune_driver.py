"""The Tune driver: a sweep on a Ray cluster.

Ray Tune places and restarts; which trial comes next, and what has become of it, is the store's word. So a
Tune trial here is a slot: an actor that takes one trial after the other from the plan until nothing is left.
The driver holds a fixed number of slots however many trials there are, an actor is never started anew
between two trials, and one that dies is started again and finds its trial where its checkpoint left it.

In an adaptive sweep the plan grows as it runs, so there each of Tune's trials is one of ours, which a supply
hands out through Tune's own searcher; actors go on from one to the next as well.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mixsweep.core.execution.run_config import Unit
from mixsweep.core.scratch import scratch_folder
from mixsweep.core.store.store import TrialInfo
from mixsweep.sweep.runtime.worker import WorkerSpec, run_trials
from mixsweep.sweep.search.trial_source import TrialRequest, TrialSource, to_tune_searcher

# What a slot's process does with its orders.
Work = Callable[[WorkerSpec, list[Unit]], Iterator[TrialInfo]]

# Enough for any cluster that one sweep fills; slots beyond its size wait and are passed over at the end.
MAX_SLOTS = 256

_RESTARTS = 3  # of one slot whose process dies; the launcher looks afterwards whether anything is left


def run_on_ray(
    units: list[Unit],
    worker_spec: WorkerSpec,
    capacity: int,
    on_end: Callable[[TrialInfo], None],
    work: Work = run_trials,
    needs: Mapping[str, float] | None = None,
) -> list[str]:
    """Run units on the Ray cluster that this process is connected to, and return when no slot finds more.

    Args:
        units: what is left to do.
        orders: how; the store must be reachable from every node.
        capacity: how many trials the cluster holds at once.
        on_end: called in this process for each trial that came to an end or a halt.
        work: what each slot does.
        needs: what a trial needs of its node, by Ray's names; None: the CPUs and GPUs of the orders.

    Returns:
        a line for each slot that died for good: not a trial's failure, but a process that could not work.
    """
    from ray import tune

    slots = max(1, min(len(units), capacity, MAX_SLOTS))
    return _run(units, worker_spec, on_end, work, needs, {"slot": tune.grid_search(list(range(slots)))}, {})


def run_source_on_ray(
    trial_source: TrialSource,
    worker_spec: WorkerSpec,
    capacity: int,
    on_end: Callable[[TrialInfo], None],
    work: Work = run_trials,
    needs: Mapping[str, float] | None = None,
) -> list[str]:
    """Run what a supply hands out, and return when it is over; else as run_on_ray."""
    slots = max(1, min(capacity, MAX_SLOTS))
    search = {"search_alg": to_tune_searcher(trial_source), "num_samples": -1, "max_concurrent_trials": slots}
    return _run([], worker_spec, on_end, work, needs, {}, search)


def _run(
    units: list[Unit],
    worker_spec: WorkerSpec,
    on_end: Callable[[TrialInfo], None],
    work: Work,
    needs: Mapping[str, float] | None,
    param_space: dict[str, Any],
    search: dict[str, Any],
) -> list[str]:
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # its errors come back as ours
    needs = needs or {"CPU": worker_spec.run_config.cpus, "GPU": worker_spec.run_config.gpus}
    if worker_spec.run_config.ranks > 1:
        needs = {
            "memory": 1
        }  # a slot whose trials have ranks only waits for them; Tune wants it to ask for something
    trainable = tune.with_resources(
        tune.with_parameters(_slot_class(), units=units, worker_spec=worker_spec, work=work),
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
                callbacks=[_end_of_trial(on_end)],
                failure_config=tune.FailureConfig(max_failures=_RESTARTS),
                verbose=0,
            ),
        ).fit()
    return [str(error).strip().splitlines()[-1] for error in results.errors]


def _end_of_trial(on_end: Callable[[TrialInfo], None]) -> Any:
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
        """An actor that works through the store's plan, or a leg of an adaptive one; a step is a trial's end."""

        def setup(
            self, config: dict[str, Any], units: list[Unit], worker_spec: WorkerSpec, work: Work
        ) -> None:
            self._units, self._worker_spec, self._work_by = units, worker_spec, work
            self._work = self._begin(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._work = self._begin(new_config)
            return True

        def _begin(self, config: dict[str, Any]) -> Iterator[TrialInfo]:
            if "leg" not in config:
                return self._work_by(self._worker_spec, self._units)
            request = TrialRequest.from_json(config["leg"])
            return self._work_by(self._worker_spec.until(request.until), [(request.config,)])

        def step(self) -> dict[str, Any]:
            info = next(self._work, None)
            return {"ended": info.to_json() if info else "", "done": info is None}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Nothing: a trial's checkpoint is in its folder."""

        def load_checkpoint(self, checkpoint: Any) -> None:
            """Nothing, as above."""

    return Slot
