"""Arithmetic over the fields of a trial, as `[derive]` has it: `0.1 * lr`, `round(steps / batch_size)`.

An expression is parsed into Python's syntax tree, and only numbers, names, operators and the functions listed here are
evaluated from it. The sizes of expressions, exponents and integers are bounded.
"""

import ast
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from mixsweep.core.errors import did_you_mean

Number = int | float

_MOST_DIGITS = 100  # that round() rounds to


def _round(number: Number, digits: int | None = None) -> Number:
    if digits is not None and not (isinstance(digits, int) and abs(digits) <= _MOST_DIGITS):
        raise ValueError(f"digits = {digits!r} is not an integer up to {_MOST_DIGITS}")
    return round(number, digits)


FUNCTIONS: Mapping[str, tuple[Callable[..., Any], int, int]] = {  # with the least and the most arguments
    "min": (min, 2, 100),
    "max": (max, 2, 100),
    "round": (_round, 1, 2),
    "int": (int, 1, 1),
    "float": (float, 1, 1),
    "abs": (abs, 1, 1),
    "sqrt": (math.sqrt, 1, 1),
    "log": (math.log, 1, 1),
    "log2": (math.log2, 1, 1),
    "exp": (math.exp, 1, 1),
}

_LONGEST = 500  # characters
_DEEPEST = 50  # levels of parentheses and operators
_MOST_BITS = 1024  # of an integer; floats end there too

_ALLOWED = "numbers, fields, + - * / // % **, parentheses, " + ", ".join(FUNCTIONS)


class ArithmeticProblem(ValueError):
    """An expression that is not arithmetic, or has no value; the message is a part of a line."""


@dataclass(frozen=True)
class Expression:
    """Arithmetic over named numbers.

    Raises:
        ArithmeticProblem: it is something else; with what is allowed.
    """

    text: str

    def __post_init__(self) -> None:
        _parse(self.text)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the numbers that it reads, each once."""
        return tuple(dict.fromkeys(_names(_parse(self.text))))

    def evaluate(self, values: Mapping[str, Number]) -> Number:
        """Compute its value, rounded to 15 significant digits: 0.1 * 0.1 is 0.01, on every machine.

        Raises:
            ArithmeticProblem: it has none, such as a quotient by zero, or a number that is too large.
        """
        value = _evaluate(_parse(self.text), values)
        return float(f"{value:.15g}") if isinstance(value, float) else value


@lru_cache(maxsize=1024)
def _parse(text: str) -> ast.expr:
    if len(text) > _LONGEST:
        raise ArithmeticProblem(f"{text[:20]!r}… has more than {_LONGEST} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ArithmeticProblem(f"{text!r} is not arithmetic; allowed: {_ALLOWED}") from error
    _check(tree, text, 0)
    return tree


def _check(node: ast.expr, text: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise ArithmeticProblem(f"{text[:20]!r}…: nested too deeply; allowed: {_DEEPEST} levels")
    match node:
        case ast.Constant(value=bool()):
            known = False
        case ast.Constant(value=int() as value):
            known = value.bit_length() <= _MOST_BITS
        case ast.Constant(value=float() as value):
            known = math.isfinite(value)
        case ast.Name():
            known = True
        case ast.BinOp(left=left, op=op, right=right):
            known = type(op) in _OPERATORS
            _check(left, text, depth + 1)
            _check(right, text, depth + 1)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            known = True
            _check(operand, text, depth + 1)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            if name not in FUNCTIONS:
                raise ArithmeticProblem(f"unknown function {name!r}{did_you_mean(name, FUNCTIONS)}")
            _, least, most = FUNCTIONS[name]
            if not least <= len(arguments) <= most:
                count = str(least) if least == most else f"{least} to {most}"
                raise ArithmeticProblem(f"{name}() takes {count} arguments, not {len(arguments)}")
            known = True
            for argument in arguments:
                _check(argument, text, depth + 1)
        case _:
            known = False
    if not known:
        part = ast.get_source_segment(text.strip(), node) or text
        raise ArithmeticProblem(f"{part!r} is not arithmetic; allowed: {_ALLOWED}")


def _names(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Name(id=name):
            yield name
        case ast.BinOp(left=left, right=right):
            yield from _names(left)
            yield from _names(right)
        case ast.UnaryOp(operand=operand):
            yield from _names(operand)
        case ast.Call(args=arguments):
            for argument in arguments:
                yield from _names(argument)


def _evaluate(node: ast.expr, values: Mapping[str, Number]) -> Number:
    try:
        value = _compute(node, values)
    except ZeroDivisionError as error:
        raise ArithmeticProblem("division by zero") from error
    except OverflowError as error:
        raise ArithmeticProblem("the number is too large") from error
    except ArithmeticProblem:
        raise
    except (ValueError, TypeError) as error:  # a logarithm of a negative number, round(x, 0.5)
        raise ArithmeticProblem(f"{ast.unparse(node)} has no value ({error})") from error
    if isinstance(value, complex) or not isinstance(value, int | float):
        raise ArithmeticProblem(f"{ast.unparse(node)} is not a real number")
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise ArithmeticProblem("the number is too large")
    if isinstance(value, float) and not math.isfinite(value):
        raise ArithmeticProblem("the number is too large")
    return value


def _compute(node: ast.expr, values: Mapping[str, Number]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return values[name]
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_evaluate(left, values), _evaluate(right, values))
        case ast.UnaryOp(op=op, operand=operand):
            number = _evaluate(operand, values)
            return -number if isinstance(op, ast.USub) else number
        case ast.Call(func=ast.Name(id=name), args=arguments):
            function, _, _ = FUNCTIONS[name]
            return function(*(_evaluate(argument, values) for argument in arguments))
    raise AssertionError(ast.dump(node))  # _check lets nothing else through


def _power(base: Number, exponent: Number) -> Any:
    """A power whose size is known before it is computed."""
    integers = isinstance(base, int) and isinstance(exponent, int)
    if integers and abs(base) > 1 and int(base).bit_length() * exponent > 2 * _MOST_BITS:
        raise OverflowError
    return base**exponent


_OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
