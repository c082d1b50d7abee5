"""The definition of a trainable that mixsweep does not bring: what it is called, its fields, and its metrics.

A definition is plain data. It is made once, where the trainable's code is imported, and kept in the store of each sweep
that uses it, so that whoever reads the store needs none of that code.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from mixsweep.core.config import Field
from mixsweep.core.errors import ConfigError
from mixsweep.core.records import COMMON_COLUMNS, PLAN_COLUMNS, TRIAL_COLUMNS, Metric

# The number of records of a trainable without a budget: it ends when it likes.
UNLIMITED = 2**31 - 1

SECONDS = "seconds"  # the metric that every trainable has: the time of a record
TEST = "test_"  # the prefix of metrics that `test` returns

_TYPES: dict[str, type] = {"bool": bool, "float": float, "int": int, "str": str}
_NOT_NAMES = {*COMMON_COLUMNS, "parent", "trainable", SECONDS}


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A trainable's definition.

    Args:
        source: what runs it: `class`, `command`, or `tune`.
        name: of the trainable, as its trials' identities have it: `module:qualname`.
        budget: the field for the number of records of a trial.
        has_test: whether it computes test metrics after a trial's last record.
        multi_rank: whether several processes can train one trial.
        code: digest of the code, where it is part of the identities of its trials.
    """

    source: str
    name: str
    fields: tuple[Field, ...]
    metrics: tuple[Metric, ...]
    budget: str
    has_test: bool = False
    multi_rank: bool = False
    code: str = ""

    @cached_property
    def kind(self) -> str:
        """The kind of its trials: names this definition by its content, as in `class-0123456789ab`."""
        text = json.dumps(self.to_mapping(), sort_keys=True, ensure_ascii=True)
        return f"{self.source}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **{name: getattr(self, name) for name in ("source", "name", "budget", "has_test", "multi_rank")},
            "fields": [_field_to_mapping(spec) for spec in self.fields],
            "metrics": [asdict(metric) | {"type": metric.type.__name__} for metric in self.metrics],
            **({"code": self.code} if self.code else {}),
        }

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "Definition":
        """The definition of a `to_mapping` result.

        Raises:
            ValueError, KeyError, TypeError: these are not the values of a definition.
        """
        metrics = [Metric(**{**metric, "type": _TYPES[metric["type"]]}) for metric in values["metrics"]]
        fields = tuple(map(_field_from_mapping, values["fields"]))
        return cls(**{**values, "fields": fields, "metrics": tuple(metrics)})


def make_definition(
    *,
    source: str,
    name: str,
    fields: Iterable[Field],
    metrics: Mapping[str, Any],
    has_test: bool = False,
    multi_rank: bool = False,
) -> Definition:
    """A definition, checked, with the fields and metrics that every trainable has.

    Args:
        metrics: by name `max`, `min`, '' where neither is better, or a table with `better`, `unit` and `doc`.

    Raises:
        ConfigError: what is wrong, in one line.
    """
    fields = tuple(fields)
    for spec in fields:
        if spec.name in (*_NOT_NAMES, *PLAN_COLUMNS, *TRIAL_COLUMNS):
            raise ConfigError(f"field {spec.name!r}: the name is reserved", spec.name)
    budgets = [spec.name for spec in fields if spec.budget]
    if len(budgets) > 1:
        raise ConfigError(f"fields {' and '.join(map(repr, budgets))} are both the budget; only one can be")
    budget = next((spec for spec in fields if spec.budget), None)
    if budget is not None and (budget.type is not int or budget.is_list or budget.optional):
        raise ConfigError(f"field {budget.name!r} is the budget, so it has to be an int", budget.name)
    if budget is None:
        if any(spec.name == "epochs" for spec in fields):
            raise ConfigError("field 'epochs': mark it as the budget, field(…, budget=True), or rename it")
        budget = Field(
            name="epochs",
            type=int,
            default=UNLIMITED,
            doc="records at most; left out: until it ends",
            low=1,
            high=UNLIMITED,
            applies={},
            budget=True,
        )
        fields = (*fields, budget)
    else:
        limited = replace(budget, low=max(1, budget.low or 1), high=min(UNLIMITED, budget.high or UNLIMITED))
        fields = tuple(limited if spec is budget else spec for spec in fields)
        budget = limited
    for spec in fields:
        spec.checked(spec.default)
    if not any(spec.name == "parent" for spec in fields):
        fields = (*fields, _PARENT)
    own = tuple(_metric(name, given) for name, given in metrics.items())
    tests = tuple(_test_of(metric) for metric in own if has_test and not metric.is_test)
    seconds = Metric(name=SECONDS, doc="of this record", unit="s", better="min")
    return Definition(
        source=source,
        name=name,
        fields=fields,
        metrics=(*own, *tests, seconds),
        budget=budget.name,
        has_test=has_test,
        multi_rank=multi_rank,
    )


_PARENT = Field(
    name="parent",
    type=str,
    default="",
    doc="trial@epoch whose checkpoint this trial continues from; set only in populations",
    applies={},
)


def _metric(name: Any, given: Any) -> Metric:
    if not isinstance(name, str) or not name or name in _NOT_NAMES:
        raise ConfigError(f"metric {name!r}: the name is reserved or not a text")
    table = {"better": given} if isinstance(given, str) else given
    if not isinstance(table, Mapping) or set(table) - {"better", "unit", "doc"}:
        raise ConfigError(
            f"metric {name!r}: {given!r} is neither 'max', 'min' nor a table of better, unit and doc"
        )
    if not all(isinstance(value, str) for value in table.values()) or table.get("better", "") not in (
        "max",
        "min",
        "",
    ):
        raise ConfigError(f"metric {name!r}: {given!r} is neither 'max' nor 'min'")
    return Metric(
        name=name,
        doc=table.get("doc", ""),
        unit=table.get("unit", ""),
        better=table.get("better", ""),
        is_objective=True,
        is_reproducible=True,
    )


def _test_of(metric: Metric) -> Metric:
    return replace(metric, name=TEST + metric.name, is_objective=False, is_test=True)


def _field_to_mapping(spec: Field) -> dict[str, Any]:
    values = asdict(spec)
    default = list(spec.default) if isinstance(spec.default, tuple) else spec.default
    applies = {other: list(allowed) for other, allowed in spec.applies.items()}
    lists = {"choices": list(spec.choices), "examples": list(spec.examples)}
    return values | {"type": spec.type.__name__, "default": default, "applies": applies} | lists


def _field_from_mapping(values: Mapping[str, Any]) -> Field:
    default = values["default"]
    known = {name: value for name, value in values.items() if name in Field.__dataclass_fields__}
    return Field(
        **{
            **known,
            "type": _TYPES[values["type"]],
            "default": tuple(default) if isinstance(default, list) else default,
            "choices": tuple(values["choices"]),
            "examples": tuple(values["examples"]),
            "applies": {other: tuple(allowed) for other, allowed in values["applies"].items()},
        }
    )
