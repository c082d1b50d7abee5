"""The seeds at which an undecided claim is looked at next."""

from dataclasses import dataclass

import numpy as np

from mixsweep.analysis.frames import plain
from mixsweep.analysis.inference.claim_types import Question
from mixsweep.analysis.inference.procedures.decisions import Decision
from mixsweep.analysis.inference.procedures.looks import look_after
from mixsweep.analysis.inference.statistics import CONTRADICTED, MIN_SEEDS, SUPPORTED
from mixsweep.core.trainables.interface import COSTS


@dataclass(frozen=True)
class NextLook:
    """More seeds that an undecided claim needs.

    Args:
        points: the points of the comparisons that are not decided yet.
        seeds: how many seeds each of them has to have in all.
        number: of the look; 0 is the first one, at the declared seeds.
    """

    points: tuple[int, ...]
    seeds: int
    number: int


def next_look_of(question: Question, decision: Decision) -> NextLook | None:
    """The next look at a claim; None where it is decided, or where more seeds would not decide it.

    They would not where a stopping rule stopped a trial of a comparison, where no trial of one has a figure, nor for a
    secondary claim before all primary ones are decided.
    """
    if question.metric in COSTS:
        return None
    evidence, compared, hypothesis = decision.evidence, question.compared, question.hypothesis
    if decision.kind in (SUPPORTED, CONTRADICTED) or not decision.level:
        return None
    if evidence is None or compared is None or hypothesis is None:
        return None
    blocks, pairs = compared.blocks, np.array(hypothesis.pairs)
    settled = 2 * evidence.looks.greater <= decision.level
    if hypothesis.kind != "better" or settled.all():  # a trend is one of all values
        settled = np.zeros(len(pairs), dtype=bool)
    compared_pairs = blocks.pairs(hypothesis.pairs)
    no_figures = (compared_pairs.counts[~settled] == 0).any() and blocks.ready == blocks.seeds
    if compared_pairs.is_stopped[~settled].any() or no_figures:
        return None
    seeds, _ = max(look_after(int(first), blocks.ready) for first in evidence.looks.first[~settled])
    # Of the declared seeds: where trials fail, a first look may move on with every addition.
    _, number = look_after(max(blocks.declared, MIN_SEEDS), seeds - 1)
    if seeds <= blocks.seeds and blocks.ready < blocks.seeds:
        return None  # planned already, and not trained yet
    wanted = {compared.keys[index] for index in pairs[~settled].ravel().tolist()}
    chosen = question.trials[question.trials[question.axis].map(plain).isin(wanted)]
    return NextLook(tuple(sorted({int(point) for point in chosen["point"]})), seeds, number)
