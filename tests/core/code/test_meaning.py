"""What of Python source counts in a digest."""

import hashlib

import pytest

from mixsweep.core.code.meaning import meaning_of

# Python of all kinds, whose digest is the same in Python 3.11, 3.12 and 3.13.
SAMPLE = r'''
"""Module \d of all kinds. Über ǅ 𝒳 🙂 ⅐"""
from __future__ import annotations
import os, sys as system
from . import a
from .b import c as d, e

@decorator(1, *args, key=2, **more)
async def f(x, /, y: int = 3, *rest: str, z, w=None, **kw) -> "dict[str, int]":
    global g
    async with a as b, c():
        async for i in x:
            await i
    return [j async for j in x if j if not j]

class C(Base, metaclass=Meta):
    n: int
    m: tuple[int, ...] = ()
    def g(self):
        nonlocal_ = 1
        def h():
            nonlocal nonlocal_
            nonlocal_ += 1
            yield from (yield)
        return lambda *, a=1: (a, ...)

class Empty: pass
def nothing(): return None
def bare(): return

try:
    x = {**a, 1: 2, "k": [*b, {3}, {k: v for k, v in z}]}
except* (ValueError, KeyError) as error:
    raise RuntimeError from error
try:
    pass
except OSError:
    del x, y[1:2, ::3, ...]
else:
    assert x, f"no {x}"
finally:
    pass
match point:
    case {"a": 1, **rest} | [1, *_, None] | C(1, b=True) if (n := 2) > 1: pass
    case -1 | 1 + 2j | "s" as t: pass
    case _: pass
while x < y <= z != w is not None not in v: break
else: continue_ = 0xFF_FF + 0o17 + 0b1 + 1_000 + 1e-3 + 1.5E300 + 1e999 + 3J + 10**5 // 3 % 2 @ 7 >> 1 << 2 & 3 | 4 ^ ~5
with (open("a") as p, open("b")): print(not x and y or z if w else -v)
s = f"{x}" f"{y!r:>{width}.{2}f}" "plain" f"{z=}" f"{ q = !s:^10}" rf"\d{x:%H:%M}" f"" f"{x:}"
t = f"{{}} {'a' 'b'} {x:{'>'}10} {lambda_['k']}" + F'''  + "'''" + r'''multi {x
} line''' + "'''" + r'''
u = b"\x00\xff" rb"\d" + u"unicode" + "\N{BULLET}\ud800" + ''' + '"""a\n  b"""' + r'''
huge = 0x''' + "f" * 5000 + "\n" + r'''
deep = ''' + "+".join(["1"] * 400) + "\n"  # fmt: skip
DIGEST = "8800f8ff13bad6ac40f2628b2946b5a82d91549c6f969e9111adecd399e0c089"


def digest(source: str) -> str:
    meaning = meaning_of(source.encode("utf-8"))
    assert meaning is not None
    return hashlib.sha256(meaning).hexdigest()


def test_the_digest_of_python_of_all_kinds_is_the_same_in_every_version() -> None:
    assert digest(SAMPLE) == DIGEST


@pytest.mark.parametrize(
    "same",
    [
        "x = f('a', 1)  # a comment\n",
        "# a comment\n\n\nx = f('a',\n      1,\n      )\n",
        "x = (\n    f('a', 1))",
        "x = f(u'a', 0x1)\r\n",
        "\ufeffx = f('a', 1)\n",
    ],
)
def test_comments_and_layout_do_not_count(same: str) -> None:
    assert digest(same) == digest('x = f("a", 1)\n')


@pytest.mark.parametrize(
    "other",
    [
        "x = f('a', 2)",
        "x = f('a', True)",
        "x = f('a', 1.0)",
        "x = f(b'a', 1)",
        "y = f('a', 1)",
        "x = f('a', *1)",
        "x = f(a='a', b=1)",
        "x = [f('a', 1)]",
        "x = f(f'{a}', 1)",
        "if x:\n    x = f('a', 1)",
    ],
)
def test_everything_else_counts(other: str) -> None:
    assert digest(other) != digest("x = f('a', 1)")


def test_what_an_f_string_shows_counts_and_how_it_is_written_does_not() -> None:
    assert digest("f'{a}b' 'c'") == digest("f'{a}' f'bc'") == digest("f'{a:}bc'")
    forms = ["f'{a}'", "f'{a!r}'", "f'{a:>3}'", "f'{a:>{b}}'", "f'{a=}'", "f'{{a}}'", "f'a'"]
    assert len({digest(form) for form in forms}) == len(forms)


@pytest.mark.parametrize("source", [b"def f(:\n", b"x = 1\x00", b"# coding: utf-8\nx = '\xff'\n"])
def test_what_does_not_parse_has_no_meaning(source: bytes) -> None:
    assert meaning_of(source) is None
