"""Environments that hold mixsweep's wheel and what that asks for, and nothing else of this machine's packages."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

from tests.support.commands import ROOT
from tests.support.package_links import FOLDERS


def build_wheel(folder: Path) -> Path:
    """Build the wheel from a copy of the sources, so that nothing of an earlier build is in it."""
    sources = folder / "sources"
    for name in ("mixsweep", *FOLDERS):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(sources))
    (wheel,) = folder.glob("*.whl")
    return wheel


def metadata_of(wheel: Path) -> Distribution:
    """What a wheel says of itself."""
    (info,) = (path for path in zipfile.Path(wheel).iterdir() if path.name.endswith(".dist-info"))
    return PathDistribution(info)  # type: ignore[arg-type]  # typed for paths on disk; documented for archives


class Installed:
    """A virtual environment with the wheel; what it depends on are links to this environment's packages.

    Args:
        extras: of the wheel, installed with it.
    """

    def __init__(self, folder: Path, wheel: Path, extras: Iterable[str] = ()):
        venv.create(folder, symlinks=True, with_pip=False)
        self.python = folder / "bin" / "python"
        self.sweep = folder / "bin" / "sweep"
        (site,) = folder.glob("lib/python*/site-packages")
        for name in _needed_by(wheel, extras):
            package = distribution(name)
            for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
                if not (site / top).exists():
                    (site / top).symlink_to(Path(str(package.locate_file(top))))
        _pip("--python", str(self.python), "install", "--no-deps", "--no-index", str(wheel))

    def run(
        self, command: Iterable[str | Path], cwd: Path, timeout: float = 120
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in a folder, with nothing of this process's Python in its environment."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        environment |= {
            "HOME": str(cwd),
            "XDG_CONFIG_HOME": str(cwd),
            "PATH": f"{self.python.parent}:/usr/bin:/bin",
        }
        return subprocess.run(
            [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
        )  # fmt: skip


def _needed_by(wheel: Path, extras: Iterable[str]) -> set[str]:
    """The names of all packages that a wheel with these extras depends on, also through others."""
    found: set[tuple[str, frozenset[str]]] = set()
    left = [("mixsweep", frozenset(extras))]
    while left:
        name, wanted = left.pop()
        if (name, wanted) in found:
            continue
        found.add((name, wanted))
        package = metadata_of(wheel) if name == "mixsweep" else distribution(name)
        for text in package.requires or ():
            asked = Requirement(text)
            if asked.marker is None or any(asked.marker.evaluate({"extra": e}) for e in (*wanted, "")):
                left.append((asked.name, frozenset(asked.extras)))
    return {name for name, _ in found} - {"mixsweep"}


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
