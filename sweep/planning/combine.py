"""Reads `[combine]`: axes that go together by position, and points that are left out (sweep.planning.space)."""

from collections.abc import Callable, Mapping
from typing import Any

from mixsweep.core.errors import did_you_mean
from mixsweep.core.formatting import values_text
from mixsweep.core.toml.keys import declared_keys
from mixsweep.core.toml.reader import Reader
from mixsweep.core.trainables.interface import Trainable
from mixsweep.sweep.planning.space import Combine, Space, count_points, grid_axes, meets

_MOST_EXCLUDES = 100


def read_combine(
    reader: Reader,
    table: Mapping[str, Any],
    where: str,
    trainable: Trainable,
    fixed: Mapping[str, Any],
    check_value: Callable[[str, str, Any], None],
) -> Combine:
    """Return a checked `[combine]` table.

    Args:
        table: the table with `space`, `derive` and `combine`, a sweep file or one of its parts.
        fixed: the values of the fields that do not vary.
        check_value: raises the error of a value (its place in the file, the field, the value) that is not allowed.

    Raises:
        UserError: of the reader's class; one line.
    """
    values, at = reader.table(table, "combine", where), f"{where}combine."
    reader.keys(values, declared_keys(Combine), at)
    space = reader.table(table, "space", where)
    combine = Combine(zip=_read_zip(reader, values.get("zip", []), f"{at}zip", space))
    excludes = values.get("exclude", [])
    if not isinstance(excludes, list) or not all(isinstance(one, Mapping) and one for one in excludes):
        raise reader.error(f"{at}exclude", f"{excludes!r} is not like [{{ lr = 0.1, optimizer = 'sgd' }}]")
    if len(excludes) > _MOST_EXCLUDES:
        raise reader.error(f"{at}exclude", f"{len(excludes)} are too many; allowed: {_MOST_EXCLUDES}")
    for number, exclude in enumerate(excludes):
        here = f"{at}exclude[{number}]"
        for name, allowed in exclude.items():
            if name == "seed":
                raise reader.error(f"{here}.seed", "seeds are paired: every point has all of them")
            if name in reader.table(table, "derive", where):
                raise reader.error(f"{here}.{name}", "is derived; exclude by the fields that it follows from")
            several = isinstance(allowed, list) and bool(allowed)
            if several and name in trainable.field_names and trainable.field(name).is_list:
                several = isinstance(allowed[0], list)  # else the list is one value
            for value in allowed if several else [allowed]:
                check_value(f"{here}.{name}", name, value)
        if problem := _no_match(exclude, space, combine, fixed):
            raise reader.error(here, f"matches no point: {problem}")
    combine = Combine(zip=combine.zip, exclude=tuple(excludes))
    if excludes and not count_points(space, 1, combine, fixed):
        raise reader.error(f"{at}exclude", "leaves out every point")
    return combine


def _no_match(exclude: Mapping[str, Any], space: Space, combine: Combine, fixed: Mapping[str, Any]) -> str:
    """Return why an exclude matches no point, '' if it may match one; what is drawn is not known yet."""
    for name, allowed in exclude.items():
        if name not in space and name in fixed and not meets(fixed[name], allowed):
            return f"{name} is {fixed[name]!r} in all of them"
    for axis in grid_axes(space, combine.zip):
        wanted = {name: exclude[name] for name in axis[0] if name in exclude}
        if not any(all(meets(point[name], wanted[name]) for name in wanted) for point in axis):
            together = " together" if len(wanted) > 1 else ""
            return f"no value of [space] has {values_text(wanted)}{together}"
    return ""


def _read_zip(reader: Reader, given: Any, at: str, space: Space) -> tuple[tuple[str, ...], ...]:
    shape = isinstance(given, list) and all(
        isinstance(group, list) and len(group) > 1 and all(isinstance(name, str) for name in group)
        for group in given
    )
    if not shape:
        raise reader.error(at, f"{given!r} is not a list of groups like [['lr', 'batch_size']]")
    seen: set[str] = set()
    for number, group in enumerate(given):
        here = f"{at}[{number}]"
        for name in group:
            if name not in space:
                raise reader.error(here, f"{name!r} is not in [space]{did_you_mean(name, space)}")
            if "grid_search" not in space[name]:
                raise reader.error(
                    here, f"{name!r} is drawn; only the values of a grid_search have positions"
                )
            if name in seen:
                raise reader.error(here, f"{name!r} is zipped twice")
            seen.add(name)
        lengths = {name: len(space[name]["grid_search"]) for name in group}
        if len(set(lengths.values())) > 1:
            words = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise reader.error(here, f"the numbers of values differ: {words}")
    return tuple(map(tuple, given))
