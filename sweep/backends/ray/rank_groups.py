"""Trials of several ranks on a Ray cluster: what a slot of the Tune driver does with each of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

from mixsweep.cluster.ray_cluster.worker_group import RankResources, run_ranks
from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import UserError
from mixsweep.core.execution.run_config import Unit, is_done
from mixsweep.core.store.store import SweepStore, TrialInfo
from mixsweep.sweep.runtime.worker import WorkerSpec, run_trials


def run_rank_groups(
    worker_spec: WorkerSpec,
    units: Sequence[Unit],
    nodes: int = 1,
    needs: Mapping[str, float] | None = None,
    here: Callable[[WorkerSpec], WorkerSpec] = lambda worker_spec: worker_spec,
) -> Iterator[TrialInfo]:
    """Run what is free of these units, each by processes of its own that train it together; yield each trial's end.

    Args:
        nodes: over which the ranks of a trial are spread.
        needs: of each rank, by Ray's names; None: the CPUs and GPUs of the orders.
        here: what each rank makes of its orders, where it is.

    Raises:
        ray.train.TrainingFailedError: a team could not work, as often as it was tried.
    """
    run_config = worker_spec.run_config
    store = SweepStore(run_config.store)
    needs = needs or {"CPU": run_config.cpus, "GPU": run_config.gpus}
    channel = RankResources(ranks=run_config.ranks, nodes=nodes, needs=needs)
    for unit in units:
        if store.stop_requested(run_config.started_at):
            return
        if not any(_is_free(store, config, worker_spec) for config in unit):
            continue
        run_ranks(partial(_be_a_rank, worker_spec, unit, here), channel)
        for config in unit:
            if info := store.trial(config.trial_id).info():
                yield info


def _be_a_rank(worker_spec: WorkerSpec, unit: Unit, here: Callable[[WorkerSpec], WorkerSpec]) -> None:
    for _ in run_trials(here(worker_spec), [unit]):
        pass  # rank 0 has it in the store


def _is_free(store: SweepStore, config: TrialConfig, worker_spec: WorkerSpec) -> bool:
    with suppress(OSError, UserError):  # the rank that takes it meets it again, and says so
        info = store.trial(config.trial_id).info()
        return not is_done(info, config, worker_spec.run_config) and (info is None or info.state != "running")
    return True
