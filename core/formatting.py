"""Numbers with their units, and fields with their values, as readable text."""

import math
from collections.abc import Mapping
from typing import Any


def energy_text(joules: float | None) -> str:
    """`3.4 Wh`, `1.25 kWh`; a dash if no device measured it."""
    if joules is None or math.isnan(joules):
        return "–"
    watt_hours = joules / 3600
    return f"{watt_hours / 1000:.3g} kWh" if watt_hours >= 1000 else f"{watt_hours:.3g} Wh"


def size_text(count: int) -> str:
    """`12 B`, `3.4 KiB`, `1.25 GiB`."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1000:
            break
        size, unit = size / 1024, larger
    return f"{size:.3g} {unit}"


def rough_duration(seconds: float) -> str:
    """`42 s`, `12 min`, `2.2 h`: for forecasts and for values that change while they are shown."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def duration(seconds: float) -> str:
    """`42 s`, `3 min 5 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def values_text(values: Mapping[str, Any]) -> str:
    """Return fields with their values, or with lists of alternatives: `lr = 0.1, optimizer = 'sgd' or 'adam'`."""
    return ", ".join(
        f"{name} = {' or '.join(map(repr, value)) if isinstance(value, list) else repr(value)}"
        for name, value in values.items()
    )


def axes_lines(table: Mapping[str, Any]) -> list[str]:
    """Return what a sweep file, or a part of one, says of its axes under `[combine]` and `[derive]`, a line each."""
    combine = table.get("combine", {})
    zipped = [f"zipped: {' with '.join(group)}" for group in combine.get("zip", ())]
    excluded = [f"excluded: {values_text(one)}" for one in combine.get("exclude", ())]
    derived = [
        f"derived: {name} = {' '.join(text.split())}" for name, text in table.get("derive", {}).items()
    ]
    return zipped + excluded + derived
