"""The kinds of trials, by name: the built-in one, and those that a definition declares in this process."""

from functools import cache
from importlib import import_module

from mixsweep.core.errors import UserError, did_you_mean
from mixsweep.core.trainables.declared import DeclaredTrainable
from mixsweep.core.trainables.definition import Definition
from mixsweep.core.trainables.interface import Trainable

BUILT_IN = "image"  # the default kind

# The module with the kind's TRAINABLE, by kind. Imported on use, so that the store does not import training code.
_MODULES = {BUILT_IN: "mixsweep.core.trainables.image.trainer"}

_declared: dict[str, Trainable] = {}


def declare(definition: Definition) -> Trainable:
    """Make a definition's kind known in this process."""
    if definition.kind not in _declared:
        if definition.source in _MODULES:  # a built-in kind with more fields
            made: Trainable = import_module(_MODULES[definition.source]).with_fields(definition)
        else:
            made = DeclaredTrainable(definition)
        _declared[definition.kind] = made
    return _declared[definition.kind]


def is_known(kind: str) -> bool:
    """Whether `find_trainable` finds this kind."""
    return kind in _declared or kind in _MODULES


def find_trainable(kind: str = BUILT_IN) -> Trainable:
    """The kind of trial of this name.

    Raises:
        UserError: there is no such kind, or its definition has not been read in this process.
    """
    if kind in _declared:
        return _declared[kind]
    if kind not in _MODULES:
        raise UserError(f"kind of trial {kind!r} is not known{did_you_mean(kind, _MODULES)}")
    return load_built_in(kind)


@cache
def load_built_in(kind: str) -> Trainable:
    """A kind that comes with mixsweep."""
    found: Trainable = import_module(_MODULES[kind]).TRAINABLE
    return found
