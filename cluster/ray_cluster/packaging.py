"""What is shipped to a cluster: mixsweep itself, as a module of the job, and the user's project, lean.

Ray sends a working folder whole to each node, and refuses a large one only after packing it. So what goes is
chosen and weighed here first: of a project that a sweep file imports from, what git knows or would not ignore,
without runs, data and caches.
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

_LARGEST = 5  # files that a refusal names

# Folders of any depth that never go, even where git does not ignore them.
_NEVER = (
    ".*", "__pycache__", "*.egg-info", "node_modules", "runs", "data", "wandb", "venv", "env", "site-packages",
)  # fmt: skip


class PackagingError(UserError):
    """What cannot be shipped, in one line."""


@dataclass(frozen=True)
class Shipment:
    """What Ray sends to each node.

    Args:
        working_dir: becomes the working folder of the cluster's processes.
        package: the folder of mixsweep, for `py_modules`.
        imports: where each imported file lies, relative to the working folder.
    """

    working_dir: Path
    package: Path
    imports: tuple[str, ...]

    @property
    def runtime_env(self) -> dict[str, object]:
        """As Ray takes it."""
        return {"working_dir": str(self.working_dir), "py_modules": [str(self.package)]}


def stage(
    folder: Path, imports: Sequence[str] = (), project: str = "", exclude: Sequence[str] = ()
) -> Shipment:
    """Put all that a cluster needs into an empty folder.

    Args:
        folder: gets it; nothing else is in it.
        imports: absolute paths of the files that the sweep file names.
        project: the root of the project that they import from; it goes along where there are any.
        exclude: patterns of paths below the project that stay here.

    Raises:
        PackagingError: it would be too large for Ray; with the largest files.
    """
    root = Path(project)
    files = {PurePath(path): root / path for path in lean_files(root, exclude)} if imports else {}
    places = []
    for number, name in enumerate(imports):
        path = Path(name)
        inside = path.relative_to(root) if path.is_relative_to(root) else None
        place = PurePath(inside or PurePath("imports", str(number), path.name))
        files[place] = path
        places.append(str(place))
    _weigh(files.values(), root)
    working_dir = folder / "work"
    working_dir.mkdir(parents=True)
    for place, path in files.items():
        target = working_dir / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return Shipment(working_dir, _stage_package(folder / "package" / "mixsweep"), tuple(places))


def _stage_package(folder: Path) -> Path:
    """A copy of this mixsweep, laid out as it is installed, wherever its folders lie."""
    ignore = shutil.ignore_patterns("__pycache__", ".*")
    for name in ("", *_PACKAGES):
        module = importlib.import_module(f"mixsweep.{name}".rstrip("."))
        assert module.__file__ is not None
        shutil.copytree(Path(module.__file__).parent, folder / name, ignore=ignore, dirs_exist_ok=True)
    return folder


def lean_files(root: Path, exclude: Sequence[str] = ()) -> list[PurePath]:
    """The files below a project that go: those of git, else all; never runs, data, caches or environments."""
    listed = _listed_by_git(root)
    found: Iterable[PurePath] = _walk(root, root) if listed is None else listed
    stores: dict[PurePath, bool] = {}
    kept = []
    for path in found:
        if any(fnmatch.fnmatch(part, pattern) for part in path.parts[:-1] for pattern in _NEVER):
            continue
        if path.name.startswith(".git"):  # Ray would leave out what they name, of what has been chosen here
            continue
        if any(fnmatch.fnmatch(str(path), p) or PurePath(p.rstrip("/")) in path.parents for p in exclude):
            continue
        if any(_is_store(root, parent, stores) for parent in path.parents):
            continue
        if (root / path).is_file():
            kept.append(path)
    return sorted(kept)


def _listed_by_git(root: Path) -> list[PurePath] | None:
    """What git tracks and what it would, or None where this is no checkout."""
    words = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(words, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return [PurePath(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name]


def _walk(root: Path, folder: Path) -> Iterator[PurePath]:
    for at, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not any(fnmatch.fnmatch(f, pattern) for pattern in _NEVER)]
        for name in files:
            yield PurePath(os.path.relpath(os.path.join(at, name), root))


def _is_store(root: Path, folder: PurePath, known: dict[PurePath, bool]) -> bool:
    """Whether a folder is that of a sweep, by whatever name."""
    if folder not in known:
        known[folder] = (root / folder / "sweep.toml").is_file() and (root / folder / "trials").is_dir()
    return known[folder]


def _weigh(files: Iterable[Path], root: Path) -> None:
    limit = limit_bytes()
    sizes = sorted(((path.stat().st_size, path) for path in files), reverse=True)
    total = sum(size for size, _ in sizes)
    if total < limit:
        return
    named = ", ".join(
        f"{os.path.relpath(path, root)} ({_mebibytes(size)})" for size, path in sizes[:_LARGEST]
    )
    raise PackagingError(
        f"{root}: {_mebibytes(total)} would be shipped, Ray takes {_mebibytes(limit)}; the largest: {named}; "
        "name what stays here under `exclude` of the place, or have git ignore it"
    )


def limit_bytes() -> int:
    """The largest working folder that Ray takes."""
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    return int(GCS_STORAGE_MAX_SIZE)


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
