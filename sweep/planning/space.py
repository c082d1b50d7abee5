"""Search spaces: Ray Tune's distributions by their names, and the points of a space.

Grids are expanded here, in the file's order and without importing Ray; random draws come from Ray Tune's variant
generator.
"""

import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixsweep.core.errors import did_you_mean
from mixsweep.core.extras import require


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
    """An axis that is not a valid distribution."""


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
    space: Mapping[str, Mapping[str, Any]],
    when: Mapping[str, Mapping[str, Any]],
    samples: int,
    seed: int,
    defaults: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """Yield the points of a space: every combination of the grids, `samples` times with fresh draws of the rest.

    A field under `when` is left out of a point whose other fields (or their `defaults`) do not meet its condition.
    """
    grids = {key: axis["grid_search"] for key, axis in space.items() if "grid_search" in axis}
    drawn = {key: axis for key, axis in space.items() if key not in grids}
    draws = _draw(drawn, grids, samples, seed) if drawn else _product(grids)
    for point in draws:
        yield switch_off({**base, **{key: point[key] for key in space}}, when, defaults)


def count_points(space: Mapping[str, Mapping[str, Any]], samples: int) -> int:
    """Return how many points `expand` yields, without expanding anything."""
    grids = [axis["grid_search"] for axis in space.values() if "grid_search" in axis]
    return math.prod(map(len, grids)) * (samples if len(grids) < len(space) else 1)


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


def _product(grids: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*grids.values()):
        yield dict(zip(grids, values))


def _draw(
    drawn: Mapping[str, Mapping[str, Any]], grids: Mapping[str, Sequence[Any]], samples: int, seed: int
) -> Iterator[dict[str, Any]]:
    require("ray", what="a random draw in [space]")
    import numpy as np
    from ray.tune.search.variant_generator import generate_variants

    state = np.random.default_rng(seed)
    spec = to_ray({**{key: {"grid_search": list(values)} for key, values in grids.items()}, **drawn})
    for _ in range(samples):
        for _resolved, point in generate_variants(spec, random_state=state):
            yield {key: _plain(value) for key, value in point.items()}


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _divides(q: float, value: float) -> bool:
    ratio = value / q
    return math.isfinite(ratio) and math.isclose(ratio, round(ratio))
