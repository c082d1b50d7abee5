"""A study in Markdown, for a pull request: the first table of its page."""

from collections.abc import Sequence

from mixsweep.analysis.report.answers import Answer


def summary_text(title: str, summary: str, notes: Sequence[str], answers: Sequence[Answer]) -> str:
    """The study's questions, answers and verdicts as Markdown, each line plain text in any renderer.

    Args:
        title: the sweeps.
        summary: their trials by state, and what they took.
        notes: what limits their figures.
        answers: one a part.
    """
    lines = [f"## {_safe(title)}", "", _safe(summary), ""]
    lines += [line for note in notes for line in (f"> {_safe(note)}", "")]
    lines += ["| question | answer | claims | ours, and published |", "| --- | --- | --- | --- |"]
    lines += [_row(answer) for answer in answers]
    claims = [(answer, verdict) for answer in answers for verdict in answer.verdicts]
    if claims:
        lines += ["", "Claims:", ""]
        lines += [
            f"- **{_safe(one.text or 'a claim without a text')}**: {_safe(one.verdict)}. {_safe(one.evidence)}"
            for _, one in claims
        ]
    return "\n".join(lines) + "\n"


def _row(answer: Answer) -> str:
    verdicts = ", ".join(f"{count} {name}" for _, name, count in answer.counts) or "–"
    beside = "; ".join(
        f"{one.what}: {f'{one.ours}, published ' if one.metric else 'published '}{one.published}"
        for one in answer.published
    )
    said = " ".join([answer.answer, *answer.notes])
    return f"| {' | '.join(map(_safe, (answer.question, said, verdicts, beside or '–')))} |"


def _safe(text: str) -> str:
    """Text on one line that Markdown shows as it is, also in a cell of a table."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{sign}" if sign in "\\|*_`[]#" else sign for sign in plain)
