"""The extras of the package, `pip install 'mixsweep[ray]'`: which are installed, and one line for one that is missing.

Reading a store, planning grids and reports need none of them.
"""

import sys
from importlib.util import find_spec

from mixsweep.core.errors import UserError

# The modules that have to be there, by extra of pyproject.toml.
EXTRAS: dict[str, tuple[str, ...]] = {
    "train": ("torch", "torchvision", "sklearn"),
    "ray": ("ray",),
    "slurm": ("submitit",),
    "wandb": ("wandb", "requests", "yaml"),
    "search": ("optuna", "ray"),
}
_NAMES = {"torch": "PyTorch", "sklearn": "scikit-learn", "ray": "Ray", "wandb": "W&B", "optuna": "Optuna"}


class MissingExtraError(UserError):
    """Something that was asked for needs an extra that is not installed."""


def require(*extras: str, what: str = "this") -> None:
    """Make sure that these extras are installed, without importing what they bring.

    Args:
        what: needs them, for the message.

    Raises:
        MissingExtraError: what is missing, and the command that installs it.
    """
    asked = [extra for extra in dict.fromkeys(extras) if not is_installed(extra)]
    missing = dict.fromkeys(name for extra in asked for name in EXTRAS[extra] if not _is_there(name))
    if missing:
        *names, last = [_NAMES.get(name, name) for name in missing]
        listed = f"{', '.join(names)} and {last}" if names else last
        raise MissingExtraError(f"{what} needs {listed}: pip install 'mixsweep[{','.join(asked)}]'")


def is_installed(extra: str) -> bool:
    """Whether all that an extra brings can be imported."""
    return all(map(_is_there, EXTRAS[extra]))


def _is_there(name: str) -> bool:
    if name in sys.modules:
        return sys.modules[name] is not None
    found = find_spec(name)
    # W&B leaves folders `wandb` where it runs, which would count as packages without code.
    return found is not None and found.origin is not None
