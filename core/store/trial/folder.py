"""The folder of one trial, as readers see it: they take no lock, and believe what is whole.

Only the newest head counts, and of the files only those that it names and those of its own term. Where the newest
head is damaged, the one before it counts, with the files written since.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mixsweep.core import records
from mixsweep.core.failures import DamagedError
from mixsweep.core.store import files
from mixsweep.core.store.definitions import learn_kind
from mixsweep.core.store.trial import artifacts, checkpoint, format_1, segments
from mixsweep.core.store.trial.info import Attempt, TrialInfo
from mixsweep.core.store.trial.lease import lease_is_live
from mixsweep.core.store.trial.names import (
    ArtifactsName,
    CheckpointName,
    Listing,
    PredictionsName,
    Segment,
    artifacts_of,
    checkpoints_of,
    head_name,
    list_folder,
    log_name,
    newest_first,
    predictions_of,
    segments_of,
)
from mixsweep.core.trainables.kinds import BUILT_IN, find_trainable
from mixsweep.core.trainables.predictions import Predictions

if TYPE_CHECKING:
    import torch

_TRIES = 5  # a writer may remove what a listing has just shown, in favour of a file with the same content


@dataclass(frozen=True, kw_only=True)
class Head:
    """The content of a head: who wrote it, the trial's info, and the files that it builds on.

    Args:
        token: of the process that took the term.
        base: the files of records of earlier terms that count; of a sealed head all that count.
        checkpoints: of earlier terms that count.
        artifacts: the files that earlier terms kept.
        predictions: on the test set, of the trial's last end.
        sealed: whether `base` is all, and further files of this term do not count.
    """

    term: int
    token: str
    info: TrialInfo
    base: tuple[Segment, ...] = ()
    checkpoints: tuple[CheckpointName, ...] = ()
    artifacts: tuple[ArtifactsName, ...] = ()
    predictions: tuple[PredictionsName, ...] = ()
    sealed: bool = False

    def to_bytes(self) -> bytes:
        """The file's content."""
        own = {
            "term": self.term,
            "token": self.token,
            "base": [segment.name for segment in self.base],
            "checkpoints": [made.name for made in self.checkpoints],
            "sealed": self.sealed,
        }
        if self.artifacts:
            own["artifacts"] = [made.name for made in self.artifacts]
        if self.predictions:
            own["predictions"] = [made.name for made in self.predictions]
        return files.json_bytes({**self.info.to_mapping(), **own})


def read_head(folder: Path, term: int) -> Head:
    """The head of a term.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: it is not what was written, or not of this trial.
    """
    path = folder / head_name(term)
    try:
        values = files.read_json(path)
        learn_kind(folder.parent.parent, values.get("kind", BUILT_IN))
        info = TrialInfo.from_mapping(values)
        found = Head(
            term=term,
            token=str(values["token"]),
            info=info,
            base=segments_of(values["base"]),
            checkpoints=checkpoints_of(values["checkpoints"]),
            artifacts=artifacts_of(values.get("artifacts", ())),
            predictions=predictions_of(values.get("predictions", ())),
            sealed=bool(values["sealed"]),
        )
    except DamagedError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path}: damaged ({error})") from error
    if not folder.name == info.trial_id == info.config.trial_id:
        raise DamagedError(f"{path}: damaged, its config is not that of trial {folder.name}")
    return found


@dataclass(frozen=True)
class Belief:
    """What of a trial's folder counts.

    Args:
        head: the newest readable one; None before the first attempt, or if none is readable.
        artifacts: the files that the trial has kept, the newest folder first; that one counts.
        predictions: on the test set, also where they are damaged or gone: they cost no trial its state.
        damages: a line for each file that counts and is damaged or gone, as far as that was looked at.
    """

    head: Head | None
    segments: tuple[Segment, ...] = ()
    checkpoints: tuple[CheckpointName, ...] = ()
    artifacts: tuple[ArtifactsName, ...] = ()
    predictions: tuple[PredictionsName, ...] = ()
    damages: tuple[str, ...] = ()


class TrialFolder:
    """The folder of one trial, to be read; core.store.trial.term changes it."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def trial_id(self) -> str:
        return self.path.name

    def listing(self) -> Listing:
        """The files in it."""
        return list_folder(self.path)

    def belief(self, verify: bool = False) -> Belief:
        """What of its files counts.

        Args:
            verify: whether to read the files of records, and to leave out damaged ones.
        """
        for left in range(_TRIES, 0, -1):
            with suppress(FileNotFoundError):
                return self._belief(self.listing(), verify, strict=left > 1)
        raise AssertionError("the last try is not strict")

    def _belief(self, listing: Listing, verify: bool, strict: bool) -> Belief:
        damages, head = [], None
        for term in listing.heads:
            try:
                head = read_head(self.path, term)
                break
            except DamagedError as error:
                damages.append(str(error))
            except FileNotFoundError:  # a writer removes old heads; the newest stays
                if strict:
                    raise
        counted: list[Segment] = []
        named = () if head is None else head.base
        for segment in (*named, *_later(listing.segments, head)):
            path = self.path / segment.name
            if segment.name not in listing.names:
                if strict:  # perhaps the head has been replaced since the listing was made
                    raise FileNotFoundError(path)
                damages.append(f"{path}: gone")
                continue
            if verify and (damage := self._damage(segment)):
                if strict and damage.endswith(": gone"):
                    raise FileNotFoundError(path)
                damages.append(damage)
                continue
            counted.append(segment)
        made = (*(() if head is None else head.checkpoints), *_later_checkpoints(listing, head))
        present = newest_first(one for one in made if one.name in listing.names)
        kept, tested = _artifacts(listing, head), () if head is None else head.predictions
        return Belief(head, tuple(counted), present, kept, tested, tuple(damages))

    def info(self, verify: bool = False) -> TrialInfo | None:
        """The trial; None before the first attempt, or where no head is readable, as `damages` says.

        `running` without a live lease is `lost`. A trial whose files are damaged has failed with the kind `disk`, so
        that the next command trains what is missing.

        Args:
            verify: whether to read an ended trial's records and to look for damage in them.
        """
        info, damages = self._info(verify)
        if info is None or (info.state != "running" and not damages):
            return info
        if not info.ended and lease_is_live(self.path):
            return info
        return as_damaged(info, damages[0]) if damages else replace(info, state="lost")

    def damages(self) -> tuple[str, ...]:
        """A line for each file that counts and is damaged or gone."""
        return self._info(verify=True)[1]

    def _info(self, verify: bool) -> tuple[TrialInfo | None, tuple[str, ...]]:
        listing = self.listing()
        if not listing.heads and format_1.is_old(listing.names):
            try:
                return format_1.read_info(self.path)
            except DamagedError as error:
                return None, (str(error),)
        belief = self.belief()
        info = None if belief.head is None else belief.head.info
        damages = belief.damages
        if info is not None and info.ended and verify and not damages:
            damages = tuple(filter(None, map(self._damage, belief.segments)))
        return info, damages

    def _damage(self, segment: Segment) -> str:
        """What is wrong with a file of records, '' for nothing."""
        try:
            segments.verified_bytes(self.path, segment)
        except DamagedError as error:
            return str(error)
        except FileNotFoundError:
            return f"{self.path / segment.name}: gone"
        return ""

    def records(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The trial's records that are whole, an empty table before the first.

        Args:
            columns: only these; None: all.
        """
        wanted = None if columns is None else list(dict.fromkeys([*columns, "epoch"]))
        for left in range(_TRIES, 0, -1):
            listing = self.listing()
            if not listing.heads and format_1.is_old(listing.names):
                table = format_1.read_records(self.path, find_trainable().schema)
                return table if columns is None else table.select(columns)
            with suppress(FileNotFoundError):
                belief = self._belief(listing, False, strict=left > 1)
                trainable = find_trainable(belief.head.info.config.kind if belief.head else BUILT_IN)
                tables = self._tables(belief, wanted, left > 1)
                if not tables:
                    return records.selected(trainable.schema, columns).empty_table()
                schema = records.selected(trainable.schema, wanted)
                table = segments.newest_rows(tables, schema, trainable.test_metrics)
                return table if columns is None else table.select(list(columns))
        raise AssertionError("the last try is not strict")

    def _tables(self, belief: Belief, columns: Sequence[str] | None, strict: bool) -> list[pa.Table]:
        tables = []
        for segment in belief.segments:
            try:
                tables.append(segments.read_segment(self.path, segment, columns))
            except DamagedError:
                continue
            except FileNotFoundError:
                if strict:
                    raise
        return tables

    def checkpoints(self) -> tuple[CheckpointName, ...]:
        """The checkpoints that count, the newest first; damaged ones among them."""
        return self.belief().checkpoints

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to continue from, damaged or not."""
        listing = self.listing()
        if not listing.heads and format_1.is_old(listing.names):
            return format_1.has_checkpoint(listing.names)
        return bool(self.checkpoints())

    def checkpoint_epoch(self) -> int:
        """The epoch of the newest checkpoint, 0 if there is none."""
        listing = self.listing()
        if not listing.heads and format_1.is_old(listing.names):
            return format_1.checkpoint_epoch(self.path)
        made = self.checkpoints()
        return made[0].epoch if made else 0

    def load_checkpoint(
        self, device: "torch.device | str" = "cpu", say: Callable[[str], None] = lambda line: None
    ) -> dict[str, Any] | None:
        """The state in the newest checkpoint that is whole; None if there is none.

        Args:
            say: called with a line for each damaged one.
        """
        listing = self.listing()
        if not listing.heads and format_1.is_old(listing.names):
            return format_1.load_checkpoint(self.path, device)
        return checkpoint.load_state(self.path, self.checkpoints(), device, say)

    def kept_files(self, say: Callable[[str], None] | None = None) -> dict[str, Path]:
        """The files that the trial has kept beside its records, by their paths.

        Args:
            say: called with a line if they are not what was kept; None: they are not read.
        """
        made = self.belief().artifacts
        return artifacts.files_in(self.path, made[0], say) if made else {}

    def predictions(self) -> Predictions | None:
        """What a completed trial predicted for its test set; None if it kept no predictions.

        Raises:
            DamagedError: the file is gone, or not what was written.
        """
        for left in range(_TRIES, 0, -1):
            head = self.belief().head
            made = () if head is None or head.info.state != "completed" else head.predictions
            if not made:
                return None
            try:
                return artifacts.read_predictions(self.path, made[0])
            except FileNotFoundError as error:
                if left == 1:
                    raise DamagedError(f"{self.path / made[0].name}: gone") from error
        raise AssertionError("the last try returns or raises")

    def newest_checkpoint(self) -> tuple[CheckpointName, bytes | Mapping[str, bytes]] | None:
        """The newest checkpoint that is whole, and its content; None if there is none."""
        for made in self.checkpoints():
            with suppress(FileNotFoundError, DamagedError):
                return made, checkpoint.content_of(self.path, made)
        return None

    def logs(self) -> tuple[Path, ...]:
        """The logs of all attempts, in their order."""
        listing = self.listing()
        old = (format_1.LOG,) if format_1.LOG in listing.names else ()
        return tuple(self.path / name for name in (*old, *map(log_name, listing.logs)))

    def stamp(self) -> list[list[Any]]:
        """What changes with the trial: times, sizes and numbers of its folder and of the files that count.

        Empty before the first attempt.
        """
        listing = self.listing()
        names = [head_name(term) for term in listing.heads[:1]]
        names += [segment.name for segment in listing.segments]
        names += [name for name in format_1.FILES if name in listing.names]
        return stamp_of(str(self.path), names) if names else []


def stamp_of(folder: str, names: Sequence[str]) -> list[list[Any]]:
    """Times, sizes and numbers of a folder and of files in it, as JSON values."""
    found: list[list[Any]] = []
    for name in ("", *names):
        try:
            facts = os.stat(f"{folder}/{name}")
        except OSError:
            found.append([name])
            continue
        size = facts.st_size if name else 0  # a folder's size says nothing
        found.append([name, facts.st_mtime_ns, size, facts.st_ino])
    return found


def is_current(folder: str, stamp: Sequence[Sequence[Any]]) -> bool:
    """Whether a folder's stamp still holds; quicker than to make a new one."""
    return bool(stamp) and stamp_of(folder, [entry[0] for entry in stamp[1:]]) == stamp


def as_damaged(info: TrialInfo, message: str) -> TrialInfo:
    """The trial as failed because its files are damaged, so that the next command trains it again."""
    attempts = info.attempts or (Attempt(number=1, place="", host="", pid=0),)
    last = replace(attempts[-1], end="disk", message=message)
    return replace(info, state="failed", attempts=(*attempts[:-1], last))


def _later(found: Sequence[Segment], head: Head | None) -> list[Segment]:
    """The segments that count without being named by the head."""
    if head is None:
        return list(found)
    return [s for s in found if s.term > head.term or (s.term == head.term and not head.sealed)]


def _later_checkpoints(listing: Listing, head: Head | None) -> list[CheckpointName]:
    named = set() if head is None else set(head.checkpoints)
    term = 0 if head is None else head.term
    return [made for made in listing.checkpoints if made.term >= term and made not in named]


def _artifacts(listing: Listing, head: Head | None) -> tuple[ArtifactsName, ...]:
    """The folders of kept files that count; the listing was made before the head was read."""
    named, term = (set(), 0) if head is None else (set(head.artifacts), head.term)
    return tuple(made for made in listing.artifacts if made in named or made.term >= term)
