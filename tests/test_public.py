"""The names that notebooks and scripts may rely on."""

import mixsweep

NAMES = {
    "Callbacks", "Images", "Outcome", "Part", "Place", "Plan", "Planned", "Run", "RunOptions", "StatusReader",
    "SweepSpec", "SweepStatus", "TrialConfig", "TrialStatus", "UserError", "Verdict", "ablation_table",
    "answer", "cost_table", "download_cifar10", "draw_best", "draw_curves", "draw_heat", "draw_kernels",
    "draw_token_units", "evaluate_claims", "find_place", "load", "load_spec", "load_trials", "make_plan",
    "field", "parse_spec", "parts", "preset_names", "register_activation", "register_augmentation",
    "register_dataset", "register_model", "register_optimizer", "register_schedule", "run_plan", "save_figure",
    "write_report", "PredictionSet", "load_predictions", "prediction_set", "accuracy_difference", "class_accuracy",
    "confusion", "most_wrong", "reliability",
    "SweepComparison", "compare_sweeps", "export_table",
}  # fmt: skip


def test_mixsweep_hands_on_its_public_names_as_functions_and_classes() -> None:
    assert set(mixsweep.__all__) == NAMES
    assert all(callable(getattr(mixsweep, name)) for name in NAMES)  # a module of that name would not be
    assert all(getattr(mixsweep, name).__doc__ for name in NAMES)
