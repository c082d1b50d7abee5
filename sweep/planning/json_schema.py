"""JSON Schemas (draft 2020-12) of sweep files and of places.toml, for editors.

Generated from the declarations that parsing uses. `sweep plan` checks the rest: rules over several keys, and names
that a Python file registers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field
from typing import Any

from mixsweep.cluster.places import BUILT_IN, COMMON_KEYS, KINDS, Place, RayPlace, SlurmPlace
from mixsweep.core.config import Field as TrialField
from mixsweep.core.toml.keys import declared_keys, types_of
from mixsweep.core.toml.reader import SIZE
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.sweep.planning.claims_schema import CLAIM_KINDS, TRENDS, WITH_THAN, Claim, known_metrics
from mixsweep.sweep.planning.command_schema import CommandTable
from mixsweep.sweep.planning.schema import (
    LONGEST_NAME,
    MOST_REPLICAS,
    ONLY_IN_PARTS,
    PART_KEYS,
    PUBLISHED_WORDS,
    TABLES,
    TOP_KEYS,
    Part,
    Stopping,
    SweepSpec,
    published_metrics,
)
from mixsweep.sweep.planning.search_schema import Search
from mixsweep.sweep.planning.space import DISTRIBUTIONS, Combine, Distribution

Schema = dict[str, Any]

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_NOT_IN_FILES = ("parent", "pinned_code")  # only a population writes the one, and code = "pin" the other

# The schema of a value, by the type of its field.
_TYPES: Mapping[Any, Schema] = {
    str: {"type": "string"},
    str | None: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    int | None: {"type": "integer"},
    float: {"type": "number"},
    float | None: {"type": "number"},
    tuple[str, ...]: {"type": "array", "items": {"type": "string"}},
    tuple[int, ...]: {"type": "array", "items": {"type": "integer"}, "minItems": 1},
    Mapping[str, float]: {"type": "object", "additionalProperties": {"type": "number"}},
    Mapping[str, str]: {"type": "object", "additionalProperties": {"type": "string"}},
    Mapping[str, str | int]: {
        "type": "object",
        "additionalProperties": {"type": ["string", "integer", "boolean"]},
    },
}


def sweep_file_schema() -> Schema:
    """Return the schema of sweep files."""
    keys = {**_keys(Part), **_keys(SweepSpec)}
    by_hand: Schema = {
        "name": {"type": "string", "pattern": keys["name"]["pattern"], "maxLength": LONGEST_NAME},
        "seeds": {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": MOST_REPLICAS},
                {"type": "array", "items": _field_ref("seed"), "minItems": 1, "uniqueItems": True},
            ],
            "default": 1,
        },
        "imports": _TYPES[tuple[str, ...]],
        "project": {"type": "string"},
        "command": _command(),
        "fields": {
            "type": "object",
            "description": "the fields of a command or a Ray Tune trainable: a default, or a table with one",
        },
        "kind": {"type": "string", "description": "written by mixsweep into the resolved file of a store"},
        "trainable": {
            "type": "string",
            "pattern": r"^(.+\.py|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):[A-Za-z_]\w*$",
        },
        "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}, "minItems": 1},
        **{
            name: {"$ref": f"#/$defs/{name}"}
            for name in ("base", "space", "when", "combine", "derive", "claims")
        },
        **{name: {"$ref": f"#/$defs/{name}"} for name in TABLES},
        "published": {"$ref": "#/$defs/published"},
    }
    keys["metric"] |= {"type": "string", "enum": list(find_trainable().objectives)}
    keys["keep"] = {"description": "what is kept of ended trials besides their records, config and log"}
    top = {name: {**keys.get(name, {}), **by_hand.get(name, {})} for name in TOP_KEYS}
    part = {name: top[name] for name in PART_KEYS} | {"name": _keys(Part)["name"]}
    part["base"] = {**top["base"], "not": {"required": ["seed"]}}  # seeds are paired across parts
    images = {name: schema for name, schema in top.items() if name not in _OF_OWN}
    return {
        "$schema": _DRAFT,
        "title": "A sweep file of mixsweep",
        "if": {"anyOf": [{"required": ["trainable"]}, {"required": ["command"]}]},
        "then": _table(_with_any_fields(top, keys["metric"])),
        "else": {
            "if": {"required": ["imports"]},  # registered parts, and their fields
            "then": _table({**images, **_any_fields(top)}),
            "else": _table(images),
        },
        "dependentSchemas": {
            # With several questions these belong inside each of [[parts]], or in a file of their own.
            "parts": {"properties": dict.fromkeys((*ONLY_IN_PARTS, "search", "stopping"), False)},
            "search": {"properties": {"samples": False, "combine": False}},
        },
        "$defs": {
            "fields": {name: _trial_field(spec) for name, spec in _trial_fields().items()},
            "base": _table({name: _field_ref(name) for name in _trial_fields()}),
            "space": _table({name: _axis(spec) for name, spec in _trial_fields().items() if name != "seed"}),
            "when": _table({name: {"$ref": "#/$defs/conditions"} for name in _trial_fields()}),
            "conditions": {
                **_table({name: _condition(spec) for name, spec in _trial_fields().items()}),
                "minProperties": 1,
            },
            "combine": _combine(),
            "derive": _table({name: {"type": "string"} for name in _derivable_fields()}),
            "claims": {"type": "array", "items": {"$ref": "#/$defs/claim"}},
            "claim": _claim(),
            "published": _table(
                {name: {"type": "number"} for name in published_metrics(find_trainable())} | _PUBLISHED_WORDS
            ),
            "part": _table(part),
            **{name: _table(_keys(table)) for name, table in TABLES.items()},
            "search": _search(),
            "stopping": _stopping(),
        },
    }


_PUBLISHED_WORDS: Schema = {name: {"type": "string"} for name in PUBLISHED_WORDS}


_OF_OWN = ("trainable", "command", "fields")  # keys of a sweep whose trials are not the image trainer's


def _command() -> Schema:
    keys = _keys(CommandTable)
    pattern = {"type": "object", "properties": {"pattern": {"type": "string"}}, "required": ["pattern"]}
    keys["metrics"] |= {"anyOf": [{"type": "string", "pattern": "^(json-lines|csv:.+)$"}, pattern]}
    return {**_table(keys), "required": ["run"]}


def _with_any_fields(top: Mapping[str, Schema], metric: Schema) -> dict[str, Schema]:
    """The keys of a sweep of a trainable of one's own: its fields and metrics are known to its class only."""
    any_metric = {key: value for key, value in metric.items() if key != "enum"}
    return {**top, **_any_fields(top), "metric": any_metric}


def _any_fields(top: Mapping[str, Schema]) -> dict[str, Schema]:
    """The keys that name fields of a trial, where only the user's files know the fields."""
    table: Schema = {"type": "object"}
    claims = {"type": "array", "items": {**_claim(), "properties": _claimed(dict(_keys(Claim)))}}
    combine = _table({"zip": _zip({"type": "string"}), "exclude": {"type": "array", "items": table}})
    derive = {"type": "object", "additionalProperties": {"type": "string"}}
    parts = {"type": "array", "items": table, "minItems": 1}
    seeds = {**top["seeds"], "anyOf": [top["seeds"]["anyOf"][0], {"type": "array", "minItems": 1}]}
    own = {"base": table, "space": table, "when": table, "combine": combine, "derive": derive}
    published = {"type": "object", "properties": _PUBLISHED_WORDS, "additionalProperties": {"type": "number"}}
    own |= {"claims": claims, "parts": parts, "seeds": seeds, "published": published}
    return {name: {"description": top[name]["description"], **schema} for name, schema in own.items()}


def places_schema() -> Schema:
    """Return the schema of places.toml: one table per place."""
    common = {name: key for name, key in _keys(Place).items() if name in COMMON_KEYS}
    common["data"]["type"] = "string"
    own = {name: key for name, key in _keys(Place).items() if name not in COMMON_KEYS}
    here = [kind for kind in KINDS if kind in BUILT_IN]
    tables = {
        "machine": (here, own),
        "slurm": (["slurm"], _keys(SlurmPlace)),
        "ray": (["ray"], _keys(RayPlace)),
    }
    places = {}
    for name, (kinds, keys) in tables.items():
        kind = {**common["kind"], "enum": kinds}
        places[name] = {**_table({**common, "kind": kind, **keys}), "required": ["kind"]}
    any_kind = [{"$ref": f"#/$defs/{name}"} for name in tables]
    # The built-in places may leave out their kind.
    without_kind = {**places["machine"], "required": []}
    return {
        "$schema": _DRAFT,
        "title": "The places of mixsweep",
        "type": "object",
        "properties": {name: {"anyOf": [{"$ref": "#/$defs/built-in"}, *any_kind[1:]]} for name in BUILT_IN},
        "additionalProperties": {"oneOf": any_kind},
        "$defs": {**places, "built-in": without_kind},
    }


def _trial_fields() -> dict[str, TrialField]:
    """Return the fields that a sweep file may set, by name."""
    return {spec.name: spec for spec in find_trainable().fields if spec.name not in _NOT_IN_FILES}


def _trial_field(spec: TrialField) -> Schema:
    kind: Schema = {"type": {str: "string", int: "integer", float: "number"}[spec.type]}
    kind |= _bounds(low=spec.low, high=spec.high, above=spec.above)
    if spec.choices or spec.examples:  # further names are registered by `imports`
        kind["enum"] = list(spec.choices or spec.examples)
    schema = {"type": "array", "items": kind, "minItems": 1} if spec.is_list else kind
    only = [f"{other} = {' or '.join(values)}" for other, values in spec.applies.items()]
    schema["description"] = spec.doc + (f"; counts for {', '.join(only)} only" if only else "")
    if spec.examples:
        schema["examples"] = list(spec.examples)
    if spec.default not in (None, ""):
        schema["default"] = _plain(spec.default)
    return schema


def _field_ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/fields/{name}"}


def _axis(spec: TrialField) -> Schema:
    """Return the schema of one field in [space]: exactly one distribution."""
    value = _trial_field(spec)
    numeric = value["type"] in ("integer", "number")
    names = [name for name, shape in DISTRIBUTIONS.items() if numeric or not shape.numbers]
    shapes = {name: _distribution(DISTRIBUTIONS[name], spec.name) for name in names}
    about = {"description": value["description"]}
    return {**_table(shapes), "minProperties": 1, "maxProperties": 1, **about}


def _distribution(shape: Distribution, field: str) -> Schema:
    if not shape.numbers:
        return {"type": "array", "items": _field_ref(field), "minItems": 1, "description": shape.doc}
    items = []
    for name in shape.numbers:
        item: Schema = {"title": name, "type": "integer" if shape.integers else "number"}
        if name == "low" or (name == "high" and not shape.integers):  # a trial may get it
            item |= _field_ref(field)
        if name in shape.above_zero:
            item["exclusiveMinimum"] = 0
        items.append(item)
    return {
        "type": "array",
        "prefixItems": items,
        "items": {"type": "number"},
        "minItems": len(items),
        "maxItems": len(items),
        "description": f"[{', '.join(shape.numbers)}]: {shape.doc}",
    }


def _condition(spec: TrialField) -> Schema:
    """Return the schema of a condition under [when]: a value, or a list of values."""
    one = _field_ref(spec.name)
    if spec.is_list:
        return one
    return {"anyOf": [one, {"type": "array", "items": one}]}


def _combine() -> Schema:
    """Return the schema of [combine]: axes by name, and conditions as under [when]."""
    keys = _keys(Combine)
    axes = [name for name in _trial_fields() if name != "seed"]
    keys["zip"] |= _zip({"type": "string", "enum": axes})
    fields = {name: _field_ref(name) for name in axes}
    point = _table({n: {"anyOf": [one, {"type": "array", "items": one}]} for n, one in fields.items()})
    keys["exclude"] |= {"type": "array", "items": {**point, "minProperties": 1}}
    return _table(keys)


def _zip(axis: Schema) -> Schema:
    return {"type": "array", "items": {"type": "array", "items": axis, "minItems": 2, "uniqueItems": True}}


def _derivable_fields() -> list[str]:
    """Return the fields that [derive] can compute: single numbers."""
    fields = _trial_fields().values()
    return [f.name for f in fields if f.type in (int, float) and not f.is_list and f.name != "seed"]


def _claim() -> Schema:
    keys = _keys(Claim)
    axes = [name for name in _trial_fields() if name != "seed"]
    keys["compare"] |= {"type": "string", "enum": axes}
    keys["metric"] |= {"enum": list(known_metrics(find_trainable()))}
    return {
        **_table(_claimed(keys)),
        "required": _required(Claim),
        "oneOf": [{"required": [kind]} for kind in CLAIM_KINDS],
        "dependentRequired": {"alike": ["within"], "within": ["alike"]},
        "dependentSchemas": {"than": {"anyOf": [{"required": [kind]} for kind in WITH_THAN]}},
    }


def _claimed(keys: dict[str, Schema]) -> dict[str, Schema]:
    """The keys of a claim with the types of those that are read by hand."""
    for name in ("better", "worse", "faster", "than"):
        keys[name] |= {"type": ["string", "number", "boolean", "array"], "minItems": 1}
    for name in ("best", "worst"):
        keys[name] |= {"type": ["string", "number", "boolean", "array"], "minItems": 1}  # a list is one value
    keys["alike"] |= {"anyOf": [{"const": "all"}, {"type": "array", "minItems": 2}]}
    keys["monotone"] |= {"type": "string", "enum": list(TRENDS)}
    keys["metric"] |= {"type": "string"}
    return keys


def _search() -> Schema:
    """Return the schema of [search]; each algorithm allows its own keys."""
    schema = _table(_keys(Search))
    schema["properties"]["algorithm"]["default"] = "tpe"
    schema["properties"]["mutate"]["items"] = {
        "type": "string",
        "enum": list(find_trainable().mutable_fields),
    }
    schema["allOf"] = []
    for algorithm in schema["properties"]["algorithm"]["enum"]:
        condition: Schema = {"properties": {"algorithm": {"const": algorithm}}}
        if algorithm != "tpe":  # tpe is the default
            condition["required"] = ["algorithm"]
        others = [n for n, s in declared_keys(Search).items() if not _is_allowed_with(s, algorithm)]
        wanted = [name for name in _required(Search) if name not in others]
        then = {"properties": dict.fromkeys(others, False), "required": wanted}
        schema["allOf"].append({"if": condition, "then": then})
    return schema


def _stopping() -> Schema:
    """Return the schema of [stopping]; each unit has its own key for the grace."""
    step: Schema = {"properties": {"unit": {"const": "step"}}, "required": ["unit"]}
    return {
        **_table(_keys(Stopping)),
        "if": step,
        "then": {"properties": {"grace_epochs": False}},
        "else": {"properties": {"grace_steps": False}},
    }


def _is_allowed_with(spec: Field[Any], algorithm: str) -> bool:
    return algorithm in spec.metadata["applies"].get("algorithm", (algorithm,))


def _table(properties: Mapping[str, Any]) -> Schema:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def _required(table: type) -> list[str]:
    return [name for name, spec in declared_keys(table).items() if spec.metadata["required"]]


def _keys(table: type) -> dict[str, Schema]:
    """Return the schemas of the keys that a dataclass declares."""
    return {name: _value(spec, types_of(table)[name]) for name, spec in declared_keys(table).items()}


def _value(spec: Field[Any], hint: Any) -> Schema:
    """Return the schema of one declared value; only its description if code reads it by hand."""
    rule = spec.metadata
    schema: Schema = {"description": rule["doc"]}
    if "choices" not in rule:
        return schema
    if hint == int | str:  # a number, or one of some words
        number = {"type": "integer", **_bounds(low=rule["low"], high=rule["high"], above=rule["above"])}
        words = {"enum": list(rule["choices"])}
        return schema | {"anyOf": [number, words], "default": spec.default}
    schema |= {
        name: dict(part) if isinstance(part, dict) else part for name, part in _TYPES.get(hint, {}).items()
    }
    at = schema.get("items") or schema.get("additionalProperties") or schema
    at |= _bounds(low=rule["low"], high=rule["high"], above=rule["above"])
    if rule["choices"]:
        at["enum"] = list(rule["choices"])
    if pattern := rule.get("pattern") or (rule.get("size") and f"({SIZE})?"):
        at["pattern"] = f"^({pattern})$"
    if rule.get("required") and schema["type"] == "array":
        schema["minItems"] = 1
    if spec.default not in (MISSING, None, "", ()):
        schema["default"] = _plain(spec.default)
    return schema


def _bounds(*, low: float | None, high: float | None, above: float | None) -> Schema:
    found = {"minimum": low, "maximum": high, "exclusiveMinimum": above}
    return {keyword: value for keyword, value in found.items() if value is not None}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else value
