"""The public names of mixsweep, for notebooks, scripts and files named under `imports`.

    import mixsweep

    plan = mixsweep.make_plan(mixsweep.load_spec("activations", ["base.dataset=digits"]))
    mixsweep.run_plan(plan, place="debug", store_root="runs")
    frame = mixsweep.load("runs/activations")

Names are loaded on first use, so that `import mixsweep` costs nothing and works in a light install.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

_here = os.path.dirname(__file__)
if not os.path.isdir(os.path.join(_here, "core")):  # a checkout: its four packages are beside this one
    __path__.append(os.path.dirname(_here))

from mixsweep.core.version import __version__ as __version__  # noqa: E402

if TYPE_CHECKING:
    from mixsweep.analysis.comparing.compare import compare_sweeps
    from mixsweep.analysis.comparing.results import SweepComparison
    from mixsweep.analysis.export import export_table
    from mixsweep.analysis.frames import Part, load, load_trials, parts
    from mixsweep.analysis.inference.claims import Verdict, answer, evaluate_claims
    from mixsweep.analysis.predictions.loading import PredictionSet, load_predictions, prediction_set
    from mixsweep.analysis.predictions.measures import (
        accuracy_difference,
        class_accuracy,
        confusion,
        most_wrong,
        reliability,
    )
    from mixsweep.analysis.report.figures import (
        draw_best,
        draw_curves,
        draw_heat,
        draw_kernels,
        draw_token_units,
        save_figure,
    )
    from mixsweep.analysis.report.report import write_report
    from mixsweep.analysis.report.tables import ablation_table, cost_table
    from mixsweep.cluster.places import Place, find_place
    from mixsweep.core.data.datasets import Images, download_cifar10
    from mixsweep.core.errors import UserError
    from mixsweep.core.registry import (
        register_activation,
        register_augmentation,
        register_dataset,
        register_model,
        register_optimizer,
        register_schedule,
    )
    from mixsweep.core.trainables.field_types import field
    from mixsweep.core.trainables.image.config import TrialConfig
    from mixsweep.core.trainables.own_class import Run
    from mixsweep.sweep.backends.base import Callbacks, Outcome, RunOptions
    from mixsweep.sweep.planning.parse import load_spec, parse_spec, preset_names
    from mixsweep.sweep.planning.plan import Plan, Planned, make_plan
    from mixsweep.sweep.planning.schema import SweepSpec
    from mixsweep.sweep.run import run_plan
    from mixsweep.sweep.status import SweepStatus, TrialStatus
    from mixsweep.sweep.status_reader import StatusReader

__all__ = [
    "Callbacks",
    "Images",
    "Outcome",
    "Part",
    "Place",
    "Plan",
    "Planned",
    "PredictionSet",
    "Run",
    "RunOptions",
    "StatusReader",
    "SweepComparison",
    "SweepSpec",
    "SweepStatus",
    "TrialConfig",
    "TrialStatus",
    "UserError",
    "Verdict",
    "ablation_table",
    "accuracy_difference",
    "answer",
    "class_accuracy",
    "compare_sweeps",
    "confusion",
    "cost_table",
    "download_cifar10",
    "draw_best",
    "draw_curves",
    "draw_heat",
    "draw_kernels",
    "draw_token_units",
    "evaluate_claims",
    "export_table",
    "field",
    "find_place",
    "load",
    "load_predictions",
    "load_spec",
    "load_trials",
    "make_plan",
    "most_wrong",
    "parse_spec",
    "parts",
    "prediction_set",
    "preset_names",
    "register_activation",
    "register_augmentation",
    "register_dataset",
    "register_model",
    "register_optimizer",
    "register_schedule",
    "reliability",
    "run_plan",
    "save_figure",
    "write_report",
]

if os.environ.get("SWEEP_VERBOSE"):  # set by `sweep --verbose`, for worker processes too
    import_module("mixsweep.core.verbosity").log_if_asked()

_MODULES = {
    "mixsweep.analysis.comparing.compare": ("compare_sweeps",),
    "mixsweep.analysis.comparing.results": ("SweepComparison",),
    "mixsweep.analysis.export": ("export_table",),
    "mixsweep.analysis.frames": ("Part", "load", "load_trials", "parts"),
    "mixsweep.analysis.inference.claims": ("Verdict", "answer", "evaluate_claims"),
    "mixsweep.analysis.predictions.loading": ("PredictionSet", "load_predictions", "prediction_set"),
    "mixsweep.analysis.predictions.measures": (
        "accuracy_difference",
        "class_accuracy",
        "confusion",
        "most_wrong",
        "reliability",
    ),
    "mixsweep.analysis.report.figures": (
        "draw_best",
        "draw_curves",
        "draw_heat",
        "draw_kernels",
        "draw_token_units",
        "save_figure",
    ),
    "mixsweep.analysis.report.report": ("write_report",),
    "mixsweep.analysis.report.tables": ("ablation_table", "cost_table"),
    "mixsweep.core.data.datasets": ("Images", "download_cifar10"),
    "mixsweep.core.errors": ("UserError",),
    "mixsweep.core.registry": (
        "register_activation",
        "register_augmentation",
        "register_dataset",
        "register_model",
        "register_optimizer",
        "register_schedule",
    ),
    "mixsweep.core.trainables.field_types": ("field",),
    "mixsweep.core.trainables.image.config": ("TrialConfig",),
    "mixsweep.core.trainables.own_class": ("Run",),
    "mixsweep.cluster.places": ("Place", "find_place"),
    "mixsweep.sweep.backends.base": ("Callbacks", "Outcome", "RunOptions"),
    "mixsweep.sweep.planning.parse": ("load_spec", "parse_spec", "preset_names"),
    "mixsweep.sweep.planning.plan": ("Plan", "Planned", "make_plan"),
    "mixsweep.sweep.planning.schema": ("SweepSpec",),
    "mixsweep.sweep.run": ("run_plan",),
    "mixsweep.sweep.status": ("SweepStatus", "TrialStatus"),
    "mixsweep.sweep.status_reader": ("StatusReader",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
