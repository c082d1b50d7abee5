"""Run the ranks of one trial on a Ray cluster, placed and restarted by Ray Train.

Each rank gets the variables that torch's launchers export; `core.execution.rank_channel` uses them.
"""

import os
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mixsweep.core.execution.rank_token import RANK_TOKEN
from mixsweep.core.scratch import scratch_folder

# The death of one rank ends its group; Ray Train restarts the group this often, on other nodes if need be.
_RESTARTS = 3


@dataclass(frozen=True, kw_only=True)
class RankResources:
    """The number of ranks and nodes, and what each rank needs, by Ray's resource names."""

    ranks: int
    nodes: int = 1
    needs: Mapping[str, float] = field(default_factory=lambda: {"CPU": 1.0})


def run_ranks(function: Callable[[], None], resources: RankResources) -> None:
    """Run a function as the ranks of one group on the cluster, and wait until all have ended.

    RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set in each rank. All ranks of a
    node see the GPUs of all; LOCAL_RANK selects one.

    Args:
        function: runs in each rank; after the death of one rank it runs again in all.

    Raises:
        ray.train.TrainingFailedError: ranks died or raised more often than they are restarted.
    """
    from ray import train
    from ray.train.torch import TorchTrainer

    with scratch_folder() as scratch:
        TorchTrainer(
            _run_as_rank,
            train_loop_config={"function": function},
            torch_config=_rendezvous_config(),
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


def _run_as_rank(config: dict[str, Any]) -> None:
    from ray import train

    context = train.get_context()
    os.environ["RANK"] = str(context.get_world_rank())
    os.environ["WORLD_SIZE"] = str(context.get_world_size())
    os.environ["LOCAL_RANK"] = str(context.get_local_rank())
    os.environ["LOCAL_WORLD_SIZE"] = str(context.get_local_world_size())
    config["function"]()


def _rendezvous_config() -> Any:
    """A framework config of Ray Train that exports an address and a token to all ranks before the function runs.

    It replaces the one for torch, which also joins a process group: core.execution.rank_channel opens one for each
    attempt.
    """
    from ray.train.backend import Backend
    from ray.train.torch import TorchConfig

    class RendezvousBackend(Backend):
        share_cuda_visible_devices = True

        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            address = worker_group.execute_single(0, _free_address)
            worker_group.execute(_export, address)

    class RendezvousConfig(TorchConfig):
        @property
        def backend_cls(self) -> type[RendezvousBackend]:
            return RendezvousBackend

    return RendezvousConfig()


def _free_address() -> tuple[str, int, str]:
    """Where rank 0 listens, and a token that the ranks sign their messages with."""
    from ray.util import get_node_ip_address

    with socket.socket() as probe:
        probe.bind(("", 0))
        return get_node_ip_address(), probe.getsockname()[1], secrets.token_hex(16)


def _export(address: tuple[str, int, str]) -> None:
    host, port, token = address
    os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": str(port), RANK_TOKEN: token}
