"""Seeds beyond the sweep file's, for the points that undecided claims compare; the store keeps them.

Each round of `sweep run --more-evidence` writes a numbered file into the sweep's `evidence/`: the points, and the seeds
that they get. Every later command plans these trials too, so that readers see them as any others, and resume is the
same command again. A point is named by its trial with the first seed, whatever its number in the plan.
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

Point = tuple[str, str]  # a part, and the trial with the first seed
ExtraSeeds = Mapping[Point, tuple[int, ...]]


@dataclass(frozen=True)
class Round:
    """One addition of seeds.

    Args:
        seeds: that each point gets.
        because: the claims that were undecided.
    """

    number: int
    seeds: ExtraSeeds
    because: tuple[str, ...] = ()


def with_extra_seeds(plan: Plan, store: SweepStore) -> Plan:
    """Return a plan with the seeds that rounds of evidence have added; the same plan where there were none."""
    return planned_with(plan, extra_seeds(store))


def planned_with(plan: Plan, extra: ExtraSeeds) -> Plan:
    """Return the plan of its sweep file whose points have these seeds too.

    Replicas with the same number have the same seed at every point.
    """
    if not extra or plan.spec.search is not None:
        return plan
    own = plan.spec.seeds
    added = sorted({seed for seeds in extra.values() for seed in seeds} - set(own))
    longer = make_plan(replace(plan.spec, seeds=(*own, *added)))
    firsts = {(row.part, row.point): row.trial_id for row in longer.rows if row.replica == 0}
    rows = tuple(
        row
        for row in longer.rows
        if row.replica < len(own)
        or row.config["seed"] in extra.get((row.part, firsts.get((row.part, row.point), "")), ())
    )
    return replace(plan, rows=rows)


def extra_seeds(store: SweepStore) -> dict[Point, tuple[int, ...]]:
    """Return the seeds that points have got so far."""
    found: dict[Point, set[int]] = defaultdict(set)
    for one in read_rounds(store):
        for point, seeds in one.seeds.items():
            found[point] |= set(seeds)
    return {point: tuple(sorted(seeds)) for point, seeds in found.items()}


def filled_up(
    spec: SweepSpec, known: ExtraSeeds, wanted: Mapping[Point, int]
) -> dict[Point, tuple[int, ...]]:
    """Return extra seeds with which each of some points has so many seeds in all.

    The same ones for all points, since values are compared seed by seed: first those that others have already.
    """
    used = sorted({seed for seeds in known.values() for seed in seeds} - set(spec.seeds))
    first = max((*spec.seeds, *used)) + 1
    pool = [*used, *range(first, first + max(wanted.values(), default=0))]
    filled = {point: set(seeds) for point, seeds in known.items()}
    for point, count in wanted.items():
        mine = filled.setdefault(point, set())
        missing = count - len(mine | set(spec.seeds))
        mine |= set([seed for seed in pool if seed not in mine][: max(0, missing)])
    return {point: tuple(sorted(seeds)) for point, seeds in filled.items()}


def read_rounds(store: SweepStore) -> list[Round]:
    """Return the rounds so far, in order; a damaged file is left out, and its seeds are then asked for again."""
    found = []
    for path in sorted((store.path / "evidence").glob("*.json")):
        with suppress(OSError, UserError, ValueError, KeyError, TypeError):
            values = files.read_json(path)
            seeds = {
                (str(row["part"]), str(row["point"])): tuple(map(int, row["seeds"]))
                for row in values["points"]
            }
            found.append(Round(int(values["number"]), seeds, tuple(map(str, values["because"]))))
    return found


def record_round(store: SweepStore, seeds: ExtraSeeds, because: tuple[str, ...]) -> None:
    """Add a round under the next number, which only one command can take.

    Raises:
        UserError: another command has added it.
    """
    folder = store.path / "evidence"
    folder.mkdir(parents=True, exist_ok=True)
    taken = [int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal()]
    number = max(taken, default=0) + 1
    points = [{"part": part, "point": first, "seeds": list(own)} for (part, first), own in seeds.items()]
    values = {"number": number, "points": points, "because": list(because), "token": uuid.uuid4().hex}
    path = folder / f"{number:04d}.json"
    if not files.create_exclusive(path, files.json_bytes(values)):
        raise UserError(f"{path}: another command adds seeds to this sweep; run this one again")


def why_no_more_seeds(spec: SweepSpec) -> str:
    """Return why a sweep cannot have more seeds, '' if it can."""
    if spec.search is not None:
        return "a search chooses its trials itself"
    if "seed" not in spec.trainable.field_names:
        return "its trials have no seed"
    if not any(part.claims for part in spec.parts):
        return "the sweep file has no claims"
    return ""
