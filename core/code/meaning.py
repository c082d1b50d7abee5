"""What Python source means, as bytes to digest: comments and layout do not count, and Python 3.11 to 3.13 agree.

`ast.dump` differs between these versions. So the tree is written here, without what a version leaves out or adds:
fields that are empty, and how the text of an f-string is cut into constants.
"""

import ast
import warnings
from collections.abc import Iterator
from typing import Any


def meaning_of(content: bytes) -> bytes | None:
    """The meaning of Python source; None where it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unknown escape, which versions tell of in different ways
            tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return "".join(_write(tree)).encode("ascii")


def _write(tree: ast.AST) -> Iterator[str]:
    """The pieces of a tree's text. Not recursive: a long sum is a deep tree."""
    pending: list[Any] = [tree]
    while pending:
        value = pending.pop()
        if isinstance(value, _Plain):
            yield value
        elif isinstance(value, ast.AST):
            yield f"{type(value).__name__}("
            parts: list[Any] = []
            for name, given in _fields_of(value):
                parts += [_Plain(f"{name}="), given, _Plain(",")]
            pending += reversed([*parts, _Plain(")")])
        elif isinstance(value, list):
            items: list[Any] = []
            for item in value:
                items += [item, _Plain(",")]
            pending += reversed([_Plain("["), *items, _Plain("]")])
        else:
            yield _constant(value)


class _Plain(str):
    """Text that is written as it is."""


def _fields_of(node: ast.AST) -> Iterator[tuple[str, Any]]:
    if isinstance(node, ast.Constant):
        yield "value", node.value
        return
    for name, value in ast.iter_fields(node):
        if isinstance(node, ast.JoinedStr) and name == "values":
            value = _joined(value)
        if isinstance(node, ast.FormattedValue) and name == "format_spec" and not _joined_of(value):
            continue
        if value is None or value == [] or name in ("type_comment", "type_ignores"):
            continue
        yield name, value


def _joined_of(spec: Any) -> list[Any]:
    return _joined(spec.values) if isinstance(spec, ast.JoinedStr) else [spec] if spec is not None else []


def _joined(values: list[Any]) -> list[Any]:
    """The parts of an f-string, with the constants beside each other as one."""
    found: list[Any] = []
    for value in values:
        if not isinstance(value, ast.Constant):
            found.append(value)
        elif found and isinstance(found[-1], str):
            found[-1] += str(value.value)
        elif value.value:
            found.append(str(value.value))
    return found


def _constant(value: Any) -> str:
    """A constant in ASCII: what `repr` escapes depends on the version's table of Unicode."""
    if isinstance(value, int) and not isinstance(value, bool):
        return hex(value)  # decimal digits are limited
    return ascii(value)
