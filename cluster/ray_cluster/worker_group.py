"""Ranks on Ray: the processes that train one trial together, placed and watched by Ray Train.

Each of them finds the variables that torch's launchers export; what they do with
them is core.execution.rank_channel's concern.
"""

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mixsweep.core.scratch import scratch_folder

# A worker that died, its node with it or not, ends its group; so often it is started anew, maybe elsewhere.
_RESTARTS = 3


@dataclass(frozen=True, kw_only=True)
class RankResources:
    """How many ranks, over how many nodes, and what each of them needs, by Ray's names."""

    ranks: int
    nodes: int = 1
    needs: Mapping[str, float] = field(default_factory=lambda: {"CPU": 1.0})


def run_ranks(function: Callable[[], None], resources: RankResources) -> None:
    """Run a function in several processes of the cluster at once, as its ranks, until all have ended.

    RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set in each. On a node, all
    see the GPUs of all, and LOCAL_RANK says which one is whose.

    Args:
        function: what each of them does; after the death of one, all begin again.

    Raises:
        ray.train.TrainingFailedError: one of them died, or raised, once too often.
    """
    from ray import train
    from ray.train.torch import TorchTrainer

    with scratch_folder() as scratch:
        TorchTrainer(
            _as_rank,
            train_loop_config={"function": function},
            torch_config=_meeting(),
            scaling_config=train.ScalingConfig(
                num_workers=resources.ranks,
                resources_per_worker={name: value for name, value in resources.needs.items() if value},
                use_gpu=resources.needs.get("GPU", 0.0) > 0,
                placement_strategy=_strategy(resources),
            ),
            run_config=train.RunConfig(
                name="ranks",
                storage_path=str(scratch),
                failure_config=train.FailureConfig(max_failures=_RESTARTS),
            ),
        ).fit()


def _strategy(resources: RankResources) -> str:
    if resources.nodes == 1:
        return "STRICT_PACK"
    return "STRICT_SPREAD" if resources.nodes == resources.ranks else "SPREAD"


def _as_rank(config: dict[str, Any]) -> None:
    from ray import train

    context = train.get_context()
    os.environ["RANK"] = str(context.get_world_rank())
    os.environ["WORLD_SIZE"] = str(context.get_world_size())
    os.environ["LOCAL_RANK"] = str(context.get_local_rank())
    os.environ["LOCAL_WORLD_SIZE"] = str(context.get_local_world_size())
    config["function"]()


def _meeting() -> Any:
    """Ray Train's hook for a framework: before the function runs, all are told where rank 0 waits for them.

    In place of its own for torch, which joins a process group: core.execution.rank_channel has one for each
    attempt at a trial.
    """
    from ray.train.backend import Backend
    from ray.train.torch import TorchConfig

    class ClusterAddress(Backend):
        share_cuda_visible_devices = True

        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            address = worker_group.execute_single(0, _free_address)
            worker_group.execute(_export, address)

    class RendezvousConfig(TorchConfig):
        @property
        def backend_cls(self) -> type[ClusterAddress]:
            return ClusterAddress

    return RendezvousConfig()


def _free_address() -> tuple[str, int]:
    from ray.util import get_node_ip_address

    with socket.socket() as probe:
        probe.bind(("", 0))
        return get_node_ip_address(), probe.getsockname()[1]


def _export(address: tuple[str, int]) -> None:
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address[0], str(address[1])
