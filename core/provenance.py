"""The provenance of a result: code revision, versions, host."""

import os
import platform
import re
import socket
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mixsweep.core.secret_text import looks_secret

# The environment variable with the version of mixsweep that submitted a job.
SUBMITTER_VERSION = "MIXSWEEP_SUBMITTER_VERSION"

_MOST_OF_PATCH = 1_000_000  # bytes

_ROOT = Path(__file__).resolve().parents[1]

_PACKAGES = ("mixsweep", "torch", "torchvision", "numpy", "pyarrow", "ray")


@cache
def provenance() -> dict[str, Any]:
    """The revision, versions and host needed to reproduce a trial of this process."""
    return {
        "revision": _git("rev-parse", "HEAD").decode("ascii", "replace").strip(),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "versions": {name: _version(name) for name in _PACKAGES if _version(name)},
    }


def project_revision(folder: Path) -> tuple[str, bool]:
    """The git revision of a user's project, and whether a tracked file in its folder has uncommitted changes.

    Args:
        folder: of the project; it may be one in a larger checkout.

    Returns:
        '' and False where it is in no checkout, or in one that does not have this folder.
    """
    found = _run_git(folder, "rev-parse", "--verify", "HEAD").decode("ascii", "replace").strip()
    if not found or not _run_git(folder, "rev-parse", "--verify", "--quiet", "HEAD:./"):
        return "", False
    status = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all", "--", ".")
    return found, bool(_run_git(folder, *status))


@cache
def patch() -> bytes:
    """The uncommitted changes of the code, as `patch_of` has them; empty where it is no checkout."""
    return patch_of(_ROOT) if _is_checkout(_ROOT) else b""


def patch_of(root: Path) -> bytes:
    """The uncommitted changes of a checkout's tracked files as a patch that `git apply` takes, whatever git is set to.

    Of a folder in a larger checkout, only what is in that folder; the paths are still those in the checkout.
    Files whose changes, or lines about them, look like a secret, or whose changes are very large, are left out whole
    and named in the first lines.
    """
    kept, left_out, size = [], [], 0
    for part in _parts(_run_git(root, "diff", "HEAD", *_DIFF_OPTIONS, "--", ".")):
        lines = part.decode("utf-8", "replace").splitlines()
        name = lines[0].rpartition(" b/")[2]
        if any(line.startswith(_CONTENT) and looks_secret(line) for line in lines):
            left_out.append(f"# left out: {name}: its changes look like a secret")
        elif size + len(part) > _MOST_OF_PATCH:
            left_out.append(f"# left out: {name}: its changes are {len(part)} bytes")
        else:
            kept.append(part)
            size += len(part)
    head = "".join(f"{line}\n" for line in left_out).encode("utf-8", "replace")
    return head + b"".join(kept)


# External programs, prefixes, relative paths, colours and renames are a person's own settings.
_DIFF_OPTIONS = (
    "--no-ext-diff", "--no-textconv", "--no-relative", "--no-color", "--no-renames", "--binary", "--full-index",
    "--src-prefix=a/", "--dst-prefix=b/", "--unified=3", "--ignore-submodules=all",
)  # fmt: skip


# Lines of a diff that quote the file: new, removed, unchanged, and the one before a hunk that git names it by.
_CONTENT = ("+", "-", " ", "@@")


def _parts(diff: bytes) -> list[bytes]:
    """A diff, file by file."""
    pieces = re.split(rb"(?m)^(?=diff --git )", diff)
    return [piece for piece in pieces if piece.startswith(b"diff --git ")]


def _git(*words: str) -> bytes:
    """The output of git in this package's checkout; empty if the package is installed, even inside another checkout."""
    return _run_git(_ROOT, *words) if _is_checkout(_ROOT) else b""


def _is_checkout(root: Path) -> bool:
    top = _run_git(root, "rev-parse", "--show-toplevel").rstrip(b"\n")
    return bool(top) and Path(os.fsdecode(top)).resolve() == root


def _run_git(folder: Path, *words: str) -> bytes:
    # Without locks: hundreds of tasks ask, and a person works in the same checkout.
    settings = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.quotePath=true")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), *settings, *words]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode == 0 else b""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
