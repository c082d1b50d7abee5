"""Stage what Ray ships to a cluster: mixsweep itself and the project that a sweep file imports from.

Ray sends the whole working folder to each node, and refuses a large one only after packing it. So the files are
selected, and their size is checked, before: of a project those that git tracks or does not ignore, without runs,
data and caches. What looks like a secret and is not tracked, and links that lead out of the project, are left out.
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
from mixsweep.core.secret_text import is_secret_file, text_looks_secret
from mixsweep.core.store.code_copy import Code

_PACKAGES = ("core", "cluster", "analysis", "sweep")

_LARGEST_NAMED = 5  # files that a message names
_MOST_SEARCHED_BYTES = 1_000_000  # of a file that is not tracked, for secrets

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
        left_out: files of the project that are not shipped, each with the reason.
    """

    working_dir: Path
    package: Path
    imports: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def notice(self) -> str:
        """A line on what is left out, '' if nothing is."""
        if not self.left_out:
            return ""
        more = len(self.left_out) - _LARGEST_NAMED
        named = ", ".join(self.left_out[:_LARGEST_NAMED]) + (f" and {more} more" if more > 0 else "")
        return f"Not shipped: {named}; a file that git tracks is."

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
    selected = select(root, exclude) if imports else Selection((), ())
    files = {path: root / path for path in selected.files}
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
    package = _stage_package(folder / "package" / "mixsweep")
    named = {str(path) for path in files}
    left_out = tuple(f"{path} ({why})" for path, why in selected.left_out if str(path) not in named)
    return Shipment(working_dir, package, tuple(targets), left_out)


def stage_code(folder: Path, code: Code, root: Path) -> None:
    """Write a command's code into a new folder.

    Args:
        root: the folder that its paths are relative to.

    Raises:
        PackagingError: a file that git does not track looks like a secret.
    """
    tracked = {str(path) for path in _listed_by_git(root, "--cached") or ()}
    for name, file in code.files.items():
        if name not in tracked and (is_secret_file(Path(name).name) or text_looks_secret(file.content)):
            raise PackagingError(
                f"command.code: {name} looks like a secret and is not tracked by git, so it is not shipped"
            )
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.content)
        copy.chmod(file.mode)


def _stage_package(folder: Path) -> Path:
    """Copy the installed mixsweep packages below one folder; return that folder."""
    ignore = shutil.ignore_patterns("__pycache__", ".*")
    for name in ("", *_PACKAGES):
        module = importlib.import_module(f"mixsweep.{name}".rstrip("."))
        assert module.__file__ is not None
        shutil.copytree(Path(module.__file__).parent, folder / name, ignore=ignore, dirs_exist_ok=True)
    return folder


@dataclass(frozen=True)
class Selection:
    """Paths below a project: those to ship, and those that are kept back, each with the reason."""

    files: tuple[PurePath, ...]
    left_out: tuple[tuple[PurePath, str], ...]


def select(root: Path, exclude: Sequence[str] = ()) -> Selection:
    """The project's files to ship: those of git, else all; never runs, data, caches or virtual environments."""
    tracked = _listed_by_git(root, "--cached")
    others = _listed_by_git(root, "--others", "--exclude-standard")
    found: Iterable[PurePath] = (
        _walk(root, root) if tracked is None or others is None else [*tracked, *others]
    )
    of_git = frozenset(tracked or ())
    stores: dict[PurePath, bool] = {}
    kept, left_out = [], []
    for path in found:
        if any(fnmatch.fnmatch(part, pattern) for part in path.parts[:-1] for pattern in _NEVER_SHIPPED):
            continue
        if path.name.startswith(".git"):  # Ray would apply them to the files that are selected here
            continue
        if any(fnmatch.fnmatch(str(path), p) or PurePath(p.rstrip("/")) in path.parents for p in exclude):
            continue
        if any(_is_store(root, parent, stores) for parent in path.parents):
            continue
        if not (root / path).is_file():
            continue
        if why := _reason_to_keep(root, path, is_tracked=path in of_git):
            left_out.append((path, why))
        else:
            kept.append(path)
    return Selection(tuple(sorted(kept)), tuple(sorted(left_out)))


def _reason_to_keep(root: Path, path: PurePath, *, is_tracked: bool) -> str:
    """Why a file does not leave this machine, '' if it may."""
    if not (root / path).resolve().is_relative_to(root.resolve()):
        return "links out of the project"
    if is_tracked:  # whoever has the checkout has it
        return ""
    names = (path.name, (root / path).resolve().name)
    if any(map(is_secret_file, names)) or _holds_secret(root / path):
        return "looks like a secret"
    return ""


def _holds_secret(path: Path) -> bool:
    with path.open("rb") as file:
        return text_looks_secret(file.read(_MOST_SEARCHED_BYTES))


def _listed_by_git(root: Path, *which: str) -> list[PurePath] | None:
    """Files of a checkout; None outside of one."""
    words = ["git", "-C", str(root), "ls-files", "-z", *which]
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
