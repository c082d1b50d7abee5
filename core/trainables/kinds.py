"""The kinds of trials, by name."""

from functools import cache
from importlib import import_module

from mixsweep.core.errors import UserError, did_you_mean
from mixsweep.core.trainables.interface import Trainable

BUILT_IN = "image"  # the default kind

# The module with the kind's TRAINABLE, by kind. Imported on use, so that the store does not import training code.
_MODULES = {BUILT_IN: "mixsweep.core.trainables.image_trainer"}


@cache
def find_trainable(kind: str = BUILT_IN) -> Trainable:
    """The kind of trial of this name.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in _MODULES:
        raise UserError(f"kind of trial {kind!r} is not known{did_you_mean(kind, _MODULES)}")
    found: Trainable = import_module(_MODULES[kind]).TRAINABLE
    return found
