"""The extras of the package, `pip install 'mixsweep[ray]'`: which are installed, and the error for a missing one.

Reading a store, planning grids and writing reports need none of them.
"""

import sys
from importlib.util import find_spec

from mixsweep.core.errors import UserError

# The modules that each extra of pyproject.toml provides.
EXTRAS: dict[str, tuple[str, ...]] = {
    "train": ("torch", "torchvision", "sklearn"),
    "ray": ("ray",),
    "slurm": ("submitit",),
    "wandb": ("wandb", "requests", "yaml"),
    "search": ("optuna", "ray"),
}
_NAMES = {"torch": "PyTorch", "sklearn": "scikit-learn", "ray": "Ray", "wandb": "W&B", "optuna": "Optuna"}


class MissingExtraError(UserError):
    """The requested operation needs an extra that is not installed."""


def require(*extras: str, what: str = "this") -> None:
    """Check that these extras are installed, without importing their modules.

    Args:
        what: the operation that needs them, for the message.

    Raises:
        MissingExtraError: names the missing extras and the command that installs them.
    """
    asked = [extra for extra in dict.fromkeys(extras) if not is_installed(extra)]
    missing = dict.fromkeys(name for extra in asked for name in EXTRAS[extra] if not _is_there(name))
    if missing:
        *names, last = [_NAMES.get(name, name) for name in missing]
        listed = f"{', '.join(names)} and {last}" if names else last
        raise MissingExtraError(f"{what} needs {listed}: pip install 'mixsweep[{','.join(asked)}]'")


def is_installed(extra: str) -> bool:
    """Whether all modules of an extra can be imported."""
    return all(map(_is_there, EXTRAS[extra]))


def _is_there(name: str) -> bool:
    if name in sys.modules:
        return sys.modules[name] is not None
    found = find_spec(name)
    # W&B creates folders `wandb` where it runs, which would count as packages without code.
    return found is not None and found.origin is not None
