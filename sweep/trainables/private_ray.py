"""A Ray for the tasks and actors of a Tune trainable, in a process that is part of no cluster, such as a SLURM task.

It has one node with the CPUs and the GPU of the trial, and a token of its own. It starts when the trainable first asks
for Ray, ends with the trial, and stands in for whatever cluster an address in the environment or on this machine leads
to.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
import ray._raylet

from mixsweep.cluster.ray_cluster.nodes import (
    OBJECT_STORE_BYTES,
    node_folder,
    quiet_ray_environment,
    write_token,
)
from mixsweep.core.trainables import interface

_ADDRESS = "RAY_ADDRESS"
_MODE, _TOKEN, _TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"

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
    before = ray.init
    environment = {name: os.environ.get(name) for name in (_ADDRESS, _MODE, _TOKEN, _TOKEN_PATH)}
    with ExitStack() as stack:
        ray.init = _starting(before, run, stack)
        os.environ[_ADDRESS] = "local"  # for those that have taken `init` from Ray before
        try:
            yield
        finally:
            ray.init = before
            if ray.is_initialized():
                ray.shutdown()
            _restore(environment)
            _read_authentication()


def _starting(init: Callable[..., Any], run: interface.Run, stack: ExitStack) -> Callable[..., Any]:
    """`ray.init`, for a Ray of this trial's."""

    def start(address: str | None = None, **asked: Any) -> Any:
        if ray.is_initialized():
            return init(address, **asked)
        os.environ.update(quiet_ray_environment(os.environ))
        if address not in (None, "local"):
            run.log(f"ray.init: a Ray of this trial's own instead of {address!r}")
        options = {name: value for name, value in asked.items() if name not in _FIXED}
        folder = stack.enter_context(node_folder())
        if _MODE not in os.environ:
            _set_token(folder / "token")
        on_sigterm = signal.getsignal(signal.SIGTERM)
        started = init(
            address="local",
            num_cpus=run.threads,
            num_gpus=int(run.device.type == "cuda"),
            include_dashboard=False,
            _temp_dir=str(folder / "r"),
            **{"object_store_memory": OBJECT_STORE_BYTES, "logging_level": logging.ERROR, **options},
        )
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray's handler ends the process at once
        return started

    return start


def _set_token(path: Path) -> None:
    """Let the Ray that this process starts next, which other hosts reach too, ask for a new token in this file."""
    write_token(path)
    os.environ.pop(_TOKEN, None)  # it has precedence over the path
    os.environ.update({_MODE: "token", _TOKEN_PATH: str(path)})
    _read_authentication()


def _read_authentication() -> None:
    """Let Ray, which is imported already, read these variables again; it does not know them before 2.52."""
    loader = getattr(ray._raylet, "AuthenticationTokenLoader", None)
    if loader is not None:
        ray._raylet.Config.initialize("")
        loader.instance().reset_cache()


def _restore(environment: Mapping[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
