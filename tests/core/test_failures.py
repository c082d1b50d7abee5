"""core.failures: each exception's kind, and that each kind says what happens next."""

import errno

import pytest
import torch

from mixsweep.core.errors import ConfigError
from mixsweep.core.failures import INTERRUPTIONS, POLICIES, DataError, kind_of


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConfigError("lr = 0 is too small"), "config"),
        (DataError("no such folder"), "data"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk"),
        (OSError(errno.EROFS, "Read-only file system"), "disk"),
        (RuntimeError("[enforce fail at inline_container.cc] . write: No space left on device"), "disk"),
        (OSError(errno.EIO, "Input/output error"), "disk"),
        (OSError(errno.ESTALE, "Stale file handle"), "disk"),
        (PermissionError(errno.EACCES, "Permission denied"), "disk"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "node"),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), "node"),
        (torch.AcceleratorError("CUDA error: out of memory"), "oom"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "oom"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "oom"),
        (OSError(errno.EADDRINUSE, "Address already in use"), "port"),
        (MemoryError(), "oom"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "oom"),
        (RuntimeError("CUDA error: out of memory"), "oom"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"), "oom"),
        (torch.distributed.DistNetworkError("EADDRINUSE: address already in use"), "port"),
        (torch.distributed.DistNetworkError("connection reset"), "rendezvous"),
        (torch.distributed.DistStoreError("timed out"), "rendezvous"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "bug"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "bug"),
        (ZeroDivisionError(), "bug"),
    ],
)
def test_an_exception_has_its_kind(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind


def test_a_real_allocation_that_is_too_large_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert kind_of(caught.value) == "oom"


def test_every_kind_has_an_action_and_an_advice() -> None:
    assert all(policy.retries >= 0 and policy.advice for policy in POLICIES.values())
    assert not set(INTERRUPTIONS) & set(POLICIES)
