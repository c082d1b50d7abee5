"""Stage what Ray ships to a cluster: mixsweep itself and the project that a sweep file imports from.

Ray sends the whole working folder to each node, and refuses a large one only after packing it. So the files are
selected, and their size is checked, before: of a project those that git tracks or does not ignore, without runs,
data and caches.
"""

import fnmatch
import importlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from mixsweep.core.errors import UserError

_PACKAGES = ("core", "cluster", "analysis", "sweep")

_LARGEST_NAMED = 5  # files that the error names

# Folders at any depth that are never shipped, even where git does not ignore them.
_NEVER_SHIPPED = (
    ".*", "__pycache__", "*.egg-info", "node_modules", "runs", "data", "wandb", "venv", "env", "site-packages",
)  # fmt: skip


class PackagingError(UserError):
    """Files that cannot be shipped; the message is one line."""


@dataclass(frozen=True)
class Shipment:
    """The staged files that Ray sends to each node.

    Args:
        working_dir: becomes the working folder of the cluster's processes.
        package: the folder of mixsweep, for `py_modules`.
        imports: the path of each imported file, relative to the working folder.
    """

    working_dir: Path
    package: Path
    imports: tuple[str, ...]

    @property
    def runtime_env(self) -> dict[str, object]:
        """The `runtime_env` argument of Ray."""
        return {"working_dir": str(self.working_dir), "py_modules": [str(self.package)]}


def stage(
    folder: Path, imports: Sequence[str] = (), project: str = "", exclude: Sequence[str] = ()
) -> Shipment:
    """Copy all files that the cluster needs into an empty folder.

    Args:
        folder: the empty folder.
        imports: absolute paths of the files that the sweep file imports.
        project: the root of the project that they import from; shipped if there are imports.
        exclude: path patterns below the project that are not shipped.

    Raises:
        PackagingError: the files are too large for Ray; names the largest.
    """
    root = Path(project)
    files = {PurePath(path): root / path for path in files_to_ship(root, exclude)} if imports else {}
    targets = []
    for number, name in enumerate(imports):
        path = Path(name)
        inside = path.relative_to(root) if path.is_relative_to(root) else None
        target = PurePath(inside or PurePath("imports", str(number), path.name))
        files[target] = path
        targets.append(str(target))
    _check_size(files.values(), root)
    working_dir = folder / "work"
    working_dir.mkdir(parents=True)
    for target, path in files.items():
        copy = working_dir / target
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return Shipment(working_dir, _stage_package(folder / "package" / "mixsweep"), tuple(targets))


def _stage_package(folder: Path) -> Path:
    """Copy the installed mixsweep packages below one folder; return that folder."""
    ignore = shutil.ignore_patterns("__pycache__", ".*")
    for name in ("", *_PACKAGES):
        module = importlib.import_module(f"mixsweep.{name}".rstrip("."))
        assert module.__file__ is not None
        shutil.copytree(Path(module.__file__).parent, folder / name, ignore=ignore, dirs_exist_ok=True)
    return folder


def files_to_ship(root: Path, exclude: Sequence[str] = ()) -> list[PurePath]:
    """The project's files to ship: those of git, else all; never runs, data, caches or virtual environments."""
    listed = _listed_by_git(root)
    found: Iterable[PurePath] = _walk(root, root) if listed is None else listed
    stores: dict[PurePath, bool] = {}
    kept = []
    for path in found:
        if any(fnmatch.fnmatch(part, pattern) for part in path.parts[:-1] for pattern in _NEVER_SHIPPED):
            continue
        if path.name.startswith(".git"):  # Ray would apply them to the files that are selected here
            continue
        if any(fnmatch.fnmatch(str(path), p) or PurePath(p.rstrip("/")) in path.parents for p in exclude):
            continue
        if any(_is_store(root, parent, stores) for parent in path.parents):
            continue
        if (root / path).is_file():
            kept.append(path)
    return sorted(kept)


def _listed_by_git(root: Path) -> list[PurePath] | None:
    """The files that git tracks or does not ignore; None outside of a checkout."""
    words = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(words, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return [PurePath(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name]


def _walk(root: Path, folder: Path) -> Iterator[PurePath]:
    for at, folders, files in os.walk(folder):
        folders[:] = [
            f for f in folders if not any(fnmatch.fnmatch(f, pattern) for pattern in _NEVER_SHIPPED)
        ]
        for name in files:
            yield PurePath(os.path.relpath(os.path.join(at, name), root))


def _is_store(root: Path, folder: PurePath, known: dict[PurePath, bool]) -> bool:
    """Whether a folder is a sweep's store; `known` caches the answers."""
    if folder not in known:
        known[folder] = (root / folder / "sweep.toml").is_file() and (root / folder / "trials").is_dir()
    return known[folder]


def _check_size(files: Iterable[Path], root: Path) -> None:
    limit = max_working_dir_bytes()
    sizes = sorted(((path.stat().st_size, path) for path in files), reverse=True)
    total = sum(size for size, _ in sizes)
    if total < limit:
        return
    named = ", ".join(
        f"{os.path.relpath(path, root)} ({_mebibytes(size)})" for size, path in sizes[:_LARGEST_NAMED]
    )
    raise PackagingError(
        f"{root}: {_mebibytes(total)} would be shipped, Ray's limit is {_mebibytes(limit)}; the largest: {named}; "
        "list files not to ship under `exclude` of the place, or have git ignore them"
    )


def max_working_dir_bytes() -> int:
    """Ray's limit for the size of a working folder."""
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    return int(GCS_STORAGE_MAX_SIZE)


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
