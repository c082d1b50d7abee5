"""The `[search]` table: a sweep whose trials are chosen as others end, by Optuna's TPE or by PBT."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any

from mixsweep.core.errors import did_you_mean
from mixsweep.core.toml.keys import keys_beside, read_keys, toml_key
from mixsweep.core.toml.reader import Reader
from mixsweep.core.trainables.interface import Trainable
from mixsweep.sweep.planning.arithmetic import Expression
from mixsweep.sweep.planning.derive import depends_on

ALGORITHMS = ("tpe", "pbt")

# Distributions that Optuna lacks, and the nearest ones that it has.
_NOT_IN_TPE = {"qloguniform": "loguniform or quniform", "randn": "uniform"}


_TPE = {"algorithm": ("tpe",)}
_PBT = {"algorithm": ("pbt",)}


@dataclass(frozen=True, kw_only=True)
class Search:
    """How trials are chosen: `trials` in all (tpe), or a `population` that trains together (pbt)."""

    algorithm: str = toml_key(
        MISSING, "tpe: Optuna's sampler; pbt: population based training", choices=ALGORITHMS
    )
    trials: int = toml_key(32, "trials in all", low=1, applies=_TPE)
    startup_trials: int = toml_key(
        10, "drawn at random before the first suggestion that looks at results", low=0, applies=_TPE
    )
    population: int = toml_key(8, "trials that train together", low=2, applies=_PBT)
    interval_epochs: int = toml_key(3, "epochs between two comparisons", low=1, applies=_PBT)
    mutate: tuple[str, ...] = toml_key(
        (),
        "the fields that change when a member continues another one's checkpoint",
        applies=_PBT,
        required=True,
    )
    quantile: float = toml_key(
        0.25,
        "the fraction of the population that does so, and the fraction whose checkpoints it continues",
        above=0,
        high=0.5,
        applies=_PBT,
    )
    resample: float = toml_key(
        0.25,
        "the probability that such a field is drawn again instead of changed a little",
        low=0,
        high=1,
        applies=_PBT,
    )


def read_search(
    reader: Reader,
    source: Mapping[str, Any],
    trainable: Trainable,
    space: Mapping[str, Any],
    when: Mapping[str, Any],
    derive: Mapping[str, Expression],
    replicas: int,
) -> Search | None:
    """Check a sweep file's `[search]` table, and the rest of the file against it; return None without the table.

    Raises:
        UserError: of the reader's error class; one line on what is wrong.
    """
    if "search" not in source:
        return None
    table, at = reader.table(source, "search"), "search."
    algorithm = reader.choice(table, "algorithm", "tpe", ALGORITHMS, at)
    reader.keys(table, keys_beside(Search, algorithm=algorithm), at)
    if algorithm == "pbt" and "command" in source:
        _check_members(reader, reader.table(source, "command"), trainable)
    if "parts" in source:
        raise reader.error("search", "not with [[parts]]: a search asks one question; split the file")
    if "samples" in source:
        wanted = "search.trials" if algorithm == "tpe" else "search.population"
        raise reader.error("samples", f"not with [search]: write {wanted}")
    if "combine" in source:
        raise reader.error(
            "combine", "not with [search], which draws each trial; leave values out of [space]"
        )
    if replicas > 1:
        raise reader.error(
            "seeds", "not with [search]: a trial is one seed; repeat the best ones in a file of their own"
        )
    if not space:
        raise reader.error("space", "is empty: there is nothing to search")
    for key, axis in space.items():
        ((name, _),) = axis.items()
        if name == "grid_search":
            raise reader.error(f"space.{key}", "grid_search runs every value; with [search] write choice")
        if algorithm == "tpe" and name in _NOT_IN_TPE:
            raise reader.error(f"space.{key}", f"tpe has no {name}; write {_NOT_IN_TPE[name]}")
    search = Search(**{"algorithm": algorithm, **read_keys(reader, table, Search, at)})
    if algorithm == "tpe":
        _check_tpe(reader, search, trainable, space, when, derive)
    else:
        _check_pbt(reader, source, search, trainable, space, when, derive)
    return search


def _check_members(reader: Reader, command: Mapping[str, Any], trainable: Trainable) -> None:
    """Check that a command can train up to a comparison, and go on from another one's checkpoint."""
    if not command.get("resume"):
        raise reader.error(
            "command.resume", "missing: with pbt a member goes on from another one's checkpoint"
        )
    if f"{{{trainable.budget}}}" not in str(command.get("run")):
        raise reader.error(
            "command.run",
            "with pbt it has to name the field with budget = true: a member runs up to each comparison and ends there",
        )


def _check_tpe(
    reader: Reader,
    search: Search,
    trainable: Trainable,
    space: Mapping[str, Any],
    when: Mapping[str, Any],
    derive: Mapping[str, Expression],
) -> None:
    for key in space:
        for other in (*trainable.field(key).applies, *when.get(key, {})):
            if other in derive:
                raise reader.error(f"derive.{other}", f"not with tpe: whether {key} counts depends on it")
    points = math.prod(_size(axis) for axis in space.values())
    if search.trials > points:
        raise reader.error("search.trials", f"{search.trials}, but the space has only {points:g} points")


def _check_pbt(
    reader: Reader,
    source: Mapping[str, Any],
    search: Search,
    trainable: Trainable,
    space: Mapping[str, Any],
    when: Mapping[str, Any],
    derive: Mapping[str, Expression],
) -> None:
    budget, mutable = trainable.budget, trainable.mutable_fields
    if "stopping" in source:
        raise reader.error("stopping", "not with pbt, which stops the worst of its population itself")
    if not search.mutate:
        raise reader.error("search.mutate", f"missing: fields of [space] among {', '.join(mutable)}")
    for number, name in enumerate(search.mutate):
        if name not in mutable:
            hint = did_you_mean(name, mutable)
            raise reader.error(f"search.mutate[{number}]", f"{name!r} is not known{hint}")
        if name not in space:
            raise reader.error(f"search.mutate[{number}]", f"{name!r} is not in [space]")
        if name in when:
            raise reader.error(f"search.mutate[{number}]", f"{name!r} has a condition in [when]; remove one")
    for table, values in (("space", space), ("derive", derive)):
        if budget in values:
            raise reader.error(
                f"{table}.{budget}", "not with pbt: a population is compared at the same epochs"
            )
    changing = set(search.mutate)
    for name, expression in derive.items():  # each after those that it depends on
        if changing & depends_on(expression, name, when, trainable):
            changing.add(name)
            if name not in mutable:
                raise reader.error(
                    f"derive.{name}", f"changes with [search] mutate, but a trained state depends on {name}"
                )
    epochs = reader.table(source, "base").get(budget, trainable.defaults[budget])
    if search.interval_epochs >= epochs:
        raise reader.error(
            "search.interval_epochs", f"{search.interval_epochs} leaves nothing to compare in {epochs} epochs"
        )
    points = math.prod(_size(axis) for axis in space.values())
    if search.population > points:
        raise reader.error("search.population", f"{search.population}, but the space has {points:g} points")


def _size(axis: Mapping[str, Any]) -> float:
    """Return how many values an axis has."""
    ((name, values),) = axis.items()
    if name == "choice":
        return len(values)
    if name == "randint":
        return values[1] - values[0]
    return round((values[1] - values[0]) / values[2]) + 1 if name.startswith("q") else math.inf
