"""A folder of links laid out as the installed package is: static tools follow it, not setuptools' import hook.

`python -m tests.support.package_links FOLDER` makes it, for mypy (MYPYPATH) and import-linter (PYTHONPATH).
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("core", "cluster", "analysis", "sweep")


def link_packages(folder: Path) -> Path:
    """Make `folder/mixsweep` of links to the checkout's files; return `folder`."""
    package = folder / "mixsweep"
    package.mkdir(parents=True, exist_ok=True)
    targets = [*(ROOT / "mixsweep").glob("*.py*"), *(ROOT / name for name in FOLDERS)]
    for target in targets:
        link = package / target.name
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    return folder


if __name__ == "__main__":
    link_packages(Path(sys.argv[1]))
