"""The verdicts of a comparison of two sweeps, from its figures."""

import math
from collections.abc import Sequence
from dataclasses import replace

from mixsweep.analysis.comparing.equivalence import seeds_needed
from mixsweep.analysis.comparing.results import SweepComparison, TrialComparison, ValueComparison
from mixsweep.analysis.comparing.wording import (
    CHANGED,
    IDENTICAL,
    UNCHANGED,
    UNDECIDED,
    margin_text,
    seeds_words,
)
from mixsweep.analysis.inference.statistics import ALPHA, MIN_SEEDS
from mixsweep.analysis.inference.wording import difference_text, listing, metric_words

_NAMED = 3  # values in a verdict


def judged(value: ValueComparison, trials: Sequence[TrialComparison], margin: float) -> ValueComparison:
    """A value with its kind, and what keeps it from being decided."""
    if trials and all(trial.is_equal for trial in trials):
        return replace(value, kind=IDENTICAL)
    note = _ends_note(trials)
    apart = any(trial.ends_apart for trial in trials)
    if _is_below(value.p_equivalent) and not apart:
        return replace(value, kind=UNCHANGED, note=note)
    if _is_below(value.p_holm):
        return replace(value, kind=CHANGED, note=note)
    both_diverge = sum(trial.state_a == trial.state_b == "diverged" for trial in trials)
    if both_diverge == len(trials) >= MIN_SEEDS:
        return replace(value, kind=UNCHANGED, note="diverges on both sides")
    if value.difference is None:
        return replace(value, kind=UNDECIDED, note=note or "no finished pair")
    return replace(value, kind=UNDECIDED, note=note, seeds_needed=seeds_needed(value.difference, margin))


def _is_below(p_value: float) -> bool:
    return not math.isnan(p_value) and p_value < ALPHA


def _ends_note(trials: Sequence[TrialComparison]) -> str:
    """The trials that did not complete on both sides, counted."""
    words = []
    for state, verb in (("diverged", "diverges"), ("failed", "fails")):
        for name, mine, other in (("A", "state_a", "state_b"), ("B", "state_b", "state_a")):
            count = sum(getattr(t, mine) == state != getattr(t, other) for t in trials)
            words += [f"{count} {verb} in {name} alone"] if count else []
        both = sum(t.state_a == t.state_b == state for t in trials)
        words += [f"{both} {verb} on both sides"] if both else []
    stopped = [t for t in trials if "stopped" in (t.state_a, t.state_b)]
    if stopped:
        epochs = sorted({n for t in stopped for s, n in _ends(t) if s == "stopped"})
        words.append(f"{len(stopped)} stopped at epoch {listing(map(str, epochs))}")
    left = sum(not t.has_finished and "failed" not in (t.state_a, t.state_b) for t in trials)
    words += [f"{left} not finished"] if left else []
    return ", ".join(words)


def _ends(trial: TrialComparison) -> tuple[tuple[str, int], tuple[str, int]]:
    return (trial.state_a, trial.epochs_a), (trial.state_b, trial.epochs_b)


def verdict_of(found: SweepComparison, p_ends: float) -> tuple[str, str]:
    """The kind of a comparison's verdict, and the verdict in words.

    Args:
        p_ends: corrected p-value that trials diverge as often on either side.
    """
    finished = sum(trial.has_finished for trial in found.trials)
    so_far = (
        "" if finished == len(found.trials) else f" so far ({finished} of {len(found.trials)} pairs finished)"
    )
    kinds = {value.kind for value in found.values}
    if kinds == {IDENTICAL}:
        return IDENTICAL, f"identical bit for bit: {_pairs(len(found.trials))}"
    if finished and all(trial.is_equal for trial in found.trials if trial.has_finished):
        return UNDECIDED, f"identical bit for bit{so_far}: {_ends_note(found.trials)}"
    if _is_below(p_ends):
        return CHANGED, f"changed{so_far}: {_ends_note(found.trials)}"
    changed = [value for value in found.values if value.kind == CHANGED]
    if not changed and found.overall is not None and found.overall.kind == CHANGED:
        changed = [found.overall]
    if changed:
        named = [_changed_words(found.metric, value) for value in changed[:_NAMED]]
        more = [f"{len(changed) - _NAMED} more"] if len(changed) > _NAMED else []
        return CHANGED, f"changed{so_far}: {listing([*named, *more])}"
    if kinds <= {IDENTICAL, UNCHANGED}:
        each = f", for each of {len(found.values)} values" if len(found.values) > 1 else ""
        return UNCHANGED, (
            f"nothing changed{so_far}: {metric_words(found.metric)} within ±{margin_text(found)}{each}"
        )
    return UNDECIDED, f"undecided{so_far}: {_what_is_needed(found)}"


def _what_is_needed(found: SweepComparison) -> str:
    """Why a comparison is undecided: how trials end, and the number of seeds of the value that needs most."""
    open_values = [value for value in found.values if value.kind == UNDECIDED]
    counted = [value for value in open_values if value.difference is not None]
    words = [_ends_note(found.trials)]
    if counted:
        few = [value for value in counted if value.seeds_needed is None]
        words.append(seeds_words(few[0] if few else max(counted, key=lambda v: v.seeds_needed or 0)))
    if found.overall is not None and found.overall.kind == UNCHANGED:
        words.append(f"on average over all values the difference is within ±{margin_text(found)}")
    return "; ".join(filter(None, words)) or "no pair has finished"


def _changed_words(metric: str, value: ValueComparison) -> str:
    assert value.difference is not None
    return " ".join(filter(None, (value.label, difference_text(metric, value.difference.interval))))


def _pairs(count: int) -> str:
    return "the one pair of trials" if count == 1 else f"all {count} pairs of trials"
