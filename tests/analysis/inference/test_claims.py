"""Verdicts and answers on stores that were made to have them."""

from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pytest

from mixsweep.analysis.frames import load, load_trials, parts
from mixsweep.analysis.inference.claims import answer, evaluate_claims
from mixsweep.analysis.report.tables import ablation_table, ablation_text
from mixsweep.core import registry
from mixsweep.core.store import files
from tests.analysis.inference.judged import CLAIM, activations, judged
from tests.support.synthetic_store import SyntheticPart, learning_rates, patch_sizes, write_sweep


def test_a_clear_winner_supports_the_claim(tmp_path):
    said, (verdict,) = judged(activations(tmp_path))
    assert verdict.verdict == verdict.kind == "supported"
    assert "nearest, relu against tanh" in verdict.evidence
    assert "n = 3 seeds" in verdict.evidence
    assert said.startswith("relu is best")
    assert "every other value is worse" in said


def test_the_evidence_holds_the_figures_of_the_store(tmp_path):
    store = activations(tmp_path)
    trials = load_trials(store).pivot(index="replica", columns="activation", values="final_valid_accuracy")
    mean = 100 * (trials["relu"] - trials["tanh"]).mean()
    _, (verdict,) = judged(store)
    assert f"paired difference in valid accuracy {mean:+.1f} points [95 % CI" in verdict.evidence


@pytest.mark.parametrize(
    ("model", "claimed", "planned"),
    [("mixer", "recipe", "recipe"), ("resnet18", "recipe", "recipe"), ("mlp", "glorot_normal", "recipe")],
)
def test_a_claim_holds_for_initial_weights_under_each_of_their_names(tmp_path, model, claimed, planned):
    part = SyntheticPart(
        name="init",
        base={"model": model},
        space={"init": [planned, "he_normal"]},
        final={planned: 0.6, "he_normal": 0.4},
        claims=[{"text": "it matters", "compare": "init", "better": claimed, "than": "he_normal"}],
    )
    _, (verdict,) = judged(write_sweep(tmp_path / "init", [part]))
    assert verdict.kind == "supported"
    assert f"{claimed} against he_normal" in verdict.evidence


def test_a_claim_for_the_loser_is_contradicted(tmp_path):
    claim = {"text": "sigmoid wins", "compare": "activation", "better": "sigmoid", "than": "relu"}
    _, (verdict,) = judged(activations(tmp_path, claim=claim))
    assert verdict.verdict == "contradicted"
    assert "−" in verdict.evidence


def test_values_within_the_noise_are_not_distinguishable(tmp_path):
    said, (verdict,) = judged(patch_sizes(tmp_path / "patch-sizes"))
    assert said.startswith("4 has the highest valid accuracy")
    assert (
        "16 is worse; not shown to be worse: 2 (+0.2 points [95 % CI −1.0, +1.4]) and 8 (+0.1 points" in said
    )
    assert verdict.kind == "supported"
    assert len(verdict.comparisons) == 3


def test_a_tie_does_not_support_a_claim(tmp_path):
    store = activations(tmp_path, noise=0.02, final=(0.5, 0.5, 0.5))
    _, (verdict,) = judged(store)
    assert verdict.verdict == "not supported"
    assert "Higher in 0 of 2 comparisons; least so, relu against tanh" in verdict.evidence


def test_a_value_that_always_diverges_needs_more_seeds_and_is_named(tmp_path):
    said, (best, worse) = judged(learning_rates(tmp_path / "learning-rates"))
    assert best.verdict == "undecided: 8 seeds needed"  # 2 / 2^8 is below 80 % of 5 % over three claims
    assert "1e-1 diverged in 3 of 3 trials, which counts as worse than any figure" in best.evidence
    assert "1e-1 diverged in 3 of 3 trials" in said
    assert worse.verdict == "contradicted"


@pytest.mark.parametrize(("better", "kind"), [("tanh", "contradicted"), ("sigmoid", "supported")])
def test_enough_seeds_decide_against_a_value_that_always_diverges(tmp_path, better, kind):
    other = {"tanh": "sigmoid", "sigmoid": "tanh"}[better]
    claim = {"text": "one", "compare": "activation", "better": better, "than": other}
    _, (verdict,) = judged(activations(tmp_path, claim=claim, states={"tanh": ["diverged"] * 7}, seeds=7))
    assert verdict.verdict == kind
    assert verdict.comparisons[0].improvement.probability == float(kind == "supported")


def test_all_of_three_diverged_against_two_of_three_decides_nothing(tmp_path):
    claim = {"text": "relu", "compare": "activation", "better": "relu", "than": "tanh"}
    states = {"relu": ["completed", "diverged", "diverged"], "tanh": ["diverged"] * 3}
    _, (verdict,) = judged(activations(tmp_path, claim=claim, states=states))
    assert verdict.kind == "undecided"


def test_a_divergence_counts_alike_in_every_claim_and_in_the_answer(tmp_path):
    """relu against tanh was +2.9 points in one claim and +16.5 in another, by what else they compared."""
    states = {"tanh": ["completed", "diverged", "completed"]}
    store = activations(tmp_path, states=states, claim=CLAIM)
    claims = [CLAIM, CLAIM | {"than": "tanh"}]
    (part,) = parts(store)
    frame, trials = load(store), load_trials(store)
    found = evaluate_claims(replace(part, claims=tuple(claims)), frame, trials)
    both = [c.difference.interval for v in found for c in v.comparisons if c.b == "tanh"]
    assert both[0] == both[1]
    finals = trials.pivot(index="replica", columns="activation", values="final_valid_accuracy")
    assert both[0].mean == pytest.approx((finals["relu"] - finals["tanh"]).mean())
    assert both[0].n == 2


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_cannot_say(tmp_path, seeds):
    said, (verdict,) = judged(activations(tmp_path, seeds=seeds))
    assert verdict.kind == "undecided"
    assert verdict.verdict == "undecided: 3 seeds needed"
    assert verdict.evidence.startswith("Higher in all 2 comparisons; least so, relu against tanh")
    assert "higher in all 2 comparisons; 3 seeds are the least that can decide" in said
    assert "best" not in said
    assert ("no interval" in said) == (seeds == 1)


def test_a_running_sweep_says_how_far_it_is(tmp_path):
    states = {"sigmoid": ["completed", "interrupted", "waiting"]}
    said, (verdict,) = judged(activations(tmp_path, states=states))
    assert verdict.verdict == "undecided so far (7 of 9 trials finished)"
    assert "So far 7 of 9 trials finished." in said


def test_finished_seeds_are_not_judged_before_the_rest(tmp_path):
    states = {"sigmoid": ["completed", "completed", "completed", "interrupted"]}
    _, (verdict,) = judged(activations(tmp_path, states=states, seeds=4))
    assert verdict.verdict == "undecided so far (11 of 12 trials finished)"


def test_nothing_finished_is_no_answer(tmp_path):
    states = {name: ["interrupted", "waiting", "waiting"] for name in ("relu", "tanh", "sigmoid")}
    said, (verdict,) = judged(activations(tmp_path, states=states))
    assert said == "No answer yet. So far 0 of 9 trials finished."
    assert verdict.kind == "undecided"


def test_one_finished_value_is_not_called_the_highest(tmp_path):
    states = {name: ["waiting"] * 3 for name in ("tanh", "sigmoid")}
    said, _ = judged(activations(tmp_path, states=states))
    assert said.startswith("Only relu has finished trials yet: valid accuracy")


def test_a_trial_stopped_early_decides_nothing_about_the_last_epoch(tmp_path):
    said, (verdict,) = judged(activations(tmp_path, states={"sigmoid": ["stopped"] * 3}))
    assert verdict.verdict == "undecided: stopped at epoch 3"
    assert "sigmoid was stopped early in 3 of 3 trials" in verdict.evidence
    assert "more seed" not in verdict.evidence
    assert next(c for c in verdict.comparisons if c.b == "sigmoid").difference is None
    assert "tanh is worse" in said
    assert "undecided: stopped at epoch 3" in said


def test_one_survivor_of_a_rule_does_not_lead_values_that_finished(tmp_path):
    states = {"relu": ["completed", "stopped", "stopped"]}
    said, _ = judged(activations(tmp_path, states=states))
    assert said.startswith("tanh has the highest valid accuracy")
    assert "(95 % CI, n = 3 seeds)" in said


def test_a_failed_trial_is_left_out_and_said(tmp_path):
    said, (verdict,) = judged(activations(tmp_path, states={"tanh": ["completed", "completed", "failed"]}))
    assert verdict.verdict == "undecided: 4 seeds needed"
    assert "1 failed trial is left out" in verdict.evidence
    assert "tanh failed in 1 of 3 trials" in said


def test_a_claim_about_a_value_that_was_not_planned_cannot_be_said(tmp_path):
    claim = {"text": "elu", "compare": "activation", "better": "elu", "than": "rest"}
    _, (verdict,) = judged(activations(tmp_path, claim=claim))
    assert verdict.evidence == "The plan has no activation elu."


def test_a_claim_may_name_its_own_metric(tmp_path):
    claim = CLAIM | {"metric": "valid_loss"}
    _, (verdict,) = judged(activations(tmp_path, claim=claim))
    assert verdict.verdict == "supported"
    assert "valid loss −" in verdict.evidence


@pytest.mark.parametrize(
    ("axis", "better", "other"), [("lr", 1e-3, "batch size"), ("batch_size", 64, "learning rate")]
)
def test_a_claim_on_a_zipped_axis_compares_the_pairs(tmp_path, axis, better, other):
    values = {"lr": [1e-3, 1e-2], "batch_size": [64, 256], "dropout": [0.0, 0.3]}
    final = {
        (lr, size, dropout): 0.4 + (lr == 1e-3) / 10
        for lr, size in ((1e-3, 64), (1e-2, 256))
        for dropout in (0.0, 0.3)
    }
    claim = {"text": "small", "compare": axis, "better": better, "than": "rest"}
    part = SyntheticPart(
        name="pairs",
        space=values,
        final=final,
        claims=[claim],
        zipped=[["lr", "batch_size"]],
        base={"model": "mlp"},
    )
    _, (verdict,) = judged(write_sweep(tmp_path / "pairs", [part]))
    assert verdict.verdict == "supported"
    (compared,) = verdict.comparisons
    assert compared.difference is not None
    assert compared.difference.n == 3
    assert compared.difference.interval.mean == pytest.approx(0.1, abs=0.01)
    assert f"Averaged over dropout. {other[0].upper()}{other[1:]} goes with it." in verdict.evidence


def test_zipped_axes_with_a_value_twice_are_compared_where_the_other_is_equal(tmp_path):
    values = {"lr": [1e-3, 1e-3, 1e-2], "batch_size": [64, 256, 64]}
    final = {(1e-3, 64): 0.5, (1e-3, 256): 0.9, (1e-2, 64): 0.4}
    claim = {"text": "1e-3", "compare": "lr", "better": 1e-3, "than": "rest"}
    part = SyntheticPart(
        name="pairs", space=values, final=final, claims=[claim], zipped=[["lr", "batch_size"]]
    )
    _, (verdict,) = judged(write_sweep(tmp_path / "pairs", [part]))
    (compared,) = verdict.comparisons
    assert compared.difference is not None
    assert compared.difference.interval.mean == pytest.approx(0.1, abs=0.01)


def test_one_axis_of_several_is_averaged_over_the_others(tmp_path):
    values = {"lr": [1e-3, 1e-2], "dropout": [0.0, 0.3]}
    final = {(1e-3, 0.0): 0.5, (1e-3, 0.3): 0.6, (1e-2, 0.0): 0.4, (1e-2, 0.3): 0.5}
    claim = {"text": "1e-3", "compare": "lr", "better": 1e-3, "than": "rest"}
    part = SyntheticPart(name="both", space=values, final=final, claims=[claim])
    store = write_sweep(tmp_path / "both", [part])
    said, (verdict,) = judged(store)
    (compared,) = verdict.comparisons
    finals = load_trials(store)
    means = finals.groupby(["replica", "lr"])["final_valid_accuracy"].mean().unstack()
    assert compared.difference is not None
    assert compared.difference.n == 3
    assert compared.difference.interval.mean == pytest.approx((means[1e-3] - means[1e-2]).mean())
    assert "Averaged over dropout." in verdict.evidence
    assert said.startswith("learning rate 1e-3, dropout 0.3 is best")


def test_parts_are_judged_apart(tmp_path):
    first = SyntheticPart(name="a", space={"lr": [1e-3, 1e-2]}, final={1e-3: 0.6, 1e-2: 0.4}, question="A?")
    second = SyntheticPart(name="b", space={"dropout": [0.0, 0.5]}, final={0.0: 0.6, 0.5: 0.7}, question="B?")
    store = write_sweep(tmp_path / "two", [first, second])
    frame, trials = load(store), load_trials(store)
    said = [answer(part, frame, trials) for part in parts(store)]
    assert [part.axes for part in parts(store)] == [("lr",), ("dropout",)]
    assert [words.split()[0] for words in said] == ["1e-3", "0.5"]


def test_a_field_that_follows_from_another_is_no_axis(tmp_path):
    part = SyntheticPart(name="models", space={"model": ["mlp", "mixer"]}, final={"mlp": 0.5, "mixer": 0.7})
    (found,) = parts(write_sweep(tmp_path / "models", [part]))
    assert found.axes == ("model",)


def test_unknown_and_empty_sweeps_are_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="no sweep here"):
        load(tmp_path / "nothing")
    names = ("relu", "tanh", "sigmoid")
    store = activations(tmp_path, states={name: ["waiting"] * 3 for name in names})
    with pytest.raises(ValueError, match="none of its trials has begun"):
        load_trials(store)


def test_trial_figures_are_those_of_the_records(tmp_path):
    store = activations(tmp_path)
    frame, trials = load(store), load_trials(store)
    row = trials.iloc[0]
    epochs = frame[frame["trial_id"] == row["trial_id"]]
    assert isinstance(epochs, pd.DataFrame)
    assert row["final_valid_accuracy"] == epochs.loc[epochs["epoch"].idxmax(), "valid_accuracy"]
    assert row["best"] == epochs["valid_accuracy"].max()
    assert row["train_seconds"] == epochs.loc[epochs["epoch"] > 1, "train_seconds"].median()
    assert row["parameters"] == 3_709_194
    assert row["device_seconds"] == 5 + 12 * 12


def two_lengths(path, epochs=5, long_states=("completed",) * 3):
    """Parts of few and of 20 epochs that share the trials with lr 1e-3, which the longer one trains on."""
    short = SyntheticPart(
        name="short",
        base={"epochs": epochs},
        space={"lr": [1e-3, 1e-2]},
        final={1e-3: 0.5, 1e-2: 0.5},
        claims=[{"text": "1e-3", "compare": "lr", "better": 1e-3, "than": "rest"}],
    )
    long = SyntheticPart(
        name="long",
        base={"epochs": 20, "lr": 1e-3},
        space={"activation": ["relu", "tanh"]},
        final={"relu": 0.8, "tanh": 0.8},
        states={"relu": long_states},
    )
    return write_sweep(path / "two", [short, long])


def test_a_trial_that_another_part_trains_on_is_compared_at_its_own_parts_end(tmp_path):
    store = two_lengths(tmp_path)
    frame, trials = load(store), load_trials(store)
    short, _ = parts(store)
    shared = trials[(trials["part"] == "short") & (trials["lr"] == 1e-3)]
    assert shared["trial_id"].isin(trials.loc[trials["part"] == "long", "trial_id"]).all()
    assert frame.groupby("part")["epoch"].max().to_dict() == {"short": 5, "long": 20}
    at_5 = frame[(frame["part"] == "long") & (frame["epoch"] == 5) & (frame["activation"] == "relu")]
    assert sorted(shared["final_valid_accuracy"]) == sorted(at_5["valid_accuracy"])
    assert shared["best_epoch"].max() <= 5
    (verdict,) = evaluate_claims(short, frame, trials)
    (compared,) = verdict.comparisons
    rest = trials[(trials["part"] == "short") & (trials["lr"] == 1e-2)]
    apart = shared["final_valid_accuracy"].mean() - rest["final_valid_accuracy"].mean()
    assert compared.difference is not None
    assert compared.difference.interval.mean == pytest.approx(apart)


def test_the_test_figure_of_a_longer_run_is_not_a_shorter_parts(tmp_path):
    store = two_lengths(tmp_path)
    frame, trials = load(store), load_trials(store)
    for part, cells in zip(parts(store), (["– (trained on to 20)", "test"], ["test", "test"])):
        text = ablation_text(part, ablation_table(part, frame, trials))
        column = text.header.index("test accuracy")
        shown = [row[column] for row in text.rows]
        assert ["test" if "±" in cell else cell for cell in shown] == cells


def test_an_extension_under_way_is_complete_for_the_shorter_part(tmp_path):
    store = two_lengths(tmp_path, epochs=3, long_states=("interrupted", "stopped", "diverged"))
    trials, frame = load_trials(store), load(store)
    shared = trials[(trials["lr"] == 1e-3) & (trials["activation"] == "relu")].sort_values("replica")
    states = {part: rows["state"].tolist() for part, rows in shared.groupby("part")}
    assert states["short"] == ["completed", "completed", "diverged"]
    assert states["long"] == ["interrupted", "stopped", "diverged"]
    by_part = frame.drop_duplicates(["part", "trial_id"]).set_index(["part", "trial_id"])["state"]
    for row in shared.to_dict("records"):
        assert by_part[row["part"], row["trial_id"]] == row["state"]


def test_a_completed_trial_whose_part_was_given_more_epochs_waits(tmp_path):
    store = activations(tmp_path, epochs=5)
    plan = store.plan().to_pandas().assign(epochs=9)
    files.write_table(pa.Table.from_pandas(plan, preserve_index=False), store.path / "plan.parquet")
    assert set(load_trials(store)["state"]) == set(load(store)["state"]) == {"waiting"}


def test_a_users_builder_that_raises_costs_the_parameter_count_alone(tmp_path, monkeypatch):
    def broken(config, classes):
        raise RuntimeError("no such layer")

    monkeypatch.setitem(registry._registered["model"], "broken", broken)
    part = SyntheticPart(name="b", base={"model": "broken"}, space={"lr": [1e-3]}, final={1e-3: 0.5})
    trials = load_trials(write_sweep(tmp_path / "b", [part]))
    assert trials["parameters"].isna().all()
    assert trials["final_valid_accuracy"].notna().all()


def test_a_claim_of_an_older_file_on_a_metric_of_unknown_mode_is_not_tested(tmp_path):
    store = activations(tmp_path, claim={**CLAIM, "metric": "f1"})
    (part,) = parts(store)
    frame = load(store).assign(f1=lambda rows: rows["valid_accuracy"])
    (verdict,) = evaluate_claims(part, frame, load_trials(store))
    assert verdict.kind == "undecided"
    assert verdict.evidence == "It is not known whether more f1 is better; give its mode."
    known = replace(part, claims=({**CLAIM, "metric": "f1", "mode": "max"},))
    (verdict,) = evaluate_claims(known, frame, load_trials(store))
    assert verdict.kind == "supported"
