"""Names of the files in a trial's folder, which say whose they are and what they must contain.

Whoever changes a trial takes a term: a number that no other process has, by an exclusive create of the term's head.
Each term writes files of its own, so a process that lost the trial and wakes up later can change no other's file.
Records and checkpoints are written once, and have a digest of their content in the name.

| name | file |
|---|---|
| `<term>.json` | the head: the trial's info, and the files of earlier terms that this one builds on |
| `<term>.records.<first>-<last>.<digest>.parquet` | a segment of records; one with a wider range replaces those in it |
| `<term>.checkpoint.<epoch>.<digest>.pt`, or a folder without `.pt` | a checkpoint |
| `<term>.artifacts.<number>.<digest>`, a folder | all files that the trial has kept so far |
| `<term>.predictions.<epoch>.<digest>.parquet` | the predictions on the test set after an epoch |
| `<term>.log` | the log |
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_HEAD = re.compile(r"([1-9][0-9]{0,9})\.json")
_LOG = re.compile(r"([1-9][0-9]{0,9})\.log")
_SEGMENT = re.compile(r"([1-9][0-9]{0,9})\.records\.([0-9]{1,10})-([0-9]{1,10})\.([0-9a-f]{16})\.parquet")
_CHECKPOINT = re.compile(r"([1-9][0-9]{0,9})\.checkpoint\.([0-9]{1,10})\.([0-9a-f]{16})(\.pt)?")
_PREDICTIONS = re.compile(r"([1-9][0-9]{0,9})\.predictions\.([0-9]{1,10})\.([0-9a-f]{16})\.parquet")
_ARTIFACTS = re.compile(r"([1-9][0-9]{0,9})\.artifacts\.([1-9][0-9]{0,9})\.([0-9a-f]{16})")


@dataclass(frozen=True)
class Segment:
    """A file of records: the `first` to the `last` part of what its term recorded."""

    term: int
    first: int
    last: int
    digest: str

    @property
    def name(self) -> str:
        return f"{self.term}.records.{self.first:06d}-{self.last:06d}.{self.digest}.parquet"

    @classmethod
    def parse(cls, name: str) -> "Segment | None":
        found = _SEGMENT.fullmatch(name)
        return found and cls(int(found[1]), int(found[2]), int(found[3]), found[4])

    def covers(self, other: "Segment") -> bool:
        """Whether this one holds all that another of the same term holds."""
        return (
            self != other and self.term == other.term and self.first <= other.first <= other.last <= self.last
        )


@dataclass(frozen=True)
class CheckpointName:
    """A checkpoint of an epoch: a file of torch.save, or a folder."""

    term: int
    epoch: int
    digest: str
    is_folder: bool = False

    @property
    def name(self) -> str:
        return f"{self.term}.checkpoint.{self.epoch}.{self.digest}{'' if self.is_folder else '.pt'}"

    @classmethod
    def parse(cls, name: str) -> "CheckpointName | None":
        found = _CHECKPOINT.fullmatch(name)
        return found and cls(int(found[1]), int(found[2]), found[3], found[4] is None)


@dataclass(frozen=True)
class ArtifactsName:
    """A folder with all files that a trial has kept so far; the `number` counts those of a term."""

    term: int
    number: int
    digest: str
    is_folder: bool = True

    @property
    def name(self) -> str:
        return f"{self.term}.artifacts.{self.number}.{self.digest}"

    @classmethod
    def parse(cls, name: str) -> "ArtifactsName | None":
        found = _ARTIFACTS.fullmatch(name)
        return found and cls(int(found[1]), int(found[2]), found[3])


@dataclass(frozen=True)
class PredictionsName:
    """The predictions of a trial on its test set, after its last epoch. Only those that a head names count."""

    term: int
    epoch: int
    digest: str
    is_folder: bool = False

    @property
    def name(self) -> str:
        return f"{self.term}.predictions.{self.epoch}.{self.digest}.parquet"

    @classmethod
    def parse(cls, name: str) -> "PredictionsName | None":
        found = _PREDICTIONS.fullmatch(name)
        return found and cls(int(found[1]), int(found[2]), found[3])


# What is a file or a folder by itself, and is removed as a whole.
Made = CheckpointName | ArtifactsName | PredictionsName


@dataclass(frozen=True)
class Listing:
    """The files in a trial's folder."""

    names: frozenset[str]

    @cached_property
    def heads(self) -> tuple[int, ...]:
        """The terms that have a head, the newest first."""
        found = map(_HEAD.fullmatch, self.names)
        return tuple(sorted((int(match[1]) for match in found if match), reverse=True))

    @cached_property
    def all_segments(self) -> tuple[Segment, ...]:
        """All segments, in the order in which they were recorded."""
        found = [segment for name in self.names if (segment := Segment.parse(name))]
        return tuple(sorted(found, key=lambda segment: (segment.term, segment.first, -segment.last)))

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """All segments but those that a wider one covers, in the order in which they were recorded."""
        kept: list[Segment] = []
        for segment in self.all_segments:
            if not (kept and kept[-1].covers(segment)):
                kept.append(segment)
        return tuple(kept)

    @cached_property
    def checkpoints(self) -> tuple[CheckpointName, ...]:
        """All checkpoints, the newest first."""
        found = [checkpoint for name in self.names if (checkpoint := CheckpointName.parse(name))]
        return newest_first(found)

    @cached_property
    def artifacts(self) -> tuple[ArtifactsName, ...]:
        """All folders of kept files, the newest first."""
        found = [made for name in self.names if (made := ArtifactsName.parse(name))]
        return tuple(sorted(found, key=lambda made: (made.term, made.number), reverse=True))

    @cached_property
    def predictions(self) -> tuple[PredictionsName, ...]:
        """All files of predictions."""
        return tuple(made for name in self.names if (made := PredictionsName.parse(name)))

    @property
    def made(self) -> tuple[Made, ...]:
        """All checkpoints, folders of kept files, and predictions."""
        return (*self.checkpoints, *self.artifacts, *self.predictions)

    @cached_property
    def logs(self) -> tuple[int, ...]:
        """The terms that have a log, in their order."""
        found = map(_LOG.fullmatch, self.names)
        return tuple(sorted(int(match[1]) for match in found if match))

    @property
    def newest_term(self) -> int:
        """The highest term of any file, 0 if there is none."""
        terms = [*self.heads[:1], *self.logs[-1:]]
        terms += [segment.term for segment in self.segments] + [made.term for made in self.made]
        return max(terms, default=0)


def newest_first(checkpoints: Iterable[CheckpointName]) -> tuple[CheckpointName, ...]:
    """Checkpoints by term and epoch, the newest first."""
    return tuple(sorted(checkpoints, key=lambda made: (made.term, made.epoch), reverse=True))


def list_folder(path: Path) -> Listing:
    """The files in a trial's folder; none if there is no folder."""
    try:
        return Listing(frozenset(os.listdir(path)))
    except (FileNotFoundError, NotADirectoryError):
        return Listing(frozenset())


def head_name(term: int) -> str:
    """The name of a term's head."""
    return f"{term}.json"


def log_name(term: int) -> str:
    """The name of a term's log."""
    return f"{term}.log"


def segments_of(names: Sequence[str]) -> tuple[Segment, ...]:
    """The segments of these names.

    Raises:
        ValueError: one is not the name of a segment.
    """
    return _all_of(Segment.parse, names, "a file of records")


def checkpoints_of(names: Sequence[str]) -> tuple[CheckpointName, ...]:
    """The checkpoints of these names.

    Raises:
        ValueError: one is not the name of a checkpoint.
    """
    return _all_of(CheckpointName.parse, names, "a checkpoint")


def artifacts_of(names: Sequence[str]) -> tuple[ArtifactsName, ...]:
    """The folders of kept files of these names.

    Raises:
        ValueError: one is not the name of such a folder.
    """
    return _all_of(ArtifactsName.parse, names, "a folder of kept files")


def predictions_of(names: Sequence[str]) -> tuple[PredictionsName, ...]:
    """The files of predictions of these names.

    Raises:
        ValueError: one is not the name of such a file.
    """
    return _all_of(PredictionsName.parse, names, "a file of predictions")


def _all_of(parse: Callable[[str], T | None], names: Sequence[str], what: str) -> tuple[T, ...]:
    found = [made for name in names if (made := parse(name)) is not None]
    if len(found) < len(names):
        raise ValueError(f"not the name of {what}")
    return tuple(found)
