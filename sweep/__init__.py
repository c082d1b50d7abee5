"""Plan and run sweeps from Python, as the command line does.

from sweep import load_spec, make_plan, run_plan
plan = make_plan(load_spec("activations", ["base.dataset=digits"]))
outcome = run_plan(plan, place="debug", store_root="runs")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.config import TrialConfig, UserError
    from core.registry import register_dataset, register_model
    from sweep.launch import Outcome, run_plan
    from sweep.plan import Plan, Planned, make_plan
    from sweep.spec import SweepSpec, load_spec, parse_spec, preset_names
    from sweep.status import StatusReader, SweepStatus, TrialStatus

__all__ = [
    "Outcome",
    "Plan",
    "Planned",
    "StatusReader",
    "SweepSpec",
    "SweepStatus",
    "TrialConfig",
    "TrialStatus",
    "UserError",
    "load_spec",
    "make_plan",
    "parse_spec",
    "preset_names",
    "register_dataset",
    "register_model",
    "run_plan",
]

# Loaded on first use: a command that only reads a store need not load what runs sweeps.
_HOMES = {
    "core.config": ("TrialConfig", "UserError"),
    "core.registry": ("register_dataset", "register_model"),
    "sweep.launch": ("Outcome", "run_plan"),
    "sweep.plan": ("Plan", "Planned", "make_plan"),
    "sweep.spec": ("SweepSpec", "load_spec", "parse_spec", "preset_names"),
    "sweep.status": ("StatusReader", "SweepStatus", "TrialStatus"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
