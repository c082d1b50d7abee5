"""sweep.planning.arithmetic: what is computed, and that nothing else is."""

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixsweep.sweep.planning.arithmetic import ArithmeticProblem, Expression
from tests.sweep.planning.test_parse import UNHURRIED

VALUES = {"lr": 0.1, "width": 48, "zero": 0}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1 * lr", 0.01),
        ("lr / 10", 0.01),
        ("width // 5 % 4 + 2 ** 3", 9),
        ("-(width - 50) * +2", 4),
        ("min(width, 64, 12)", 12),
        ("max(lr, 0.5)", 0.5),
        ("round(width / 7)", 7),
        ("round(lr / 3, 3)", 0.033),
        ("int(width / 7)", 6),
        ("float(width)", 48.0),
        ("abs(-width)", 48),
        ("sqrt(width + 1)", 7.0),
        ("log(exp(2))", 2.0),
        ("log2(width // 3)", 4.0),
        ("2 ** -1", 0.5),
        ("1_000", 1000),
    ],
)
def test_arithmetic_is_pythons_to_fifteen_digits(text: str, value: float) -> None:
    found = Expression(text).evaluate(VALUES)
    assert found == value
    assert type(found) is type(value)


def test_its_names_are_the_fields_that_it_reads_and_not_its_functions() -> None:
    assert Expression("max(lr, log(width)) * lr").names == ("lr", "width")
    assert Expression("1 + 2").names == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is not arithmetic; allowed: numbers, fields, + - * / // % **"),
        ("lr +", "'lr +' is not arithmetic"),
        ("lr = 1", "is not arithmetic"),
        ("lr.real", "'lr.real' is not arithmetic"),
        ("[lr]", "'[lr]' is not arithmetic"),
        ("'a' * 3", "\"'a'\" is not arithmetic"),
        ("True", "'True' is not arithmetic"),
        ("1j", "'1j' is not arithmetic"),
        ("1e999", "'1e999' is not arithmetic"),
        ("lr < 1", "'lr < 1' is not arithmetic"),
        ("lr if lr else 1", "is not arithmetic"),
        ("lambda: 1", "is not arithmetic"),
        ("1 << 9", "'1 << 9' is not arithmetic"),
        ("width & 1", "'width & 1' is not arithmetic"),
        ("~width", "'~width' is not arithmetic"),
        ("(lr := 2)", "is not arithmetic"),
        ("__import__('os')", "unknown function '__import__'"),
        ("eval(lr)", "unknown function 'eval'"),
        ("sqr(lr)", "unknown function 'sqr'; did you mean 'sqrt'?"),
        ("sqrt(lr, 2)", "sqrt() takes 1 arguments, not 2"),
        ("min(lr)", "min() takes 2 to 100 arguments, not 1"),
        ("round(lr, ndigits=2)", "is not arithmetic"),
        ("min(*lr, 1)", "is not arithmetic"),
        ("1" + "+1" * 60, "nested too deeply"),
        ("1+" * 300 + "1", "has more than 500 characters"),
        ("9" * 400, "is not arithmetic"),
    ],
)
def test_what_is_not_arithmetic_is_refused_in_words(text: str, said: str) -> None:
    with pytest.raises(ArithmeticProblem) as caught:
        Expression(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 / zero", "division by zero"),
        ("1 % zero", "division by zero"),
        ("0.0 ** -1", "division by zero"),
        ("log(zero)", "log(zero) has no value"),
        ("sqrt(-width)", "sqrt(-width) has no value"),
        ("(-8) ** 0.5", "is not a real number"),
        ("1e308 * 10", "too large"),
        ("exp(1000)", "too large"),
        ("9 ** 9 ** 9", "too large"),
        ("10.0 ** 1000", "too large"),
        ("2 ** (10 ** 12)", "too large"),
        ("round(width, -10 ** 9)", "has no value"),
        ("round(width, lr)", "has no value"),
    ],
)
def test_what_has_no_value_is_said_at_once_whatever_its_size(text: str, said: str) -> None:
    began = time.perf_counter()
    with pytest.raises(ArithmeticProblem) as caught:
        Expression(text).evaluate(VALUES)
    assert said in str(caught.value)
    assert time.perf_counter() - began < 1


@UNHURRIED
@given(st.text(alphabet="0123456789.+-*/%()e, lrwidthzeominaxsqp", max_size=60))
def test_any_text_has_a_finite_value_or_a_reason(text: str) -> None:
    try:
        value = Expression(text).evaluate({**VALUES, **dict.fromkeys(Expression(text).names, 2)})
    except ArithmeticProblem:
        return
    assert math.isfinite(float(value))
