"""Seeds for undecided claims alone: what one more round adds, until all are decided or the budget is spent.

When a claim may be looked at again is fixed (mixsweep.analysis.inference.procedures.looks): adding seeds until it
is decided makes no false verdicts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mixsweep.analysis.frames import Part, load, load_trials, parts
from mixsweep.analysis.inference.claims import Verdict, judge
from mixsweep.analysis.inference.statistics import CONTRADICTED, SUPPORTED
from mixsweep.core.formatting import rough_duration
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.plan import Plan
from mixsweep.sweep.search.extra_seeds import (
    Point,
    extra_seeds,
    filled_up,
    planned_with,
    record_round,
)

# Beyond the first, at 1.5 times as many seeds each: a claim that needs more is a matter of a new sweep.
MOST_LOOKS = 4

Seeds = dict[Point, int]


@dataclass(frozen=True)
class Step:
    """What a command does about the claims after its trials have ended.

    Args:
        added: whether there are more trials to run.
        text: what was found and done, in one line.
    """

    added: bool
    text: str


def add_seeds(plan: Plan, store: SweepStore, budget: float | None) -> Step:
    """Add the seeds that a sweep's undecided claims need for their next look, and record them in the store.

    Args:
        plan: of the sweep, all of whose trials have ended.
        budget: device-seconds that all added seeds may take, of earlier commands too; None: no limit.

    Raises:
        UserError: another command adds seeds to this sweep.
    """
    claims = [(part, verdict) for part, found in _verdicts(store) for verdict in found]
    undecided = [one for one in claims if one[1].kind not in (SUPPORTED, CONTRADICTED)]
    if not undecided:
        count = len(claims)
        return Step(False, f"{'The claim is' if count == 1 else f'All {count} claims are'} decided.")
    seeds, because, left_out = _affordable(plan, store, undecided, budget)
    if not seeds:
        return Step(False, left_out)
    known = extra_seeds(store)
    filled = filled_up(plan.spec, known, seeds)
    record_round(store, {point: own for point, own in filled.items() if own != known.get(point)}, because)
    trials = len(planned_with(plan, filled).trials) - len(plan.trials)
    most = max(seeds.values())
    return Step(True, f"{trials} more trials, up to {most} seeds, for: {'; '.join(because)}")


def _verdicts(store: SweepStore) -> list[tuple[Part, list[Verdict]]]:
    study = parts(store)
    judged = judge(study, load(store), load_trials(store))
    return [(part, judged.claims(part)) for part in study]


def _affordable(
    plan: Plan, store: SweepStore, undecided: list[tuple[Part, Verdict]], budget: float | None
) -> tuple[Seeds, tuple[str, ...], str]:
    """The seeds that claims can have within the budget, their texts, and why the others have none."""
    spent, each = _device_seconds(plan, store)
    seeds: Seeds = {}
    because: list[str] = []
    reasons: list[str] = []
    for part, verdict in sorted(undecided, key=lambda one: not one[1].primary):
        text = verdict.text or part.name
        if verdict.next_look is None:
            reasons.append(f"{text}: {_why_not_again(verdict)}")
            continue
        if verdict.next_look.number > MOST_LOOKS:
            reasons.append(f"{text}: undecided after {MOST_LOOKS} further looks")
            continue
        more = _with_claim(seeds, plan, part, verdict)
        known = {config.trial_id for config in plan.trials}
        rows = planned_with(plan, filled_up(plan.spec, extra_seeds(store), more)).rows
        cost = sum(each[row.part, row.point] for row in rows if row.trial_id not in known)
        if budget is not None and spent + cost > budget:
            used = f"{rough_duration(spent)} of {rough_duration(budget)} are spent"
            reasons.append(f"{text}: its next look would take {rough_duration(cost)}, and {used}")
            continue
        seeds = more
        because.append(text)
    return seeds, tuple(because), "; ".join(reasons)


def _why_not_again(verdict: Verdict) -> str:
    """Why a claim has no next look: it cannot be tested at all, or more seeds would not decide it."""
    if not verdict.comparisons:
        return verdict.evidence.removesuffix(".")
    return f"more seeds would not decide it ({verdict.verdict})"


def _with_claim(seeds: Mapping[Point, int], plan: Plan, part: Part, verdict: Verdict) -> Seeds:
    """Seeds by point, with those that a claim needs."""
    assert verdict.next_look is not None
    firsts = {(row.part, row.point): row.trial_id for row in plan.rows if row.replica == 0}
    more = dict(seeds)
    for point in verdict.next_look.points:
        key = (part.name, firsts[part.name, point])
        more[key] = max(more.get(key, 0), verdict.next_look.seeds)
    return more


def _device_seconds(plan: Plan, store: SweepStore) -> tuple[float, dict[tuple[str, int], float]]:
    """What seeds beyond the sweep file's have taken so far, and what a trial of each point takes on average."""
    trials = load_trials(store)
    extra = trials[trials["replica"] >= len(plan.spec.seeds)].drop_duplicates("trial_id")
    means = trials.groupby(["part", "point"])["device_seconds"].mean().reset_index()
    each = {
        (str(row["part"]), int(row["point"])): float(row["device_seconds"])
        for row in means.to_dict("records")
    }
    return float(extra["device_seconds"].sum()), each
