"""The names that notebooks and scripts may rely on."""

import analysis
import sweep

SWEEP = {
    "Outcome", "Plan", "Planned", "StatusReader", "SweepSpec", "SweepStatus", "TrialConfig", "TrialStatus",
    "UserError", "load_spec", "make_plan", "parse_spec", "preset_names", "register_dataset", "register_model",
    "run_plan",
}  # fmt: skip
ANALYSIS = {
    "Part", "Verdict", "ablation_table", "answer", "cost_table", "draw_best", "draw_curves", "draw_heat",
    "draw_kernels", "draw_token_units", "load", "load_trials", "parts", "save_figure", "test_claims",
    "write_report",
}  # fmt: skip


def test_sweep_hands_on_its_public_names() -> None:
    assert set(sweep.__all__) == SWEEP
    assert all(getattr(sweep, name).__doc__ for name in SWEEP)


def test_analysis_hands_on_its_public_names_as_functions_and_classes() -> None:
    assert set(analysis.__all__) == ANALYSIS
    assert all(callable(getattr(analysis, name)) for name in ANALYSIS)  # a module of that name would not be
