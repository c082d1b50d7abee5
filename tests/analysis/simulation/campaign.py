"""Runs scenarios and counts: sweeps with a false verdict, and claims that are rightly supported."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv

from mixsweep.analysis.inference.procedures.decisions import Decision, decide
from mixsweep.analysis.inference.statistics import ALPHA, SUPPORTED
from tests.analysis.simulation.scenarios import Scenario

BLOCK = 500  # sweeps that share a stream of random numbers


@dataclass(frozen=True)
class Rate:
    """A share of sweeps, with its exact 95 % interval (Clopper and Pearson)."""

    count: int
    sweeps: int

    @property
    def share(self) -> float:
        return self.count / self.sweeps

    @property
    def low(self) -> float:
        return float(betaincinv(self.count, self.sweeps - self.count + 1, 0.025)) if self.count else 0.0

    @property
    def high(self) -> float:
        if self.count == self.sweeps:
            return 1.0
        return float(betaincinv(self.count + 1, self.sweeps - self.count, 0.975))

    def __str__(self) -> str:
        return f"{100 * self.share:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class Counted:
    """The sweeps of a scenario with a false verdict, in any of their reports, and with the first claim supported."""

    scenario: Scenario
    claims: Rate
    answers: Rate
    any_false: Rate
    supported: Rate

    @property
    def holds(self) -> bool:
        """Whether no interval of false verdicts lies wholly above 5 %."""
        return all(rate.low <= ALPHA for rate in (self.claims, self.answers, self.any_false))


def run(scenario: Scenario, sweeps: int, seed: int) -> Counted:
    """Draw sweeps of a scenario and count; the same seed gives the same counts, whatever else is run."""
    counts = np.zeros(4, dtype=int)
    for number in range(0, sweeps, BLOCK):
        counts += count_block(scenario, number // BLOCK, min(BLOCK, sweeps - number), seed)
    return counted(scenario, counts, sweeps)


def count_block(scenario: Scenario, number: int, sweeps: int, seed: int) -> np.ndarray:
    """The counts of one block of sweeps [4]; a longer campaign has those of a shorter one."""
    own = int.from_bytes(hashlib.sha256(scenario.name.encode()).digest()[:4])
    rng = np.random.default_rng([seed, own, number])
    counts = np.zeros(4, dtype=int)
    for _ in range(sweeps):
        counts += _one(scenario, rng)
    return counts


def counted(scenario: Scenario, counts: np.ndarray, sweeps: int) -> Counted:
    """The rates of counts [4]: false claims, false answers, either, and the first claim supported."""
    return Counted(scenario, *(Rate(int(count), sweeps) for count in counts))


def _one(scenario: Scenario, rng: np.random.Generator) -> np.ndarray:
    """Whether one sweep has a false claim, a false answer, either, and its first claim supported."""
    in_claims = in_answers = supported = False
    decided: dict[int, Decision] = {}
    for report in scenario.draw(rng, decided):
        decisions = decide(report.cases)
        decided.update(enumerate(decisions))
        for case, truth, decision in zip(report.cases, report.truths, decisions, strict=True):
            wrong = truth.is_false(case, decision)
            in_claims |= wrong and case.hypothesis is not None
            in_answers |= wrong and case.hypothesis is None
        supported |= decisions[0].kind == SUPPORTED
    return np.array([in_claims, in_answers, in_claims or in_answers, supported], dtype=int)


def false_table(found: Sequence[Counted]) -> list[str]:
    """The lines of a Markdown table of false verdicts."""
    rows = [f"| {c.scenario.name} | {c.claims} | {c.answers} | {c.any_false} |" for c in found]
    return ["| sweep | claims | answer | either |", "|---|---|---|---|", *rows]


def power_table(found: Sequence[Counted]) -> list[str]:
    """The lines of a Markdown table of planted effects."""
    rows = []
    for one in found:
        promised = "–" if one.scenario.forecast is None else f"{100 * one.scenario.forecast:.1f} %"
        rows.append(f"| {one.scenario.name} | {one.supported} | {promised} | {one.any_false} |")
    return ["| planted effect | supported | forecast | false verdicts |", "|---|---|---|---|", *rows]
