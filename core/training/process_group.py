"""The processes ("ranks") that train one trial together: which one this is, and their sums and parts."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mixsweep.core.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Which of `world` processes this one is, and which of its host's."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def shard(self, items: Tensor, dim: int = 0) -> Tensor:
        """This rank's contiguous part; the parts differ by one item at most, and are empty where there are few."""
        return items.tensor_split(self.world, dim)[self.rank]

    def all_reduce(self, *sums: Tensor) -> None:
        """Replace tensors by their sums over all ranks."""
        if self.world > 1:
            for tensor in sums:
                dist.all_reduce(tensor)

    def equalise(self, module: nn.Module) -> None:
        """Give every rank the buffers of rank 0: a local batch norm's running statistics differ."""
        if self.world > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def replicate(self, model: nn.Module, example: Tensor) -> DistributedDataParallel:
        """The model with its gradients summed over the ranks, while the backward pass still runs.

        Args:
            example: something that the model takes, on its device.
        """
        replica = DistributedDataParallel(model, gradient_as_bucket_view=True)
        replica.broadcast_buffers = False  # in each forward pass: `equalise` does it once an epoch
        replica.register_comm_hook(None, _sum_bucket)
        # After its first backward pass it orders gradients anew, and with the order goes the last bit of the sums
        # of three and more. Were that pass a step, a resumed trial would have other bits than a whole one.
        replica.eval()
        replica(example).sum().backward()
        replica.zero_grad()
        return replica.train()


ALONE = Ranks()


def ranks_from_environment(environment: Mapping[str, str] = os.environ) -> Ranks:
    """The ranks that RANK, WORLD_SIZE and LOCAL_RANK tell of; one alone where they are not set.

    Raises:
        ConfigError: they are no numbers, or contradict each other.
    """
    words = [environment.get(name, default) for name, default in
             (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))]  # fmt: skip
    told = "RANK = {}, WORLD_SIZE = {}, LOCAL_RANK = {}".format(*words)
    try:
        rank, world, local_rank = map(int, words)
    except ValueError:
        raise ConfigError(f"{told}: these are no whole numbers") from None
    if not 0 <= local_rank <= rank < world:
        raise ConfigError(f"{told}: no such rank")
    return Ranks(rank, world, local_rank)


def _sum_bucket(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """DistributedDataParallel averages by itself; our loss is divided by the whole batch already."""
    done = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return done.then(lambda reduced: reduced.value()[0])
