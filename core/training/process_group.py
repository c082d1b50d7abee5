"""The processes ("ranks") that train one trial together: this process's rank, and the collective operations."""

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
    """This process's rank among `world` processes, and its local rank on the host."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def shard(self, items: Tensor, dim: int = 0) -> Tensor:
        """This rank's contiguous part; parts differ by one item at most, and may be empty if there are few items."""
        return items.tensor_split(self.world, dim)[self.rank]

    def all_reduce(self, *sums: Tensor) -> None:
        """Replace tensors by their sums over all ranks."""
        if self.world > 1:
            for tensor in sums:
                dist.all_reduce(tensor)

    def equalise(self, module: nn.Module) -> None:
        """Copy rank 0's buffers to every rank: the running statistics of a local batch norm differ."""
        if self.world > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def replicate(self, model: nn.Module, example: Tensor) -> DistributedDataParallel:
        """The model with its gradients summed over the ranks during the backward pass.

        Args:
            example: an input of the model, on its device.
        """
        replica = DistributedDataParallel(model, gradient_as_bucket_view=True)
        replica.broadcast_buffers = False  # not in each forward pass: `equalise` does it once per epoch
        replica.register_comm_hook(None, _sum_bucket)
        # After its first backward pass DistributedDataParallel reorders the gradients, which changes the last bit of
        # sums over three and more ranks. That pass is made here, so that a resumed trial has the same bits.
        replica.eval()
        replica(example).sum().backward()
        replica.zero_grad()
        return replica.train()


ALONE = Ranks()


def ranks_from_environment(environment: Mapping[str, str] = os.environ) -> Ranks:
    """The ranks given by RANK, WORLD_SIZE and LOCAL_RANK; a single rank if they are not set.

    Raises:
        ConfigError: they are not numbers, or contradict each other.
    """
    words = [environment.get(name, default) for name, default in
             (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))]  # fmt: skip
    given = "RANK = {}, WORLD_SIZE = {}, LOCAL_RANK = {}".format(*words)
    try:
        rank, world, local_rank = map(int, words)
    except ValueError:
        raise ConfigError(f"{given}: these are not integers") from None
    if not 0 <= local_rank <= rank < world:
        raise ConfigError(f"{given}: no such rank")
    return Ranks(rank, world, local_rank)


def _sum_bucket(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Sum a bucket: DistributedDataParallel would average, but the loss is already divided by the whole batch."""
    done = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return done.then(lambda reduced: reduced.value()[0])
