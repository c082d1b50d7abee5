"""The store's keeper: where workers see no folder of the driver's, they hand it state they make.

The keeper is an actor on the driver's node. It holds a trial's real lease on behalf of a worker, gives the trial
out as it stands, takes whole files as they are made, and no more from a worker whose lease another one has. All that
it knows is in the store, so that one which is killed and started again goes on.
"""

import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mixsweep.core import records
from mixsweep.core.config import TrialConfig
from mixsweep.core.data.cifar10 import source_files
from mixsweep.core.execution.remaining import is_done
from mixsweep.core.failures import LeaseLostError
from mixsweep.core.records import EpochRecord
from mixsweep.core.store.crash_recovery import finalize_killed_attempt
from mixsweep.core.store.lease import STALE_SECONDS, Lease, take_lease
from mixsweep.core.store.store import Attempt, SweepStore, TrialFolder
from mixsweep.core.store.transfer import FolderUpdate, apply_update, collect_changes
from mixsweep.sweep.backends.ray.lost_nodes import record_lost_nodes
from mixsweep.sweep.runtime.worker import WorkerSpec, prepare_worker

# What happens to a trial that is asked for; `wait`: its worker may still come back to a keeper that was killed.
GIVEN, HELD, WAIT, DONE = "given", "held", "wait", "done"


@dataclass(frozen=True, kw_only=True)
class TrialGrant:
    """What a worker gets: whether it may train, by which token it then sends, and the trial as it stands."""

    state: str
    token: str = ""
    update: FolderUpdate = field(default_factory=FolderUpdate)


@dataclass(frozen=True, kw_only=True)
class UploadReply:
    """What a worker hears: that its token is gone, that the sweep shall stop, that the disk failed."""

    lost: bool = False
    stop: bool = False
    errno: int = 0
    error: str = ""


@dataclass
class _ActiveGrant:
    token: str
    node: str
    lease: Lease
    heard_at: float


class StoreProxy:
    """Keeps a sweep's store for workers that do not see it. Runs as an actor; all its methods are short."""

    def __init__(self, worker_spec: WorkerSpec, trials: Iterable[TrialConfig]):
        self._run_config = worker_spec.run_config
        self._store = SweepStore(worker_spec.run_config.store)
        self._configs = {config.trial_id: config for config in trials}
        self._grants: dict[str, _ActiveGrant] = {}
        self._recovering_until = time.monotonic() + STALE_SECONDS if _is_restarted() else 0.0
        self._decide = prepare_worker(worker_spec)

    def request_trial(self, trial_id: str, node: str) -> TrialGrant:
        """Ask for a trial, as core.execution.runner takes its lease."""
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
        info = folder.info()
        if is_done(info, self._configs[trial_id], self._run_config):
            lease.release()
            return TrialGrant(state=DONE)
        dead = finalize_killed_attempt(folder, info)
        if dead is not None and dead is not info:  # told by the clock of the files here
            folder.write_info(dead, lease.check)
        self._run_config.retention.release(self._store, trial_id)
        token = uuid.uuid4().hex
        self._grants[trial_id] = _ActiveGrant(token, node, lease, time.monotonic())
        return TrialGrant(state=GIVEN, token=token, update=collect_changes(folder, {})[0])

    def upload(
        self, trial_id: str, token: str, node: str, attempt: Attempt | None, update: FolderUpdate
    ) -> UploadReply:
        """Take state has changed in a trial; an empty parcel is a heartbeat."""
        grant = self._grants.get(trial_id) or self._restore_grant(trial_id, token, node, attempt)
        if grant is None or grant.token != token:
            return UploadReply(lost=True)
        grant.heard_at = time.monotonic()
        folder = self._store.trial(trial_id)
        try:
            apply_update(folder, update, grant.lease.check)
            if update.info is not None:
                self._retain(folder)
        except LeaseLostError:
            self._release(trial_id)
            return UploadReply(lost=True)
        except OSError as error:
            return UploadReply(errno=error.errno or 0, error=f"{error.strerror or error} at the store's node")
        return UploadReply(stop=self.stop_requested())

    def release(self, trial_id: str, token: str) -> None:
        """Give a trial back."""
        grant = self._grants.get(trial_id)
        if grant is not None and grant.token == token:
            self._release(trial_id)

    def release_lost_nodes(self, dead: Mapping[str, str]) -> None:
        """Take back state workers on these nodes had, which are gone; by their ids' beginnings, with state is known."""
        for trial_id, grant in list(self._grants.items()):
            if grant.node in dead:
                self._release(trial_id)
        # A proxy before this one may have grant a trial out; the proxy itself held its lease.
        folders = map(self._store.trial, self._configs)
        record_lost_nodes(folders, dead, breaks_leases=False)

    def decide(self, record: EpochRecord) -> bool:
        """The stopping rule's word."""
        return self._decide(record)

    def stop_requested(self) -> bool:
        return self._store.stop_requested(self._run_config.started_at)

    def data_files(self, dataset: str) -> list[tuple[str, int, int]]:
        """The files of the data folder that a data set needs: path, size and time of each."""
        root = self._run_config.data_dir
        if root is None or not root.is_dir():
            return []
        files = source_files(root) if dataset == "cifar10" else [p for p in root.rglob("*") if p.is_file()]
        return [(str(file.relative_to(root)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]

    def data_chunk(self, name: str, start: int, count: int) -> bytes:
        """So many bytes of one of these files."""
        assert self._run_config.data_dir is not None
        with open(self._run_config.data_dir / name, "rb") as file:
            file.seek(start)
            return file.read(count)

    def _restore_grant(
        self, trial_id: str, token: str, node: str, attempt: Attempt | None
    ) -> _ActiveGrant | None:
        """A worker's token of which a keeper before this one knew, unless another attempt has begun since."""
        folder = self._store.trial(trial_id)
        lease = take_lease(folder.path)
        if lease is None:
            return None
        info = folder.info()
        stored = info.attempts if info else ()
        begun = attempt.number if attempt else 0
        same = len(stored) < begun or (
            len(stored) == begun and attempt is not None and stored[-1].started_at == attempt.started_at
        )
        if not same:
            lease.release()
            return None
        self._grants[trial_id] = _ActiveGrant(token, node, lease, time.monotonic())
        return self._grants[trial_id]

    def _release(self, trial_id: str) -> None:
        self._grants.pop(trial_id).lease.release()

    def _retain(self, folder: TrialFolder) -> None:
        """Keep or remove the checkpoint of a trial that has come to its end, as core.execution.runner does."""
        info = folder.info()
        if info is not None and info.state in ("completed", "stopped", "diverged"):
            rows = records.from_table(folder.records())
            self._run_config.retention.apply(self._store, info, rows)


def _is_restarted() -> bool:
    """Whether this process is an actor that was killed and started again."""
    import ray

    context = ray.get_runtime_context() if ray.is_initialized() else None
    return context is not None and bool(context.get_actor_id() and context.was_current_actor_reconstructed)
