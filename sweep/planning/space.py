"""Search spaces: Ray Tune's distributions by their own names, and the points that follow from them.

A grid is expanded here, in the file's order and without waiting for Ray's import; whatever is drawn is
drawn by Ray Tune's own variant generator.
"""

import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import did_you_mean
from mixsweep.core.extras import require

# Name: how many numbers it takes; None for a list of values.
DISTRIBUTIONS: dict[str, tuple[str, ...] | None] = {
    "grid_search": None,
    "choice": None,
    "uniform": ("low", "high"),
    "loguniform": ("low", "high"),
    "quniform": ("low", "high", "q"),
    "qloguniform": ("low", "high", "q"),
    "randint": ("low", "high"),
    "randn": ("mean", "sd"),
}


class SpaceError(ValueError):
    """An axis that is no distribution."""


def check_axis(axis: Any) -> list[Any]:
    """Check one axis, `{ name = [...] }`.

    Returns:
        the values that a trial must be able to have: all of a list, the ends of a range.

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
    wanted = DISTRIBUTIONS[name]
    if wanted is None:
        return values
    if len(values) != len(wanted) or any(
        isinstance(value, bool) or not isinstance(value, int | float) for value in values
    ):
        raise SpaceError(f"{name} = {values!r} is not [{', '.join(wanted)}], all numbers")
    if not all(abs(value) <= sys.float_info.max for value in values):
        raise SpaceError(f"{name} = {values!r}: not all are finite")
    if name == "randn":
        if values[1] <= 0:
            raise SpaceError(f"{name} = {values!r}: sd must be above 0")
        return []
    low, high = values[:2]
    if not low < high:
        raise SpaceError(f"{name} = {values!r}: low is not below high")
    if "log" in name and low <= 0:
        raise SpaceError(f"{name} = {values!r}: low must be above 0")
    if name == "randint" and not all(isinstance(value, int) for value in values):
        raise SpaceError(f"{name} = {values!r}: both must be integers")
    if name.startswith("q") and not (values[2] > 0 and all(_divides(values[2], v) for v in (low, high))):
        raise SpaceError(f"{name} = {values!r}: q must be above 0 and divide low and high")
    return [low, high - 1] if name == "randint" else [low, high]


def expand(
    base: Mapping[str, Any],
    space: Mapping[str, Mapping[str, Any]],
    when: Mapping[str, Mapping[str, Any]],
    samples: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """The points of a space: every combination of the grids, `samples` times with fresh draws of the rest.

    A field under `when` is left out of the points whose other fields do not meet its condition.
    """
    grids = {key: axis["grid_search"] for key, axis in space.items() if "grid_search" in axis}
    drawn = {key: axis for key, axis in space.items() if key not in grids}
    draws = _draw(drawn, grids, samples, seed) if drawn else _product(grids)
    for point in draws:
        yield switch_off({**base, **{key: point[key] for key in space}}, when)


def switch_off(values: Mapping[str, Any], when: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A point without the fields under `when` whose conditions it does not meet."""
    defaults, left = _defaults(), dict(values)
    for key, conditions in when.items():
        if key in left and not all(meets(left.get(k, defaults[k]), v) for k, v in conditions.items()):
            del left[key]
    return left


def meets(value: Any, allowed: Any) -> bool:
    """Whether a value is the allowed one, or one of the list of them."""
    return value == allowed or (isinstance(allowed, list) and value in allowed)


def to_ray(space: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A space as Ray Tune's own objects."""
    require("ray", what="[search]")
    from ray import tune

    objects = {}
    for key, axis in space.items():
        ((name, values),) = axis.items()
        arguments = [values] if DISTRIBUTIONS[name] is None else values
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


@cache
def _defaults() -> dict[str, Any]:
    return TrialConfig().to_mapping()
