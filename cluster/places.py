"""Places: where to run, kept apart from what to run.

`debug` and `local` are built in. `places.toml` of the working folder, then the user's own, may set their
options or name more of their kind.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import UserError, did_you_mean

KINDS = ("debug", "local")
_KEYS = {"debug": ("kind", "data", "cpus", "gpus"), "local": ("kind", "data", "cpus", "gpus")}


class PlaceError(UserError):
    """A place that cannot be used, in one line."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place of one kind. `cpus` and `gpus` are what the sweep may use there in all; None: everything."""

    name: str
    kind: str
    data: Path | None = None
    cpus: int | None = None
    gpus: int | None = None


def places_files() -> tuple[Path, ...]:
    """Where places are looked up, first match first."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return (Path("places.toml"), home / "mixsweep" / "places.toml")


def find_place(name: str) -> Place:
    """The place with this name.

    Raises:
        PlaceError: there is none, or its table is wrong; with the file, the key and what is allowed.
    """
    names = list(KINDS)
    for path in places_files():
        if not path.is_file():
            continue
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise PlaceError(f"{path}: not a TOML file: {error}") from error
        if name in tables:
            return _place(name, tables[name], path)
        names += list(tables)
    if name in KINDS:
        return Place(name=name, kind=name)
    raise PlaceError(f"--place {name}: no such place{did_you_mean(name, names)}")


def _place(name: str, table: Any, path: Path) -> Place:
    def wrong(key: str, problem: str) -> PlaceError:
        return PlaceError(f"{path}: {name}.{key}: {problem}")

    if not isinstance(table, Mapping):
        raise PlaceError(f"{path}: {name}: {table!r} is not a table")
    kind = table.get("kind", name)
    if kind not in KINDS:
        raise wrong("kind", f"{kind!r} is not known{did_you_mean(str(kind), KINDS)}")
    for key in table:
        if key not in _KEYS[kind]:
            raise wrong(key, f"unknown key{did_you_mean(key, _KEYS[kind])}")
    numbers = {}
    for key in ("cpus", "gpus"):
        value = table.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise wrong(key, f"{value!r} is not an integer of 0 or more")
        numbers[key] = value
    data = table.get("data")
    if data is not None and not isinstance(data, str):
        raise wrong("data", f"{data!r} is not a path")
    return Place(
        name=name, kind=kind, data=Path(data).expanduser() if data else None,
        cpus=numbers["cpus"], gpus=numbers["gpus"],
    )  # fmt: skip
