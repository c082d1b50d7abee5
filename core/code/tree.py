"""A tree of kept code to run: copies of the kept files, and links to all else of the project that they belong to.

So code that was submitted runs unchanged after the project has changed, and still finds what it reads beside its files.
"""

import atexit
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from mixsweep.core.scratch import scratch_folder

_NOT_LINKED = ("__pycache__",)

_trees: dict[Path, Path] = {}  # of this process, by the folder of the kept files


def tree_of(kept: Path, origins: Mapping[str, Path]) -> Path:
    """This process's tree of kept files; it is removed when the process ends.

    Args:
        kept: the folder of the kept files.
        origins: the folders that they were copied from, by their paths in it, '.' for the project: what
            else is in them is linked.
    """
    if kept not in _trees:
        tree = _own_folder() / "code"
        shutil.copytree(kept, tree)
        _link(tree, origins)
        _trees[kept] = tree
    return _trees[kept]


def _own_folder() -> Path:
    stack, owner = ExitStack(), os.getpid()

    def close() -> None:
        if os.getpid() == owner:  # not in a child that ends as this process would
            stack.close()

    folder = stack.enter_context(scratch_folder("mixsweep-code-"))
    atexit.register(close)
    return folder


def _link(tree: Path, origins: Mapping[str, Path]) -> None:
    for folder in [Path(folder) for folder, _, _ in os.walk(tree)]:
        inside = folder.relative_to(tree)
        at = next(at for at in (inside, *inside.parents) if str(at) in origins)
        origin = origins[str(at)] / inside.relative_to(at)
        with suppress(OSError):  # a project that is gone, or that this host does not see
            for name in os.listdir(origin):
                if name not in _NOT_LINKED and not os.path.lexists(folder / name):
                    (folder / name).symlink_to(origin / name)
