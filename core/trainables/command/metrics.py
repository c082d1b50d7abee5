"""Records from what a command prints or writes: lines of JSON, lines that a pattern matches, or rows of a CSV file."""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mixsweep.core.errors import ConfigError

Metrics = dict[str, float]

# A reader gets a line of output, and returns the records that are new.
Reader = Callable[[str], list[Metrics]]

JSON_LINES = "json-lines"
_CSV = "csv:"


def check_metrics(given: Any) -> None:
    """Check the key `metrics` of a command.

    Raises:
        ConfigError: what it allows.
    """
    make_reader(given, Path())


def named_metrics(given: Any) -> tuple[str, ...]:
    """The names of metrics that a pattern declares."""
    if not isinstance(given, Mapping):
        return ()
    return tuple(name for name in re.compile(given["pattern"]).groupindex if name not in ("epoch", "step"))


def make_reader(given: Any, trial_dir: Path) -> Reader:
    """The reader for the key `metrics` of a command.

    Args:
        trial_dir: the folder of an attempt, in which a CSV file is looked for.
    """
    if given == JSON_LINES:
        return _json_line
    if isinstance(given, str) and given.startswith(_CSV) and given != _CSV:
        return _CsvReader(trial_dir / given.removeprefix(_CSV)).read
    if isinstance(given, Mapping) and set(given) == {"pattern"} and isinstance(given["pattern"], str):
        try:
            pattern = re.compile(given["pattern"])
        except re.error as error:
            raise ConfigError(
                f"metrics: {given['pattern']!r} is not a regular expression: {error}"
            ) from error
        if not pattern.groupindex:
            raise ConfigError(f"metrics: {given['pattern']!r} has no named group, like (?P<loss>\\S+)")
        return lambda line: _matched(pattern, line)
    raise ConfigError(
        f"metrics: {given!r} is none of 'json-lines', 'csv:FILE' and {{ pattern = 'loss (?P<loss>\\S+)' }}"
    )


def _json_line(line: str) -> list[Metrics]:
    text = line.strip()
    if not text.startswith("{"):
        return []
    try:
        values = json.loads(text)
    except ValueError:
        return []
    numbers = {name: float(value) for name, value in values.items() if _is_number(value)}
    return [numbers] if numbers else []


def _matched(pattern: "re.Pattern[str]", line: str) -> list[Metrics]:
    found = pattern.search(line)
    return _numbers(found.groupdict()) if found else []


class _CsvReader:
    """The rows that a growing CSV file has got since it was last read; a row counts once its line is whole."""

    def __init__(self, path: Path):
        self._path = path
        self._read = 0
        self._header: list[str] = []

    def read(self, line: str) -> list[Metrics]:
        try:
            with open(self._path, "rb") as file:
                file.seek(self._read)
                new = file.read()
        except OSError:
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        rows = list(csv.reader(io.StringIO(whole.decode("utf-8", "replace"))))
        if rows and not self._header:
            self._header = [name.strip() for name in rows.pop(0)]
        return [numbers for row in rows for numbers in _numbers(dict(zip(self._header, row)))]


def _numbers(texts: Mapping[str, str | None]) -> list[Metrics]:
    found: Metrics = {}
    for name, text in texts.items():
        try:
            found[name] = float((text or "").strip().rstrip(",;%"))
        except ValueError:
            continue
    return [found] if found else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
