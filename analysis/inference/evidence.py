"""The words of a claim's verdict, and the evidence for it."""

import math
from collections.abc import Sequence

import numpy as np

from mixsweep.analysis.frames import Part
from mixsweep.analysis.inference.claim_types import Question
from mixsweep.analysis.inference.comparisons import ENDED, Compared, Comparison, comparison
from mixsweep.analysis.inference.effects import more_seeds
from mixsweep.analysis.inference.procedures.blocks import Blocks, Pairs
from mixsweep.analysis.inference.procedures.decisions import Decision
from mixsweep.analysis.inference.procedures.looks import Looks, look_after
from mixsweep.analysis.inference.procedures.pair_tests import pooled_error
from mixsweep.analysis.inference.statistics import (
    ALPHA,
    CONTRADICTED,
    MIN_SEEDS,
    NOT_SUPPORTED,
    SUPPORTED,
    UNDECIDED,
)
from mixsweep.analysis.inference.wording import (
    axis_words,
    difference_text,
    improvement_text,
    listing,
    metric_words,
    p_text,
    seeds_text,
    value_label,
)

_LATE = "written after the data"


def verdict_words(question: Question, decision: Decision) -> str:
    """The verdict as shown, with what an undecided one waits for."""
    words = decision.kind
    if decision.kind == UNDECIDED:
        assert question.compared is not None
        assert question.hypothesis is not None
        assert decision.evidence is not None
        ended = int(question.trials["state"].isin(ENDED).sum())
        pairs = question.compared.blocks.pairs(question.hypothesis.pairs)
        words = obstacle(
            question.compared.blocks,
            pairs,
            decision.evidence.looks,
            decision.level,
            ended,
            len(question.trials),
        )
    return f"{words} ({_LATE})" if question.late else words


def obstacle(blocks: Blocks, pairs: Pairs, looks: Looks, level: float, ended: int, count: int) -> str:
    """`undecided`, and why: unfinished trials, too few seeds, a stopping rule, or a primary claim before it."""
    if ended < count and blocks.ready < int(looks.first.max()):
        return f"{UNDECIDED} so far ({ended} of {count} trials finished)"
    if blocks.seeds < MIN_SEEDS:
        return f"{UNDECIDED}: {MIN_SEEDS} seeds needed"
    if pairs.is_stopped.any():
        epochs = sorted({int(e) for e in pairs.stopped[pairs.stopped > 0]})
        return f"{UNDECIDED}: stopped at epoch {listing(map(str, epochs))}"
    if looks.first.max() > blocks.ready:
        return f"{UNDECIDED}: {int(looks.first.max())} seeds needed"
    return f"{UNDECIDED}: it is secondary, and the primary claim comes first"


def comparisons_of(question: Question, decision: Decision) -> list[Comparison]:
    """The comparisons of a claim, each with its own p-value over all looks."""
    compared, hypothesis, evidence = question.compared, question.hypothesis, decision.evidence
    assert compared is not None
    assert hypothesis is not None
    assert evidence is not None
    pairs, looks = compared.blocks.pairs(hypothesis.pairs), evidence.looks
    found = []
    for row, (a, b) in enumerate(hypothesis.pairs):
        names = value_label(question.axis, compared.keys[a]), value_label(question.axis, compared.keys[b])
        p_value = float(min(looks.greater[row], looks.less[row]))
        p_value = min(1.0, p_value if question.kind == "alike" else 2 * p_value)
        note = "; ".join(notes_on(compared, (a, b), names))
        outcome = _outcome(question, decision, row)
        found.append(comparison(names[0], names[1], pairs, row, compared.sign, p_value, outcome, note))
    return found


def _outcome(question: Question, decision: Decision, row: int) -> int | None:
    """1 where a comparison goes as claimed, −1 where it is decided the other way."""
    assert decision.evidence is not None
    assert question.hypothesis is not None
    looks = decision.evidence.looks
    if decision.kind == UNDECIDED and looks.decided_at[row] == 0:
        return None
    if decision.kind == SUPPORTED:
        return 1
    share = len(question.hypothesis.pairs) * (1 if question.kind == "alike" else 2)  # of a one-sided p-value
    other_way = share * float(looks.less[row]) <= max(decision.level, ALPHA * (decision.kind == CONTRADICTED))
    if decision.kind == CONTRADICTED and (other_way or looks.less[row] == looks.less.min()):
        return -1
    return 0


def notes_on(compared: Compared, pair: tuple[int, int], names: tuple[str, str]) -> list[str]:
    """What a comparison does not rest on: divergence, stops, failures, and combinations of one side alone."""
    blocks = compared.blocks
    a, b = pair
    both = (blocks.planned[a] & blocks.planned[b]).any(axis=1)  # cells
    found = []
    for value, name in zip(pair, names):
        planned = blocks.planned[value] & both[:, None]
        diverged = int((np.isneginf(blocks.figures[value]) & planned).sum())
        stopped = int(((blocks.stopped[value] > 0) & planned).sum())
        count = int(planned.sum())
        if diverged:
            found.append(
                f"{name} diverged in {diverged} of {count} trials, which counts as worse than any figure"
            )
        if stopped:
            found.append(f"{name} was stopped early in {stopped} of {count} trials")
        alone = [
            cell for cell, has, shared in zip(compared.cells, blocks.planned[value].any(axis=1), both)
            if has and not shared
        ]  # fmt: skip
        if alone:
            cells = ", ".join(alone[:3])
            more = f" and {len(alone) - 3} others" if len(alone) > 3 else ""
            found.append(f"only {name} has {cells}{more}, left out")
    return found


def evidence_of(part: Part, question: Question, decision: Decision, compared: Sequence[Comparison]) -> str:
    """The evidence for a verdict: the comparison least in the claim's favour, with its interval."""
    assert question.compared is not None
    assert question.hypothesis is not None
    involved = question.trials
    notes = list(dict.fromkeys(note for c in compared for note in c.note.split("; ") if note))
    sentences = _measured(question, decision, compared)
    if not sentences and not notes:
        sentences.append("No seed has a figure on both sides.")
    if len(compared) and question.compared.blocks.seeds < MIN_SEEDS:
        sentences.append(f"{MIN_SEEDS} seeds are the least that can decide.")
    sentences += _looks_words(question, decision)
    others = part.others(question.axis, involved)
    if others:
        sentences.append(f"Averaged over {listing(axis_words(other) for other in others)}.")
    if with_it := [axis_words(other) for other in part.axes if other not in (question.axis, *others)]:
        words = listing(with_it)
        sentences.append(f"{words[0].upper()}{words[1:]} {'goes' if len(with_it) == 1 else 'go'} with it.")
    if notes:
        sentences.append("; ".join(notes) + ".")  # begins with a value's name, as it is written
    failed = int((involved["state"] == "failed").sum())
    if failed:
        sentences.append(f"{failed} failed {'trial is' if failed == 1 else 'trials are'} left out.")
    if question.late:
        count = question.hypothesis.choices
        sentences.append(
            f"Written after the first trial started: corrected as one of {count} claims that could have been made, "
            "on pairs of values of all fields and on all metrics."
        )
    return " ".join(sentences)


def _measured(question: Question, decision: Decision, compared: Sequence[Comparison]) -> list[str]:
    measured = [c for c in compared if c.difference is not None]
    if not measured:
        return []
    assert question.compared is not None
    sign = question.compared.sign

    def favour(c: Comparison) -> float:
        mean = c.difference.interval.mean if c.difference else math.inf
        return -abs(mean) if question.kind == "alike" else sign * mean

    nearest = min(measured, key=favour)
    difference = nearest.difference
    assert difference is not None
    words = f"{difference_text(question.metric, difference.interval)}, {seeds_text(difference.n)}"
    if decision.p_value < 1:
        words += f", p {p_text(decision.p_value)} after correction"
    lead = f"{_lead(question, decision, compared, sign)}{nearest.a} against {nearest.b}"
    found = [f"{lead}: paired difference in {metric_words(question.metric)} {words}."]
    if nearest.improvement is not None and question.kind != "alike":
        found[0] = found[0][:-1] + f"; {improvement_text(nearest.improvement, nearest.a)}."
    if decision.kind not in (SUPPORTED, CONTRADICTED) and (more := _forecast(question, decision, nearest)):
        found.append(more)
    return found


def _looks_words(question: Question, decision: Decision) -> list[str]:
    """On what a verdict rests beside the figures that are shown: a pooled error, and fewer seeds."""
    compared, evidence = question.compared, decision.evidence
    assert compared is not None
    assert evidence is not None
    assert question.hypothesis is not None
    blocks, found = compared.blocks, []
    if question.hypothesis.pooled:
        found += _error_words(blocks, question.hypothesis.pairs, evidence.looks.decided_at)
    looked = evidence.looks.decided_at
    if decision.level > 0 and 0 < looked.max() < blocks.ready:
        last, coming = int(looked.max()), look_after(int(evidence.looks.first.max()), blocks.ready)[0]
        more = f"; the next look is at {coming}" if decision.kind in (NOT_SUPPORTED, UNDECIDED) else ""
        found.append(f"The verdict is that of the first {last} seeds{more}.")
    return found


def _error_words(blocks: Blocks, pairs: Sequence[tuple[int, int]], decided_at: np.ndarray) -> list[str]:
    """Which comparisons [pairs] the pooled error could be used for, at the looks that count."""
    if not decided_at.any():
        return []
    pools = {int(seeds): pooled_error(blocks, int(seeds)) for seeds in set(decided_at.tolist())}
    counts = [
        int(pool.values.sum())
        for (a, b), seeds in zip(pairs, decided_at.tolist())
        if (pool := pools[seeds]) is not None and pool.values[a] and pool.values[b]
    ]
    if not counts:
        return [
            "Tested with each comparison's own error: a pooled one needs three values or more with the same "
            "trials, all of them completed."
        ]
    own = len(pairs) - len(counts)
    more = f"; {own} of {len(pairs)} comparisons with their own" if own else ""
    return [f"Tested with an error pooled over {max(counts)} values, as declared before the run{more}."]


def _lead(question: Question, decision: Decision, compared: Sequence[Comparison], sign: int) -> str:
    """How many comparisons go as claimed, before the one that is named."""
    count = len(compared)
    if count == 1:
        return ""
    if question.kind == "alike":
        return "Farthest apart, "
    if decision.kind == SUPPORTED:
        return f"Better in all {count} comparisons; nearest, "
    means = [c.difference.interval.mean for c in compared if c.difference is not None]
    ahead = sum(sign * mean > 0 for mean in means)
    word = "Higher" if sign > 0 else "Lower"
    return f"{word} in {'all' if ahead == count else f'{ahead} of'} {count} comparisons; least so, "


def _forecast(question: Question, decision: Decision, nearest: Comparison) -> str:
    """How many more seeds would show what is seen, if it is so."""
    difference = nearest.difference
    evidence, compared = decision.evidence, question.compared
    assert difference is not None
    assert evidence is not None
    assert compared is not None
    assert question.hypothesis is not None
    blocks, first = compared.blocks, int(evidence.looks.first.max())
    has_spread = difference.n > 1 and not math.isnan(difference.interval.low)
    if question.kind == "alike" or not has_spread or not decision.level or blocks.pending.any():
        return ""
    if blocks.pairs(question.hypothesis.pairs).is_stopped.any():  # more seeds would not decide it
        return ""
    deviation, values = difference.deviation, 2
    pool = pooled_error(blocks, blocks.ready) if question.hypothesis.pooled else None
    if pool is not None and not pool.unequal:
        deviation, values = math.sqrt(2 * pool.variance), int(pool.values.sum())
    effect = compared.sign * difference.interval.mean
    more = more_seeds(effect, deviation, blocks.seeds, first, decision.level / 2, values)
    if more is None:
        return ""
    seeds = "1 more seed shows" if more == 1 else f"{more} more seeds show"
    return f"If the difference is as large as it looks, about {seeds} it with 80 % power."
