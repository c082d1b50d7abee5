"""Files in a command's folder that are kept with its trial, by patterns like `samples/*`."""

import os
from collections.abc import Iterable
from pathlib import Path

from mixsweep.core.errors import ConfigError
from mixsweep.core.scratch import files_below
from mixsweep.core.trainables.command.template import CHECKPOINT


def matching_files(root: Path, patterns: Iterable[str]) -> dict[str, Path]:
    """The files in a folder that match a pattern or are below a folder that does; its checkpoint is none of them."""
    found: dict[str, Path] = {}
    for pattern in patterns:
        for path in sorted(root.glob(_as_glob(pattern))):
            below = [path] if path.is_file() else files_below(path).values()
            found |= {one.relative_to(root).as_posix(): one for one in below}
    return {name: path for name, path in found.items() if name.partition("/")[0] != CHECKPOINT}


def check_pattern(pattern: str) -> None:
    """Check that a pattern is one, and names files in the trial's folder alone.

    Raises:
        ConfigError: it does not.
    """
    parts = Path(pattern).parts
    try:
        list(Path(os.devnull).glob(_as_glob(pattern)))
        is_pattern = not Path(pattern).is_absolute() and ".." not in parts
    except (ValueError, NotImplementedError, IndexError):
        is_pattern = False
    if not is_pattern:
        raise ConfigError(
            f"{pattern!r} is not a pattern of files in {{trial_dir}}; write it like 'samples/*'"
        )
    if parts[:1] == (CHECKPOINT,):
        raise ConfigError(f"{pattern!r}: the checkpoint is kept as such")


def _as_glob(pattern: str) -> str:
    """A pattern as pathlib has it: `lib/**.txt` means every such file below lib."""
    return pattern.replace("**.", "**/*.")
