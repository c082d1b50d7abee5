"""A comparison of two sweeps as text and tables: for a terminal, for a notebook, and as Markdown."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixsweep.analysis.comparing.equivalence import MOST_SEEDS
from mixsweep.analysis.inference.statistics import MIN_SEEDS
from mixsweep.analysis.inference.wording import (
    difference_text,
    figure_text,
    listing,
    metric_words,
    p_text,
    unit_of,
    value_label,
)

if TYPE_CHECKING:
    from mixsweep.analysis.comparing.results import (
        SideFacts,
        SweepComparison,
        TrialComparison,
        ValueComparison,
    )

IDENTICAL, UNCHANGED, CHANGED, UNDECIDED = "identical", "unchanged", "changed", "undecided"

MOST_ROWS = 30  # of a table; the JSON has all
_NAMED = 4  # values of a field, trials without a partner
_KINDS = {
    IDENTICAL: "identical",
    UNCHANGED: "nothing changed",
    CHANGED: "changed",
    UNDECIDED: "undecided",
}


@dataclass(frozen=True)
class TextTable:
    """A table of text: its title, the header, the rows, and a line below it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def head_lines(found: "SweepComparison") -> list[str]:
    """The two sides, how trials were paired, the fields that differ, and how many are equal bit for bit."""
    return [
        _side("A", found.a),
        _side("B", found.b),
        _paired(found),
        *(
            f"differs between the sides: {change.field} {_values(change.field, change.a)} against "
            f"{_values(change.field, change.b)} ({_count(change.pairs, 'pair')})"
            for change in found.changes
        ),
        _bits(found),
    ]


def trial_table(found: "SweepComparison") -> TextTable:
    """The paired trials; only those that differ where there are too many to read."""
    several = len(found.trials) > MOST_ROWS
    shown = [trial for trial in found.trials if not (several and trial.is_equal)]
    rows = tuple(_trial_row(trial, found.metric) for trial in shown[:MOST_ROWS])
    hidden, note = len(found.trials) - len(rows), ""
    if hidden:
        note = f"{hidden} more, {sum(trial.is_equal for trial in found.trials)} of all equal bit for bit; "
        note += "the JSON has every trial"
    header = ("trial", "value", "seed", "end", "first difference", "final A", "final B")
    return TextTable(f"Trial by trial: {metric_words(found.metric)}", header, rows, note)


def value_table(found: "SweepComparison") -> TextTable:
    """The values, with their paired differences; first those that changed, where there are too many to read."""
    values = list(found.values)
    if len(values) > MOST_ROWS:
        order = (CHANGED, UNDECIDED, UNCHANGED, IDENTICAL)
        values.sort(key=lambda value: (order.index(value.kind), value.p_holm if value.p_holm > 0 else 0.0))
    shown = values[:MOST_ROWS]
    more = f"{len(values) - len(shown)} more; the JSON has every value" if len(shown) < len(values) else ""
    if found.overall is not None:
        shown.append(found.overall)
    rows = tuple(_value_row(value, found.metric) for value in shown)
    header = ("value", "pairs", "equal", "mean A", "mean B", "B − A, 95 % CI", "p (Holm)", "verdict")
    margin = f"margin ±{margin_text(found)} ({found.margin_basis})"
    if math.isnan(found.margin):
        margin = f"no margin ({found.margin_basis}; give one to show that nothing changed)"
    title = f"Value by value: {metric_words(found.metric)}, {found.mode} is better, {margin}"
    return TextTable(title, header, rows, more)


def markdown(found: "SweepComparison") -> str:
    """The whole comparison as Markdown."""
    parts = [f"**{_upper(found.verdict)}**", "\n".join(f"- {line}" for line in head_lines(found))]
    for table in (value_table(found), trial_table(found)):
        lines = [f"{table.title}.", "", _row(table.header), _row("---" for _ in table.header)]
        parts.append("\n".join([*lines, *map(_row, table.rows), *(["", table.note] if table.note else [])]))
    return "\n\n".join(parts) + "\n"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _side(name: str, side: "SideFacts") -> str:
    facts = [_count(side.trials, "trial")]
    facts += [f"mixsweep {listing(one[:10] for one in side.revisions[:_NAMED])}"] if side.revisions else []
    facts += [f"your code {listing(one[:8] for one in side.codes[:_NAMED])}"] if side.codes else []
    facts += [listing(side.devices[:_NAMED])] if side.devices else []
    return f"{name}: {side.label}: {', '.join(facts)}"


def _paired(found: "SweepComparison") -> str:
    by_id = sum(trial.a == trial.b for trial in found.trials)
    how = [f"{by_id} by id"] * (by_id > 0)
    how += [f"{len(found.trials) - by_id} by fields and seed"] * (by_id < len(found.trials))
    words = [f"{_count(len(found.trials), 'pair')} of trials, {' and '.join(how)}"]
    for name, trials in (("A", found.only_a), ("B", found.only_b)):
        if trials:
            named = [trial_id for trial_id, _ in trials[:_NAMED]]
            more = ", …" if len(trials) > _NAMED else ""
            words.append(f"{len(trials)} only in {name} ({', '.join(named)}{more})")
    return "; ".join(words)


def _bits(found: "SweepComparison") -> str:
    equal = sum(trial.is_equal for trial in found.trials)
    differ = [trial.first_difference for trial in found.trials if trial.first_difference]
    line = f"equal bit for bit: {equal} of {_count(len(found.trials), 'pair')}"
    if differ:
        columns = listing(f"{name} ({count})" for name, count in found.columns.items())
        line += (
            f"; {len(differ)} differ, the first at epoch {min(differ)}{f', in {columns}' if columns else ''}"
        )
    return line


def _trial_row(trial: "TrialComparison", metric: str) -> tuple[str, ...]:
    ids = trial.a if trial.a == trial.b else f"{trial.a} → {trial.b}"
    ends = trial.state_a if trial.state_a == trial.state_b else f"{trial.state_a} → {trial.state_b}"
    ends += f" ({trial.message})" if trial.message else ""
    first = f"epoch {trial.first_difference}" if trial.first_difference else "none"
    if not trial.first_difference and not trial.is_equal:
        first = "none so far" if min(trial.epochs_a, trial.epochs_b) else "–"
    seed = "–" if trial.seed is None else str(trial.seed)
    finals = (figure_text(metric, trial.final_a), figure_text(metric, trial.final_b))
    return (ids, trial.label or "–", seed, ends, first, *finals)


def _value_row(value: "ValueComparison", metric: str) -> tuple[str, ...]:
    difference = "–"
    if value.difference:
        difference = difference_text(metric, value.difference.interval).replace("95 % CI ", "")
    p_value = "–" if math.isnan(value.p_holm) else p_text(value.p_holm).removeprefix("= ")
    verdict = _KINDS[value.kind]
    if value.kind == UNDECIDED and value.difference is not None:
        verdict += f", {seeds_words(value)}"
    verdict += f" ({value.note})" if value.note else ""
    means = (figure_text(metric, value.mean_a), figure_text(metric, value.mean_b))
    return (value.label or "all", str(value.pairs), str(value.equal), *means, difference, p_value, verdict)


def _values(field: str, values: Sequence[object]) -> str:
    return listing([*(value_label(field, v) for v in values[:_NAMED]), *["…"] * (len(values) > _NAMED)])


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def margin_text(found: "SweepComparison") -> str:
    """The margin with its unit: `1 point`, `0.02 nats`."""
    if math.isnan(found.margin):
        return "(no margin)"
    if "accuracy" in found.metric:
        points = 100 * found.margin
        return f"{points:.3g} point{'' if points == 1 else 's'}"
    return " ".join(filter(None, (f"{found.margin:.3g}", unit_of(found.metric))))


def seeds_words(value: "ValueComparison") -> str:
    """How many seeds decide a value: `about 9 seeds needed`."""
    if value.seeds_needed is None or value.difference is None:
        return f"at least {MIN_SEEDS} seeds needed"
    if value.seeds_needed >= MOST_SEEDS:
        return f"more than {MOST_SEEDS} seeds needed"
    return f"about {max(value.seeds_needed, value.difference.n + 1)} seeds needed"
