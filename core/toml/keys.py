"""Keys of TOML tables, declared as the fields of a dataclass.

One declaration has a key's meaning, allowed values and default. `read_keys` checks a table against it, and the JSON
Schema for editors is generated from it, so that the two cannot differ.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, field, fields
from functools import cache
from typing import Any, get_type_hints

from mixsweep.core.errors import did_you_mean
from mixsweep.core.toml.reader import Reader

_BY_HAND = "by hand"


def toml_key(
    default: Any,
    doc: str,
    *,
    choices: Iterable[str] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    pattern: str = "",
    allowed: str = "",
    size: bool = False,
    applies: Mapping[str, tuple[str, ...]] | None = None,
    required: bool = False,
) -> Any:
    """Declare a key that `read_keys` reads by its field's type.

    Args:
        default: its value when left out; MISSING if the reader of the table decides.
        doc: its meaning in one line.
        choices: all values that a text may have, or the words that are allowed instead of a number.
        low, high: inclusive bounds of a number; above: an exclusive lower one.
        pattern: a regular expression that the whole text has to match, and `allowed`, the same in words.
        size: the text is a size like `4G`, or empty.
        applies: the values of other keys with which this one is allowed.
        required: it must be given; the reader of the table reports a missing one.
    """
    metadata = {
        "doc": doc,
        "choices": tuple(choices),
        "low": low,
        "high": high,
        "above": above,
        "pattern": pattern,
        "allowed": allowed,
        "size": size,
        "applies": applies or {},
        "required": required,
    }
    return _field(default, metadata)


def toml_key_by_hand(
    default: Any, doc: str, *, required: bool = False, factory: Callable[[], Any] | None = None
) -> Any:
    """Declare a key that has its own reader: `read_keys` skips it.

    Args:
        factory: makes the default, instead of `default`.
    """
    return _field(default, {"doc": doc, "required": required, "applies": {}, _BY_HAND: True}, factory)


def _field(default: Any, metadata: Mapping[str, Any], factory: Callable[[], Any] | None = None) -> Any:
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    if default is MISSING:
        return field(metadata=metadata)
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


def declared_keys(table: type) -> Mapping[str, Field[Any]]:
    """The keys that a dataclass declares, by name, without its other fields."""
    return {spec.name: spec for spec in fields(table) if "doc" in spec.metadata}


@cache
def types_of(table: type) -> Mapping[str, Any]:
    """The types of a dataclass's fields."""
    return get_type_hints(table)


def keys_beside(table: type, **values: str) -> tuple[str, ...]:
    """The names of the keys that are allowed with these values of others."""
    return tuple(
        name
        for name, spec in declared_keys(table).items()
        if all(values[other] in allowed for other, allowed in spec.metadata["applies"].items())
    )


def read_keys(
    reader: Reader, source: Mapping[str, Any], table: type, where: str = "", only: Iterable[str] | None = None
) -> dict[str, Any]:
    """The checked values of the keys that are present in `source`.

    Args:
        where: the dotted path of the table, for the errors.
        only: the keys to read; left out: all that `table` declares, except those with their own reader.

    Raises:
        UserError: of the reader's class; names the key, its value, and what is allowed.
    """
    declared, types = declared_keys(table), types_of(table)
    return {
        name: _read(reader, source, declared[name], types[name], where)
        for name in (declared if only is None else only)
        if name in source and _BY_HAND not in declared[name].metadata
    }


def _read(reader: Reader, source: Mapping[str, Any], spec: Field[Any], hint: Any, where: str) -> Any:
    if hint is str:
        return _text(reader, source, spec, where)
    return _READERS[hint](reader, source, spec, where)


def _text(reader: Reader, source: Mapping[str, Any], spec: Field[Any], where: str) -> str:
    name, rule = spec.name, spec.metadata
    if rule["choices"]:
        return reader.choice(source, name, "", rule["choices"], where)
    text = reader.text(source, name, "", where)
    if rule["size"]:
        reader.size(source, name, where)
    if rule["pattern"] and not re.fullmatch(rule["pattern"], text):
        raise reader.error(where + name, f"{text!r} is not known; allowed: {rule['allowed']}")
    return text


def _boolean(reader: Reader, source: Mapping[str, Any], spec: Field[Any], where: str) -> bool:
    value = source[spec.name]
    if not isinstance(value, bool):
        raise reader.error(where + spec.name, f"{value!r} is neither true nor false")
    return value


def _integer(reader: Reader, source: Mapping[str, Any], spec: Field[Any], where: str) -> int:
    return reader.integer(source, spec.name, 0, low=spec.metadata["low"], where=where)


def _integer_or_word(reader: Reader, source: Mapping[str, Any], spec: Field[Any], where: str) -> int | str:
    if isinstance(source[spec.name], str):
        return reader.choice(source, spec.name, "", spec.metadata["choices"], where)
    return _integer(reader, source, spec, where)


def _number(reader: Reader, source: Mapping[str, Any], spec: Field[Any], where: str) -> float:
    low, high, above = (spec.metadata[name] for name in ("low", "high", "above"))
    value = reader.number(source, spec.name, 0, low=above if low is None else low, where=where)
    if value == above or (high is not None and value > high):
        bounds = f"from {low:g}" if above is None else f"above {above:g}"
        if high is not None:
            bounds += f" to {high:g}" if above is None else f" and at most {high:g}"
        raise reader.error(where + spec.name, f"{value:g} is not {bounds}")
    return value


def _texts(reader: Reader, source: Mapping[str, Any], spec: Field[Any], where: str) -> tuple[str, ...]:
    texts = reader.texts(source, spec.name, where)
    for number, text in enumerate(texts if spec.metadata["choices"] else ()):
        if text not in spec.metadata["choices"]:
            hint = did_you_mean(text, spec.metadata["choices"])
            raise reader.error(f"{where}{spec.name}[{number}]", f"{text!r} is not known{hint}")
    return texts


def _table_of(wanted: Any, words: str) -> Callable[..., dict[str, Any]]:
    def read(reader: Reader, source: Mapping[str, Any], spec: Field[Any], where: str) -> dict[str, Any]:
        values = dict(reader.table(source, spec.name, where))
        for name, value in values.items():
            if not isinstance(value, wanted):
                raise reader.error(f"{where}{spec.name}.{name}", f"{value!r} is {words}")
        return values

    return read


# The reader of a key, by the type of its field.
_READERS: Mapping[Any, Callable[..., Any]] = {
    bool: _boolean,
    int: _integer,
    int | None: _integer,
    int | str: _integer_or_word,
    float: _number,
    float | None: _number,
    tuple[str, ...]: _texts,
    Mapping[str, float]: lambda reader, source, spec, where: reader.numbers(source, spec.name, where),
    Mapping[str, str]: _table_of(str, "not a string"),
    Mapping[str, str | int]: _table_of(str | int, "neither a string, a number nor true"),
}
