"""Ray Tune's trainables, unchanged: a subclass of `ray.tune.Trainable`, or a function that calls `ray.tune.report`.

Their fields and metrics are those of the sweep file. Nothing here imports Ray; what runs a trial does.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from mixsweep.core.config import Field, TrialConfig
from mixsweep.core.errors import ConfigError
from mixsweep.core.trainables import interface
from mixsweep.core.trainables.declared import DeclaredConfig, start_with
from mixsweep.core.trainables.definition import Definition, make_definition
from mixsweep.sweep.trainables.tune_config import SEPARATOR

SOURCE = "tune"  # of a definition


def is_tune_class(target: Any) -> bool:
    """Whether this is a subclass of `ray.tune.Trainable`."""
    return isinstance(target, type) and _base_of(target) is not None


def define(
    target: Any,
    name: str,
    fields: Iterable[Field],
    metrics: Mapping[str, str],
    needs_checkpoints: bool = False,
) -> Definition:
    """The definition of a Tune class or function, checked.

    Args:
        name: `module:qualname`, for the identities of its trials.
        fields: keys of its `config`; `model/lr` is the key `lr` of a dictionary `model`.
        metrics: that the sweep compares, with their mode.
        needs_checkpoints: whether trials continue from others' checkpoints.

    Raises:
        ConfigError: what it lacks or has wrong, in one line.
    """
    if isinstance(target, type):
        _check_class(target, name, needs_checkpoints)
    elif callable(target):
        _check_function(target, name)
    else:
        raise ConfigError(f"{name}: neither a class nor a function")
    found = tuple(fields)
    names = {spec.name for spec in found}
    for one in names:
        folders = one.split(SEPARATOR)
        if "" in folders or any(SEPARATOR.join(folders[:n]) in names for n in range(1, len(folders))):
            raise ConfigError(f"field {one!r}: a part of its name is empty, or a field itself", one)
    return make_definition(source=SOURCE, name=name, fields=found, metrics=metrics)


def attach(definition: Definition, target: Any) -> None:
    """Make this class or function run the trials of a definition in this process."""

    def start(config: TrialConfig, run: interface.Run) -> interface.RunningTrial:
        assert isinstance(config, DeclaredConfig)
        if isinstance(target, type):
            from mixsweep.sweep.trainables.tune_class import ClassTrial

            return ClassTrial(config, target, run)
        from mixsweep.sweep.trainables.tune_function import FunctionTrial

        return FunctionTrial(config, target, run)

    start_with(definition, start)


def _base_of(cls: type) -> type | None:
    """`ray.tune.Trainable` among the bases of a class, without an import of Ray."""
    for base in cls.__mro__:
        if base.__qualname__ == "Trainable" and base.__module__.startswith("ray.tune."):
            return base
    return None


def _check_class(cls: type, name: str, needs_checkpoints: bool) -> None:
    base = _base_of(cls)
    if base is None:
        raise ConfigError(f"{name}: not a subclass of ray.tune.Trainable")
    if any(one.__qualname__ == "FunctionTrainable" for one in cls.__mro__):
        raise ConfigError(f"{name}: a wrapped function; name the function itself")
    if cls is base or not _has(cls, base, "step"):
        raise ConfigError(f"{name}: has no method step")
    for one, other in (("save_checkpoint", "load_checkpoint"), ("load_checkpoint", "save_checkpoint")):
        if _has(cls, base, one) and not _has(cls, base, other):
            raise ConfigError(f"{name}: has a method {one} and no {other}")
    if needs_checkpoints and not _has(cls, base, "save_checkpoint"):
        raise ConfigError(
            f"{name}: has no method save_checkpoint, and a population continues from checkpoints"
        )


def _has(cls: type, base: type, method: str) -> bool:
    return getattr(cls, method, None) is not getattr(base, method, None)


def _check_function(function: Any, name: str) -> None:
    try:
        inspect.signature(function).bind({})
    except TypeError as error:
        raise ConfigError(f"{name}: cannot be called with `config` alone ({error})") from error
    except ValueError:  # its arguments are not known
        return
