"""A worker that does not see the store: it trains in a folder of its own node, and sends what it makes.

The training is core.execution.runner's, unchanged, in a store that holds one trial at a time. Whole files go
to the store proxy after each record, as soon as there is a checkpoint, and at the end; what it answers ends the
trial's lease here where another one has it.
"""

import hashlib
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock

from mixsweep.core import registry
from mixsweep.core.config import TrialConfig
from mixsweep.core.data.cifar10 import writable_cache_folder
from mixsweep.core.errors import UserError
from mixsweep.core.records import Record
from mixsweep.core.scratch import scratch_folder
from mixsweep.core.store.retention import Retention
from mixsweep.core.store.store import SweepStore, TrialFolder, TrialInfo
from mixsweep.core.store.transfer import Stamps, apply_update, collect_changes
from mixsweep.sweep.backends.ray.store_proxy import DONE, HELD, WAIT, Answer
from mixsweep.sweep.runtime.worker import WorkerSpec

_SEND_SECONDS = 2.0  # between two looks at what has changed; each is a heartbeat
_PART_BYTES = 8 * 2**20


def run_trials_remotely(
    proxy: Any, node: str, worker_spec: WorkerSpec, trials: Sequence[TrialConfig]
) -> Iterator[TrialInfo]:
    """Run what is free of these trials, one after the other, as core.execution.runner.work, in the proxy's store.

    Args:
        keeper: a handle of the actor.
        node: the id of this process's node, as the keeper is told of its death.
    """
    import ray

    registry.import_files(worker_spec.imports, worker_spec.project)
    pending = list(trials)
    progress = True
    while pending and progress:
        again: list[TrialConfig] = []
        progress = waits = False
        for config in pending:
            if ray.get(proxy.stop_requested.remote()):
                return
            given = ray.get(proxy.take.remote(config.trial_id, node))
            if given.what == DONE:
                continue
            if given.what in (HELD, WAIT):
                again.append(config)
                waits |= given.what == WAIT
                continue
            with scratch_folder("mixsweep-far-") as scratch:
                store = SweepStore(scratch / worker_spec.run_config.store.name)
                folder = store.trial(config.trial_id)
                apply_update(folder, given.update)
                if (yield from _train(proxy, node, given.right, config, store, worker_spec)):
                    progress = True
                    again.append(config)  # then done, unless another one has it
        if waits and not progress:
            time.sleep(_SEND_SECONDS)
            progress = True
        pending = again


def _train(
    proxy: Any, node: str, right: str, config: TrialConfig, store: SweepStore, worker_spec: WorkerSpec
) -> Generator[TrialInfo, None, bool]:
    """Take one trial on; yield its ends, and return whether there were any that the keeper has."""
    import ray

    from mixsweep.core.execution.runner import work

    run_config = replace(
        worker_spec.run_config,
        store=store.path,
        retention=Retention("all"),  # what is kept is the keeper's to say
        data_dir=data_here(proxy, config["dataset"], worker_spec.run_config.data_dir),
    )
    trained = False
    with _Sender(proxy, node, right, store.trial(config.trial_id)) as sender:
        for info in work(
            [config],
            run_config,
            decide=lambda record: bool(ray.get(proxy.decide.remote(record))),
            pause=sender.pause,
            report=sender.report,
        ):
            trained = True
            with suppress(OSError):  # a full disk over there is told, as one here is
                sender.send()
            yield info
    return trained and sender.is_delivered


class _Sender:
    """Sends a trial's folder to the keeper as it changes; a context manager that gives the trial back."""

    def __init__(self, proxy: Any, node: str, right: str, folder: TrialFolder):
        self._proxy = proxy
        self._node = node
        self._right = right
        self._folder = folder
        self._sent: Stamps = {}
        self._answer = Answer()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_sending, daemon=True, name="sender")
        self._thread.start()

    def send(self) -> None:
        """Send what has changed.

        Raises:
            OSError: the store's disk did not take it.
        """
        import ray

        with self._lock:
            if self._answer.lost:
                return
            update, stamps = collect_changes(self._folder, self._sent)
            info = self._folder.info()
            attempt = info.attempts[-1] if info and info.attempts else None
            self._answer = ray.get(
                self._proxy.put.remote(self._folder.trial_id, self._right, self._node, attempt, update)
            )
            if self._answer.lost:
                # The trial's process finds its lease gone before it writes again.
                (self._folder.path / "lease").unlink(missing_ok=True)
            elif self._answer.problem:
                raise OSError(self._answer.errno, self._answer.problem)
            else:
                self._sent = stamps

    @property
    def is_delivered(self) -> bool:
        """Whether the keeper took the last parcel."""
        return not (self._answer.lost or self._answer.problem)

    def report(self, record: Record) -> None:
        self.send()

    def pause(self) -> str:
        return "interrupted" if self._answer.stop else ""

    def _keep_sending(self) -> None:
        while not self._stop.wait(_SEND_SECONDS):
            with suppress(OSError, UserError):  # met again by the training itself
                self.send()

    def __enter__(self) -> "_Sender":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(OSError, UserError):
            self.send()
        self._proxy.drop.remote(self._folder.trial_id, self._right)


def data_here(proxy: Any, dataset: str, data_dir: Path | None) -> Path | None:
    """Where this node has the data: in the folder of that name, else in one copy that all its processes share."""
    import ray

    if data_dir is None or data_dir.is_dir():
        return data_dir
    files = ray.get(proxy.data_files.remote(dataset))
    if not files:
        return data_dir
    key = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]
    folder = writable_cache_folder() / f"data-{key}"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
            try:
                for name, size, time_ns in files:
                    _fetch(proxy, name, size, beside / name)
                    os.utime(beside / name, ns=(time_ns, time_ns))
                os.replace(beside, folder)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
    return folder


def _fetch(proxy: Any, name: str, size: int, to: Path) -> None:
    import ray

    to.parent.mkdir(parents=True, exist_ok=True)
    with open(to, "wb") as file:
        for start in range(0, size, _PART_BYTES):
            file.write(ray.get(proxy.data_part.remote(name, start, _PART_BYTES)))
