"""`[derive]`: fields of a trial that are computed from its other fields.

A field that has no effect in a point counts as its default there, for whatever is derived from it, and is not derived
itself. So the derived fields follow from the values of a trial alone, and a trial is the same whether its values are
derived or written out.
"""

from collections.abc import Callable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from mixsweep.core.config import Field
from mixsweep.core.errors import ConfigError, did_you_mean
from mixsweep.core.toml.reader import Reader
from mixsweep.core.trainables.interface import Trainable
from mixsweep.sweep.planning.arithmetic import ArithmeticProblem, Expression
from mixsweep.sweep.planning.space import meets, switch_off

Conditions = Mapping[str, Mapping[str, Any]]


def read_derive(
    reader: Reader,
    table: Mapping[str, Any],
    where: str,
    trainable: Trainable,
    check_known: Callable[[str, str], None],
) -> dict[str, Expression]:
    """Return the expressions of a `[derive]` table by field, each after those that it depends on.

    Args:
        table: the table with `base`, `space`, `when` and `derive`, a sweep file or one of its parts.
        check_known: raises the error of a name (its place in the file, the name) that is not a field.

    Raises:
        UserError: of the reader's class; one line.
    """
    found: dict[str, Expression] = {}
    for key, text in reader.table(table, "derive", where).items():
        at = f"{where}derive.{key}"
        check_known(at, key)
        if key == "seed":
            raise reader.error(at, "write `seeds = N` instead, so that seeds are paired")
        if not _is_number(trainable.field(key)):
            raise reader.error(at, "is not a number, and only numbers are derived")
        for other in ("base", "space"):
            if key in reader.table(table, other, where):
                raise reader.error(at, f"is in [{other}] too; keep one of the two")
        if not isinstance(text, str):
            raise reader.error(
                at, f"{text!r} is not a string like '0.1 * lr'; a fixed value belongs in [base]"
            )
        try:
            found[key] = Expression(text)
        except ArithmeticProblem as error:
            raise reader.error(at, str(error)) from error
        for name in found[key].names:
            _check_operand(reader, at, trainable, name)
    return _ordered(reader, where, found, reader.table(table, "when", where), trainable)


def _check_operand(reader: Reader, at: str, trainable: Trainable, name: str) -> None:
    numbers = [spec.name for spec in trainable.fields if _is_number(spec) and spec.name != "seed"]
    if name == "seed":
        raise reader.error(at, "cannot depend on the seed: the seeds of a point differ in nothing else")
    if name not in trainable.field_names:
        raise reader.error(at, f"unknown field {name!r}{did_you_mean(name, numbers)}")
    if name not in numbers:
        raise reader.error(at, f"the field {name!r} is not a number")


def _is_number(spec: Field) -> bool:
    return spec.type in (int, float) and not spec.is_list


def depends_on(expression: Expression, name: str, when: Conditions, trainable: Trainable) -> set[str]:
    """Return the fields that a derived field's value follows from: those that it reads, and all conditions."""
    names = {name, *expression.names}
    conditions = {other for one in names for other in (*trainable.field(one).applies, *when.get(one, {}))}
    return {*expression.names, *conditions}


def _ordered(
    reader: Reader, where: str, found: Mapping[str, Expression], when: Conditions, trainable: Trainable
) -> dict[str, Expression]:
    graph = {
        key: [other for other in found if other in depends_on(expression, key, when, trainable)]
        for key, expression in found.items()
    }
    try:
        return {key: found[key] for key in TopologicalSorter(graph).static_order()}
    except CycleError as error:
        circle = error.args[1]
        raise reader.error(
            f"{where}derive.{circle[0]}", f"circular: {' → '.join(reversed(circle))}"
        ) from error


def complete(
    values: Mapping[str, Any], derive: Mapping[str, Expression], when: Conditions, trainable: Trainable
) -> dict[str, Any]:
    """Return a point's values with the derived fields, and without the fields that `[when]` switches off.

    Raises:
        ConfigError: an expression has no value there, or one that the field does not allow.
    """
    defaults = trainable.defaults_beside(values)
    if not derive:
        return switch_off(values, when, defaults)
    without_derived = {key: when[key] for key in when if not derive.keys() & when[key].keys()}
    known = switch_off(values, without_derived, defaults)
    for key, expression in derive.items():
        known.pop(key, None)
        now = {**defaults, **known}
        if _is_on(key, now, when, trainable):
            known[key] = _value(key, expression, now, when, trainable)
    return switch_off(known, when, defaults)


def _is_on(name: str, now: Mapping[str, Any], when: Conditions, trainable: Trainable) -> bool:
    met = all(meets(now[other], allowed) for other, allowed in when.get(name, {}).items())
    return met and trainable.is_effective(name, now)


def _value(
    key: str, expression: Expression, now: Mapping[str, Any], when: Conditions, trainable: Trainable
) -> Any:
    operands = {}
    for name in expression.names:
        given = now[name] if _is_on(name, now, when, trainable) else trainable.defaults[name]
        if given is None:
            raise ConfigError(f"derive.{key}: {name} has no value; set it in [base] or [space]", key)
        operands[name] = trainable.field(name).checked(given)
    try:
        value = expression.evaluate(operands)
        trainable.check_value(key, value)
    except (ArithmeticProblem, ConfigError) as error:
        words = ", ".join(f"{name} = {number!r}" for name, number in operands.items())
        hint = "; write round(…) or int(…)" if "not an integer" in str(error) else ""
        raise ConfigError(
            f"derive.{key}: {error}{hint}" + (f" (at {words})" if words else ""), key
        ) from error
    return trainable.field(key).checked(value)
