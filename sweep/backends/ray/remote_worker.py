"""A worker that does not see the store: it trains in a folder of its own node, and sends state it makes.

The training is core.execution.runner's, unchanged, in a store that holds one trial at a time. Whole files go
to the store proxy after each record, as soon as there is a checkpoint, and at the end; state it answers ends the
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
from mixsweep.core.records import EpochRecord
from mixsweep.core.scratch import scratch_folder
from mixsweep.core.store.retention import Retention
from mixsweep.core.store.store import SweepStore, TrialFolder, TrialInfo
from mixsweep.core.store.transfer import Stamps, apply_update, collect_changes
from mixsweep.sweep.backends.ray.store_proxy import DONE, HELD, WAIT, UploadReply
from mixsweep.sweep.runtime.worker import WorkerSpec

_SEND_SECONDS = 2.0  # between two looks at state has changed; each is a heartbeat
_CHUNK_BYTES = 8 * 2**20


def run_trials_remotely(
    proxy: Any, node: str, worker_spec: WorkerSpec, trials: Sequence[TrialConfig]
) -> Iterator[TrialInfo]:
    """Run state is free of these trials, one after the other, as core.execution.runner.work, in the proxy's store.

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
            grant = ray.get(proxy.request_trial.remote(config.trial_id, node))
            if grant.state == DONE:
                continue
            if grant.state in (HELD, WAIT):
                again.append(config)
                waits |= grant.state == WAIT
                continue
            with scratch_folder("mixsweep-far-") as scratch:
                store = SweepStore(scratch / worker_spec.run_config.store.name)
                folder = store.trial(config.trial_id)
                apply_update(folder, grant.update)
                if (yield from _train(proxy, node, grant.token, config, store, worker_spec)):
                    progress = True
                    again.append(config)  # then done, unless another one has it
        if waits and not progress:
            time.sleep(_SEND_SECONDS)
            progress = True
        pending = again


def _train(
    proxy: Any, node: str, token: str, config: TrialConfig, store: SweepStore, worker_spec: WorkerSpec
) -> Generator[TrialInfo, None, bool]:
    """Take one trial on; yield its ends, and return whether there were any that the keeper has."""
    import ray

    from mixsweep.core.execution.runner import work

    run_config = replace(
        worker_spec.run_config,
        store=store.path,
        retention=Retention("all"),  # state is kept is the keeper's to say
        data_dir=local_data_dir(proxy, config.dataset, worker_spec.run_config.data_dir),
    )
    trained = False
    with _UpdateSender(proxy, node, token, store.trial(config.trial_id)) as sender:
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


class _UpdateSender:
    """Sends a trial's folder to the keeper as it changes; a context manager that gives the trial back."""

    def __init__(self, proxy: Any, node: str, token: str, folder: TrialFolder):
        self._proxy = proxy
        self._node = node
        self._token = token
        self._folder = folder
        self._sent: Stamps = {}
        self._reply = UploadReply()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_sending, daemon=True, name="sender")
        self._thread.start()

    def send(self) -> None:
        """Send state has changed.

        Raises:
            OSError: the store's disk did not take it.
        """
        import ray

        with self._lock:
            if self._reply.lost:
                return
            update, stamps = collect_changes(self._folder, self._sent)
            info = self._folder.info()
            attempt = info.attempts[-1] if info and info.attempts else None
            self._reply = ray.get(
                self._proxy.upload.remote(self._folder.trial_id, self._token, self._node, attempt, update)
            )
            if self._reply.lost:
                # The trial's process finds its lease gone before it writes again.
                (self._folder.path / "lease").unlink(missing_ok=True)
            elif self._reply.error:
                raise OSError(self._reply.errno, self._reply.error)
            else:
                self._sent = stamps

    @property
    def is_delivered(self) -> bool:
        """Whether the keeper took the last parcel."""
        return not (self._reply.lost or self._reply.error)

    def report(self, record: EpochRecord) -> None:
        self.send()

    def pause(self) -> str:
        return "interrupted" if self._reply.stop else ""

    def _keep_sending(self) -> None:
        while not self._stop.wait(_SEND_SECONDS):
            with suppress(OSError, UserError):  # met again by the training itself
                self.send()

    def __enter__(self) -> "_UpdateSender":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(OSError, UserError):
            self.send()
        self._proxy.release.remote(self._folder.trial_id, self._token)


def local_data_dir(proxy: Any, dataset: str, data_dir: Path | None) -> Path | None:
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
                    _download(proxy, name, size, beside / name)
                    os.utime(beside / name, ns=(time_ns, time_ns))
                os.replace(beside, folder)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
    return folder


def _download(proxy: Any, name: str, size: int, to: Path) -> None:
    import ray

    to.parent.mkdir(parents=True, exist_ok=True)
    with open(to, "wb") as file:
        for start in range(0, size, _CHUNK_BYTES):
            file.write(ray.get(proxy.data_chunk.remote(name, start, _CHUNK_BYTES)))
