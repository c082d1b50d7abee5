"""A worker on a node that does not see the store: it trains in a local folder and uploads the files.

core.execution.runner trains, unchanged, in a local store that holds one trial at a time. Changed files are uploaded
whole to the store proxy after each record, every few seconds, and at the end. Where the proxy replies that another
worker has the trial, its local lease is removed, which ends the attempt.
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

from mixsweep.core.config import TrialConfig
from mixsweep.core.data.cifar10 import writable_cache_folder
from mixsweep.core.errors import UserError
from mixsweep.core.records import Record
from mixsweep.core.scratch import scratch_folder
from mixsweep.core.store.code_copy import keep_code
from mixsweep.core.store.retention import Retention
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.folder import TrialFolder
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.store.trial.lease import give_lease_away
from mixsweep.core.store.trial.transfer import Stamps, apply_update, collect_changes
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.sweep.backends.ray.store_proxy import DONE, HELD, WAIT, UploadReply
from mixsweep.sweep.runtime.worker import WorkerSpec, import_code

_SEND_SECONDS = 2.0  # between two uploads of changes; each is a heartbeat
_CHUNK_BYTES = 8 * 2**20


def run_trials_remotely(
    proxy: Any, node: str, worker_spec: WorkerSpec, trials: Sequence[TrialConfig]
) -> Iterator[TrialInfo]:
    """Run those of these trials that are free, one after the other, as core.execution.runner.work; yield their ends.

    Args:
        proxy: the handle of the store proxy's actor.
        node: the start of the id of this process's node, by which the proxy learns of its death.
    """
    with scratch_folder("mixsweep-command-") as folder:
        worker_spec = _with_code_here(proxy, worker_spec, folder)
        import_code(worker_spec)
        yield from _run_trials(proxy, node, worker_spec, trials)


def _with_code_here(proxy: Any, worker_spec: WorkerSpec, folder: Path) -> WorkerSpec:
    """A worker spec whose command runs a copy of its code in this folder."""
    import ray

    command = worker_spec.command
    if command is None or not command.code:
        return worker_spec
    here = keep_code(folder, ray.get(proxy.command_code.remote()))
    return replace(worker_spec, command=replace(command, code=str(here)))


def _run_trials(
    proxy: Any, node: str, worker_spec: WorkerSpec, trials: Sequence[TrialConfig]
) -> Iterator[TrialInfo]:
    import ray

    pending = list(trials)
    progress = True
    while pending and progress:
        later: list[TrialConfig] = []
        progress = must_wait = False
        for config in pending:
            if ray.get(proxy.stop_requested.remote()):
                return
            grant = ray.get(proxy.request_trial.remote(config.trial_id, node))
            if grant.state == DONE:
                continue
            if grant.state in (HELD, WAIT):
                later.append(config)
                must_wait |= grant.state == WAIT
                continue
            with scratch_folder("mixsweep-remote-") as scratch:
                store = SweepStore(scratch / worker_spec.run_config.store.name)
                folder = store.trial(config.trial_id)
                apply_update(folder, grant.update)
                try:
                    trained = yield from _train(proxy, node, grant.token, config, store, worker_spec)
                except Exception:
                    ray.get(proxy.release.remote(config.trial_id, grant.token))
                    raise
                if trained:
                    progress = True
                    later.append(config)  # asked for again, to see whether it is done
        if must_wait and not progress:
            time.sleep(_SEND_SECONDS)
            progress = True
        pending = later


def _train(
    proxy: Any, node: str, token: str, config: TrialConfig, store: SweepStore, worker_spec: WorkerSpec
) -> Generator[TrialInfo, None, bool]:
    """Train one granted trial; yield its ends; return whether there were any and the proxy has the last one."""
    import ray

    from mixsweep.core.execution.runner import work

    data_field = find_trainable(config.kind).data_field
    dataset = str(config[data_field]) if data_field else ""
    run_config = replace(
        worker_spec.run_config,
        store=store.path,
        retention=Retention(
            "all", worker_spec.metric, worker_spec.mode
        ),  # the proxy applies the sweep's retention
        data_dir=local_data_dir(proxy, dataset, worker_spec.run_config.data_dir),
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
            with suppress(OSError):  # a full disk of the store; its error is recorded as a local one
                sender.send()
            yield info
    return trained and sender.is_delivered


class _UpdateSender:
    """Uploads a trial's folder to the store proxy as it changes; a context manager that releases the trial."""

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
        """Upload what has changed.

        Raises:
            OSError: the store's disk failed.
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
                # The runner notices the missing lease before it writes again.
                give_lease_away(self._folder.path)
            elif self._reply.error:
                raise OSError(self._reply.errno, self._reply.error)
            else:
                self._sent = stamps

    @property
    def is_delivered(self) -> bool:
        """Whether the proxy has written the last update."""
        return not (self._reply.lost or self._reply.error)

    def report(self, record: Record) -> None:
        """Upload after an epoch."""
        self.send()

    def pause(self) -> str:
        """The reason to leave the trial, '' for none."""
        return "interrupted" if self._reply.stop else ""

    def _keep_sending(self) -> None:
        while not self._stop.wait(_SEND_SECONDS):
            with suppress(OSError, UserError):  # the next upload of the training loop raises it again
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
    """The data folder of this node: `data_dir` if it exists, else a downloaded copy that all processes share."""
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
