"""Figures with their units, as a person says them."""

import math


def energy_text(joules: float | None) -> str:
    """`3.4 Wh`, `1.25 kWh`; a dash where no device told it."""
    if joules is None or math.isnan(joules):
        return "–"
    watt_hours = joules / 3600
    return f"{watt_hours / 1000:.3g} kWh" if watt_hours >= 1000 else f"{watt_hours:.3g} Wh"
