"""A Ray for the tasks and actors of a Tune trainable, in a process that is part of no cluster, such as a SLURM task.

It has one node with the CPUs and the GPU of the trial. It starts when the trainable first asks for Ray, ends with the
trial, and stands in for whatever cluster an address in the environment or on this machine leads to.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import ray

from mixsweep.cluster.ray_cluster.nodes import OBJECT_STORE_BYTES, node_folder, quiet_ray_environment
from mixsweep.core.trainables import interface

_ADDRESS = "RAY_ADDRESS"

# What a trainable may not choose: where its Ray is, what it has, and what it listens on.
_FIXED = (
    "address",
    "num_cpus",
    "num_gpus",
    "resources",
    "include_dashboard",
    "_temp_dir",
    "_node_ip_address",
)


@contextmanager
def private_ray(run: interface.Run) -> Iterator[None]:
    """In the block, whatever this process asks of Ray starts one of its own, and the end of the block ends it.

    A process that is connected to a cluster already, as a worker of the sweep, keeps that.
    """
    if ray.is_initialized():
        yield
        return
    before, address = ray.init, os.environ.get(_ADDRESS)
    with ExitStack() as stack:
        ray.init = _starting(before, run, stack)
        os.environ[_ADDRESS] = "local"  # for those that have taken `init` from Ray before
        try:
            yield
        finally:
            ray.init = before
            _set_address(address)
            if ray.is_initialized():
                ray.shutdown()


def _starting(init: Callable[..., Any], run: interface.Run, stack: ExitStack) -> Callable[..., Any]:
    """`ray.init`, for a Ray of this trial's."""

    def start(address: str | None = None, **asked: Any) -> Any:
        if ray.is_initialized():
            return init(address, **asked)
        os.environ.update(quiet_ray_environment(os.environ))
        if address not in (None, "local"):
            run.log(f"ray.init: a Ray of this trial's own instead of {address!r}")
        options = {name: value for name, value in asked.items() if name not in _FIXED}
        on_sigterm = signal.getsignal(signal.SIGTERM)
        started = init(
            address="local",
            num_cpus=run.threads,
            num_gpus=int(run.device.type == "cuda"),
            include_dashboard=False,
            _temp_dir=str(stack.enter_context(node_folder()) / "r"),
            _node_ip_address="127.0.0.1",
            **{"object_store_memory": OBJECT_STORE_BYTES, "logging_level": logging.ERROR, **options},
        )
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray's handler ends the process at once
        return started

    return start


def _set_address(address: str | None) -> None:
    if address is None:
        os.environ.pop(_ADDRESS, None)
    else:
        os.environ[_ADDRESS] = address
