"""core.formatting: figures as a person says them."""

import math

import pytest

from mixsweep.core.formatting import duration, rough_duration, size_text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.6, "60 s"),
        (89, "89 s"),
        (90, "2 min"),
        (600, "10 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (360_000, "100.0 h"),
        (math.inf, "?"),
        (math.nan, "?"),
    ],
)
def test_rough_durations_are_said_in_seconds_minutes_or_hours(seconds: float, words: str) -> None:
    assert rough_duration(seconds) == words


@pytest.mark.parametrize(("seconds", "words"), [(42.2, "42 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")])
def test_durations_are_said_to_the_second_or_the_minute(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (3_482, "3.4 KiB"),
        (5 * 2**40, "5 TiB"),
        (2**60, "1.05e+06 TiB"),
    ],
)
def test_sizes_have_three_digits_and_a_unit(count: int, words: str) -> None:
    assert size_text(count) == words
