"""Reads from a sweep file where the user's code is: files to import, a class to train, or a command to run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from mixsweep.core import registry
from mixsweep.core.errors import ConfigError, did_you_mean
from mixsweep.core.toml.reader import Reader
from mixsweep.core.trainables import own_class
from mixsweep.core.trainables.interface import Trainable
from mixsweep.core.trainables.kinds import declare, find_trainable
from mixsweep.core.trainables.own_fields import definition_of_parts
from mixsweep.sweep.planning.command_schema import CommandSpec, read_command
from mixsweep.sweep.planning.schema import MODES


@dataclass(frozen=True, kw_only=True)
class UserCode:
    """What trains the trials of a sweep.

    Args:
        imports: absolute paths of the files that every process of the sweep imports.
        project: the root of the project that they belong to, '' without imports.
        located: the keys of the resolved sweep file that say where all this is.
    """

    trainable: Trainable
    imports: tuple[str, ...] = ()
    project: str = ""
    command: CommandSpec | None = None
    located: Mapping[str, Any]


def read_user_code(reader: Reader, source: Mapping[str, Any], path: Path | None) -> UserCode:
    """Import the user's files, and find what trains the trials: the image trainer, a class of theirs or a command.

    Args:
        path: of the sweep file; paths in it are relative to its folder.
    """
    named = reader.text(source, "trainable", "")
    file, _, name = named.rpartition(":")
    if named and not (file.endswith(".py") and name.isidentifier()):
        raise reader.error("trainable", f"{named!r} is not like 'file.py:Class'")
    imports, project, modules = _import(reader, source, path, file)
    if "command" in source:
        code = _command(reader, source, path)
    elif "fields" in source:
        raise reader.error("fields", "are those of a [command]; a class has its own in Config")
    elif named:
        trainable = _own_class(reader, source, modules[0], name)
        located = {"kind": trainable.kind, "trainable": f"{imports[0]}:{name}"}
        code = UserCode(trainable=trainable, located=located)
    else:
        code = _parts(reader)
    if not imports:
        return code
    files = {"imports": list(imports), "project": project}
    return replace(code, imports=imports, project=project, located={**files, **code.located})


def find_project(folder: Path) -> Path:
    """Return the nearest folder, from this one up, with `.git` or `pyproject.toml`; without one, this folder."""
    folder = folder.resolve()
    for root in (folder, *folder.parents):
        if (root / ".git").exists() or (root / "pyproject.toml").is_file():
            return root
    return folder


def _folder(path: Path | None) -> Path:
    return path.parent if path else Path()


def _import(
    reader: Reader, source: Mapping[str, Any], path: Path | None, first: str
) -> tuple[tuple[str, ...], str, list[ModuleType]]:
    """Import the user's files; return their absolute paths, the root of their project, and their modules.

    Args:
        first: a file that is not among `imports`, the trainable's; '' if there is none.
    """
    names = [*filter(None, [first]), *reader.texts(source, "imports")]
    given = reader.text(source, "project", "")
    if not names:
        if given and "command" not in source:
            raise reader.error("project", "is only used with `imports`, `trainable` or a [command]")
        return (), "", []
    folder = _folder(path)
    try:
        project = (folder / given).resolve() if given else find_project(folder)
        is_folder = project.is_dir()
    except (OSError, ValueError, RuntimeError):  # not a valid file name, a loop of links
        is_folder = False
    if not is_folder:
        raise reader.error("project", f"{given!r} is not a folder")
    files: list[str] = []
    modules = []
    for name in names:
        try:
            file = (folder / name).resolve()
            modules += registry.import_files([file], project)
        except (Exception, SystemExit) as error:
            problem = str(error).strip().partition("\n")[0]
            key = "trainable" if name == first else "imports"
            raise reader.error(key, f"{name!r}: {type(error).__name__}: {problem}") from error
        files.append(str(file))
    return tuple(dict.fromkeys(files)), str(project), modules


def _own_class(reader: Reader, source: Mapping[str, Any], module: ModuleType, name: str) -> Trainable:
    file = Path(source["trainable"].rpartition(":")[0])
    metric, mode = reader.text(source, "metric", ""), source.get("mode")
    compared = {metric: str(mode)} if metric and mode in MODES else {}
    cls = getattr(module, name, None)
    if cls is None:
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise reader.error("trainable", f"{file} has no {name}{did_you_mean(name, classes)}")
    try:
        definition = own_class.define(cls, f"{file.stem}:{name}", compared)
    except ConfigError as error:
        raise reader.error("trainable", str(error)) from error
    own_class.attach(definition, cls)
    return declare(definition)


def _parts(reader: Reader) -> UserCode:
    """The image trainer, with the fields of the parts that the imported files registered."""
    try:
        definition = definition_of_parts()
    except ConfigError as error:
        raise reader.error("imports", str(error)) from error
    if definition is None:
        return UserCode(trainable=find_trainable(), located={})
    return UserCode(trainable=declare(definition), located={"kind": definition.kind})


def _command(reader: Reader, source: Mapping[str, Any], path: Path | None) -> UserCode:
    if "trainable" in source:
        raise reader.error("command", "a trial is a command or a trainable, not both")
    metric, mode = reader.text(source, "metric", ""), reader.text(source, "mode", "")
    if not metric or mode not in MODES:
        raise reader.error("metric", "missing: name the metric of the command to compare, and its mode")
    root = (_folder(path) / reader.text(source, "project", "")).resolve()
    definition, command = read_command(reader, source, root, (metric, mode))
    located = {"kind": definition.kind, "project": str(root)}
    return UserCode(trainable=declare(definition), command=command, located=located)
