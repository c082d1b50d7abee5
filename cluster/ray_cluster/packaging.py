"""What is shipped to a cluster: the checkout, lean, and the files that a sweep file names.

Ray sends a working folder whole to each node, and refuses a large one only after packing it. So what goes is
chosen and weighed here first: what git knows, or would not ignore, without runs, data and caches.
"""

import fnmatch
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath

from mixsweep.core.errors import UserError

ROOT = Path(__file__).resolve().parent.parent  # of the code, and of the checkout where there is one
PACKAGES = ("core", "cluster", "analysis", "sweep")

_LARGEST = 5  # files that a refusal names

# Folders of any depth that never go, even where git does not ignore them.
_NEVER = (
    ".*", "__pycache__", "*.egg-info", "node_modules", "runs", "data", "wandb", "venv", "env", "site-packages",
)  # fmt: skip


class PackagingError(UserError):
    """What cannot be shipped, in one line."""


def stage(
    folder: Path, imports: Sequence[str], exclude: Sequence[str] = (), root: Path = ROOT
) -> dict[str, str]:
    """Put all that a cluster needs into an empty folder.

    Args:
        folder: gets it; nothing else is in it.
        imports: absolute paths of the files that the sweep file names.
        exclude: patterns of paths below `root` that stay here.

    Returns:
        where each import lies in the folder.

    Raises:
        PackagingError: it would be too large for Ray; with the largest files.
    """
    files = {path: root / path for path in lean_files(root, exclude)}
    places: dict[str, str] = {}
    for number, name in enumerate(imports):
        path = Path(name)
        inside = path.relative_to(root) if path.is_relative_to(root) else None
        place = inside or PurePath("imports", str(number), path.name)
        files[PurePath(place)] = path
        places[name] = str(place)
    _weigh(files.values(), root)
    for place, path in files.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return places


def lean_files(root: Path, exclude: Sequence[str] = ()) -> list[PurePath]:
    """The files below a checkout that go: those of git, else all; never runs, data, caches or environments."""
    if not (root / "pyproject.toml").is_file():  # installed: beside us lie strangers
        found: Iterable[PurePath] = (p for package in PACKAGES for p in _walk(root, root / package))
    else:
        listed = _listed_by_git(root)
        found = _walk(root, root) if listed is None else listed
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
