"""What a report is about: the parts of one or more sweeps, each with its records and its trials."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from mixsweep.analysis.frames import (
    Part,
    Reading,
    Sweep,
    load,
    load_trials,
    of_part,
    read_planned,
    with_tables,
)
from mixsweep.analysis.inference.claims import Asked, Judged, judge_all
from mixsweep.core.errors import UserError
from mixsweep.core.store.trial.info import TrialInfo


@dataclass(frozen=True)
class Section:
    """A part of a study.

    Args:
        reading: of its sweep.
        part: the ablation.
        sweep: the sweep's name, with its folder where two sweeps have one name.
        slug: of its files and its place on the page.
        frame: its epoch records.
        trials: one row per trial.
    """

    reading: Reading
    part: Part
    sweep: str
    slug: str
    frame: pd.DataFrame
    trials: pd.DataFrame

    @property
    def question(self) -> str:
        """What it asks; its name where the sweep file has no question."""
        return self.part.question or self.part.name

    @property
    def label(self) -> str:
        """Its name: the sweep's, and the part's where they differ."""
        part = self.part
        return self.sweep if part.name == part.sweep else f"{self.sweep}: {part.name}"

    @cached_property
    def points(self) -> int:
        """The number of combinations of varied values."""
        return int(self.trials["point"].nunique())


@dataclass(frozen=True)
class Study:
    """The sweeps of a report.

    Args:
        readings: of each sweep.
        labels: of each sweep, in the same order, all different.
        sections: the parts of all sweeps.
        trials: one row per trial and part of each sweep.
    """

    readings: tuple[Reading, ...]
    labels: tuple[str, ...]
    sections: tuple[Section, ...]
    trials: pd.DataFrame

    @cached_property
    def judged(self) -> Judged:
        """The verdicts and answers of all parts, corrected as one family."""
        return judge_all([Asked(one.part, one.frame, one.trials) for one in self.sections])

    @cached_property
    def infos(self) -> dict[tuple[str, str], TrialInfo]:
        """What each store says of each trial that has begun, by the sweep's label and the trial's id.

        A trial that two sweeps share stands in it twice, since each has trained it by itself.
        """
        return {
            (label, trial_id): info
            for label, reading in zip(self.labels, self.readings)
            for trial_id, info in reading.infos.items()
        }


def read_study(sweeps: Sequence[Sweep]) -> Study:
    """Read the sweeps of a report; one of which no trial has begun is a part of it, too.

    Raises:
        UserError: no sweep is given, one is unknown, or one is given twice.
    """
    if not sweeps:
        raise UserError("no sweep to report on")
    readings = tuple(map(read_planned, with_tables(sweeps)))
    labels = sweep_labels(readings)
    sections: list[Section] = []
    tables = []
    slugs: set[str] = set()
    for label, reading in zip(labels, readings):
        trials, frame = load_trials(reading), load(reading)  # in this order each trial is read once
        tables.append(trials)
        for part in reading.parts:
            slug = _new_slug(part, slugs)
            sections.append(Section(reading, part, label, slug, of_part(part, frame), of_part(part, trials)))
    return Study(readings, labels, tuple(sections), pd.concat(tables, ignore_index=True))


def sweep_labels(readings: Sequence[Reading]) -> tuple[str, ...]:
    """The name of each sweep, followed by its folder where another one has the same name.

    Raises:
        UserError: a sweep is given twice.
    """
    names = [reading.name for reading in readings]
    folders = [Path(reading.folder).resolve() for reading in readings]
    if len(set(folders)) < len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise UserError(f"{twice}: given twice; name each sweep once")
    labels = []
    for name, folder in zip(names, folders):
        others = [other for one, other in zip(names, folders) if one == name and other != folder]
        labels.append(f"{name} ({_shortest(folder, others)})" if others else name)
    return tuple(labels)


def _shortest(folder: Path, others: Sequence[Path]) -> str:
    """The folders above a sweep's own by which it differs from others of its name, as few as will do."""
    end = folder.parts[-1:] if any(other.name != folder.name for other in others) else ()
    parents = folder.parts[: len(folder.parts) - 1]
    for depth in range(0 if end else 1, len(parents) + 1):
        words = (*parents[len(parents) - depth :], *end)
        if all(other.parts[-depth - 1 :] != folder.parts[-depth - 1 :] for other in others):
            return "/".join(words).replace("//", "/")
    return str(folder)


def _new_slug(part: Part, taken: set[str]) -> str:
    """A unique name for a part's files: plain letters, digits and hyphens."""
    name = part.name if part.name == part.sweep else f"{part.sweep}-{part.name}"
    plain_name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "part"
    slug, number = plain_name, 2
    while slug in taken:
        slug, number = f"{plain_name}-{number}", number + 1
    taken.add(slug)
    return slug
