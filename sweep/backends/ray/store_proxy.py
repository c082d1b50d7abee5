"""The store proxy: access to the store for workers whose nodes do not see it.

The proxy is a Ray actor on the driver's node. It holds a trial's lease on behalf of a worker, sends the worker the
trial's files, writes the files that the worker uploads, and rejects uploads once another worker has the trial. All
its state can be restored from the store, so that Ray may kill and restart it.
"""

import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mixsweep.core.config import TrialConfig
from mixsweep.core.data.cifar10 import source_files
from mixsweep.core.execution.remaining import is_done
from mixsweep.core.failures import LeaseLostError
from mixsweep.core.records import Record
from mixsweep.core.store.code_copy import Code, read_kept
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.crash_recovery import finalize_killed_attempt
from mixsweep.core.store.trial.folder import TrialFolder
from mixsweep.core.store.trial.info import Attempt
from mixsweep.core.store.trial.lease import STALE_SECONDS, Lease, take_lease
from mixsweep.core.store.trial.term import amend
from mixsweep.core.store.trial.transfer import FolderUpdate, apply_update, collect_changes, remove_replaced
from mixsweep.sweep.backends.ray.lost_nodes import record_lost_nodes
from mixsweep.sweep.runtime.worker import WorkerSpec, prepare_worker

# Answers to a request for a trial. `wait`: after a restart of the proxy the trial's worker may still upload.
GIVEN, HELD, WAIT, DONE = "given", "held", "wait", "done"


@dataclass(frozen=True, kw_only=True)
class TrialGrant:
    """The reply to a request for a trial: whether it is granted, the token for uploads, and the trial's files."""

    state: str
    token: str = ""
    update: FolderUpdate = field(default_factory=FolderUpdate)


@dataclass(frozen=True, kw_only=True)
class UploadReply:
    """The reply to an upload: whether the trial is lost, the sweep shall stop, or the store's disk failed."""

    lost: bool = False
    stop: bool = False
    errno: int = 0
    error: str = ""


@dataclass
class _ActiveGrant:
    """A trial that a worker has: its token and node, the lease, and the time of its last upload."""

    token: str
    node: str
    lease: Lease
    heard_at: float


class StoreProxy:
    """Reads and writes a sweep's store for workers that do not see it. Runs as an actor; no method blocks for long."""

    def __init__(self, worker_spec: WorkerSpec, trials: Iterable[TrialConfig]):
        self._run_config = worker_spec.run_config
        self._store = SweepStore(worker_spec.run_config.store)
        self._configs = {config.trial_id: config for config in trials}
        self._grants: dict[str, _ActiveGrant] = {}
        self._recovering_until = time.monotonic() + STALE_SECONDS if _is_restarted() else 0.0
        self._decide = prepare_worker(worker_spec)

    def request_trial(self, trial_id: str, node: str) -> TrialGrant:
        """Grant a trial to a worker if it is free and not done, as core.execution.runner takes its lease."""
        grant = self._grants.get(trial_id)
        if grant is not None and time.monotonic() - grant.heard_at < STALE_SECONDS:
            return TrialGrant(state=HELD)
        if grant is not None:
            self._release(trial_id)
        folder = self._store.trial(trial_id)
        info = folder.info()
        if time.monotonic() < self._recovering_until and info and info.attempts and not info.attempts[-1].end:
            return TrialGrant(state=WAIT)
        lease = take_lease(folder.path)
        if lease is None:
            return TrialGrant(state=HELD)
        info = folder.info(verify=True)
        if is_done(info, self._configs[trial_id], self._run_config):
            lease.release()
            return TrialGrant(state=DONE)
        dead = finalize_killed_attempt(folder, info)
        if dead is not None and dead is not info:  # only this node's clock fits the files' time stamps
            amend(folder, lease, dead)
        self._run_config.retention.release(self._store, trial_id)
        token = uuid.uuid4().hex
        self._grants[trial_id] = _ActiveGrant(token, node, lease, time.monotonic())
        return TrialGrant(state=GIVEN, token=token, update=collect_changes(folder, {})[0])

    def upload(
        self, trial_id: str, token: str, node: str, attempt: Attempt | None, update: FolderUpdate
    ) -> UploadReply:
        """Write the changed files of a trial; an empty update is a heartbeat."""
        grant = self._grants.get(trial_id) or self._restore_grant(trial_id, token, node, attempt)
        if grant is None or grant.token != token:
            return UploadReply(lost=True)
        grant.heard_at = time.monotonic()
        folder = self._store.trial(trial_id)
        try:
            if not update.is_empty:
                grant.lease.check()
                apply_update(folder, update)
            if update.head is not None or update.artifacts:
                grant.lease.check()
                remove_replaced(folder)
            if update.head is not None:
                self._retain(folder)
        except LeaseLostError:
            self._release(trial_id)
            return UploadReply(lost=True)
        except OSError as error:
            return UploadReply(errno=error.errno or 0, error=f"{error.strerror or error} at the store's node")
        return UploadReply(stop=self.stop_requested())

    def release(self, trial_id: str, token: str) -> None:
        """Release a worker's trial."""
        grant = self._grants.get(trial_id)
        if grant is not None and grant.token == token:
            self._release(trial_id)

    def release_lost_nodes(self, dead: Mapping[str, str]) -> None:
        """Release the trials of workers on dead nodes; `dead` has the cause by the start of the node's id."""
        for trial_id, grant in list(self._grants.items()):
            if grant.node in dead:
                self._release(trial_id)
        # Trials that a proxy before this one granted are recorded too; that proxy held their leases.
        folders = map(self._store.trial, self._configs)
        record_lost_nodes(folders, dead, breaks_leases=False)

    def decide(self, record: Record) -> bool:
        """Whether the stopping rule stops the trial after this epoch."""
        return self._decide(record)

    def stop_requested(self) -> bool:
        """Whether a stop was requested since the command started."""
        return self._run_config.stop_requested()

    def data_files(self, dataset: str) -> list[tuple[str, int, int]]:
        """The files that a data set needs: path within the data folder, size, and modification time in ns."""
        root = self._run_config.data_dir
        if root is None or not root.is_dir():
            return []
        files = source_files(root) if dataset == "cifar10" else [p for p in root.rglob("*") if p.is_file()]
        return [(str(file.relative_to(root)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]

    def data_chunk(self, name: str, start: int, count: int) -> bytes:
        """`count` bytes of one of the `data_files`, from `start` on."""
        assert self._run_config.data_dir is not None
        with open(self._run_config.data_dir / name, "rb") as file:
            file.seek(start)
            return file.read(count)

    def command_code(self) -> Code:
        """The code of the sweep's command.

        Raises:
            UserError: it is gone, or is not what was kept.
        """
        return read_kept(self._store.path, self._run_config.code)

    def _restore_grant(
        self, trial_id: str, token: str, node: str, attempt: Attempt | None
    ) -> _ActiveGrant | None:
        """Accept the token of a proxy before this one, unless another attempt has started since; None: rejected."""
        folder = self._store.trial(trial_id)
        lease = take_lease(folder.path)
        if lease is None:
            return None
        info = folder.info()
        stored = info.attempts if info else ()
        number = attempt.number if attempt else 0
        is_newest = len(stored) < number or (
            len(stored) == number and attempt is not None and stored[-1].started_at == attempt.started_at
        )
        if not is_newest:
            lease.release()
            return None
        self._grants[trial_id] = _ActiveGrant(token, node, lease, time.monotonic())
        return self._grants[trial_id]

    def _release(self, trial_id: str) -> None:
        self._grants.pop(trial_id).lease.release()

    def _retain(self, folder: TrialFolder) -> None:
        """Keep or delete the checkpoint of a trial that has ended, as core.execution.runner does."""
        info = folder.info()
        if info is not None and info.state in ("completed", "stopped", "diverged"):
            self._run_config.retention.apply(self._store, info)


def _is_restarted() -> bool:
    """Whether this process is an actor that Ray restarted."""
    import ray

    context = ray.get_runtime_context() if ray.is_initialized() else None
    return context is not None and bool(context.get_actor_id() and context.was_current_actor_reconstructed)
