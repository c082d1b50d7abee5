"""The messages between the ranks of a trial, and the process group of each attempt.

Rank 0 alone takes the lease, reads and writes the store, and decides. It sends messages to the other ranks through
a key-value store that it hosts at MASTER_ADDR:MASTER_PORT; gradients and sums go through a process group. Messages
are text, and what rank 0 shares is loaded as tensors and plain values only; both carry the seal of a token that the
place gives to the ranks. The store listens on the address of MASTER_ADDR, and on no network if all ranks are on one
node. Each attempt at a trial has its own group, so that a failed attempt leaves no half-finished communication behind.

When a rank fails and its process still runs, it publishes the kind of its failure and leaves the group. Gloo's ranks
notice at once that a peer has left or died; NCCL's watchdog ends their processes after the timeout. Rank 0
records the failure with its kind, and all ranks join a new group for the next trial. If a process has ended, or does
not answer within the timeout, the others end too, with the kind `rendezvous`.
"""

import errno
import gc
import io
import ipaddress
import json
import logging
import os
import socket
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import TypeVar

import torch
import torch.distributed as dist

from mixsweep.core.errors import ConfigError
from mixsweep.core.execution.rank_token import RANK_TOKEN, seal, unseal
from mixsweep.core.failures import RankError, end_of, ends_process
from mixsweep.core.training.process_group import ALONE, Ranks

T = TypeVar("T")

_log = logging.getLogger(__name__)

_LEAVE = "leave"  # rank 0 has failed in this attempt; all other messages are the caller's

_BACKLOG = 4096  # ranks that connect at the same time

_GOODBYE_SECONDS = 10.0  # how long rank 0 keeps its store open for the others to receive its last message


class RankChannel:
    """The channel between the ranks of one `work` call; a context manager. With one rank it does nothing.

    Args:
        ranks: this process among its peers.
        timeout_seconds: how long a rank waits for another one, at most.

    Raises:
        ConfigError: the place has not exported the address and the token.
        OSError: the port is taken (kind `port`).
        DistNetworkError: rank 0 cannot be reached (kind `rendezvous`).
        DistStoreError: not all ranks joined within the timeout (kind `rendezvous`).
    """

    def __init__(self, ranks: Ranks = ALONE, timeout_seconds: float = 600.0):
        self.ranks = ranks
        self._timeout = timedelta(seconds=timeout_seconds)
        self._attempts = 0  # begun and left by this rank
        self._messages = 0  # sent or received in the current attempt
        self._token = os.environ.get(RANK_TOKEN, "")
        if ranks.world > 1:
            if not self._token:
                raise ConfigError(f"{RANK_TOKEN} is not set: the place has to export it to all ranks")
            host, port = _address()
            listener = _listen(host, port).detach() if ranks.leads else None
            self._store = dist.TCPStore(
                host,
                port,
                ranks.world,
                is_master=ranks.leads,
                timeout=self._timeout,
                master_listen_fd=listener,
            )

    def broadcast(self, message: str) -> None:
        """Send the next message to all other ranks; called on rank 0."""
        if self.ranks.world > 1:
            self._set(self._next_key(), message)

    def receive(self) -> str:
        """Wait for rank 0's next message and return it; called on the other ranks.

        Raises:
            RankError: rank 0 has left the trial, has ended, or does not answer within the timeout.
        """
        try:
            message = self._get(self._next_key())
        except dist.DistError as error:
            _log.warning(
                "rank %d: no message from rank 0 (timeout %.0f s): %s",
                self.ranks.rank,
                self._timeout.total_seconds(),
                _first_line(error),
            )
            raise RankError(f"rank 0 does not answer: {_first_line(error)}") from error
        if message == _LEAVE:
            raise RankError("rank 0 has left the trial", gone=False)
        return message

    def share(self, value: T) -> T:
        """Return rank 0's value on every rank of the attempt: tensors, which arrive on the CPU, and plain values.

        Raises:
            RankError: what arrived was not sent by rank 0.
        """
        if self.ranks.world == 1:
            return value
        buffer = io.BytesIO()
        if self.ranks.leads:
            torch.save(value, buffer)
        key = f"shared/{self._attempts}"
        sealed = bytearray(seal(self._token, key, buffer.getvalue())) if self.ranks.leads else bytearray()
        size = torch.tensor(len(sealed))
        dist.broadcast(size, src=0)
        content = torch.frombuffer(sealed or bytearray(int(size)), dtype=torch.uint8)
        dist.broadcast(content, src=0)
        message = unseal(self._token, key, content.numpy().tobytes())
        if message is None:
            raise RankError("what rank 0 shared came from elsewhere")
        shared: T = torch.load(io.BytesIO(message), map_location="cpu", weights_only=True)
        return shared

    @contextmanager
    def attempt(self, device: torch.device) -> Iterator[None]:
        """Join the process group of one attempt at a trial, and leave it on exit.

        Raises:
            RankError: another rank has failed; replaces the collective's own error.
        """
        if self.ranks.world == 1:
            yield
            return
        try:
            self._join(device)
            yield
        except BaseException as error:
            cause = self._cause(error)
            # Frames of the failed attempt would keep connections open, so that peers wait, and memory allocated.
            traceback.clear_frames(error.__traceback__)
            gc.collect()
            if cause is error:
                raise
            raise cause from error
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            self._attempts, self._messages = self._attempts + 1, 0

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
        # A rank that fails at once would close connections that another rank still sets up and then waits for.
        self._store.set(f"joined/{self._attempts}/{self.ranks.rank}", "")
        self._store.wait([f"joined/{self._attempts}/{rank}" for rank in range(self.ranks.world)])

    def _cause(self, error: BaseException) -> BaseException:
        """The error to raise: this rank's own, published to the others, or the one that another rank published."""
        key = f"failed/{self._attempts}"
        with suppress(dist.DistError):  # the process that hosts the store has ended
            if not _is_of_another(error):
                gone = ends_process(error)
                failure = {
                    "rank": self.ranks.rank,
                    "kind": end_of(error),
                    "gone": gone,
                    "message": _first_line(error),
                }
                self._store.compare_set(key, "", seal(self._token, key, json.dumps(failure).encode()).hex())
                if self.ranks.leads:
                    self.broadcast(_LEAVE)
                return error
            if self.ranks.leads:
                self.broadcast(_LEAVE)
            if self._store.check([key]):
                failure = json.loads(self._get(key))
                text = f"on rank {failure['rank']}: {failure['message']}"
                return RankError(text, failure["kind"], failure["gone"])
        if isinstance(error, RankError) or not _is_of_another(error):
            return error
        _log.warning(
            "rank %d: another rank has ended or timed out (%.0f s): %s",
            self.ranks.rank,
            self._timeout.total_seconds(),
            _first_line(error),
        )
        return RankError(f"another rank has ended: {_first_line(error)}")

    def _set(self, key: str, message: str) -> None:
        self._store.set(key, seal(self._token, key, message.encode()).hex())

    def _get(self, key: str) -> str:
        """The message of a key.

        Raises:
            RankError: it is not one of these ranks'.
        """
        try:
            sealed = bytes.fromhex(self._store.get(key).decode())
        except ValueError:
            sealed = b""
        message = unseal(self._token, key, sealed)
        if message is None:
            raise RankError("a message at the port of rank 0 came from elsewhere")
        return message.decode()

    def _next_key(self) -> str:
        self._messages += 1
        return f"message/{self._attempts}/{self._messages}"

    def __enter__(self) -> "RankChannel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ranks.world == 1:
            return
        with suppress(dist.DistError):
            if not self.ranks.leads:
                self._store.set(f"goodbye/{self.ranks.rank}", "")
                return
            self.broadcast("")
            if kind is None or kind is GeneratorExit:
                others = [f"goodbye/{rank}" for rank in range(1, self.ranks.world)]
                self._store.wait(others, timedelta(seconds=_GOODBYE_SECONDS))


def _address() -> tuple[str, int]:
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if not host or not port.isdecimal():
        raise ConfigError(f"MASTER_ADDR = {host!r}, MASTER_PORT = {port!r}: the place has to export both")
    on_one_node = os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE")
    return "127.0.0.1" if on_one_node else host, int(port)


def _listen(host: str, port: int) -> socket.socket:
    """A socket at which rank 0 listens: on this address, and on all only where a name tells none of this machine.

    Raises:
        OSError: the port is taken.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # Debian gives a machine's own name the address 127.0.1.1, at which no other node reaches it.
        if host == address[0] or not ipaddress.ip_address(address[0]).is_loopback:
            return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        if not isinstance(error, socket.gaierror) and error.errno != errno.EADDRNOTAVAIL:
            raise
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    return socket.create_server(("", port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual)


def _is_of_another(error: BaseException) -> bool:
    """Whether an error only means that another rank did not answer."""
    return isinstance(error, RankError | dist.DistError) or "gloo/transport" in str(error)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
