"""The campaign in miniature: no false verdicts beyond 5 %, power as forecast, and the arrays are those of a store."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mixsweep.analysis.frames import load, load_trials, parts
from mixsweep.analysis.inference.comparisons import compare_values
from tests.analysis.inference.judged import activations
from tests.analysis.simulation.campaign import Rate, run
from tests.analysis.simulation.planted import planted
from tests.analysis.simulation.scenarios import Scenario, asha, diverging, false_verdicts, more_evidence
from tests.analysis.simulation.sweeps import blocks_of

NULL = {
    "half diverge, 3 seeds": partial(diverging, seeds=3, share=0.5),
    "half diverge, by seed, 8 seeds": partial(diverging, seeds=8, share=0.5, by_seed=True),
    "one in five diverges, 2 values, 10 seeds": partial(diverging, seeds=10, share=0.2, values=2),
    "ASHA, crossing": partial(asha, seeds=5, crossing=3.0),
    "more evidence": partial(more_evidence, declared=3, most=8),
}


@pytest.mark.parametrize("name", NULL)
def test_a_sweep_without_effects_has_a_false_verdict_in_at_most_one_of_twenty(name: str) -> None:
    counted = run(Scenario(name, NULL[name]), 300, 0)
    assert counted.holds


@pytest.mark.parametrize(
    "word", ["all complete, 2 values", "the two best tie, both 3 to 1, 3 seeds, one primary claim, pooled"]
)
def test_a_true_null_is_decided_about_as_often_as_promised(word: str) -> None:
    (scenario,) = [one for one in false_verdicts() if one.name.startswith(word)]
    counted = run(scenario, 1000, 0)
    assert counted.holds
    assert counted.claims.share >= 0.02  # a test that never decides would hold as well


def test_planted_effects_are_shown_as_often_as_forecast() -> None:
    for scenario in planted():
        if scenario.forecast is not None:
            counted = run(scenario, 500, 0)
            error = np.sqrt(scenario.forecast * (1 - scenario.forecast) / 500)
            assert abs(counted.supported.share - scenario.forecast) <= 3.5 * error, scenario.name


def test_best_of_five_has_the_power_that_pooling_is_for() -> None:
    pooled, own = (run(scenario, 1000, 0).supported for scenario in planted()[:2])
    assert pooled.high >= 0.6
    assert own.share <= 0.2


def test_the_same_seed_gives_the_same_counts() -> None:
    scenario = planted()[0]
    assert run(scenario, 20, 3) == run(scenario, 20, 3)


def test_an_interval_is_the_exact_one() -> None:
    assert str(Rate(0, 100)) == "0.0 % [0.0, 3.6]"
    assert str(Rate(5, 100)) == "5.0 % [1.6, 11.3]"
    assert Rate(100, 100).high == 1


def test_simulated_blocks_are_those_that_a_store_has(tmp_path: Path) -> None:
    states = {
        "relu": ["completed", "diverged", "completed", "completed"],
        "tanh": ["completed", "completed", "failed", "completed"],
        "sigmoid": ["completed", "stopped", "completed", "interrupted"],
    }
    store = activations(tmp_path, states=states, seeds=4)
    (part,) = parts(store)
    trials = load_trials(store)
    found = compare_values(part, "activation", part.metric, part.mode, load(store), trials).blocks
    order = {name: n for n, name in enumerate(["relu", "tanh", "sigmoid"])}
    figures, pending, stopped = (
        np.full((3, 4), np.nan),
        np.zeros((3, 4), dtype=bool),
        np.zeros((3, 4), dtype=int),
    )
    for row in trials.to_dict("records"):
        at = order[row["activation"]], row["replica"]
        figures[at] = -np.inf if row["state"] == "diverged" else row["final_valid_accuracy"]
        pending[at] = row["state"] == "interrupted"
        stopped[at] = 3 if row["state"] == "stopped" else 0
    made = blocks_of(figures, pending=pending, stopped=stopped)
    for name in ("figures", "planned", "pending", "stopped"):
        np.testing.assert_array_equal(getattr(found, name), getattr(made, name))
    assert (found.declared, found.ready) == (made.declared, made.ready) == (4, 3)
