"""The parts of every trial's config: declared fields, checked values, and the identity computed from them.

This module imports neither torch nor Ray, so that a sweep is planned without waiting for them.
"""

import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from mixsweep.core.errors import ConfigError, did_you_mean

_PARENT = re.compile(r"[0-9a-f]{12}@[1-9][0-9]*")
LARGEST_INTEGER = 2**63 - 1  # of TOML, and of the store's tables


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of a trial: its meaning and the values that it allows.

    Args:
        type: of a value, or of an item where `is_list`: str, int, float or bool.
        optional: whether None is a value.
        low, high: inclusive bounds of a number; `above` is an exclusive one.
        examples: some allowed values, if registered names are allowed too.
        applies: the values of other fields under which this one has an effect; otherwise it is left at its
            default.
        budget: whether it is the number of records of a trial, which is not part of its identity.
        mutable: whether a copy of a trained state may continue with another value of it.
        added: whether it came later than trials without it, whose identities it leaves as they were.
    """

    name: str
    type: type
    default: Any
    doc: str
    is_list: bool = False
    optional: bool = False
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    above: float | None = None
    examples: tuple[str, ...] = ()
    applies: Mapping[str, tuple[Any, ...]]
    budget: bool = False
    mutable: bool = False
    added: bool = False

    def checked(self, value: Any) -> Any:
        """Return the value in the field's own type.

        Raises:
            ConfigError: it is of another type, out of range, or not among the choices.
        """
        if value is None and self.optional:
            return None
        if self.is_list:
            if not isinstance(value, list | tuple) or not value:
                items = {int: "integers", float: "numbers", str: "strings", bool: "truth values"}[self.type]
                raise ConfigError(f"{self.name} = {value!r} is not a list of {items}", self.name)
            return tuple(self._checked_item(item) for item in value)
        return self._checked_item(value)

    def _checked_item(self, value: Any) -> Any:
        if self.type is bool:
            if not isinstance(value, bool):
                raise ConfigError(f"{self.name} = {value!r} is neither true nor false", self.name)
            return value
        if self.type in (int, float):
            return self._checked_number(value)
        if not isinstance(value, str):
            raise ConfigError(f"{self.name} = {value!r} is not a string", self.name)
        if self.choices:
            check_name(self.name, value, self.choices)
        return value

    def _checked_number(self, value: Any) -> int | float:
        name, wanted = self.name, "an integer" if self.type is int else "a number"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{name} = {value!r} is not {wanted}", name)
        if not _is_finite(value) or (self.type is int and value != int(value)):
            raise ConfigError(f"{name} = {value!r} is not {wanted}", name)
        if self.low is not None and value < self.low:
            raise ConfigError(f"{name} = {value!r} is too small; allowed: {self.low} or more", name)
        high = LARGEST_INTEGER if self.high is None and self.type is int else self.high
        if high is not None and value > high:
            raise ConfigError(f"{name} = {value!r} is too large; allowed: {high} or less", name)
        if self.above is not None and value <= self.above:
            raise ConfigError(f"{name} = {value!r} is too small; allowed: more than {self.above}", name)
        return int(value) if self.type is int else float(value) + 0.0  # + 0.0 turns -0.0 into 0.0


def option(
    default: Any,
    doc: str,
    *,
    choices: Iterable[str] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    examples: Iterable[str] = (),
    applies: Mapping[str, tuple[str, ...]] | None = None,
) -> Any:
    """Declare a field of a config's dataclass; the arguments are those of Field."""
    declared = {"choices": tuple(choices), "low": low, "high": high, "above": above}
    shown = {"doc": doc, "examples": tuple(examples)}
    return field(default=default, metadata={**shown, "applies": applies or {}, **declared})


_declared: dict[type, tuple[Field, ...]] = {}  # by class: resolving type hints is slow
_names: dict[type, frozenset[str]] = {}


def declared_fields(config: type) -> tuple[Field, ...]:
    """The fields of a dataclass whose fields are declared by `option`, in the order of the class."""
    if config not in _declared:
        hints = typing.get_type_hints(config)
        _declared[config] = tuple(
            Field(name=spec.name, default=spec.default, **_type_of(hints[spec.name]), **spec.metadata)
            for spec in fields(config)
        )
    return _declared[config]


def declared_names(config: type) -> frozenset[str]:
    """The names of a config's fields."""
    if config not in _names:
        _names[config] = frozenset(spec.name for spec in declared_fields(config))
    return _names[config]


def declare_fields(config: type, fields: tuple[Field, ...]) -> None:
    """Declare the fields of a dataclass that was made of them."""
    _declared[config] = fields


class TrialConfig(Protocol):
    """The values that determine one training trajectory, as the whole program sees them for any kind of trial.

    A trial's kind makes its config: see core.trainables.interface.
    """

    @property
    def kind(self) -> str:
        """The kind of trial, a name that core.trainables.kinds finds."""

    @property
    def trial_id(self) -> str:
        """The first 12 hex digits of the SHA-256 of the identity's canonical JSON."""

    @property
    def epochs(self) -> int:
        """The budget: the number of the last record."""

    @property
    def parent(self) -> str:
        """`trial@epoch` whose checkpoint it continues from, '' for a trial that starts from scratch."""

    @property
    def begins_after(self) -> int:
        """The epoch of the checkpoint that it continues from; 0 for a trial that starts from scratch."""

    def __getitem__(self, name: str) -> Any:
        """The value of a field."""

    def identity(self) -> dict[str, Any]:
        """The values that determine the trajectory and differ from the defaults, as plain JSON values."""

    def to_mapping(self) -> dict[str, Any]:
        """All fields as plain JSON values."""

    def with_values(self, **values: Any) -> "TrialConfig":
        """A validated copy with some fields changed."""


def check_parent(parent: str) -> None:
    """Check the origin of a trial: '', or `trial@epoch`.

    Raises:
        ConfigError: it is neither.
    """
    if parent and not _PARENT.fullmatch(parent):
        raise ConfigError(
            f"parent = {parent!r} is not like 0123456789ab@3, a trial id and an epoch", "parent"
        )


def epoch_of_parent(parent: str) -> int:
    """The epoch of the checkpoint that a trial continues from; 0 where it has no parent."""
    return int(parent.partition("@")[2] or 0)


def trial_id_of(identity: Mapping[str, Any]) -> str:
    """The first 12 hex digits of the SHA-256 of an identity's canonical JSON."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:12]


def canonical_json(values: Mapping[str, Any]) -> str:
    """JSON with sorted keys and no spaces; floats in Python's shortest form, so `1e-3` is `0.001`."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def check_name(name: str, value: str, allowed: Iterable[str]) -> None:
    """Raise ConfigError if a field's value is not among the allowed names."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise ConfigError(f"{name} = {value!r} is not known{did_you_mean(value, allowed)}", name)


def _type_of(hint: Any) -> dict[str, Any]:
    """The Field arguments of a type hint such as `str`, `int | None` or `tuple[int, ...]`."""
    parts = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        (inner,) = (part for part in parts if part is not type(None))
        return {**_type_of(inner), "optional": True}
    if typing.get_origin(hint) is tuple:
        return {"type": parts[0], "is_list": True}
    return {"type": hint}


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond any float
        return False
