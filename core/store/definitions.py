"""The definitions that a sweep's trials were made with, one file each, named by kind: `definitions/<kind>.json`."""

from pathlib import Path

from mixsweep.core.failures import DamagedError
from mixsweep.core.store import files
from mixsweep.core.trainables import kinds
from mixsweep.core.trainables.definition import Definition

FOLDER = "definitions"


def save_definition(sweep: Path, definition: Definition) -> None:
    """Keep a definition in a sweep's folder."""
    path = _path(sweep, definition.kind)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, definition.to_mapping())


def learn_kind(sweep: Path, kind: str) -> None:
    """Make a kind known in this process, from a sweep's folder if need be.

    Raises:
        DamagedError: its definition is gone, or not what was written.
    """
    if kinds.is_known(kind):
        return
    path = _path(sweep, kind)
    try:
        definition = Definition.from_mapping(files.read_json(path))
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: gone; the same `sweep run` writes it again") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path}: damaged ({error}); the same `sweep run` writes it again") from error
    if definition.kind != kind:
        raise DamagedError(f"{path}: damaged, it defines {definition.kind}")
    kinds.declare(definition)


def newest_kind(sweep: Path) -> str:
    """The kind whose definition was kept last, '' if none was."""
    found = [(path.stat().st_mtime_ns, path.stem) for path in (sweep / FOLDER).glob("[!.]*.json")]
    return max(found)[1] if found else ""


def _path(sweep: Path, kind: str) -> Path:
    return sweep / FOLDER / f"{kind}.json"
