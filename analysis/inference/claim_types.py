"""What a claim of a sweep file says: the values that it compares, on which metric, and as which hypothesis."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any

import pandas as pd

from mixsweep.analysis.frames import Part, plain, values_of
from mixsweep.analysis.inference.comparisons import Compared, compare_values
from mixsweep.analysis.inference.procedures.blocks import all_pairs
from mixsweep.analysis.inference.procedures.hypotheses import Hypothesis
from mixsweep.analysis.inference.timing import why_not_timed
from mixsweep.analysis.inference.wording import axis_words, listing, value_label

# The keys of which a claim has one, with the order that they are looked for.
KINDS = ("better", "worse", "best", "worst", "alike", "monotone", "faster")


@dataclass(frozen=True, eq=False)
class Question:
    """A claim that can be tested, or the reason why it cannot.

    Args:
        pairs: of positions in `compared`; the first is claimed better, or alike.
        trials: those that it compares.
        refused: why it cannot be tested, '' if it can.
    """

    text: str
    kind: str
    axis: str
    metric: str
    mode: str
    trials: pd.DataFrame
    compared: Compared | None = None
    hypothesis: Hypothesis | None = None
    primary: bool = False
    late: bool = False
    refused: str = ""


def read_claim(part: Part, number: int, frame: pd.DataFrame, trials: pd.DataFrame) -> Question:
    """The question that a claim of a part asks.

    Args:
        number: its position among the part's claims.
    """
    claim = part.claims[number]
    kind = next((name for name in KINDS if name in claim), "better")
    late = number in part.late
    metric, mode = _metric(part, claim, kind)
    question = Question(
        text=str(claim.get("text", "")),
        kind=kind,
        axis=str(claim["compare"]),
        metric=metric,
        mode=mode,
        trials=trials,
        primary=bool(claim.get("primary", False)) and not late,
        late=late,
    )
    if not mode:
        return replace(question, refused=f"It is not known whether more {metric} is better; give its mode.")
    is_known = metric in frame or metric in trials or frame.empty
    if question.axis not in trials or not is_known:
        return replace(question, refused=f"No trial has {question.axis} and {metric}.")
    trials = _in_the_claims_words(part, claim, question.axis, trials)
    sides = _sides(claim, kind, values_of(trials, question.axis))
    return _ask(part, claim, question, sides, frame, trials)


def _ask(
    part: Part,
    claim: Mapping[str, Any],
    question: Question,
    sides: tuple[list[Any], list[Any]],
    frame: pd.DataFrame,
    trials: pd.DataFrame,
) -> Question:
    axis, (left, right) = question.axis, sides
    known = values_of(trials, axis)
    missing = [value_label(axis, v) for v in dict.fromkeys([*left, *right]) if v not in known]
    if missing:
        return replace(question, refused=f"The plan has no {axis_words(axis)} {listing(missing)}.")
    pooled = str(claim.get("error", part.error)) == "pooled" and not question.late
    named = trials[axis].map(plain)
    involved = trials[named.isin([*left, *right])]
    used = trials if pooled else involved
    compared = compare_values(part, axis, question.metric, question.mode, frame, used)
    pairs = _pairs(question.kind, claim, compared, left, right)
    if not pairs:
        return replace(question, refused="Nothing to compare with.", trials=involved)
    timed = question.kind == "faster" or question.metric in part.trainable.second_metrics
    if timed and (why := why_not_timed(part, axis, [*left, *right], frame, involved)):
        return replace(question, refused=why, trials=involved)
    types = {"alike": "alike", "monotone": "monotone"}
    hypothesis = Hypothesis(
        kind=types.get(question.kind, "better"),
        pairs=pairs,
        margin=float(claim.get("within", 0.0)),
        pooled=pooled,
        choices=_choices(part, question.metric, trials) if question.late else 1,
    )
    return replace(question, trials=involved, compared=compared, hypothesis=hypothesis)


def _choices(part: Part, metric: str, trials: pd.DataFrame) -> int:
    """How many claims could be chosen by the data: on a pair of values of any field, on any metric."""
    pairs = sum(math.comb(len(values_of(trials, axis)), 2) for axis in part.axes)
    return max(1, pairs) * len({metric, *part.trainable.objectives})


def _metric(part: Part, claim: Mapping[str, Any], kind: str) -> tuple[str, str]:
    """What a claim is tested on, and its mode; '' where nobody says it."""
    seconds = part.trainable.second_metrics
    default = seconds[0] if kind == "faster" and seconds else part.metric
    metric = str(claim.get("metric", default))
    if "mode" in claim:
        return metric, str(claim["mode"])
    if kind == "faster":
        return metric, "min"
    if metric == part.metric:
        return metric, part.mode
    return metric, part.trainable.better(metric) if part.trainable.has_better(metric) else ""


def _sides(claim: Mapping[str, Any], kind: str, known: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The values that are claimed better, and those that they are compared with."""
    if kind == "monotone":
        return list(known), list(known)
    chosen = claim[kind]
    if kind == "alike":
        values = list(known) if chosen == "all" else _values(chosen, known)
        return values, values
    named = _values(chosen, known)
    than = claim.get("than", "rest")
    others = [v for v in known if v not in named] if than == "rest" else _values(than, known)
    return (others, named) if kind in ("worse", "worst") else (named, others)


def _pairs(
    kind: str, claim: Mapping[str, Any], compared: Compared, left: Sequence[Any], right: Sequence[Any]
) -> tuple[tuple[int, int], ...]:
    if kind == "alike":
        return tuple(combinations([compared.index(v) for v in left], 2))
    if kind == "monotone":
        order = [compared.index(v) for v in left]
        rises = (claim["monotone"] == "increasing") == (compared.sign > 0)
        order = order if rises else order[::-1]
        return tuple((b, a) for a, b in pairwise(order))
    return all_pairs([compared.index(v) for v in left], [compared.index(v) for v in right])


def _in_the_claims_words(
    part: Part, claim: Mapping[str, Any], axis: str, trials: pd.DataFrame
) -> pd.DataFrame:
    """The trials, where a value that the claim has under another name is named as the claim does."""
    known = values_of(trials, axis)
    given = [v for key in (*KINDS, "than") if key in claim for v in _values(claim[key], known)]
    words = ("rest", "all", claim.get("monotone"))
    other_names = [value for value in given if value not in known and value not in words]
    if not other_names:
        return trials

    def named(row: Mapping[Any, Any]) -> Any:
        same = (name for name in other_names if part.trainable.own_value(axis, name, row) == row[axis])
        return next(same, row[axis])

    return trials.assign(**{axis: [named(row) for row in trials.to_dict("records")]})


def _values(given: Any, known: Sequence[Any]) -> list[Any]:
    """A claim's value or values; a list is one value if the axis's own values are lists."""
    value = plain(given)
    if not isinstance(value, tuple) or value in known:
        return [value]
    return list(value)
