"""The answers to the questions of a study and the verdicts on its claims, as text with the evidence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from mixsweep.analysis.frames import Part, of_part
from mixsweep.analysis.inference.answers import Answer, answer_of
from mixsweep.analysis.inference.claim_types import Question, read_claim
from mixsweep.analysis.inference.comparisons import MOST_COMPARED, Compared, Comparison, compare_points
from mixsweep.analysis.inference.evidence import comparisons_of, evidence_of, verdict_words
from mixsweep.analysis.inference.next_look import NextLook, next_look_of
from mixsweep.analysis.inference.procedures.decisions import Case, Decision, decide
from mixsweep.analysis.inference.statistics import UNDECIDED


@dataclass(frozen=True)
class Verdict:
    """A claim, its verdict, and the evidence."""

    text: str
    verdict: str  # as shown, e.g. "undecided: 3 seeds needed"
    kind: str  # supported, not supported, contradicted, undecided
    evidence: str
    comparisons: tuple[Comparison, ...] = ()
    p_value: float = 1.0  # two-sided, corrected for looks and over the claims that are reported together
    primary: bool = False
    late: bool = False  # written after the first trial started
    metric: str = ""  # what it is tested on: its own, or the sweep's
    mode: str = ""  # of the metric: max or min
    # The seeds that it is looked at next; None: decided, or more seeds cannot decide it.
    next_look: NextLook | None = None

    def __repr__(self) -> str:
        return f"Verdict({self.text!r} is {self.verdict}: {self.evidence})"


Key = tuple[str, str, str]


@dataclass(frozen=True)
class Asked:
    """A part of a study with its own records and trials.

    Args:
        part: the ablation.
        frame: its epoch records, from `analysis.frames`.
        trials: one row per trial, from `analysis.load_trials`.
    """

    part: Part
    frame: pd.DataFrame
    trials: pd.DataFrame

    @property
    def key(self) -> Key:
        """What tells the part from all others."""
        return _key(self.part)

    @property
    def is_answered(self) -> bool:
        """Whether its points are compared for an answer: not more than MOST_COMPARED of them."""
        return int(self.trials["point"].nunique()) <= MOST_COMPARED


@dataclass(frozen=True)
class Judged:
    """The verdicts and answers of parts that are reported together, corrected as one family."""

    verdicts: Mapping[Key, tuple[Verdict, ...]]
    answers: Mapping[Key, Answer]

    def claims(self, part: Part) -> list[Verdict]:
        """The verdicts on a part's claims, in the order of the sweep file."""
        return list(self.verdicts[_key(part)])

    def answer(self, part: Part) -> Answer:
        """The answer to a part's question.

        Raises:
            KeyError: the part has more than MOST_COMPARED points.
        """
        return self.answers[_key(part)]


def judge_all(study: Sequence[Asked]) -> Judged:
    """Test the claims of parts that are reported together, and answer their questions.

    All claims and answers share one correction, so that at most 5 % of studies without effects carry a false verdict.
    """
    questions = {
        one.key: [read_claim(one.part, n, one.frame, one.trials) for n in range(len(one.part.claims))]
        for one in study
    }
    points = {one.key: compare_points(one.part, one.frame, one.trials) for one in study if one.is_answered}
    cases: list[Case] = []
    for one in study:
        cases += [case for question in questions[one.key] if (case := _case(question))]
        cases += _answer_cases(one, points)
    decided = iter(decide(cases))
    verdicts, answers = {}, {}
    for one in study:
        verdicts[one.key] = tuple(
            _verdict(one.part, question, next(decided) if _case(question) else None)
            for question in questions[one.key]
        )
        if one.is_answered:
            decision = next(decided) if _answer_cases(one, points) else None
            answers[one.key] = answer_of(one.part, points[one.key], decision, one.frame, one.trials)
    return Judged(verdicts, answers)


def judge(parts: Sequence[Part], frame: pd.DataFrame, trials: pd.DataFrame) -> Judged:
    """`judge_all` on parts of the same tables.

    Args:
        parts: the ablations.
        frame: epoch records, from `analysis.frames`.
        trials: one row per trial, from `analysis.load_trials`.
    """
    return judge_all([Asked(part, of_part(part, frame), of_part(part, trials)) for part in parts])


def _key(part: Part) -> Key:
    return part.folder, part.sweep, part.name


def _answer_cases(one: Asked, points: Mapping[Key, Compared]) -> list[Case]:
    if not one.is_answered or len(points[one.key].keys) < 2:
        return []
    return [Case(blocks=points[one.key].blocks, pooled=one.part.error == "pooled")]


def evaluate_claims(part: Part, frame: pd.DataFrame, trials: pd.DataFrame) -> list[Verdict]:
    """Test each claim of a part and return the verdicts: `judge` with this part alone.

    Args:
        part: the ablation.
        frame: epoch records, from `analysis.frames`.
        trials: one row per trial, from `analysis.load_trials`.
    """
    return judge([part], frame, trials).claims(part)


def answer(part: Part, frame: pd.DataFrame, trials: pd.DataFrame) -> str:
    """The answer to a part's question in one or two sentences, as of `judge` with this part alone."""
    return judge([part], frame, trials).answer(part).text


def _case(question: Question) -> Case | None:
    if question.compared is None or question.hypothesis is None:
        return None
    return Case(blocks=question.compared.blocks, hypothesis=question.hypothesis, primary=question.primary)


def _verdict(part: Part, question: Question, decision: Decision | None) -> Verdict:
    if decision is None:
        return Verdict(
            question.text,
            UNDECIDED,
            UNDECIDED,
            question.refused,
            primary=question.primary,
            late=question.late,
            metric=question.metric,
            mode=question.mode,
        )
    compared = comparisons_of(question, decision)
    return Verdict(
        text=question.text,
        verdict=verdict_words(question, decision),
        kind=decision.kind,
        evidence=evidence_of(part, question, decision, compared),
        comparisons=tuple(compared),
        p_value=decision.p_value,
        primary=question.primary,
        late=question.late,
        metric=question.metric,
        mode=question.mode,
        next_look=next_look_of(question, decision),
    )
