"""Fields that registered parts of an image trial bring: the keyword-only parameters of what builds them.

A trial with such fields is of a kind of its own, whose definition the store keeps, so that whoever reads the store
needs none of the user's files.
"""

import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, make_dataclass, replace
from dataclasses import Field as DataclassField
from functools import cache
from types import MappingProxyType
from typing import Any

from mixsweep.core import config as configs
from mixsweep.core import registry
from mixsweep.core.config import Field
from mixsweep.core.errors import ConfigError
from mixsweep.core.records import COMMON_COLUMNS, PLAN_COLUMNS, TRIAL_COLUMNS
from mixsweep.core.trainables.definition import Definition
from mixsweep.core.trainables.field_types import OPTION, field_of
from mixsweep.core.trainables.image.config import FIELD_NAMES, FIELDS, ImageConfig

SOURCE = "image"  # of a definition that adds fields to the image trainer's

# Arguments that a part is called with by their names.
_GIVEN = {"optimizer": ("lr", "weight_decay")}


def definition_of_parts(used: Collection[tuple[str, str]]) -> Definition | None:
    """The definition of image trials with the fields of these registered parts; None without fields.

    Parts of one sort may share a field: its default is that of the part that a trial uses.

    Args:
        used: the parts, as the field that names one, such as `model`, and a name; others are left out.

    Raises:
        ConfigError: a parameter that cannot be a field, in one line.
    """
    found: dict[str, Field] = {}
    for part, name, build in registry.registrations():
        if (part, name) not in used:
            continue
        for spec in _fields_of(part, name, build):
            same = found.setdefault(spec.name, spec)
            if same is spec:
                continue
            if part not in same.applies or replace(same, applies={}) != replace(
                spec, applies={}, default=same.default, doc=same.doc
            ):
                (other, names), *_ = same.applies.items()
                raise ConfigError(
                    f"{part} {name!r}: its parameter {spec.name!r} is of another kind than that of "
                    f"{other} {names[0]!r}; rename one of the two"
                )
            found[spec.name] = replace(same, applies={part: (*same.applies[part], name)})
    if not found:
        return None
    return Definition(source=SOURCE, name="image", fields=tuple(found.values()), metrics=(), budget="epochs")


def config_class(definition: Definition) -> type[ImageConfig]:
    """The class of configs with a definition's fields beside the built-in ones."""
    own = definition.fields

    def defaults_beside(cls: type[ImageConfig], values: Mapping[str, Any]) -> dict[str, Any]:
        found = ImageConfig.defaults_beside(values)
        for part in registry.BUILT_IN:
            build = registry.registered(part, values[part]) if isinstance(values.get(part), str) else None
            if build is not None:
                found |= {spec.name: spec.default for spec in _fields_of(part, values[part], build)}
        return found

    made = make_dataclass(
        "ImageConfig",
        [(spec.name, spec.type) for spec in own],
        bases=(ImageConfig,),
        namespace={
            "kind": definition.kind,
            "own": own,
            "defaults_beside": classmethod(defaults_beside),
            "__reduce__": lambda self: (_restore, (definition, self.to_mapping())),
            **{spec.name: spec.default for spec in own},
        },
        frozen=True,
        kw_only=True,
    )
    configs.declare_fields(made, (*FIELDS, *own))
    return made


def check_fields(definition: Definition) -> None:
    """Check that the parts registered in this process have the fields of a definition.

    Raises:
        ConfigError: names the first that is another one, or is gone.
    """
    used = {
        (part, name) for spec in definition.fields for part, names in spec.applies.items() for name in names
    }
    made = definition_of_parts(used)
    found = {} if made is None else {spec.name: replace(spec, applies={}) for spec in made.fields}
    for spec in definition.fields:
        (part, names), *_ = spec.applies.items()
        is_here = any(registry.registered(part, name) for name in names)
        if is_here and found.get(spec.name) != replace(spec, applies={}):
            raise ConfigError(
                f"field {spec.name!r} of {part} {names[0]!r} is not what the sweep was submitted with; "
                "run the same command again"
            )


def call_part(
    part: str,
    config: ImageConfig,
    build: Callable[..., Any],
    *given: Any,
    instead: Mapping[str, Any] = MappingProxyType({}),
    **named: Any,
) -> Any:
    """Call what builds a registered part, with the values of its own fields and of built-in ones that it names.

    Args:
        given, named: what any part of this sort is called with.
        instead: what built-in fields are given as, by name, where not as their value.
    """
    wanted = {name: instead.get(name, config[name]) for name in _built_in_parameters(part, build)}
    return build(*given, **named, **config.values_of(part), **wanted)


def takes_shape(build: Callable[..., Any]) -> bool:
    """Whether a model's builder takes the shape of the images, rather than a trial's config."""
    parameters = list(_parameters(build))
    return bool(parameters) and parameters[0].name == "shape"


def _restore(definition: Definition, values: Mapping[str, Any]) -> ImageConfig:
    from mixsweep.core.trainables.kinds import (
        declare,
    )  # it imports the image trainer, which imports this module

    config = declare(definition).config_from_store(values)
    assert isinstance(config, ImageConfig)
    return config


def _parameters(build: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a function; none of a class, which has those of a library."""
    if isinstance(build, type):
        return []
    try:
        return list(inspect.signature(build).parameters.values())
    except (TypeError, ValueError):  # a function of an extension module
        return []


def _own_parameters(part: str, build: Callable[..., Any]) -> list[inspect.Parameter]:
    return [
        parameter
        for parameter in _parameters(build)
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in _GIVEN.get(part, ())
    ]


def _built_in_parameters(part: str, build: Callable[..., Any]) -> list[str]:
    """The parameters that are named like built-in fields, and get their values."""
    return [
        parameter.name
        for parameter in _own_parameters(part, build)
        if parameter.default is parameter.empty and parameter.name in FIELD_NAMES
    ]


@cache
def _fields_of(part: str, name: str, build: Callable[..., Any]) -> tuple[Field, ...]:
    found = []
    hints: Mapping[str, Any] = {}
    for parameter in _own_parameters(part, build):
        where = f"{part} {name!r}: its parameter {parameter.name!r}"
        if parameter.name in FIELD_NAMES:
            if parameter.default is not parameter.empty:
                raise ConfigError(
                    f"{where} is a built-in field; leave out its default to get the field's value, or rename it"
                )
            continue
        # An attribute of the class of configs, such as `kind`, cannot be a field of it.
        if parameter.name in (*COMMON_COLUMNS, *PLAN_COLUMNS, *TRIAL_COLUMNS) or hasattr(
            ImageConfig, parameter.name
        ):
            raise ConfigError(f"{where} has a reserved name")
        if parameter.default is parameter.empty:
            raise ConfigError(f"{where} has no default")
        if parameter.annotation is parameter.empty:
            raise ConfigError(f"{where} has no type; write {parameter.name}: int = …")
        if not hints:
            try:
                hints = typing.get_type_hints(build)
            except Exception as error:
                raise ConfigError(f"{part} {name!r}: its types cannot be read ({error})") from error
        default, options = parameter.default, {}
        if isinstance(default, DataclassField):  # mixsweep.field(…)
            options = dict(default.metadata.get(OPTION, {}))
            default = default.default
            if default is MISSING:
                raise ConfigError(f"{where} has no default")
        if options.pop("when", None) or options.pop("budget", False):
            raise ConfigError(f"{where}: `when` and `budget` are for the fields of a class of one's own")
        found.append(
            field_of(parameter.name, hints[parameter.name], default, where, options, {part: (name,)})
        )
    return tuple(found)
