"""Seeds beyond the sweep file's, for the points that undecided claims compare; the store keeps them.

Each round of `sweep run --more-evidence` writes a numbered file into the sweep's `evidence/`: the points, and how many
seeds they get in all. Every later command plans these trials too, so that readers see them as any others, and resume
is the same command again. A point is named by its trial with the first seed, whatever its number in the plan.
"""

import uuid
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from mixsweep.core.errors import UserError
from mixsweep.core.store import files
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.plan import Plan, make_plan
from mixsweep.sweep.planning.schema import SweepSpec


@dataclass(frozen=True)
class Round:
    """One addition of seeds.

    Args:
        seeds: by part and first trial of a point: its number of seeds from then on.
        because: the claims that were undecided.
    """

    number: int
    seeds: Mapping[tuple[str, str], int]
    because: tuple[str, ...] = ()


def with_extra_seeds(plan: Plan, store: SweepStore) -> Plan:
    """Return a plan with the seeds that rounds of evidence have added; the same plan where there were none."""
    return planned_with(plan, seeds_of_points(store))


def planned_with(plan: Plan, wanted: Mapping[tuple[str, str], int]) -> Plan:
    """Return a plan whose points have at least so many seeds.

    Args:
        wanted: by part and first trial of a point.
    """
    if not wanted or plan.spec.search is not None:
        return plan
    seeds = plan.spec.seeds
    longer = make_plan(replace(plan.spec, seeds=_extended(seeds, max(wanted.values()))))
    firsts = {(row.part, row.point): row.trial_id for row in longer.rows if row.replica == 0}
    rows = tuple(
        row
        for row in longer.rows
        if row.replica < max(len(seeds), wanted.get((row.part, firsts.get((row.part, row.point), "")), 0))
    )
    return replace(plan, rows=rows)


def seeds_of_points(store: SweepStore) -> dict[tuple[str, str], int]:
    """Return the number of seeds of each point that has had more, by part and first trial."""
    found: dict[tuple[str, str], int] = defaultdict(int)
    for one in read_rounds(store):
        for point, seeds in one.seeds.items():
            found[point] = max(found[point], seeds)
    return dict(found)


def read_rounds(store: SweepStore) -> list[Round]:
    """Return the rounds so far, in order; a damaged file is left out, and its seeds are then asked for again."""
    found = []
    for path in sorted((store.path / "evidence").glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            values = files.read_json(path)
            seeds = {(str(row["part"]), str(row["point"])): int(row["seeds"]) for row in values["points"]}
            found.append(Round(int(values["number"]), seeds, tuple(map(str, values["because"]))))
    return found


def record_round(store: SweepStore, seeds: Mapping[tuple[str, str], int], because: tuple[str, ...]) -> None:
    """Add a round under the next number, which only one command can take.

    Raises:
        UserError: another command has added it.
    """
    folder = store.path / "evidence"
    folder.mkdir(parents=True, exist_ok=True)
    taken = [int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal()]
    number = max(taken, default=0) + 1
    points = [{"part": part, "point": first, "seeds": count} for (part, first), count in seeds.items()]
    values = {"number": number, "points": points, "because": list(because), "token": uuid.uuid4().hex}
    path = folder / f"{number:04d}.json"
    if not files.create_exclusive(path, files.json_bytes(values)):
        raise UserError(f"{path}: another command adds seeds to this sweep; run this one again")


def _extended(seeds: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return seeds with the next numbers after their largest, up to a count."""
    missing = range(max(0, count - len(seeds)))
    return (*seeds, *(max(seeds) + 1 + n for n in missing))


def why_no_more_seeds(spec: SweepSpec) -> str:
    """Return why a sweep cannot have more seeds, '' if it can."""
    if spec.search is not None:
        return "a search chooses its trials itself"
    if "seed" not in spec.trainable.field_names:
        return "its trials have no seed"
    if not any(part.claims for part in spec.parts):
        return "the sweep file has no claims"
    return ""
