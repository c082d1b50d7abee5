"""The `[search]` table: a sweep whose trials are chosen as others end, by Optuna's TPE or by population."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mixsweep.core.toml_reader import Reader
from mixsweep.core.trainables.interface import Trainable

ALGORITHMS = ("tpe", "pbt")

_KEYS = {
    "tpe": ("algorithm", "trials", "startup_trials"),
    "pbt": ("algorithm", "population", "interval_epochs", "mutate", "quantile", "resample"),
}
# What has no counterpart in Optuna, and what comes nearest.
_NOT_IN_TPE = {"qloguniform": "loguniform or quniform", "randn": "uniform"}


@dataclass(frozen=True, kw_only=True)
class Search:
    """How trials are chosen: `trials` in all (tpe), or a `population` that trains together (pbt).

    Args:
        startup_trials: drawn at random before the first suggestion that looks at results.
        interval_epochs: after so many the population is compared.
        mutate: the fields that change when a member goes on from another one's checkpoint.
        quantile: the share of the population that does so, and the share that it may go on from.
        resample: the probability that such a field is drawn anew instead of moved a little.
    """

    algorithm: str
    trials: int = 32
    startup_trials: int = 10
    population: int = 8
    interval_epochs: int = 3
    mutate: tuple[str, ...] = ()
    quantile: float = 0.25
    resample: float = 0.25


def read_search(
    reader: Reader,
    source: Mapping[str, Any],
    trainable: Trainable,
    space: Mapping[str, Any],
    when: Mapping[str, Any],
    replicas: int,
) -> Search | None:
    """Check a sweep file's `[search]`, and that the rest of the file goes with it; None where there is none.

    Raises:
        UserError: the reader's own kind; one line on what is wrong.
    """
    if "search" not in source:
        return None
    table, at = reader.table(source, "search"), "search."
    algorithm = reader.choice(table, "algorithm", "tpe", ALGORITHMS, at)
    reader.keys(table, _KEYS[algorithm], at)
    if "parts" in source:
        raise reader.error("search", "not with [[parts]]: a search asks one question; split the file")
    if "samples" in source:
        wanted = "search.trials" if algorithm == "tpe" else "search.population"
        raise reader.error("samples", f"not with [search]: write {wanted}")
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
    if algorithm == "tpe":
        return _read_tpe(reader, table, space, at)
    return _read_pbt(reader, source, trainable, table, space, when)


def _read_tpe(reader: Reader, table: Mapping[str, Any], space: Mapping[str, Any], at: str) -> Search:
    search = Search(
        algorithm="tpe",
        trials=reader.integer(table, "trials", 32, low=1, where=at),
        startup_trials=reader.integer(table, "startup_trials", 10, low=0, where=at),
    )
    points = math.prod(_size(axis) for axis in space.values())
    if search.trials > points:
        raise reader.error("search.trials", f"{search.trials}, but the space has only {points:g} points")
    return search


def _read_pbt(
    reader: Reader,
    source: Mapping[str, Any],
    trainable: Trainable,
    table: Mapping[str, Any],
    space: Mapping[str, Any],
    when: Mapping[str, Any],
) -> Search:
    at, mutable, budget = "search.", trainable.mutable_fields, trainable.budget
    if "stopping" in source:
        raise reader.error("stopping", "not with pbt, which stops the worst of its population itself")
    search = Search(
        algorithm="pbt",
        population=reader.integer(table, "population", 8, low=2, where=at),
        interval_epochs=reader.integer(table, "interval_epochs", 3, low=1, where=at),
        mutate=reader.texts(table, "mutate", at),
        quantile=reader.number(table, "quantile", 0.25, low=0, where=at),
        resample=reader.number(table, "resample", 0.25, low=0, where=at),
    )
    if not search.mutate:
        raise reader.error("search.mutate", f"missing: fields of [space] among {', '.join(mutable)}")
    for number, name in enumerate(search.mutate):
        reader.choice({"name": name}, "name", "", mutable, f"search.mutate[{number}] ")
        if name not in space:
            raise reader.error(f"search.mutate[{number}]", f"{name!r} is not in [space]")
        if name in when:
            raise reader.error(f"search.mutate[{number}]", f"{name!r} stands under [when]")
    if not 0 < search.quantile <= 0.5:
        raise reader.error("search.quantile", f"{search.quantile:g} is not above 0 and at most 0.5")
    if search.resample > 1:
        raise reader.error("search.resample", f"{search.resample:g} is not from 0 to 1")
    if budget in space:
        raise reader.error(f"space.{budget}", "not with pbt: a population is compared at the same epochs")
    epochs = reader.table(source, "base").get(budget, trainable.defaults[budget])
    if search.interval_epochs >= epochs:
        raise reader.error(
            "search.interval_epochs", f"{search.interval_epochs} leaves nothing to compare in {epochs} epochs"
        )
    points = math.prod(_size(axis) for axis in space.values())
    if search.population > points:
        raise reader.error("search.population", f"{search.population}, but the space has {points:g} points")
    return search


def _size(axis: Mapping[str, Any]) -> float:
    """How many values an axis has."""
    ((name, values),) = axis.items()
    if name == "choice":
        return len(values)
    if name == "randint":
        return values[1] - values[0]
    return round((values[1] - values[0]) / values[2]) + 1 if name.startswith("q") else math.inf
