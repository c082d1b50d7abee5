"""Plan and run sweeps from Python, as the command line does.

from sweep import load_spec, make_plan, run_plan
plan = make_plan(load_spec("activations", ["base.dataset=digits"]))
outcome = run_plan(plan, place="debug", store_root="runs")
"""

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
