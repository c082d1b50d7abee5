"""Batch norm over the whole batch of several ranks.

Ioffe & Szegedy 2015, "Batch Normalization" (arXiv:1502.03167), algorithm 1, with sums over all ranks.

Shapes: B batch of this rank, C channels; any further dimensions are averaged over.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with every batch norm synchronised over all ranks; its parameters and their names do not change.

    On CUDA it uses torch's own SyncBatchNorm; on other devices, which that refuses, SynchronisedBatchNorm.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = SynchronisedBatchNorm
    return model


class SynchronisedBatchNorm(_BatchNorm):
    """BatchNorm1d, 2d or 3d whose training statistics are those of all ranks' images: [B, C, …] to the same."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        dims = [dim for dim in range(x.ndim) if dim != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        x32 = x.float()
        count = x32.new_full((1,), x.numel() // x.shape[1])
        sums = _SumOverRanks.apply(torch.cat([x32.sum(dims), count]))
        mean_C, count = sums[:-1] / sums[-1], sums[-1].detach()
        # Not mean of squares minus squared mean: with a large mean the variance would be lost to cancellation.
        centred = x32 - mean_C.view(shape)
        variance_C = _SumOverRanks.apply(centred.square().sum(dims)) / count
        self._track(mean_C.detach(), variance_C.detach() * count / (count - 1))
        y = centred * (variance_C + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    def _track(self, mean_C: Tensor, variance_C: Tensor) -> None:
        """Update the running statistics, as torch's batch norms do."""
        if self.num_batches_tracked is None or self.running_mean is None or self.running_var is None:
            return  # track_running_stats is off
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C, share)
        self.running_var.lerp_(variance_C, share)

    def _check_input_dim(self, x: Tensor) -> None:
        """Accept any input: the replaced norm may be of 1, 2 or 3 dimensions."""


class _SumOverRanks(torch.autograd.Function):
    """The sum of all ranks' tensors. Each rank's loss depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
