"""Reads from a sweep file where the user's code is: files to import, a class or function, or a command to run."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from mixsweep.core import registry
from mixsweep.core.code.project import ProjectFiles, is_of_project, project_files
from mixsweep.core.errors import ConfigError, did_you_mean
from mixsweep.core.store.code_copy import Code, installed_code, read_code
from mixsweep.core.toml.reader import Reader
from mixsweep.core.trainables import own_class
from mixsweep.core.trainables.declared import DeclaredTrainable
from mixsweep.core.trainables.image.own_fields import definition_of_parts
from mixsweep.core.trainables.interface import Trainable
from mixsweep.core.trainables.kinds import declare, find_trainable
from mixsweep.sweep.planning.command_schema import CommandSpec, read_command, read_fields
from mixsweep.sweep.planning.schema import MODES
from mixsweep.sweep.trainables import tune


@dataclass(frozen=True, kw_only=True)
class UserCode:
    """What trains the trials of a sweep.

    Args:
        imports: absolute paths of the files that every process of the sweep imports.
        project: the root of the project that they belong to, '' without imports.
        code: the files that train the trials, as they are now; None where there are none.
        roots: folders of the project that modules are imported from.
        located: the keys of the resolved sweep file that say where all this is.
    """

    trainable: Trainable
    imports: tuple[str, ...] = ()
    project: str = ""
    command: CommandSpec | None = None
    code: Code | None = None
    roots: tuple[str, ...] = (".",)
    located: Mapping[str, Any]


def read_user_code(reader: Reader, source: Mapping[str, Any], path: Path | None) -> UserCode:
    """Import the user's files, and find what trains the trials.

    Args:
        path: of the sweep file; paths in it are relative to its folder.
    """
    named = reader.text(source, "trainable", "")
    where, _, name = named.rpartition(":")
    module_name = module_of(named)
    is_module = bool(module_name) and all(part.isidentifier() for part in module_name.split("."))
    if named and not (name.isidentifier() and (is_module or where.endswith(".py"))):
        raise reader.error("trainable", f"{named!r} is not like 'file.py:Class' or 'package.module:Class'")
    imports, project, modules = _import(reader, source, path, "" if is_module else where)
    installed = _installed(reader, module_name, path) if is_module else None
    if "command" in source:
        code = _command(reader, source, path)
    elif named:
        module = installed if installed is not None else modules[0]
        trainable = _trainable(reader, source, module, name)
        located = {"kind": trainable.kind, "trainable": named if is_module else f"{imports[0]}:{name}"}
        code = UserCode(trainable=trainable, located=located)
    elif "fields" in source:
        raise reader.error("fields", "are those of a [command] or a Ray Tune trainable, and there is neither")
    else:
        code = _parts(reader, source)
    if imports or installed is not None:
        code = _with_files(code, imports, project, installed)
    return _pinned(reader, code) if source.get("code") == "pin" else code


def _pinned(reader: Reader, code: UserCode) -> UserCode:
    """The same, with the digest of the code in the identities of its trials."""
    if code.code is None:
        raise reader.error(
            "code", "'pin' needs code of yours: imports, a trainable, or the code of a [command]"
        )
    trainable = code.trainable.pinned(code.code.digest)
    if not isinstance(trainable, DeclaredTrainable):
        return replace(code, trainable=trainable)
    declared = declare(trainable.definition)
    return replace(code, trainable=declared, located={**code.located, "kind": declared.kind})


def _with_files(
    code: UserCode, imports: tuple[str, ...], project: str, installed: ModuleType | None
) -> UserCode:
    """The same, with the files that train: those named and what they import, and an installed module."""
    found = project_files(imports, project) if imports else ProjectFiles({}, (".",))
    own = {} if installed is None else installed_code(installed).files
    files = {"imports": list(imports), "project": project} if imports else {}
    return replace(
        code,
        imports=imports,
        project=project,
        code=code.code or Code({**read_code(found.files).files, **own}),
        roots=found.roots,
        located={**files, **code.located},
    )


def module_of(named: str) -> str:
    """The module in `module:Name` of a sweep file's `trainable`; '' where it names a file, or nothing."""
    where = named.rpartition(":")[0]
    return "" if where.endswith(".py") else where


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
    try:
        registry.import_files(files, project)
    except ValueError as error:
        raise reader.error("imports", str(error)) from error
    return tuple(dict.fromkeys(files)), str(project), modules


def _installed(reader: Reader, name: str, path: Path | None) -> ModuleType:
    """An installed module. Those of the user's project are named by file, so that they are kept and shipped."""
    try:
        module = import_module(name)
    except (Exception, SystemExit) as error:
        problem = str(error).strip().partition("\n")[0]
        raise reader.error("trainable", f"{name!r}: {type(error).__name__}: {problem}") from error
    project, file = find_project(_folder(path)), Path(module.__file__ or "")
    if is_of_project(file, project):
        inside = file.resolve().relative_to(project)
        raise reader.error("trainable", f"{name!r} is a file of this project; write '{inside}:…'")
    return module


def _trainable(reader: Reader, source: Mapping[str, Any], module: ModuleType, name: str) -> Trainable:
    """A class of the user's own, or a class or function of Ray Tune."""
    where = source["trainable"].rpartition(":")[0]
    metric, mode = reader.text(source, "metric", ""), source.get("mode")
    compared = {metric: str(mode)} if metric and mode in MODES else {}
    found = getattr(module, name, None)
    if found is None:
        known = [
            key for key, value in vars(module).items() if inspect.isclass(value) or inspect.isfunction(value)
        ]
        raise reader.error("trainable", f"{where} has no {name}{did_you_mean(name, known)}")
    full_name = f"{where if module_of(source['trainable']) else Path(where).stem}:{name}"
    is_tune = tune.is_tune_class(found) or (callable(found) and not isinstance(found, type))
    if is_tune:
        _check_tune(reader, source, compared)
    elif "fields" in source:
        raise reader.error(
            "fields",
            f"{full_name} is neither a ray.tune.Trainable nor a function; a class of one's own has them in Config",
        )
    try:
        if is_tune:
            population = reader.table(source, "search").get("algorithm") == "pbt"
            fields = read_fields(reader, source)
            definition = tune.define(found, full_name, fields, compared, needs_checkpoints=population)
            tune.attach(definition, found)
        else:
            definition = own_class.define(found, full_name, compared)
            own_class.attach(definition, found)
    except ConfigError as error:
        key = "fields" if is_tune and str(error).startswith("field ") else "trainable"
        raise reader.error(key, str(error).replace("field(…, budget=True)", "budget = true")) from error
    return declare(definition)


def _parts(reader: Reader, source: Mapping[str, Any]) -> UserCode:
    """The image trainer, with the fields of the registered parts that the sweep names."""
    try:
        definition = definition_of_parts(_named_parts(source))
    except ConfigError as error:
        raise reader.error("imports", str(error)) from error
    if definition is None:
        return UserCode(trainable=find_trainable(), located={})
    return UserCode(trainable=declare(definition), located={"kind": definition.kind})


def _named_parts(source: Mapping[str, Any]) -> set[tuple[str, str]]:
    """The parts that a sweep file names, built in or registered, known or not."""
    parts = source.get("parts")
    found = set()
    for table in (source, *(parts if isinstance(parts, list) else ())):
        for key in ("base", "space"):
            values = table.get(key) if isinstance(table, Mapping) else None
            for part in registry.BUILT_IN:
                given = values.get(part) if isinstance(values, Mapping) else None
                lists = given.values() if isinstance(given, Mapping) else [[given]]
                found |= {
                    (part, name)
                    for names in lists
                    if isinstance(names, list)
                    for name in names
                    if isinstance(name, str)
                }
    return found


def _check_tune(reader: Reader, source: Mapping[str, Any], compared: Mapping[str, str]) -> None:
    if "fields" not in source:
        raise reader.error("fields", "missing: the keys of config with their defaults, like lr = 1e-3")
    if not compared:
        _check_mode(reader, source)
        raise reader.error("metric", "missing: name the metric of its results to compare, and its mode")


def _check_mode(reader: Reader, source: Mapping[str, Any]) -> None:
    """Refuse a mode that is none."""
    if "mode" in source:
        reader.choice(source, "mode", "", MODES)


def _command(reader: Reader, source: Mapping[str, Any], path: Path | None) -> UserCode:
    if "trainable" in source:
        raise reader.error("command", "a trial is a command or a trainable, not both")
    metric, mode = reader.text(source, "metric", ""), reader.text(source, "mode", "")
    if not metric or mode not in MODES:
        _check_mode(reader, source)
        raise reader.error("metric", "missing: name the metric of the command to compare, and its mode")
    root = (_folder(path) / reader.text(source, "project", "")).resolve()
    definition, command = read_command(reader, source, root, (metric, mode))
    located = {"kind": definition.kind, "project": str(root)}
    return UserCode(trainable=declare(definition), command=command, code=command.code, located=located)
