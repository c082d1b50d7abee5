"""Claims of every kind, the family that they share, and what is said where little can be decided."""

import itertools
import re
from dataclasses import replace

import pandas as pd
import pytest

from mixsweep.analysis.frames import load, load_trials, parts
from mixsweep.analysis.inference.claims import answer, evaluate_claims, judge
from mixsweep.analysis.inference.comparisons import MOST_COMPARED
from tests.analysis.inference.judged import CLAIM, activations, judged
from tests.support.synthetic_store import SyntheticPart, write_sweep

KINDS = (
    ({"best": "relu"}, "supported", "contradicted"),
    ({"worst": "sigmoid"}, "supported", "contradicted"),
    ({"worse": "sigmoid", "than": ["relu", "tanh"]}, "supported", "contradicted"),
)


@pytest.mark.parametrize(("claim", "kind", "reverse"), KINDS)
def test_best_worst_and_worse_are_decided_both_ways(tmp_path, claim, kind, reverse):
    claim = {"text": "x", "compare": "activation", **claim}
    _, (verdict,) = judged(activations(tmp_path / "a", claim=claim))
    assert verdict.kind == kind
    _, (verdict,) = judged(activations(tmp_path / "b", claim=claim, final=(0.40, 0.52, 0.55)))
    assert verdict.kind == reverse


@pytest.mark.parametrize(
    ("alike", "within", "kind"),
    [
        (["relu", "tanh"], 0.1, "supported"),
        (["relu", "tanh"], 0.01, "contradicted"),
        ("all", 0.2, "supported"),
    ],
)
def test_values_are_alike_within_a_margin_or_shown_to_be_apart(tmp_path, alike, within, kind):
    claim = {"text": "alike", "compare": "activation", "alike": alike, "within": within}
    _, (verdict,) = judged(activations(tmp_path, claim=claim, seeds=5))
    assert verdict.kind == kind


@pytest.mark.parametrize(
    ("trend", "metric", "kind"),
    [
        ("increasing", "valid_accuracy", "supported"),
        ("decreasing", "valid_accuracy", "contradicted"),
        ("decreasing", "valid_loss", "supported"),
    ],
)
def test_a_trend_along_an_axis_is_decided_for_a_metric_of_either_mode(tmp_path, trend, metric, kind):
    claim = {"text": "wider", "compare": "embed_dim", "monotone": trend, "metric": metric}
    final = dict(zip([32, 64, 128, 256], [0.4, 0.5, 0.6, 0.7]))
    part = SyntheticPart(
        name="widths", base={"model": "mixer"}, space={"embed_dim": list(final)}, final=final, claims=[claim],
        noise=0.002,
    )  # fmt: skip
    _, (verdict,) = judged(write_sweep(tmp_path / "widths", [part]))
    assert verdict.kind == kind


def test_a_peak_is_no_trend(tmp_path):
    claim = {"text": "wider", "compare": "embed_dim", "monotone": "increasing"}
    final = dict(zip([32, 64, 128, 256], [0.4, 0.6, 0.7, 0.5]))
    part = SyntheticPart(
        name="widths", base={"model": "mixer"}, space={"embed_dim": list(final)}, final=final, claims=[claim],
        noise=0.002,
    )  # fmt: skip
    _, (verdict,) = judged(write_sweep(tmp_path / "widths", [part]))
    assert verdict.kind == "contradicted"


def test_seconds_are_compared_on_one_device_alone(tmp_path):
    claim = {"text": "faster", "compare": "activation", "faster": "relu", "than": "tanh"}
    store = activations(tmp_path, claim=claim)
    (part,) = parts(store)
    frame, trials = load(store), load_trials(store)
    timed = trials.assign(train_seconds=trials["train_seconds"] + (trials["activation"] == "tanh"))
    timed["train_seconds"] += 0.001 * trials["replica"] * (trials["activation"] == "tanh")
    (refused,) = evaluate_claims(part, frame, timed)
    assert refused.kind == "undecided"
    assert refused.evidence == (
        "Not timed: all trials of activation relu and tanh ran one after the other; "
        "interleave them, or time them again."
    )
    spread = frame.assign(recorded_at=frame["recorded_at"] + pd.to_timedelta(frame["replica"] * 48, unit="h"))
    (verdict,) = evaluate_claims(part, spread, timed)
    assert verdict.kind == "supported"
    assert "paired difference in seconds to train one epoch −1 s" in verdict.evidence
    trend = {"text": "slower", "compare": "activation", "monotone": "increasing", "metric": "train_seconds"}
    (refused,) = evaluate_claims(replace(part, claims=(trend,)), frame, timed)
    assert refused.evidence.startswith(
        "Not timed: all trials of activation relu and tanh ran one after the other"
    )
    (refused,) = evaluate_claims(part, spread, timed.assign(device=timed["activation"]))
    assert refused.evidence.startswith("Not timed: the trials ran on relu and tanh")


def test_all_claims_and_answers_of_a_study_share_one_correction(tmp_path):
    first = activations(tmp_path / "one", noise=0.004)
    second = activations(tmp_path / "two", noise=0.004)
    pair = [first, second]
    tables = [replace(parts(store)[0], sweep=name) for store, name in zip(pair, ("one", "two"))]
    frame = pd.concat([load(s).assign(sweep=n) for s, n in zip(pair, ("one", "two"))])
    trials = pd.concat([load_trials(s).assign(sweep=n) for s, n in zip(pair, ("one", "two"))])
    (alone,) = evaluate_claims(tables[0], frame, trials)
    study = judge(tables, frame, trials)
    (together,) = study.claims(tables[0])
    assert together.p_value == pytest.approx(2 * alone.p_value)
    assert study.answer(tables[1]).p_value == pytest.approx(together.p_value)


def test_a_primary_claim_is_tested_first_and_alone(tmp_path):
    store = activations(tmp_path, noise=0.02, final=(0.5, 0.5, 0.5))
    (part,) = parts(store)
    other = {"text": "relu beats sigmoid", "compare": "activation", "better": "relu", "than": "sigmoid"}
    frame, trials = load(store), load_trials(store)
    primary, secondary = evaluate_claims(
        replace(part, claims=(CLAIM | {"primary": True}, other)), frame, trials
    )
    assert primary.primary
    assert primary.verdict == "not supported"
    assert secondary.verdict == "undecided: it is secondary, and the primary claim comes first"


def test_a_claim_written_after_the_data_is_marked_and_corrected_for_its_choice(tmp_path):
    store = activations(tmp_path)
    (part,) = parts(store)
    frame, trials = load(store), load_trials(store)
    (early,) = evaluate_claims(part, frame, trials)
    (late,) = evaluate_claims(replace(part, late=(0,)), frame, trials)
    assert late.late
    assert late.verdict.endswith(" (written after the data)")
    assert late.p_value > early.p_value
    assert "corrected as one of 12 claims that could have been made" in late.evidence  # 3 pairs, 4 metrics


def test_a_late_claim_could_have_been_made_on_any_field(tmp_path):
    values = {"lr": [1e-3, 1e-2], "dropout": [0.0, 0.3], "batch_size": [32, 64, 128]}
    final = dict.fromkeys(itertools.product(*values.values()), 0.4)
    claim = {"text": "1e-3", "compare": "lr", "better": 1e-3, "than": 1e-2}
    store = write_sweep(
        tmp_path / "all", [SyntheticPart(name="all", space=values, final=final, claims=[claim])]
    )
    (part,) = parts(store)
    (late,) = evaluate_claims(replace(part, late=(0,)), load(store), load_trials(store))
    assert "corrected as one of 20 claims" in late.evidence  # 1 + 1 + 3 pairs, 4 metrics


def test_a_combination_that_one_side_lacks_is_named(tmp_path):
    values = {"lr": [1e-3, 1e-2], "dropout": [0.0, 0.3]}
    final = {(lr, drop): 0.4 + (lr == 1e-3) / 10 for lr in values["lr"] for drop in values["dropout"]}
    claim = {"text": "1e-3", "compare": "lr", "better": 1e-3, "than": 1e-2}
    part = SyntheticPart(name="both", space=values, final=final, claims=[claim])
    store = write_sweep(tmp_path / "both", [part])
    (found,) = parts(store)
    frame, trials = load(store), load_trials(store)
    kept = ~((trials["lr"] == 1e-2) & (trials["dropout"] == 0.3))
    (verdict,) = evaluate_claims(found, frame, trials[kept])
    assert "only 1e-3 has dropout 0.3, left out" in verdict.evidence


def test_test_figures_say_how_many_seeds_they_leave_out(tmp_path):
    states = dict.fromkeys(("relu", "tanh", "sigmoid"), ("diverged", "completed", "completed"))
    said, _ = judged(activations(tmp_path, states=states))
    assert "n = 2 seeds of 3" in said
    assert "(2 of 3 seeds)" in said


def test_the_leader_is_chosen_by_the_seeds_that_values_share(tmp_path):
    """tanh misses a seed that is bad for all, so that its mean is higher; relu is better on both that they share."""
    store = activations(tmp_path, states={"tanh": ["completed", "completed", "failed"]}, noise=0.0)
    (part,) = parts(store)
    frame, trials = load(store), load_trials(store)
    bad = (frame["replica"] == 2) & (frame["activation"] != "tanh")
    frame = frame.assign(valid_accuracy=frame["valid_accuracy"] - 0.3 * bad)
    assert answer(part, frame, trials).startswith("relu has the highest valid accuracy")


def test_a_value_that_diverged_once_does_not_lead_one_that_never_did(tmp_path):
    said, _ = judged(activations(tmp_path, states={"relu": ["completed", "diverged", "completed"]}))
    assert said.startswith("tanh has the highest valid accuracy")


def test_more_seeds_are_forecast_where_a_claim_is_not_supported(tmp_path):
    store = activations(tmp_path, noise=0.03, final=(0.56, 0.52, 0.40))
    _, (verdict,) = judged(store)
    assert verdict.kind == "not supported"
    assert re.search(r"about \d+ more seeds show it with 80 % power", verdict.evidence)


def test_seeds_that_are_added_are_looked_at_when_they_have_grown_by_half(tmp_path):
    store = activations(tmp_path, noise=0.03, final=(0.56, 0.55, 0.40), seeds=4)
    (part,) = parts(store)
    (verdict,) = evaluate_claims(replace(part, declared=3), load(store), load_trials(store))
    assert verdict.kind == "not supported"
    assert verdict.next_look is not None
    assert (verdict.next_look.seeds, verdict.next_look.points) == (5, (0, 1))
    assert "The verdict is that of the first 3 seeds; the next look is at 5." in verdict.evidence


def test_a_decided_claim_needs_no_further_look(tmp_path):
    _, (verdict,) = judged(activations(tmp_path))
    assert (verdict.kind, verdict.next_look) == ("supported", None)


def test_a_pooled_error_decides_with_three_seeds_what_the_own_one_does_not(tmp_path):
    names = ("relu", "tanh", "sigmoid", "gelu", "elu")
    claim = {"text": "relu", "compare": "activation", "best": "relu"}
    part = SyntheticPart(
        name="many", space={"activation": list(names)}, final=dict(zip(names, (0.55, 0.52, 0.52, 0.52, 0.52))),
        claims=[claim], noise=0.004,
    )  # fmt: skip
    store = write_sweep(tmp_path / "many", [part])
    (found,) = parts(store)
    frame, trials = load(store), load_trials(store)
    (own,) = evaluate_claims(found, frame, trials)
    (pooled,) = evaluate_claims(replace(found, error="pooled"), frame, trials)
    assert pooled.p_value < own.p_value
    assert pooled.kind == "supported"
    assert "Tested with an error pooled over 5 values, as declared before the run." in pooled.evidence
    (late,) = evaluate_claims(replace(found, error="pooled", late=(0,)), frame, trials)
    assert "pooled" not in late.evidence


@pytest.mark.parametrize(
    ("metric", "expected"),
    [({}, ("valid_accuracy", "max")), ({"metric": "valid_loss"}, ("valid_loss", "min"))],
)
def test_a_verdict_names_the_metric_that_it_rests_on_and_its_mode(tmp_path, metric, expected):
    _, (verdict,) = judged(activations(tmp_path / "a", claim={**CLAIM, **metric}))
    assert (verdict.metric, verdict.mode) == expected
    _, (refused,) = judged(activations(tmp_path / "b", claim={**CLAIM, **metric, "better": "gelu"}))
    assert refused.kind == "undecided"
    assert (refused.metric, refused.mode) == expected


def test_the_page_says_whose_error_was_used(tmp_path):
    names = ("relu", "tanh", "sigmoid", "gelu")
    claim = {"text": "relu", "compare": "activation", "best": "relu"}
    part = SyntheticPart(
        name="many", space={"activation": list(names)}, final=dict.fromkeys(names, 0.5), claims=[claim],
        states={"gelu": ["completed", "failed", "completed", "completed"]},
    )  # fmt: skip
    store = write_sweep(tmp_path / "many", [part], seeds=4)
    found = replace(parts(store)[0], error="pooled")
    frame, trials = load(store), load_trials(store)
    (verdict,) = evaluate_claims(found, frame, trials)
    assert (
        "pooled over 3 values, as declared before the run; 1 of 3 comparisons with their own"
        in verdict.evidence
    )
    uneven = trials[
        ~((trials["activation"] == "tanh") & (trials["replica"] == 3))
    ]  # as more evidence makes it
    (verdict,) = evaluate_claims(found, frame, uneven)
    assert (
        "Tested with each comparison's own error: a pooled one needs three values or more" in verdict.evidence
    )


def test_a_claim_that_a_rule_left_undecided_has_no_forecast(tmp_path):
    states = {"relu": ["completed"] * 3 + ["stopped"]}
    _, (verdict,) = judged(activations(tmp_path, states=states, seeds=4, noise=0.03))
    assert verdict.verdict.startswith("undecided: stopped")
    assert "more seed" not in verdict.evidence


def test_more_seeds_are_no_help_to_a_claim_on_a_cost(tmp_path):
    claim = {"text": "smaller", "compare": "activation", "better": "relu", "metric": "parameters"}
    _, (verdict,) = judged(activations(tmp_path, claim=claim))
    assert (verdict.kind, verdict.next_look) == ("not supported", None)


def test_the_p_value_of_a_comparison_is_at_most_one(tmp_path):
    claim = {"text": "alike", "compare": "activation", "alike": "all", "within": 0.0001}
    _, (verdict,) = judged(activations(tmp_path, claim=claim, noise=0.02, final=(0.5, 0.5, 0.5)))
    assert all(one.p_value <= 1 for one in verdict.comparisons)


def test_many_points_are_in_no_family_with_an_answer(tmp_path):
    values = [round(0.001 * n, 3) for n in range(1, MOST_COMPARED + 2)]
    part = SyntheticPart(name="many", space={"lr": values}, final=dict.fromkeys(values, 0.5))
    store = write_sweep(tmp_path / "many", [part], seeds=1, epochs=1)
    assert not judge(parts(store), load(store), load_trials(store)).answers
