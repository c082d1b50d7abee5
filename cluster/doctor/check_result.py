"""The result of one check, and how checks format sizes and versions."""

from collections.abc import Mapping
from dataclasses import dataclass

STATES = ("ok", "warning", "failed")

LITTLE_SPACE_BYTES = 2**30  # less free space than this is a warning


@dataclass(frozen=True)
class Check:
    """The result of one check: `state` is one of STATES; `advice` says what to do, or is empty."""

    name: str
    state: str
    found: str
    advice: str = ""


def format_size(count: int) -> str:
    """A number of bytes as text."""
    return f"{count / 2**30:.0f} GiB" if count >= 10 * 2**30 else f"{count / 2**20:,.0f} MiB"


def format_versions(versions: Mapping[str, str]) -> str:
    """Versions by package as text."""
    return ", ".join(f"{name} {number}" for name, number in versions.items())
