"""The provenance of a result: code revision, versions, host."""

import platform
import socket
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# The environment variable with the version of mixsweep that submitted a job.
SUBMITTER_VERSION = "MIXSWEEP_SUBMITTER_VERSION"

_MOST_OF_PATCH = 200_000  # characters

_PACKAGES = ("mixsweep", "torch", "torchvision", "numpy", "pyarrow", "ray")


@cache
def provenance() -> dict[str, Any]:
    """The revision, versions and host needed to reproduce a trial of this process."""
    return {
        "revision": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "versions": {name: _version(name) for name in _PACKAGES if _version(name)},
    }


@cache
def patch() -> str:
    """The uncommitted changes of the code as a patch, cut at _MOST_OF_PATCH characters."""
    text = _git("diff", "HEAD")
    if len(text) > _MOST_OF_PATCH:
        text = text[:_MOST_OF_PATCH] + f"\n# cut: the whole patch has {len(text)} characters\n"
    return text + "\n" * (bool(text) and not text.endswith("\n"))


def _git(*words: str) -> str:
    """The output of git in this package's checkout; '' if the package is installed, even inside another checkout."""
    root = Path(__file__).resolve().parents[1]
    top = _run_git(root, "rev-parse", "--show-toplevel")
    return _run_git(root, *words) if top and Path(top).resolve() == root else ""


def _run_git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    # Strip only the newline: a patch may end in a line of one blank.
    return done.stdout.rstrip("\n") if done.returncode == 0 else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
