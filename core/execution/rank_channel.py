"""What the ranks of a trial tell each other, and the process group of each attempt.

Rank 0 alone takes the lease, reads and writes the store, and decides. It tells the others what to do through a
key-value store that it hosts at MASTER_ADDR:MASTER_PORT; gradients and sums go through a process group. Each
attempt at a trial has a group of its own, so that a failed one leaves nothing half-sent behind.

When a rank fails: one that can still speak tells the kind of its failure, and leaves the group. Gloo's ranks
notice at once that a peer has left or died; NCCL's watchdog ends their processes after the timeout. Rank 0
records the failure with its kind, and all meet again for the next trial. Where a process has ended, or is
silent for the timeout, the others end too, with the kind `rendezvous`.
"""

import gc
import json
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import TypeVar

import torch
import torch.distributed as dist

from mixsweep.core.errors import ConfigError
from mixsweep.core.failures import RankError, end_of, ends_process
from mixsweep.core.training.process_group import ALONE, Ranks

T = TypeVar("T")

_LEAVE = "leave"  # rank 0 has failed in this attempt; what it tells otherwise is the caller's


_FAREWELL_SECONDS = 10.0  # rank 0 keeps its store open so long, for the others to hear that it ends


class RankChannel:
    """What the ranks of one `work` tell each other; a context manager. Alone, nothing of it costs anything.

    Args:
        ranks: this process among its peers.
        timeout_seconds: how long a rank waits for another one, at most.

    Raises:
        DistNetworkError: the port is taken, or rank 0 is not there (kinds `port` and `rendezvous`).
        DistStoreError: not all ranks came in time (kind `rendezvous`).
    """

    def __init__(self, ranks: Ranks = ALONE, timeout_seconds: float = 600.0):
        self.ranks = ranks
        self._timeout = timedelta(seconds=timeout_seconds)
        self._attempts = 0  # begun and left by this rank
        self._words = 0  # told or heard in the present attempt
        if ranks.world > 1:
            self._store = dist.TCPStore(
                *_address(), ranks.world, is_master=ranks.leads, timeout=self._timeout
            )

    def broadcast(self, word: str) -> None:
        """On rank 0: what the others hear next."""
        if self.ranks.world > 1:
            self._store.set(self._next_word(), word)

    def receive(self) -> str:
        """On the other ranks: what rank 0 tells next.

        Raises:
            RankError: it has left the trial, or is gone, or says nothing in time.
        """
        try:
            word = self._store.get(self._next_word()).decode()
        except dist.DistError as error:
            raise RankError(f"rank 0 says nothing any more: {_first_line(error)}") from error
        if word == _LEAVE:
            raise RankError("rank 0 has left the trial", gone=False)
        return word

    def share(self, value: T) -> T:
        """Rank 0's value, on every rank of the attempt. Its tensors lie on the CPU."""
        if self.ranks.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    @contextmanager
    def attempt(self, device: torch.device) -> Iterator[None]:
        """The process group of one attempt at a trial.

        Raises:
            RankError: instead of what a collective raises, where another rank has failed.
        """
        if self.ranks.world == 1:
            yield
            return
        try:
            self._join(device)
            yield
        except BaseException as error:
            cause = self._cause(error)
            # What the failed attempt holds would keep the connections open and its peers waiting, and memory taken.
            traceback.clear_frames(error.__traceback__)
            gc.collect()
            if cause is error:
                raise
            raise cause from error
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            self._attempts, self._words = self._attempts + 1, 0

    def _join(self, device: torch.device) -> None:
        backend = "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(
            backend,
            store=dist.PrefixStore(f"group/{self._attempts}", self._store),
            rank=self.ranks.rank,
            world_size=self.ranks.world,
            timeout=self._timeout,
        )
        # One that fails at once would close connections that another is still making, and that one would wait.
        self._store.set(f"joined/{self._attempts}/{self.ranks.rank}", "")
        self._store.wait([f"joined/{self._attempts}/{rank}" for rank in range(self.ranks.world)])

    def _cause(self, error: BaseException) -> BaseException:
        """Tell a failure of our own; for what another's has led to, what that one has told."""
        key = f"failed/{self._attempts}"
        with suppress(dist.DistError):  # whoever hosts the store is gone
            if not _is_of_another(error):
                gone = ends_process(error)
                told = {
                    "rank": self.ranks.rank,
                    "kind": end_of(error),
                    "gone": gone,
                    "message": _first_line(error),
                }
                self._store.compare_set(key, "", json.dumps(told))
                if self.ranks.leads:
                    self.broadcast(_LEAVE)
                return error
            if self.ranks.leads:
                self.broadcast(_LEAVE)
            if self._store.check([key]):
                told = json.loads(self._store.get(key))
                return RankError(f"on rank {told['rank']}: {told['message']}", told["kind"], told["gone"])
        if isinstance(error, RankError) or not _is_of_another(error):
            return error
        return RankError(f"another rank is gone: {_first_line(error)}")

    def _next_word(self) -> str:
        self._words += 1
        return f"word/{self._attempts}/{self._words}"

    def __enter__(self) -> "RankChannel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ranks.world == 1:
            return
        with suppress(dist.DistError):
            if not self.ranks.leads:
                self._store.set(f"farewell/{self.ranks.rank}", "")
                return
            self.broadcast("")
            if kind is None or kind is GeneratorExit:
                others = [f"farewell/{rank}" for rank in range(1, self.ranks.world)]
                self._store.wait(others, timedelta(seconds=_FAREWELL_SECONDS))


def _address() -> tuple[str, int]:
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if not host or not port.isdecimal():
        raise ConfigError(f"MASTER_ADDR = {host!r}, MASTER_PORT = {port!r}: the place has to export both")
    return host, int(port)


def _is_of_another(error: BaseException) -> bool:
    """Whether an error only says that another rank did not answer."""
    return isinstance(error, RankError | dist.DistError) or "gloo/transport" in str(error)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
