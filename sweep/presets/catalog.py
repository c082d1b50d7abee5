"""Where the shipped sweep files lie, and their names. Imports nothing, so that a shell completes them at once."""

from pathlib import Path

PRESETS = Path(__file__).parent


def preset_names() -> tuple[str, ...]:
    """The sweep files that are shipped."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.toml")))
