"""The scenarios of the campaign: what is drawn, what is claimed, and when a report is read.

A scenario draws one sweep: the truth, and the cases of each report in the order in which they are read. Unless it says
otherwise there are five values without any difference and three seeds, figures are normal with standard deviation 1
beside what a seed's replicas share, and one claim says that the first value is best, beside the answer.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from mixsweep.analysis.inference.procedures.blocks import Blocks, all_pairs
from mixsweep.analysis.inference.procedures.decisions import Case, Decision
from mixsweep.analysis.inference.procedures.hypotheses import Hypothesis
from mixsweep.analysis.inference.statistics import CONTRADICTED, SUPPORTED
from mixsweep.sweep.planning.schema import Stopping
from tests.analysis.simulation.sweeps import Truth, blocks_of, reveal, run_asha

Random = np.random.Generator
FAR = -50.0  # a value that is far below the others


@dataclass(frozen=True)
class Report:
    """The cases of one reading of a report, and what is true of each one's values."""

    cases: tuple[Case, ...]
    truths: tuple[Truth, ...]


# Draws a sweep; yields its reports, and is sent the decisions on each.
Sweep = Iterator[Report]
Draw = Callable[[Random], "Sweep"]
DecidedSoFar = dict[int, Decision]


@dataclass(frozen=True)
class Scenario:
    """A kind of sweep, and what is measured: false verdicts, or the power to support the first claim."""

    name: str
    draw: Callable[[Random, DecidedSoFar], Sweep]
    forecast: float | None = None  # of a planted effect: the power that is promised


def best_of(values: int, pooled: bool = False) -> Hypothesis:
    """The claim that the first value is best."""
    return Hypothesis(kind="better", pairs=all_pairs([0], range(1, values)), pooled=pooled)


def report(blocks: Blocks, means: np.ndarray, pooled: bool = False, primary: bool = False) -> Report:
    """One claim that the first value is best, and the answer."""
    claim = Case(blocks=blocks, hypothesis=best_of(len(means), pooled), primary=primary)
    return Report((claim, Case(blocks=blocks, pooled=pooled)), (Truth(means),) * 2)


def normal(rng: Random, means: np.ndarray, seeds: int, deviations: np.ndarray | float = 1.0) -> np.ndarray:
    """Figures [values, seeds] about means [values], with a part of a seed's that its replicas share."""
    own = rng.normal(size=(len(means), seeds)) * np.broadcast_to(deviations, len(means))[:, None]
    return means[:, None] + own + rng.normal(size=seeds)


def complete(
    rng: Random,
    _: DecidedSoFar,
    *,
    seeds: int = 3,
    values: int = 5,
    pooled: bool = False,
    primary: bool = False,
    means: tuple[float, ...] = (),
    deviations: tuple[float, ...] = (1.0,),
) -> Sweep:
    """All trials complete."""
    at = np.array(means) if means else np.zeros(values)
    spread = np.array(
        deviations + (1.0,) * (len(at) - len(deviations)) if len(deviations) > 1 else deviations
    )
    yield report(blocks_of(normal(rng, at, seeds, spread)), at, pooled, primary)


def heavy(rng: Random, _: DecidedSoFar, *, seeds: int, freedom: float, pooled: bool = False) -> Sweep:
    """Student's t instead of the normal distribution."""
    yield report(blocks_of(rng.standard_t(freedom, size=(5, seeds))), np.zeros(5), pooled)


def diverging(
    rng: Random, _: DecidedSoFar, *, seeds: int, share: float, by_seed: bool = False, values: int = 5
) -> Sweep:
    """A share of the trials diverges; `by_seed`: half of the seeds do so far more often."""
    figures = normal(rng, np.zeros(values), seeds)
    chance = np.full(seeds, share)
    if by_seed:
        chance = np.where(rng.random(seeds) < 0.5, min(1.0, 1.8 * share), 0.2 * share)
    figures[rng.random(figures.shape) < chance] = -np.inf
    yield report(blocks_of(figures), np.zeros(values))


def failing(rng: Random, _: DecidedSoFar, *, seeds: int, share: float, retried: bool) -> Sweep:
    """A share of the trials fails; `retried`: a report is read, then they run again and complete."""
    figures = normal(rng, np.zeros(5), seeds)
    failed = rng.random(figures.shape) < share
    yield report(blocks_of(np.where(failed, np.nan, figures)), np.zeros(5))
    if retried:
        yield report(blocks_of(figures), np.zeros(5))


def read_often(rng: Random, _: DecidedSoFar, *, seeds: int) -> Sweep:
    """A report after every trial, which end in any order; some diverge, some fail."""
    figures = normal(rng, np.zeros(5), seeds)
    ends = rng.random(figures.shape)
    figures = np.where(ends < 0.03, -np.inf, np.where(ends < 0.06, np.nan, figures))
    order = rng.permutation(figures.size).tolist()
    for ended in range(1, len(order) + 1):
        shown, pending = reveal(figures, order, ended)
        yield report(blocks_of(shown, pending=pending), np.zeros(5))


def more_evidence(
    rng: Random, decided: DecidedSoFar, *, declared: int, most: int, pooled: bool = False, share: float = 0.0
) -> Sweep:
    """Seeds are added one by one, and a report read after each, until both are decided or a budget is spent."""
    figures = normal(rng, np.zeros(5), most)
    figures[rng.random(figures.shape) < share] = -np.inf
    for seeds in range(declared, most + 1):
        yield report(blocks_of(figures[:, :seeds], declared=declared), np.zeros(5), pooled)
        if decided and all(one.kind in (SUPPORTED, CONTRADICTED) for one in decided.values()):
            return


def asha(rng: Random, _: DecidedSoFar, *, seeds: int, crossing: float = 0.0, often: bool = False) -> Sweep:
    """ASHA over nine epochs; `crossing`: the first value begins so much lower and ends so much higher."""
    means = np.zeros(5)
    means[0] = crossing
    progress = np.linspace(-1, 1, 9)
    curves = normal(rng, np.zeros(5), seeds)[:, :, None] + 0.3 * rng.normal(size=(5, seeds, 9))
    curves[0] += crossing * progress
    order = np.concatenate([seed + seeds * rng.permutation(5) for seed in range(seeds)]).tolist()
    rule = Stopping(rule="asha", grace_epochs=1, reduction_factor=3.0)
    figures, stopped = run_asha(curves, order, rule, at_once=2)
    claims = [best_of(5), Hypothesis(kind="better", pairs=((1, 0),))]
    for ended in range(1, len(order) + 1) if often else [len(order)]:
        shown, pending = reveal(figures, order, ended)
        blocks = blocks_of(shown, pending=pending, stopped=np.where(pending, 0, stopped))
        cases = (*(Case(blocks=blocks, hypothesis=one) for one in claims), Case(blocks=blocks))
        yield Report(cases, (Truth(means),) * len(cases))


def study(
    rng: Random,
    _: DecidedSoFar,
    *,
    seeds: int,
    primary: bool = False,
    planted: float = 0.0,
    pooled: bool = False,
) -> Sweep:
    """Four parts of four values with three claims each; `planted`: the last value of each is so much lower."""
    cases: list[Case] = []
    means = np.array([0.0, 0.0, 0.0, -planted])
    for part in range(4):
        blocks = blocks_of(normal(rng, means, seeds))
        kinds = (
            best_of(4, pooled),
            Hypothesis(kind="better", pairs=((1, 2),), pooled=pooled),
            Hypothesis(kind="monotone", pairs=((1, 0), (2, 1), (3, 2)), pooled=pooled),
        )
        cases += [
            Case(blocks=blocks, hypothesis=one, primary=primary and part == 0 and n == 0)
            for n, one in enumerate(kinds)
        ]
        cases.append(Case(blocks=blocks, pooled=pooled))
    yield Report(tuple(cases), (Truth(means),) * len(cases))


def alike(
    rng: Random, _: DecidedSoFar, *, seeds: int, apart: float, values: int = 2, noise: float = 0.5
) -> Sweep:
    """Values claimed alike within 1, of which the first is so much higher."""
    means = np.zeros(values)
    means[0] = apart
    pairs = tuple((a, b) for a in range(values) for b in range(a + 1, values))
    blocks = blocks_of(normal(rng, means, seeds, noise))
    yield Report(
        (Case(blocks=blocks, hypothesis=Hypothesis(kind="alike", pairs=pairs, margin=1.0)),), (Truth(means),)
    )


def trend(rng: Random, _: DecidedSoFar, *, seeds: int, means: tuple[float, ...]) -> Sweep:
    """Values claimed to rise."""
    at = np.array(means)
    claim = Hypothesis(kind="monotone", pairs=tuple((n + 1, n) for n in range(len(at) - 1)))
    yield Report((Case(blocks=blocks_of(normal(rng, at, seeds)), hypothesis=claim),), (Truth(at),))


def written_after(rng: Random, _: DecidedSoFar, *, seeds: int) -> Sweep:
    """A claim written after the data: that the value seen best is better than the one seen worst."""
    figures = normal(rng, np.zeros(5), seeds)
    order = figures.mean(axis=1).argsort()
    claim = Hypothesis(kind="better", pairs=((int(order[-1]), int(order[0])),), choices=10)
    blocks = blocks_of(figures)
    yield Report((Case(blocks=blocks, hypothesis=claim), Case(blocks=blocks)), (Truth(np.zeros(5)),) * 2)


def planted_pair(rng: Random, _: DecidedSoFar, *, seeds: int, effect: float) -> Sweep:
    """One primary claim on two values; the effect is in standard deviations of a paired difference."""
    means = np.array([effect * np.sqrt(2), 0.0])
    claim = Case(blocks=blocks_of(normal(rng, means, seeds)), hypothesis=best_of(2), primary=True)
    yield Report((claim,), (Truth(means),))


_TIE = (0.0, 0.0, FAR, FAR, FAR)
_UNEQUAL: Mapping[str, tuple[float, ...]] = {
    "both 3 to 1": (3.0, 3.0),
    "the claimed one 3 to 1": (3.0, 1.0),
    "the other 3 to 1": (1.0, 3.0),
    "the ones far below 3 to 1": (1.0, 1.0, 3.0, 3.0, 3.0),
}


def false_verdicts() -> list[Scenario]:
    """The scenarios in which verdicts on what is not there are counted."""
    found = [
        Scenario("all complete, 3 seeds", complete),
        Scenario("all complete, 5 seeds", partial(complete, seeds=5)),
        Scenario("all complete, 3 seeds, one primary claim", partial(complete, primary=True)),
        Scenario("all complete, 3 seeds, pooled error", partial(complete, pooled=True)),
        Scenario(
            "all complete, 2 values, 3 seeds, one primary claim", partial(complete, values=2, primary=True)
        ),
        Scenario("all complete, 20 values, 3 seeds", partial(complete, values=20)),
    ]
    for share in (0.05, 0.2, 0.5, 0.8):
        for seeds in (3, 8):
            name = f"{100 * share:.0f} % diverge, {seeds} seeds"
            found.append(Scenario(name, partial(diverging, share=share, seeds=seeds)))
        name = f"{100 * share:.0f} % diverge, by seed, 8 seeds"
        found.append(Scenario(name, partial(diverging, share=share, seeds=8, by_seed=True)))
    found += [
        Scenario("20 % diverge, 2 values, 10 seeds", partial(diverging, share=0.2, seeds=10, values=2)),
        Scenario("ASHA, 3 seeds", partial(asha, seeds=3)),
        Scenario("ASHA, 5 seeds", partial(asha, seeds=5)),
        Scenario("ASHA, 5 seeds, report after every trial", partial(asha, seeds=5, often=True)),
        Scenario("ASHA, a value begins 3 lower and ends 3 higher, 5 seeds", partial(asha, seeds=5, crossing=3.0)),
        Scenario("20 % fail, 3 seeds", partial(failing, seeds=3, share=0.2, retried=False)),
        Scenario("20 % fail, 5 seeds", partial(failing, seeds=5, share=0.2, retried=False)),
        Scenario("20 % fail and run again, 5 seeds", partial(failing, seeds=5, share=0.2, retried=True)),
        Scenario("report after every trial, 3 seeds", partial(read_often, seeds=3)),
        Scenario("report after every trial, 5 seeds", partial(read_often, seeds=5)),
        Scenario("more evidence, 3 to 12 seeds", partial(more_evidence, declared=3, most=12)),
        Scenario("more evidence, 3 to 12 seeds, pooled", partial(more_evidence, declared=3, most=12, pooled=True)),
        Scenario("more evidence, 3 to 12 seeds, 5 % diverge",
                 partial(more_evidence, declared=3, most=12, share=0.05)),
        Scenario("more evidence, 5 to 12 seeds", partial(more_evidence, declared=5, most=12)),
        Scenario("16 claims and answers in 4 parts, 3 seeds", partial(study, seeds=3)),
        Scenario("16 claims and answers in 4 parts, 5 seeds", partial(study, seeds=5)),
        Scenario("16 in 4 parts, 3 seeds, pooled, the last value far below",
                 partial(study, seeds=3, planted=50.0, pooled=True)),
        Scenario("16 in 4 parts, one primary, 5 seeds", partial(study, seeds=5, primary=True)),
    ]  # fmt: skip
    for seeds in (3, 5):
        for pooled in (False, True):
            words = f"{seeds} seeds, one primary claim{', pooled' if pooled else ''}"
            common = {"seeds": seeds, "pooled": pooled, "primary": True}
            found.append(Scenario(f"the two best tie, {words}", partial(complete, means=_TIE, **common)))
            for name, deviations in _UNEQUAL.items():
                tied = partial(complete, means=_TIE, deviations=deviations, **common)
                found.append(Scenario(f"the two best tie, {name}, {words}", tied))
        found += [
            Scenario(f"heavy tails (t, 3), {seeds} seeds", partial(heavy, seeds=seeds, freedom=3)),
            Scenario(f"heavy tails (t, 2), {seeds} seeds, pooled",
                     partial(heavy, seeds=seeds, freedom=2, pooled=True)),
            Scenario(f"alike, apart by the margin, {seeds} seeds", partial(alike, seeds=seeds, apart=1.0)),
            Scenario(f"alike, 3 values, apart by the margin, {seeds} seeds",
                     partial(alike, seeds=seeds, apart=1.0, values=3)),
            Scenario(f"monotone, no trend, {seeds} seeds", partial(trend, seeds=seeds, means=(0.0,) * 4)),
            Scenario(f"monotone, a peak of 1, {seeds} seeds",
                     partial(trend, seeds=seeds, means=(0.0, 1.0, 2.0, 1.0))),
            Scenario(f"claim written after the data, {seeds} seeds", partial(written_after, seeds=seeds)),
        ]  # fmt: skip
    return found
