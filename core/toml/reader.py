"""Typed values from TOML tables: sweep files and places. Each error is one line with the dotted key."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from mixsweep.core.config import LARGEST_INTEGER
from mixsweep.core.errors import UserError, did_you_mean

SIZE = r"([0-9]+)([KMGT])"

_MOST = 1e9  # upper bound of numbers that are not fields of a trial
_DEEPEST = 30  # levels of tables and lists


class Reader:
    """Reads typed values from TOML tables; every error names the file and the dotted key.

    Args:
        file: the name of the file, for the errors.
        complaint: the class of the errors that all methods raise.
    """

    def __init__(self, file: str, complaint: type[UserError]):
        self._file = file
        self._complaint = complaint

    def error(self, key: str, problem: str) -> UserError:
        message = f"{self._file}: {key}: {problem}" if key else f"{self._file}: {problem}"
        return self._complaint(message)

    def keys(self, table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
        for key in table:
            if key not in tuple(known):
                raise self.error(f"{where}{key}", f"unknown key{did_you_mean(key, known)}")

    def table(self, source: Mapping[str, Any], key: str, where: str = "") -> Mapping[str, Any]:
        value = source.get(key, {})
        if not isinstance(value, Mapping):
            raise self.error(where + key, f"{value!r} is not a table")
        return value

    def text(self, source: Mapping[str, Any], key: str, default: str, where: str = "") -> str:
        value = source.get(key, default)
        if not isinstance(value, str):
            raise self.error(where + key, f"{value!r} is not a string")
        return value

    def texts(self, source: Mapping[str, Any], key: str, where: str = "") -> tuple[str, ...]:
        value = source.get(key, [])
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self.error(where + key, f"{value!r} is not a list of strings")
        return tuple(value)

    def choice(
        self, source: Mapping[str, Any], key: str, default: str, allowed: Iterable[str], where: str = ""
    ) -> str:
        value = self.text(source, key, default, where)
        if value not in tuple(allowed):
            raise self.error(where + key, f"{value!r} is not known{did_you_mean(value, allowed)}")
        return value

    def integer(self, source: Mapping[str, Any], key: str, default: int, *, low: int, where: str = "") -> int:
        value = source.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise self.error(where + key, f"{value!r} is not an integer of {low} or more")
        if value > LARGEST_INTEGER:
            raise self.error(where + key, f"{value!r} is too large; allowed: {LARGEST_INTEGER} or less")
        return value

    def number(
        self, source: Mapping[str, Any], key: str, default: float, *, low: float, where: str = ""
    ) -> float:
        value = source.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= _MOST:
            raise self.error(where + key, f"{value!r} is not a number from {low} to {_MOST:g}")
        return float(value)

    def numbers(self, source: Mapping[str, Any], key: str, where: str = "") -> dict[str, float]:
        """A table of numbers above zero."""
        found = {}
        for name, value in self.table(source, key, where).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST:
                raise self.error(f"{where}{key}.{name}", f"{value!r} is not a number above 0")
            found[name] = float(value)
        return found

    def size(self, source: Mapping[str, Any], key: str, where: str = "") -> int:
        """The bytes of a size like `512M` or `4G`; 0 if the key is absent."""
        text = self.text(source, key, "", where)
        if not text:
            return 0
        try:
            return bytes_of(text)
        except ValueError as error:
            raise self.error(where + key, str(error)) from error


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables of a TOML text, whose integers have 64 bits, as TOML and the store's tables have them.

    Raises:
        ValueError: it is not TOML, or a value in it cannot be used; the message is one line.
    """
    try:
        text.encode()  # an argument may hold bytes that are not UTF-8
        source = tomllib.loads(text)
    except UnicodeEncodeError as error:
        raise ValueError("not UTF-8") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:  # Python converts no integer of so many digits
        raise ValueError("an integer does not fit into 64 bits") from error
    _check_values(source, "", 0)
    return source


def _check_values(value: Any, where: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"{where[:40]}…: nested too deeply; allowed: {_DEEPEST} levels")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_values(item, f"{where}.{key}" if where else key, depth + 1)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _check_values(item, f"{where}[{number}]", depth + 1)
    elif isinstance(value, int) and not -LARGEST_INTEGER - 1 <= value <= LARGEST_INTEGER:
        raise ValueError(f"{where}: the integer does not fit into 64 bits")


def bytes_of(text: str) -> int:
    """The bytes of a size like `512M` or `4G`.

    Raises:
        ValueError: the text is not a size.
    """
    found = re.fullmatch(SIZE, text)
    if not found:
        raise ValueError(f"{text!r} is not a size like 512M or 4G")
    return int(found[1]) * 1024 ** ("KMGT".index(found[2]) + 1)
