"""The right to change a trial, by a number that no other process has: a term.

A lease keeps processes from doing the same work at once, but a process can sleep between its last check and a
write. So each changes only files that have its own term in their name (core.store.trial.names), and a reader believes
the newest term alone. A process that wakes too late writes files that nobody believes.
"""

import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from mixsweep.core import records
from mixsweep.core.failures import LeaseLostError
from mixsweep.core.records import Record
from mixsweep.core.store import files
from mixsweep.core.store.trial import artifacts, checkpoint, format_1, migration, segments
from mixsweep.core.store.trial.folder import Head, TrialFolder
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.store.trial.lease import Lease
from mixsweep.core.store.trial.names import CheckpointName, Segment, head_name, log_name, newest_first
from mixsweep.core.trainables.kinds import BUILT_IN, find_trainable

FLUSH_SECONDS = 1.0  # a record is in the store after this time at the latest
MERGE_AT = 32  # so many segments become one
_KEPT_CHECKPOINTS = 2  # the newest, and one in case it is damaged


@dataclass
class _Buffer:
    """Records that are not yet in the store, and the time of the last write."""

    rows: list[Record] = field(default_factory=list)
    written_at: float = -FLUSH_SECONDS
    error: BaseException | None = None


class Term:
    """A writer of one trial's files, for one attempt or for one change of its state.

    Opening it reads what counts and changes nothing; `begin` takes the number. Every write raises LeaseLostError
    once another process has the trial. A context manager that writes what is left in its buffer.
    """

    def __init__(self, folder: TrialFolder, lease: Lease):
        if format_1.is_old(folder.listing().names):
            migration.migrate_trial(folder, lease)
        self.folder = folder
        self._lease = lease
        self._path = folder.path
        # Before the files are read: if another process takes a term meanwhile, it has this number.
        self._next = folder.listing().newest_term + 1
        belief = folder.belief(verify=True)
        self.damages = belief.damages
        self._before = belief.head
        self._base = belief.segments
        self._old_checkpoints = belief.checkpoints
        self._checkpoints: list[CheckpointName] = []
        self._artifacts = belief.artifacts[:1]
        self._predictions = belief.predictions
        self._artifacts_writer = artifacts.ArtifactsWriter(folder.path)
        self._segments: list[Segment] = []
        self._head: Head | None = None
        self._trainable = find_trainable(self.info.config.kind if self.info else BUILT_IN)
        self._buffer = _Buffer()
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._closed = False
        self._flusher: threading.Thread | None = None

    @property
    def info(self) -> TrialInfo | None:
        """The trial as this term last wrote it; before `begin` as it was found."""
        head = self._head or self._before
        return head.info if head else None

    @property
    def number(self) -> int:
        """The term's number; 0 before `begin`."""
        return self._head.term if self._head else 0

    @property
    def log_path(self) -> Path:
        """Where this term's log belongs."""
        return self._path / log_name(self.number)

    def begin(self, info: TrialInfo, from_scratch: bool = False) -> None:
        """Take the next number, with this as the trial's info.

        Args:
            from_scratch: whether nothing that earlier terms wrote counts any more; it is removed.

        Raises:
            LeaseLostError: another process has the trial.
        """
        self._lease.check()
        if from_scratch:
            self._base, self._old_checkpoints, self._artifacts, self._predictions = (), (), (), ()
        head = Head(
            term=self._next,
            token=uuid.uuid4().hex,
            info=_stamped(info),
            base=self._base,
            checkpoints=self._old_checkpoints,
            artifacts=self._artifacts,
            predictions=self._predictions,
        )
        if not files.create_exclusive(self._path / head_name(head.term), head.to_bytes()):
            raise LeaseLostError(f"{self._path}: taken over by another process")
        self._head = head
        self._trainable = find_trainable(info.config.kind)
        self._remove_unbelieved()
        if len(self._base) > MERGE_AT:
            self._merge_base()

    def write_info(self, info: TrialInfo) -> None:
        """Replace the trial's info; buffered records are written first."""
        with self._lock:
            self.flush()
            self._check()
            self._replace_head(info=_stamped(info))

    def append(self, record: Record) -> None:
        """Add a record. It is in the store after `flush`, or after FLUSH_SECONDS at the latest.

        Raises:
            OSError: records could not be written.
        """
        with self._lock:
            self._raise_error()
            self._buffer.rows.append(record)
            if time.monotonic() - self._buffer.written_at >= FLUSH_SECONDS:
                self.flush()
            elif self._flusher is None:
                self._flusher = threading.Thread(target=self._flush_later, daemon=True, name="records")
                self._flusher.start()
            else:
                self._wake.notify()

    def flush(self) -> None:
        """Write the records that are not in the store yet."""
        with self._lock:
            self._raise_error()
            rows = self._buffer.rows
            if not rows:
                return
            self._check()
            number = self._segments[-1].last + 1 if self._segments else 1
            table = records.to_table(rows, self._trainable.schema)
            self._segments.append(segments.write_segment(self._path, self.number, number, number, table))
            self._buffer.rows = []
            self._buffer.written_at = time.monotonic()
            self._merge_full()

    def records(self) -> pa.Table:
        """The trial's records that count, in the order of epochs, those in the buffer among them."""
        with self._lock:
            tables = [segments.read_segment(self._path, one) for one in (*self._base, *self._segments)]
            if self._buffer.rows:
                tables.append(records.to_table(self._buffer.rows, self._trainable.schema))
            return segments.newest_rows(tables, self._trainable.schema, self._trainable.test_metrics)

    def seal(self, info: TrialInfo) -> None:
        """End the trial: its records up to `info.epoch` become one file, and its info is final."""
        with self._lock:
            self._raise_error()
            table = segments.up_to(self.records(), info.epoch)
            self._buffer.rows = []
            self._check()
            base: tuple[Segment, ...] = ()
            if table.num_rows:
                last = self._segments[-1].last + 1 if self._segments else 1
                base = (segments.write_segment(self._path, self.number, 1, last, table),)
            if any(made.term < self.number for made in self._predictions) or info.state != "completed":
                self._predictions = ()  # of the end before this one
            self._replace_head(info=_stamped(info), base=base, predictions=self._predictions, sealed=True)
            self._base, self._segments = base, []
            self._check()
            self._remove_unbelieved()

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint; the records of its epochs are written first.

        Args:
            state: see core.store.trial.checkpoint.write_state; or `epoch`, and the path of a `folder` to copy.
        """
        if isinstance(state.get("folder"), Path):
            self.save_checkpoint_folder(state["epoch"], state["folder"])
            return
        self.flush()
        self._check()
        self._keep(checkpoint.write_state(self._path, self.number, state))

    def save_checkpoint_folder(self, epoch: int, source: Path) -> None:
        """Copy a folder as the checkpoint of an epoch; the records of its epochs are written first."""
        self.flush()
        self._check()
        self._keep(checkpoint.write_folder(self._path, self.number, epoch, source))

    def keep_files(self, kept: Mapping[str, Path]) -> None:
        """Keep copies of these files with the trial, by their paths, instead of those that it has kept so far."""
        if not (kept or self._artifacts):
            return
        self._check()
        before = self._artifacts[0] if self._artifacts else None
        made = self._artifacts_writer.write(self.number, before, kept)
        if made is not None and made != before:
            self._check()
            checkpoint.remove(self._path, self._artifacts)
            self._artifacts = (made,)

    def keep_predictions(self, epoch: int, table: pa.Table) -> None:
        """Keep the predictions of an epoch; they count once the trial is sealed at it.

        Args:
            table: from core.trainables.predictions.to_table.
        """
        self._check()
        self._predictions = (artifacts.write_predictions(self._path, self.number, epoch, table),)

    def kept_files(self, say: Callable[[str], None] = lambda line: None) -> dict[str, Path]:
        """The files that the trial has kept so far, by their paths: to be read, not changed."""
        return artifacts.files_in(self._path, self._artifacts[0], say) if self._artifacts else {}

    def load_checkpoint(self, say: Callable[[str], None] = lambda line: None) -> dict[str, Any] | None:
        """The state in the newest checkpoint that is whole; None if there is none."""
        return checkpoint.load_state(self._path, self.checkpoints, say=say)

    @property
    def checkpoints(self) -> tuple[CheckpointName, ...]:
        """The checkpoints that count, the newest first."""
        return newest_first((*self._old_checkpoints, *self._checkpoints))

    def close(self) -> None:
        """Write what is in the buffer; if another process has the trial, remove what was written in vain."""
        with self._lock:
            self._closed = True
            self._wake.notify()
        if self._flusher is not None:
            self._flusher.join()
        if self._head is not None:
            with suppress(OSError):
                with suppress(LeaseLostError):
                    self.flush()
                if self.is_over():
                    self._remove_own()

    def is_over(self) -> bool:
        """Whether another process has taken a newer term, or the number that this one is about to take."""
        last = self.number or self._next - 1
        return self.folder.listing().newest_term > last

    def _remove_own(self) -> None:
        """Remove the files of this term that a newer one does not build on."""
        belief = self.folder.belief()
        if belief.head is None or belief.head.term <= self.number:
            return
        listing = self.folder.listing()
        for segment in listing.all_segments:
            if segment.term == self.number and segment not in belief.segments:
                (self._path / segment.name).unlink(missing_ok=True)
        own = [made for made in listing.checkpoints if made.term == self.number]
        checkpoint.remove(self._path, [made for made in own if made not in belief.checkpoints])
        kept = [made for made in listing.artifacts if made.term == self.number]
        checkpoint.remove(self._path, [made for made in kept if made not in belief.artifacts])
        tested = [made for made in listing.predictions if made.term == self.number]
        checkpoint.remove(self._path, [made for made in tested if made not in belief.predictions])

    def __enter__(self) -> "Term":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self) -> None:
        """Check that this process still has the trial.

        Raises:
            LeaseLostError: it has lost the lease, or another process has begun a newer term.
        """
        self._lease.check()
        heads = self.folder.listing().heads
        if not heads or heads[0] != self.number:  # the lease may be free again by now
            raise LeaseLostError(f"{self._path}: taken over by another process")

    def _keep(self, made: CheckpointName) -> None:
        """Count a new checkpoint, and remove those that are no longer needed, if this process still has the trial."""
        self._checkpoints.append(made)
        unneeded = self.checkpoints[_KEPT_CHECKPOINTS:]
        if not unneeded:
            return
        self._check()
        checkpoint.remove(self._path, unneeded)
        self._checkpoints = [one for one in self._checkpoints if one not in unneeded]
        self._old_checkpoints = tuple(one for one in self._old_checkpoints if one not in unneeded)

    def _replace_head(self, **values: Any) -> None:
        assert self._head is not None, "begin comes first"
        head = replace(self._head, **values)
        files.write_bytes(self._path / head_name(head.term), head.to_bytes())
        self._head = head

    def _merge_full(self) -> None:
        """Merge the last MERGE_AT segments of one width into one, as often as there are so many."""
        while len(self._segments) >= MERGE_AT and len({_width(s) for s in self._segments[-MERGE_AT:]}) == 1:
            merged = self._segments[-MERGE_AT:]
            tables = [segments.read_segment(self._path, one) for one in merged]
            table = segments.newest_rows(tables, self._trainable.schema)
            wide = segments.write_segment(self._path, self.number, merged[0].first, merged[-1].last, table)
            self._segments[-MERGE_AT:] = [wide]
            self._remove(merged)

    def _merge_base(self) -> None:
        """Replace the files that this term builds on by one of its own."""
        old, table = self._base, self.records()
        own = segments.write_segment(self._path, self.number, 1, 1, table)
        self._segments.append(own)
        self._replace_head(base=())
        self._base = ()
        self._remove(old)

    def _remove(self, old: Sequence[Segment]) -> None:
        # Whoever has taken the trial over meanwhile may count on these files, if it did not see the newer one.
        self._check()
        for segment in old:
            files.remove_file(self._path / segment.name)

    def _remove_unbelieved(self) -> None:
        """Remove files that do not count: of processes that lost the trial, and what newer files replace.

        Never those of a newer term, which this process may not have seen.
        """
        listing = self.folder.listing()
        counted = {segment.name for segment in (*self._base, *self._segments)}
        counted |= {made.name for made in self.checkpoints}
        for name in listing.names - counted:
            segment = Segment.parse(name)
            if segment is not None and segment.term <= self.number:
                files.remove_file(self._path / name)
        counted |= {made.name for made in self._artifacts} | {made.name for made in self._predictions}
        unneeded = [made for made in listing.made if made.name not in counted]
        checkpoint.remove(self._path, [made for made in unneeded if made.term <= self.number])
        before = self._before.term if self._before else 0  # kept in case this one is damaged
        for term in listing.heads:
            if term < self.number and term != before:
                files.remove_file(self._path / head_name(term))
        migration.remove_old_files(self._path, listing.names)
        files.remove_leftovers(self._path)
        artifacts.remove_leftover_folders(self._path)

    def _flush_later(self) -> None:
        with self._lock:
            while not self._closed:
                if not self._buffer.rows:
                    self._wake.wait()
                    continue
                left = self._buffer.written_at + FLUSH_SECONDS - time.monotonic()
                if left > 0:
                    self._wake.wait(left)
                    continue
                try:
                    self.flush()
                except BaseException as error:  # the training thread raises it
                    self._buffer.error = error
                    return

    def _raise_error(self) -> None:
        if self._buffer.error is not None:
            raise self._buffer.error


def amend(folder: TrialFolder, lease: Lease, info: TrialInfo) -> None:
    """Change a trial's info without an attempt, as a term of its own.

    Raises:
        LeaseLostError: another process has the trial.
    """
    with Term(folder, lease) as term:
        term.begin(info)


def _width(segment: Segment) -> int:
    return segment.last - segment.first


def _stamped(info: TrialInfo) -> TrialInfo:
    return replace(info, updated_at=records.now().isoformat())
