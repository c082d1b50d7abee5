"""Errors that a user can fix."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """An error that a user can fix: one line that says what is wrong, where, and what to do."""


class ConfigError(UserError):
    """A value that no trial can have. `field` names the field, so that callers can add its location."""

    def __init__(self, message: str, field: str = ""):
        super().__init__(message)
        self.field = field


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known name, or else the list of allowed names."""
    known = [str(k) for k in known]
    near = get_close_matches(str(name), known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; allowed: {', '.join(known)}"
