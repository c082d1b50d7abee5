"""The scenarios with a planted effect, in which the power to show it is measured beside what is forecast."""

from functools import partial

import numpy as np

from mixsweep.analysis.inference.effects import power
from mixsweep.analysis.inference.procedures.looks import share
from mixsweep.analysis.inference.statistics import ALPHA
from tests.analysis.simulation.scenarios import Scenario, alike, complete, planted_pair, trend

EFFECT = 2 / (0.85 / np.sqrt(2))  # two points, where a paired difference has standard deviation 0.85


def planted() -> list[Scenario]:
    """The scenarios; a pair's forecast is that of `effects.power` at the first look."""
    best = (float(EFFECT), 0.0, 0.0, 0.0, 0.0)
    level = ALPHA / 2 * share(0)
    found = [
        Scenario("best of 5, 2 points, 0.85, 3 seeds, pooled",
                 partial(complete, means=best, pooled=True, primary=True)),
        Scenario("best of 5, 2 points, 0.85, 3 seeds, own error", partial(complete, means=best, primary=True)),
        Scenario("best of 5, 2 points, 0.85, 5 seeds, own error",
                 partial(complete, means=best, primary=True, seeds=5)),
        Scenario("alike within 1, equal, 0.5, 5 seeds", partial(alike, seeds=5, apart=0.0)),
        Scenario("monotone, steps of 1, 3 seeds", partial(trend, seeds=3, means=(0.0, 1.0, 2.0, 3.0))),
    ]  # fmt: skip
    for seeds, effect in ((3, 2.0), (3, 4.0), (5, 1.5), (5, 2.5), (8, 1.0), (8, 1.5)):
        promised = power(effect, 1.0, seeds, level)
        name = f"a pair, {effect:g} standard deviations apart, {seeds} seeds"
        found.append(Scenario(name, partial(planted_pair, seeds=seeds, effect=effect), promised))
    return found
