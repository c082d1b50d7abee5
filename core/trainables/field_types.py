"""Fields that a user declares in Python: by a type, a default, and what `field` adds."""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING
from dataclasses import field as dataclass_field
from typing import Any

from mixsweep.core.config import Field
from mixsweep.core.errors import ConfigError

OPTION = "mixsweep"  # the key of `field`'s arguments in a dataclass field's metadata

_ITEM_TYPES = (bool, int, float, str)


def field(
    default: Any = MISSING,
    *,
    doc: str = "",
    choices: tuple[str, ...] | list[str] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    when: Mapping[str, Any] | None = None,
    budget: bool = False,
    mutable: bool = False,
    added: bool = False,
) -> Any:
    """Declare a field of a trainable's `Config`.

    Args:
        default: of a trial that does not set it; a list becomes a tuple.
        doc: what it means, with its unit.
        choices: the texts that it allows.
        low, high: inclusive bounds of a number; `above` is an exclusive one.
        when: the values of other fields, one or a list, under which it counts; elsewhere it keeps its default.
        budget: it is the number of records of a trial. Asking for more extends a trial; it is not in its identity.
        mutable: a copy of a trained state may continue with another value of it, as population based training does.
        added: it came later. Trials that had been trained without it are those with its default.
    """
    options = {
        "doc": doc, "choices": tuple(choices), "low": low, "high": high, "above": above, "when": dict(when or {}),
        "budget": budget, "mutable": mutable, "added": added,
    }  # fmt: skip
    given = tuple(default) if isinstance(default, list) else default
    return dataclass_field(default=given, metadata={OPTION: options})


def field_of(
    name: str,
    hint: Any,
    default: Any,
    where: str,
    options: Mapping[str, Any],
    applies: Mapping[str, tuple[Any, ...]],
) -> Field:
    """A field of a type hint and a default.

    Args:
        where: of the field, for errors.
        options: further arguments of Field.
        applies: as for Field.

    Raises:
        ConfigError: its type is not one that a field can have, or the default is not allowed.
    """
    default = tuple(default) if isinstance(default, list) else default
    made = Field(
        name=name, default=default, applies=applies, **{"doc": "", **options, **type_of(hint, where)}
    )
    try:
        made.checked(default)
    except ConfigError as error:
        raise ConfigError(f"{where}: its default: {error}", name) from error
    return made


def type_of(hint: Any, where: str) -> dict[str, Any]:
    """The arguments of Field for a type hint."""
    parts, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union) and len(parts) == 2 and type(None) in parts:
        (inner,) = (part for part in parts if part is not type(None))
        return {**type_of(inner, where), "optional": True}
    if origin in (tuple, list) and parts and parts[0] in _ITEM_TYPES and set(parts[1:]) <= {...}:
        return {"type": parts[0], "is_list": True}
    if origin is typing.Literal and all(isinstance(part, str) for part in parts):
        return {"type": str, "choices": parts}
    if hint not in _ITEM_TYPES:
        raise ConfigError(
            f"{where}: type {getattr(hint, '__name__', hint)} is none of int, float, str, bool, "
            "tuple[int, ...] or one of them with | None"
        )
    return {"type": hint}
