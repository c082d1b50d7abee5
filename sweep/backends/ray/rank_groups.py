"""Train trials of several ranks on a Ray cluster: a slot of the Tune driver starts one rank group per trial."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from mixsweep.cluster.ray_cluster.worker_group import RankResources, run_ranks
from mixsweep.core.config import TrialConfig
from mixsweep.core.execution.remaining import is_done, read_info
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.sweep.runtime.worker import WorkerSpec, run_trials


def run_rank_groups(
    worker_spec: WorkerSpec,
    trials: Sequence[TrialConfig],
    nodes: int = 1,
    needs: Mapping[str, float] | None = None,
    localize: Callable[[WorkerSpec], WorkerSpec] = lambda worker_spec: worker_spec,
) -> Iterator[TrialInfo]:
    """Run those of these trials that are free, each by a new rank group; yield each trial's end.

    Args:
        nodes: the number of nodes for the ranks of a trial.
        needs: of each rank, by Ray's resource names; None: the CPUs and GPUs of the worker spec.
        localize: adds the node of a rank to its worker spec; called in the rank.

    Raises:
        ray.train.TrainingFailedError: a rank group failed, after all its restarts.
    """
    run_config = worker_spec.run_config
    store = SweepStore(run_config.store)
    needs = needs or {"CPU": run_config.cpus, "GPU": run_config.gpus}
    resources = RankResources(ranks=run_config.ranks, nodes=nodes, needs=needs)
    for config in trials:
        if run_config.stop_requested():
            return
        info = read_info(store, config.trial_id)
        if is_done(info, config, run_config) or (info is not None and info.state == "running"):
            continue
        run_ranks(partial(_train_as_rank, worker_spec, config, localize), resources)
        if info := store.trial(config.trial_id).info():
            yield info


def _train_as_rank(
    worker_spec: WorkerSpec, config: TrialConfig, localize: Callable[[WorkerSpec], WorkerSpec]
) -> None:
    for _ in run_trials(localize(worker_spec), [config]):
        pass  # rank 0 records the trial in the store
