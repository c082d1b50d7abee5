"""What the store's records say, and how sure it is. Names are loaded on first use."""

from importlib import import_module
from typing import Any

_HOMES = {
    "frames": ("load", "load_trials", "parts", "Part"),
    "claims": ("answer", "test_claims", "Verdict"),
    "figures": ("draw_best", "draw_curves", "draw_heat", "draw_kernels", "draw_token_units", "save_figure"),
    "tables": ("ablation_table", "cost_table"),
    "report": ("write_report",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
