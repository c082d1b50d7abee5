"""The words of a command: a template with the fields of a trial in braces.

The template is split into words first and filled then, so that a value is never split and never read by a shell.
`{{` and `}}` are braces; `{bn:--bn}` is the word `--bn` when the field `bn` is true, and no word otherwise.
"""

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from mixsweep.core.errors import ConfigError, did_you_mean

# What a command may name besides its fields: an attempt's own folder, and a checkpoint to go on from.
TRIAL_DIR, CHECKPOINT = "trial_dir", "checkpoint"

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def check_template(text: str, fields: Iterable[str], more: Iterable[str] = (TRIAL_DIR,)) -> None:
    """Check that a template's words can be filled.

    Raises:
        ConfigError: a brace is not closed, or a placeholder is no field.
    """
    known = (*fields, *more)
    for word in _split(text):
        for found in _BRACES.finditer(word):
            if found[0] in ("{{", "}}"):
                continue
            if found[1] is None:
                raise ConfigError(f"{text!r}: a single {found[0]!r}; write {found[0] * 2!r} for a brace")
            name = found[1].partition(":")[0]
            if name not in known:
                raise ConfigError(f"{{{name}}} in {text!r} is no field{did_you_mean(name, known)}")


def fill(text: str, values: Mapping[str, Any]) -> list[str]:
    """The words of a template with these values."""
    words = []
    for word in _split(text):
        is_flag = False

        def replaced(found: "re.Match[str]") -> str:
            nonlocal is_flag
            if found[1] is None:
                return found[0][0]
            name, colon, flag = found[1].partition(":")
            if not colon:
                return _text(values[name])
            is_flag = True
            return flag if values[name] else ""

        filled = _BRACES.sub(replaced, word)
        if filled or not is_flag:
            words.append(filled)
    return words


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{text!r}: {error}") from error


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    return repr(value) if isinstance(value, float) else "" if value is None else str(value)
