"""Search spaces: Ray Tune's distributions by their names, and the points of a space.

Grids are expanded here, in the file's order and without importing Ray; random draws come from Ray Tune's variant
generator.
"""

import itertools
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixsweep.core.errors import did_you_mean
from mixsweep.core.extras import require
from mixsweep.core.toml.keys import toml_key_by_hand

Space = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """The arguments of a distribution: a list of values, or numbers of these names."""

    doc: str
    numbers: tuple[str, ...] = ()  # none: a list of values
    above_zero: tuple[str, ...] = ()  # of the numbers
    integers: bool = False


DISTRIBUTIONS: dict[str, Distribution] = {
    "grid_search": Distribution(doc="every value, in all combinations with other grids"),
    "choice": Distribution(doc="one of the values at random"),
    "uniform": Distribution(doc="a number between low and high", numbers=("low", "high")),
    "loguniform": Distribution(
        doc="a number between low and high, uniform in its logarithm",
        numbers=("low", "high"),
        above_zero=("low", "high"),
    ),
    "quniform": Distribution(
        doc="a multiple of q from low to high", numbers=("low", "high", "q"), above_zero=("q",)
    ),
    "qloguniform": Distribution(
        doc="a multiple of q from low to high, uniform in its logarithm",
        numbers=("low", "high", "q"),
        above_zero=("low", "high", "q"),
    ),
    "randint": Distribution(
        doc="an integer from low up to, but not including, high", numbers=("low", "high"), integers=True
    ),
    "randn": Distribution(doc="a normally distributed number", numbers=("mean", "sd"), above_zero=("sd",)),
}


class SpaceError(ValueError):
    """An axis that is not a valid distribution, or an exclude that leaves out no point, or every one."""


@dataclass(frozen=True, kw_only=True)
class Combine:
    """How the axes of a space are combined, where it is not in all combinations."""

    zip: tuple[tuple[str, ...], ...] = toml_key_by_hand(
        (), "grids of equal length whose values go together by position: [['lr', 'batch_size']]"
    )
    exclude: tuple[Mapping[str, Any], ...] = toml_key_by_hand(
        (), "points to leave out: those with all of these values, each one or a list of several"
    )


def check_axis(axis: Any) -> list[Any]:
    """Check one axis, `{ name = [...] }`.

    Returns:
        the values that a trial must accept: all of a list, the ends of a range.

    Raises:
        SpaceError: what is wrong and what is allowed.
    """
    names = ", ".join(DISTRIBUTIONS)
    if not isinstance(axis, Mapping) or len(axis) != 1:
        raise SpaceError(f"{axis!r} is not like {{ grid_search = [1, 2] }}; allowed: {names}")
    ((name, values),) = axis.items()
    if name not in DISTRIBUTIONS:
        raise SpaceError(f"unknown distribution {name!r}{did_you_mean(name, DISTRIBUTIONS)}")
    if not isinstance(values, list) or not values:
        raise SpaceError(f"{name} = {values!r} is not a list of one value or more")
    shape = DISTRIBUTIONS[name]
    if not shape.numbers:
        return values
    if len(values) != len(shape.numbers) or any(
        isinstance(value, bool) or not isinstance(value, int | float) for value in values
    ):
        raise SpaceError(f"{name} = {values!r} is not [{', '.join(shape.numbers)}], all numbers")
    if not all(abs(value) <= sys.float_info.max for value in values):
        raise SpaceError(f"{name} = {values!r}: not all are finite")
    if shape.integers and not all(isinstance(value, int) for value in values):
        raise SpaceError(f"{name} = {values!r}: both must be integers")
    named = dict(zip(shape.numbers, values))
    if name != "randn" and not named["low"] < named["high"]:
        raise SpaceError(f"{name} = {values!r}: low is not below high")
    if "q" in named and not (
        named["q"] > 0 and all(_divides(named["q"], named[end]) for end in ("low", "high"))
    ):
        raise SpaceError(f"{name} = {values!r}: q must be above 0 and divide low and high")
    for number in shape.above_zero:
        if named[number] <= 0:
            raise SpaceError(f"{name} = {values!r}: {number} must be above 0")
    if name == "randn":
        return []
    return [named["low"], named["high"] - 1] if shape.integers else [named["low"], named["high"]]


def expand(
    base: Mapping[str, Any],
    space: Space,
    when: Mapping[str, Mapping[str, Any]],
    samples: int,
    seed: int,
    defaults: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    *,
    combine: Combine = Combine(),
    complete: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the points of a space: every combination of the grids, `samples` times with fresh draws of the rest.

    A field under `when` is left out of a point whose other fields (or their `defaults`) do not meet its condition.

    Args:
        defaults: returns the defaults of all fields beside the values of a point.
        complete: makes a point of the values of `base` and `space`, instead of `when` alone.

    Raises:
        SpaceError: after the last point: an exclude has matched none, or all.
    """
    axes = grid_axes(space, combine.zip)
    drawn = {key: axis for key, axis in space.items() if "grid_search" not in axis}
    points = _draw(drawn, axes, samples, seed) if drawn else _product(axes)
    matched: set[int] = set()
    left = 0
    for point in points:
        values = {**base, **{key: point[key] for key in space}}
        full = {**defaults(values), **values}
        if found := [
            n for n, one in enumerate(combine.exclude) if all(meets(full[k], v) for k, v in one.items())
        ]:
            matched.update(found)
            continue
        left += 1
        yield complete(values) if complete is not None else switch_off(values, when, defaults(values))
    for number in range(len(combine.exclude)):
        if number not in matched:
            raise SpaceError(f"combine.exclude[{number}]: matches no point")
    if not left:
        raise SpaceError("combine.exclude: leaves out every point")


def grid_axes(space: Space, zipped: Sequence[Sequence[str]] = ()) -> list[list[dict[str, Any]]]:
    """Return the axes of the grids, each as its values by field. A zipped group is one axis, where its first is."""
    groups = {name: group for group in zipped for name in group}
    axes: list[list[dict[str, Any]]] = []
    done: set[str] = set()
    for name, axis in space.items():
        if name in done or "grid_search" not in axis:
            continue
        names = groups.get(name, (name,))
        done.update(names)
        rows = zip(*(space[one]["grid_search"] for one in names), strict=True)
        axes.append([dict(zip(names, row)) for row in rows])
    return axes


def count_points(
    space: Space, samples: int, combine: Combine = Combine(), fixed: Mapping[str, Any] | None = None
) -> int:
    """Return how many points `expand` yields, without expanding anything.

    Points that are excluded by a drawn field are counted: which ones these are is known once they are drawn.

    Args:
        fixed: the values of the fields that do not vary, which an exclude may name (see fixed_values).
    """
    fixed = fixed or {}
    excludes = [one for one in combine.exclude if _could_match(one, space, fixed)]
    # How many combinations of the axes so far match which of the excludes.
    counts: Counter[frozenset[int]] = Counter({frozenset(range(len(excludes))): 1})
    for axis in grid_axes(space, combine.zip):
        kinds = Counter(frozenset(n for n, one in enumerate(excludes) if _fits(one, point)) for point in axis)
        after: Counter[frozenset[int]] = Counter()
        for matched, count in counts.items():
            for kind, size in kinds.items():
                after[matched & kind] += count * size
        counts = after
    drawn = any("grid_search" not in axis for axis in space.values())
    return counts[frozenset()] * (samples if drawn else 1)


def fixed_values(
    base: Mapping[str, Any], space: Space, defaults: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the values of the fields that are the same in all points of a space.

    Args:
        defaults: as for `expand`.
    """
    first = defaults(base)
    varied = set(space)
    for key, axis in space.items():
        for value in axis.get("grid_search", axis.get("choice", ())):
            beside = defaults({**base, key: value})
            varied |= {name for name in beside if beside[name] != first[name]}
    return {**{name: value for name, value in first.items() if name not in varied}, **base}


def _could_match(exclude: Mapping[str, Any], space: Space, fixed: Mapping[str, Any]) -> bool:
    """Whether an exclude names grids and fixed values only, and the fixed ones are met."""
    if any("grid_search" not in space[name] if name in space else name not in fixed for name in exclude):
        return False
    return all(meets(fixed[name], value) for name, value in exclude.items() if name not in space)


def _fits(exclude: Mapping[str, Any], point: Mapping[str, Any]) -> bool:
    """Whether the values of one axis are those that an exclude names, if it names any of them."""
    return all(meets(value, exclude[name]) for name, value in point.items() if name in exclude)


def switch_off(
    values: Mapping[str, Any], when: Mapping[str, Mapping[str, Any]], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a point without the fields under `when` whose conditions it does not meet."""
    left = dict(values)
    for key, conditions in when.items():
        if key in left and not all(meets(left.get(k, defaults[k]), v) for k, v in conditions.items()):
            del left[key]
    return left


def meets(value: Any, allowed: Any) -> bool:
    """Whether a value is the allowed one, or in the list of allowed ones."""
    return value == allowed or (isinstance(allowed, list) and value in allowed)


def to_ray(space: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a space as Ray Tune's objects."""
    require("ray", what="[search]")
    from ray import tune

    objects = {}
    for key, axis in space.items():
        ((name, values),) = axis.items()
        arguments = values if DISTRIBUTIONS[name].numbers else [values]
        objects[key] = getattr(tune, name)(*arguments)
    return objects


def _product(axes: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    for chosen in itertools.product(*axes):
        yield {name: value for values in chosen for name, value in values.items()}


def _draw(
    drawn: Space, axes: Sequence[Sequence[Mapping[str, Any]]], samples: int, seed: int
) -> Iterator[dict[str, Any]]:
    require("ray", what="a random draw in [space]")
    import numpy as np
    from ray.tune.search.variant_generator import generate_variants

    state = np.random.default_rng(seed)
    named = {next(iter(axis[0])): axis for axis in axes}  # Ray sees the positions of a zipped group's values
    grids = {
        name: {"grid_search": list(range(len(axis))) if len(axis[0]) > 1 else [point[name] for point in axis]}
        for name, axis in named.items()
    }
    spec = to_ray({**grids, **drawn})
    for _ in range(samples):
        for _resolved, point in generate_variants(spec, random_state=state):
            values = {key: _plain(value) for key, value in point.items()}
            for name, axis in named.items():
                if len(axis[0]) > 1:
                    values |= axis[values[name]]
            yield values


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _divides(q: float, value: float) -> bool:
    ratio = value / q
    return math.isfinite(ratio) and math.isclose(ratio, round(ratio))
