"""The plan: the trials of a sweep, identified, deduplicated, in the order in which they run."""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa

from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import ConfigError
from mixsweep.core.store import files
from mixsweep.core.store.arrow import column_type
from mixsweep.core.store.code_copy import keep_code, kept_versions, versions_of
from mixsweep.core.store.declarations import declare
from mixsweep.core.store.definitions import save_definition
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial_index import TrialIndex
from mixsweep.core.trainables.interface import Trainable
from mixsweep.sweep.planning.derive import complete
from mixsweep.sweep.planning.schema import Part, SpecError, SweepSpec
from mixsweep.sweep.planning.space import Combine, SpaceError, count_points, expand, meets

_DRAWS_A_MEMBER = 50  # draws per member of a population, at most: draws may repeat a trial

_PLACEMENT = (
    ("part", pa.string()),
    ("trial_id", pa.string()),
    ("point", pa.int32()),
    ("replica", pa.int32()),
)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One trial in one part of a sweep. Replicas of a point differ only in the seed."""

    part: str
    point: int
    replica: int
    config: TrialConfig

    @property
    def trial_id(self) -> str:
        return self.config.trial_id


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All trials of a sweep."""

    spec: SweepSpec
    rows: tuple[Planned, ...]  # one per trial and part; a trial that answers two questions has two
    duplicates: int  # trials left out, because an earlier point of their part is the same trial
    excluded: int = 0  # points left out by [combine] exclude

    @cached_property
    def trials(self) -> tuple[TrialConfig, ...]:
        """The trials, each once: the first seed of every point before the second of any.

        Under a stopping rule the points of a seed are in a random order, which their content seeds: a rule compares
        trials with those that came to a rung before, so that an order by value would favour the first values.
        """
        return trials_of(self.rows, shuffled=self.spec.stopping is not None)

    @property
    def shared(self) -> int:
        """The number of rows whose trial another part has too, so that it runs once."""
        return len(self.rows) - len(self.trials)

    @cached_property
    def labels(self) -> dict[str, str]:
        """A label for each trial, such as `lr=0.001 seed=42`."""
        return labels_of(self.rows)

    def __repr__(self) -> str:
        return f"Plan({self.spec.name}: {len(self.trials)} trials)"

    def table(self) -> pa.Table:
        """Return the plan as the store keeps it: a row per trial and part."""
        columns = [(spec.name, column_type(spec)) for spec in self.spec.trainable.fields]
        schema = pa.schema([*_PLACEMENT, *columns])
        rows = [
            {"part": r.part, "trial_id": r.trial_id, "point": r.point, "replica": r.replica}
            | r.config.to_mapping()
            for r in self.rows
        ]
        return pa.Table.from_pylist(rows, schema=schema)


def make_plan(spec: SweepSpec) -> Plan:
    """Expand a sweep file into its trials. The same file always gives the same plan.

    Trials that a search chooses at run time are not in it (see sweep.search.suggestions.with_known).

    Raises:
        SpecError: a point is not a valid trial; with the point's values.
    """
    rows: list[Planned] = []
    duplicates = excluded = 0
    if spec.search is not None and spec.search.algorithm == "tpe":
        return Plan(spec=spec, rows=(), duplicates=0)
    if spec.search is not None and spec.search.algorithm == "pbt":
        return _first_generation(spec, spec.search.population)
    for part in spec.parts:
        seen: dict[str, int] = {}  # the index in `rows` of each trial of this part
        points = list(points_of(spec, part))
        excluded += count_points(part.space, part.samples, Combine(zip=part.combine.zip)) - len(points)
        for point, values in enumerate(points):
            for replica, seed in enumerate(spec.seeds):
                config = _trial(spec, part, values, seed)
                row = Planned(part=part.name, point=point, replica=replica, config=config)
                earlier = seen.setdefault(row.trial_id, len(rows))
                if earlier == len(rows):
                    rows.append(row)
                    continue
                duplicates += 1
                if config.epochs > rows[earlier].config.epochs:
                    rows[earlier] = replace(rows[earlier], config=config)
    _check_effects(spec, rows)
    return Plan(spec=spec, rows=tuple(rows), duplicates=duplicates, excluded=excluded)


def points_of(spec: SweepSpec, part: Part, samples: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the points of a part, with the derived fields.

    Raises:
        SpecError: a field cannot be derived at a point, or an exclude matches no point.
    """
    trainable = spec.trainable

    def completed(values: Mapping[str, Any]) -> dict[str, Any]:
        return complete(values, part.derive, part.when, trainable)

    try:
        yield from expand(
            part.base,
            part.space,
            part.when,
            part.samples if samples is None else samples,
            spec.search_seed,
            trainable.defaults_beside,
            combine=part.combine,
            complete=completed,
        )
    except (ConfigError, SpaceError) as error:
        raise SpecError(f"{spec.path or spec.name}: {part.name}: {error}") from error


def _check_effects(spec: SweepSpec, rows: Sequence[Planned]) -> None:
    """Refuse a field of [base], or of a part's, that has no effect on any trial.

    Raises:
        SpecError: names the field, and what it would need.
    """
    trainable = spec.trainable
    set_by_hand = {  # by part: fields of [base], or of [derive], with the table that they are in
        part.name: {
            **{name: "base" for name in part.base if name not in part.space and name not in part.derive},
            **dict.fromkeys(part.derive, "derive"),
        }
        for part in spec.parts
    }
    limited = {  # those of them that count under conditions only
        part.name: [n for n in set_by_hand[part.name] if trainable.field(n).applies or n in part.when]
        for part in spec.parts
    }
    felt = {
        (part.name, name)
        for part in spec.parts
        for name in set_by_hand[part.name]
        if name not in limited[part.name]
    }
    whens = {part.name: part.when for part in spec.parts}
    for row in rows:
        for name in limited[row.part]:
            if (row.part, name) not in felt and _is_felt(trainable, name, row, whens[row.part]):
                felt.add((row.part, name))
    for number, part in enumerate(spec.parts):
        of_part = spec.source["parts"][number] if "parts" in spec.source else {}
        own = {**of_part.get("base", {}), **of_part.get("derive", {})}
        for name in (*part.base, *part.derive):
            concerned = [part] if name in own else spec.parts
            if any((one.name, name) in felt for one in concerned):
                continue
            held = set_by_hand[part.name].get(name, "base")
            where = f"parts[{number}].{held}.{name}" if name in own else f"{held}.{name}"
            conditions = {**trainable.field(name).applies, **part.when.get(name, {})}
            words = " and ".join(
                f"{other} = {_alternatives(allowed)}" for other, allowed in conditions.items()
            )
            raise SpecError(
                f"{spec.path or spec.name}: {where}: has no effect on any trial: it counts for {words} only"
            )


def _is_felt(trainable: Trainable, name: str, row: Planned, when: Mapping[str, Mapping[str, Any]]) -> bool:
    values = row.config.to_mapping()
    conditions = when.get(name, {})
    return trainable.is_effective(name, values) and all(meets(values[k], v) for k, v in conditions.items())


def _alternatives(allowed: Any) -> str:
    return " or ".join(map(str, allowed if isinstance(allowed, list | tuple) else [allowed]))


def _trial(spec: SweepSpec, part: Part, values: Mapping[str, Any], seed: int) -> TrialConfig:
    try:
        return spec.trainable.config(with_seed(spec, values, seed))
    except ConfigError as error:
        at = ", ".join(f"{key} = {values[key]!r}" for key in part.space if key in values)
        where = f"{spec.path or spec.name}: {part.name}"
        raise SpecError(f"{where}: {error}" + (f" (at {at})" if at else "")) from error


def with_seed(spec: SweepSpec, values: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return a point's values with this seed, where a trial has one."""
    return {**values, "seed": seed} if "seed" in spec.trainable.field_names else dict(values)


def _first_generation(spec: SweepSpec, size: int) -> Plan:
    """Return the plan of a population's first generation: `size` different trials, drawn at random."""
    (part,) = spec.parts
    found: dict[str, TrialConfig] = {}
    for values in points_of(spec, part, _DRAWS_A_MEMBER * size):
        config = _trial(spec, part, values, spec.seeds[0])
        found.setdefault(config.trial_id, config)
        if len(found) == size:
            break
    else:
        raise SpecError(f"{spec.path or spec.name}: search.population: {size}, but only {len(found)} differ")
    rows = [Planned(part=part.name, point=n, replica=0, config=c) for n, c in enumerate(found.values())]
    return Plan(spec=spec, rows=tuple(rows), duplicates=0)


def save_plan(plan: Plan, store: SweepStore) -> None:
    """Write the sweep file and its plan into the store."""
    store.trials_path.mkdir(parents=True, exist_ok=True)
    if plan.spec.trainable.definition is not None:
        save_definition(store.path, plan.spec.trainable.definition)
    if plan.spec.user_code is not None:
        keep_code(store.path, plan.spec.user_code)
    files.write_table(plan.table(), store.path / "plan.parquet")
    planned: dict[str, set[str]] = {}
    for row in plan.rows:
        planned.setdefault(row.part, set()).add(row.trial_id)
    declare(store, tomllib.loads(plan.spec.to_toml()), len(plan.spec.seeds), planned)
    # The sweep file is written last: a folder that has one is a sweep with a plan.
    store.write_sweep_file(plan.spec.to_toml())


def read_plan(store: SweepStore) -> tuple[Planned, ...]:
    """Return the rows of a store's plan."""
    trainable = store.trainable
    return tuple(
        Planned(
            part=row["part"],
            point=row["point"],
            replica=row["replica"],
            config=trainable.config_from_row(row),
        )
        for row in store.plan().to_pylist()
    )


def trials_of(rows: Sequence[Planned], shuffled: bool = False) -> tuple[TrialConfig, ...]:
    """Return the trials of a plan, each once: the first seed of every point before the second of any.

    Args:
        shuffled: order the points of a seed by their trials' ids, which are digests.

    Where parts ask for different numbers of epochs of one trial, the largest is taken.
    """
    trials: dict[str, TrialConfig] = {}
    for row in sorted(rows, key=lambda row: (row.replica, row.trial_id if shuffled else "")):
        trial_id = row.trial_id
        if trial_id not in trials or row.config.epochs > trials[trial_id].epochs:
            trials[trial_id] = row.config
    return tuple(trials.values())


def labels_of(rows: Sequence[Planned]) -> dict[str, str]:
    """Return a label for each trial: the fields that vary in its part, its seed, and its part, if several."""
    names = rows[0].config.to_mapping() if rows else ()
    columns = {name: [row.config[name] for row in rows] for name in names}
    return labels_of_columns([row.part for row in rows], [row.trial_id for row in rows], columns)


def labels_of_columns(
    parts: Sequence[str], trial_ids: Sequence[str], columns: Mapping[str, Sequence[Any]]
) -> dict[str, str]:
    """Return the labels of labels_of, from the columns of a plan's table."""
    several = len(set(parts)) > 1
    labels: dict[str, str] = {}
    for part in dict.fromkeys(parts):
        chosen = [number for number, name in enumerate(parts) if name == part]
        varied = [
            name
            for name, values in columns.items()
            if name != "seed" and any(values[n] != values[chosen[0]] for n in chosen)
        ]
        for n in chosen:
            named = (*varied, *(name for name in columns if name == "seed"))
            shown = [name for name in named if name != "parent" or columns[name][n]]
            words = [part] * several + [f"{name}={brief(columns[name][n])}" for name in shown]
            labels.setdefault(trial_ids[n], " ".join(words))
    return labels


def is_trial_prefix(text: str) -> bool:
    """Whether a trial's id may begin with a text; an empty one names no trial."""
    return re.fullmatch(r"[0-9A-Za-z]{1,64}", text) is not None


def pick(trials: Sequence[TrialConfig], prefix: str, option: str = "--trial") -> TrialConfig:
    """Return the trial whose id begins with this prefix.

    Raises:
        SpecError: no trial matches, or more than one.
    """
    if not is_trial_prefix(prefix):
        raise SpecError(f"{option} {prefix!r}: not a trial's id or the start of one")
    found = [config for config in trials if config.trial_id.startswith(prefix)]
    if len(found) != 1:
        problem = "no trial of the plan" if not found else f"{len(found)} trials have ids that begin with it"
        raise SpecError(f"{option} {prefix}: {problem}; `sweep plan` lists their ids")
    return found[0]


def brief(value: Any) -> str:
    """Return a field's value as a label shows it."""
    if isinstance(value, list | tuple):
        return "-".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def other_code(plan: Plan, store: SweepStore) -> dict[str, list[str]]:
    """Return the trials of a plan that other code has trained, by the digest of that code.

    A trial that has been trained further by changed code is among those of each.
    """
    if plan.spec.user_code is None:
        return {}
    found: dict[str, list[str]] = {}
    planned = {config.trial_id for config in plan.trials}
    for trial_id, summary in TrialIndex(store).read().items():
        for code in summary.codes if trial_id in planned else ():
            if code != plan.spec.user_code.digest:
                found.setdefault(code, []).append(trial_id)
    return found


def other_code_line(plan: Plan, store: SweepStore, found: dict[str, list[str]]) -> str:
    """Return a line on what `other_code` has found, '' for nothing."""
    if not found or plan.spec.user_code is None:
        return ""
    count = len({trial_id for trials in found.values() for trial_id in trials})
    kept = {code: kept_versions(store.path, code) for code in found}
    versions = ", ".join(
        f"{code[:8]}{f' of {kept[code]}' if kept[code] else ''}: {len(trials)}"
        for code, trials in found.items()
    )
    here = versions_of(plan.spec.user_code)
    trials = "1 trial" if count == 1 else f"{count} trials"
    return (
        f"different code of yours has trained {trials} in the store ({versions}); "
        f"the code at hand is {plan.spec.user_code.digest[:8]}{f' of {here}' if here else ''}"
    )
