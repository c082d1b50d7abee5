"""The files of a user's project that train a sweep: those that its sweep file names, and what they import.

What they import is what importing them has loaded, and what their source says that they may import later. Other
modules that this process has loaded from the project, as a notebook does, are not among them.
"""

import ast
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from mixsweep.core import registry

_OUTSIDE = "imports"  # the folder of a copy for named files that are not in the project
_ENVIRONMENTS = {"site-packages", ".venv", "venv"}


@dataclass(frozen=True)
class ProjectFiles:
    """Python files of a project.

    Args:
        files: by their paths in a copy of the project.
        roots: folders of the project, in their order, that modules are imported from; '.' is the project itself.
    """

    files: Mapping[str, Path]
    roots: tuple[str, ...]


def path_in_copy(number: int, file: str | Path, project: str | Path) -> str:
    """Where a copy of the project has the named file of this number; one from elsewhere has a folder of its own."""
    root, path = Path(project).resolve(), Path(file).resolve()
    if path.is_relative_to(root):
        return str(path.relative_to(root))
    return str(PurePath(_OUTSIDE, str(number), path.name))


def project_files(named: Sequence[str | Path], project: str | Path) -> ProjectFiles:
    """The files that train a sweep, once this process has imported those that its sweep file names."""
    root = Path(project).resolve()
    found = {path_in_copy(number, file, root): Path(file).resolve() for number, file in enumerate(named)}
    roots = dict.fromkeys([".", *_import_paths(root)])
    for name, path in _loaded_with(named):
        if not _is_of(path, root):
            continue
        inside = path.relative_to(root)
        found[str(inside)] = path
        parts = inside.parent.parts if path.name == "__init__.py" else inside.with_suffix("").parts
        words = tuple(name.split("."))
        if parts[-len(words) :] == words:
            roots[str(PurePath(*parts[: -len(words)]))] = None
    pending = list(found.items())
    while pending:
        name, path = pending.pop()
        for candidate in _candidates(path, [root / folder for folder in roots]):
            if candidate.is_file() and _is_of(candidate, root):
                inside_name = str(candidate.relative_to(root))
                if inside_name not in found:
                    found[inside_name] = candidate
                    pending.append((inside_name, candidate))
    return ProjectFiles(found, tuple(roots))


def is_of_project(file: Path, project: Path) -> bool:
    """Whether a file is Python of this project, and not of an environment in its folder."""
    return _is_of(file.resolve(), project.resolve())


def _is_of(path: Path, root: Path) -> bool:
    if path.suffix != ".py" or not path.is_relative_to(root):
        return False
    return not _ENVIRONMENTS & set(path.relative_to(root).parts)


def _import_paths(root: Path) -> Iterator[str]:
    """The folders of a project that are on `sys.path`."""
    for entry in sys.path:
        path = Path(entry or ".").resolve()
        if (
            path.is_relative_to(root)
            and path.is_dir()
            and not _ENVIRONMENTS & set(path.relative_to(root).parts)
        ):
            yield str(path.relative_to(root))


def _loaded_with(named: Iterable[str | Path]) -> Iterator[tuple[str, Path]]:
    """The modules that importing these files has loaded, and the real paths of their files."""
    folders: dict[str, Path] = {}  # of thousands of modules, few folders are looked up
    for name in dict.fromkeys(name for file in named for name in registry.loaded_with(Path(file))):
        file = getattr(sys.modules.get(name), "__file__", None)
        if name.partition(".")[0] == "mixsweep" or not isinstance(file, str) or not os.path.isabs(file):
            continue
        folder, base = os.path.split(file)
        if folder not in folders:
            folders[folder] = Path(folder).resolve()
        if (folders[folder] / base).is_file():
            yield name, folders[folder] / base


def _candidates(path: Path, roots: Sequence[Path]) -> Iterator[Path]:
    """The files that a file's import statements may mean, wherever in it they are."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files_of(roots, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            bases = [path.parents[node.level - 1]] if 0 < node.level <= len(path.parents) else roots
            module = node.module.split(".") if node.module else []
            for alias in node.names:
                yield from _files_of(bases, [*module, alias.name])


def _files_of(bases: Iterable[Path], words: Sequence[str]) -> Iterator[Path]:
    """The files of a module, of the packages that it is in, and of one that a name in it may be."""
    if words[0] == "mixsweep":
        return
    for base in bases:
        for count in range(1, len(words) + 1):
            at = base.joinpath(*words[:count])
            yield at / "__init__.py"
            yield at.with_name(f"{at.name}.py")
