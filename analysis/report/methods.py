"""The background of a report: how its figures were computed, which trials did not finish, and provenance."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from mixsweep.analysis.frames import Reading, attempt_seconds
from mixsweep.analysis.inference import statistics
from mixsweep.analysis.inference.wording import listing
from mixsweep.analysis.report.study import Study, sweep_labels
from mixsweep.analysis.report.tables import Table, csv_bytes
from mixsweep.core.extras import is_installed
from mixsweep.core.formatting import axes_lines, duration
from mixsweep.core.store.code_copy import same_code
from mixsweep.core.store.files import write_bytes
from mixsweep.core.store.forecasts import saved_forecasts
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.trainables.kinds import find_trainable

_SCORES = {
    "last": "The final figure is that of the last epoch. The best epoch is chosen on the sweep's own metric, so its "
    "figure is optimistic; no conclusion here rests on it.",
    "best": "The figure of a trial is that of its best epoch (score = 'best'), chosen on the sweep's own metric, so "
    "it is optimistic, the more so the more records a trial has. Test figures are those of the last epoch.",
}
_METHODS = (
    "A trial that is trained further for another part is shown up to the last epoch of the part, and has no test "
    "figure there.",
    "± and CI: 95 % t-interval over seeds. Replicas of one number share their seed across values, and are "
    "compared in pairs: the interval of a difference is that of the paired differences. n is the number of "
    "seeds; with one seed there is no interval. In figures and tables an interval is cut at the values that its "
    "metric can have: 0 and 1 of a fraction, 0 of a loss or a time.",
    "What a trial counts as, in every comparison: a completed trial as its figure; a diverged one as a result worse "
    "than every figure, of which only the rank is used; a failed or missing one is left out with the trial that it is "
    "paired with; of one that a rule stopped nothing is concluded about the last epoch. A mean is that of the seeds "
    "that completed, and says how many they are.",
    "Verdicts come once all trials of the declared number of seeds have ended, and again each time that number has "
    "grown by half; 80 % of the error is spent on the first look and the rest on all later ones, so that neither "
    "reading a report often nor adding seeds makes false verdicts.",
    f"Comparisons are decided by the paired t-test from {statistics.MIN_SEEDS} seeds on, which takes differences "
    "between seeds to be normally distributed; where a trial diverged, by the exact sign-flip test on signed ranks, "
    "which needs six seeds or more; where the sweep file declared it before the run, with an error pooled over values. "
    "Supported: every comparison goes the claim's way, each one-sided at half of the error. Contradicted: one goes the "
    "other way, after Holm's correction. Not supported: neither, which is not the same as showing the opposite.",
    f"All claims and answers of this page are one family: Holm's correction keeps the probability of a false verdict "
    f"among all of them at {100 * statistics.ALPHA:.0f} %. A primary claim is tested first, by itself, and the others "
    "only once it is decided. A claim that was written after the first trial started is marked, and corrected for "
    "having been chosen among all pairs of values.",
    "Probability of improvement: the share of seeds where a value is better, with Clopper and Pearson's 95 % interval.",
    "Probability of being best: how often a value has the best mean when seeds are drawn again with "
    "replacement (paired bootstrap); a hint for few seeds, not a test.",
    "Seconds are medians over epochs without the first, then over seeds, as the trials ran: other trials "
    "may have shared the machine. Wall time is that of whole trials, epochs for a longer part included.",
)

_COMMAND_ENDS = (140, 60)  # characters shown from the start and the end of a long command
_MOST_FAILURES = 100  # rows on the page; the file has all
_MOST_IDS = 12  # trials named in a note

# What the stores of a study say of its trials, by the sweep's label and the trial's id.
Infos = Mapping[tuple[str, str], TrialInfo]


def methods(readings: Sequence[Reading]) -> list[str]:
    """Sentences on how the figures of a report were computed, with the notes of each kind of trial first."""
    own = dict.fromkeys(note for reading in readings for note in reading.trainable.method_notes)
    found = [reading.trainable.objective(reading.file).score for reading in readings]
    scores = dict(zip(sweep_labels(readings), found))
    several = len(set(scores.values())) > 1
    which = [
        f"Of {listing(name for name, one in scores.items() if one == score)}: {text}" if several else text
        for score, text in _SCORES.items()
        if score in scores.values()
    ]
    return [*own, *which, *_METHODS]


def axes(readings: Sequence[Reading]) -> list[str]:
    """A sentence for each part whose axes are zipped, points excluded or fields derived."""
    found = []
    for reading in readings:
        for part, table in zip(reading.parts, reading.file.get("parts", [reading.file])):
            if lines := axes_lines(table):
                found.append(f"Axes of {part.name}: {'; '.join(lines)}.")
    return found


def notes(study: Study) -> list[str]:
    """The notes at the top of the page, which limit what the figures mean."""
    found = []
    for label, reading in zip(study.labels, study.readings):
        count = reading.unplanned()
        if count:
            was = "trial in the folder is" if count == 1 else "trials in the folder are"
            found.append(f"{label}: {count} {was} not in the plan of the last run, and not counted here.")
    if not is_installed("train"):
        found.append(
            "Pictures of weights, and parameter counts of registered models, are left out: they need PyTorch, which "
            "is not installed where this report was written (pip install 'mixsweep[train]')."
        )
    return found + _micro_batches(study.infos) + _several_revisions(study.infos)


def _micro_batches(infos: Infos) -> list[str]:
    """A note on trials whose results a retry with smaller micro-batches has changed: those with BatchNorm."""
    trials: dict[int, list[str]] = {}
    for info in infos.values():
        most = max((a.accumulate for a in info.attempts), default=1)
        if find_trainable(info.config.kind).micro_batches_matter(info.config, most):
            trials.setdefault(most, []).append(info.trial_id)
    return [
        f"Trained with {count} micro-batches after running out of memory: BatchNorm saw smaller batches "
        f"than in other trials. {'Trial' if len(ids) == 1 else 'Trials'} {_ids(ids)}."
        for count, ids in sorted(trials.items())
    ]


def _several_revisions(infos: Infos) -> list[str]:
    ids = [info.trial_id for info in infos.values() if len(_revisions(info)) > 1]
    which = "trial" if len(ids) == 1 else "trials"
    return [f"Trained by more than one revision of the code: {which} {_ids(ids)}."] if ids else []


def _ids(ids: Sequence[str]) -> str:
    """The trials, the first ones by name if there are very many."""
    named = sorted(set(ids))
    more = [f"{len(named) - _MOST_IDS} others"] if len(named) > _MOST_IDS else []
    return listing([*named[:_MOST_IDS], *more])


def forecasts(readings: Sequence[Reading]) -> Table:
    """Forecast and measured time of each command: one row per command that trained something."""
    rows = []
    for label, reading in zip(sweep_labels(readings), readings):
        kept = saved_forecasts(reading.store)
        took = _took(reading) if kept else {}
        for one in kept:
            seconds, wall, epochs = took.get(one.command_id, (0.0, 0.0, 0))
            if not epochs:
                continue
            expected, ratio = "–", "–"
            if one.seconds:
                expected = duration(one.seconds)
                ratio = f"{(wall / epochs) / (one.seconds / one.epochs):.2f}" if one.epochs else "–"
            begun = one.made_at[:16].replace("T", " ")
            forecast = (str(one.epochs), expected, one.basis)
            rows.append((label, begun, one.place, *forecast, str(epochs), duration(seconds), ratio))
    header = ("sweep", "begun (UTC)", "place", "epochs left", "forecast", "which rests on", "epochs trained")
    numeric = (False, False, False, True, True, False, True, True, True)
    return Table((*header, "took", "took / forecast"), tuple(rows), numeric)


def _took(reading: Reading) -> dict[str, tuple[float, float, int]]:
    """Device time, wall time and trained epochs of the attempts of each command, by command id."""
    records = reading.records
    counts = records.groupby(["trial_id", "attempt"]).size().to_dict()
    took: dict[str, tuple[float, float, int]] = {}
    for trial_id, info in reading.infos.items():
        for attempt in info.attempts:
            mine = None
            if not attempt.ended_at:
                mine = records[(records["trial_id"] == trial_id) & (records["attempt"] == attempt.number)]
            seconds, wall, count = took.get(attempt.command_id, (0.0, 0.0, 0))
            more = attempt_seconds(attempt, mine)
            count += counts.get((trial_id, attempt.number), 0)
            took[attempt.command_id] = seconds + more, wall + more / attempt.ranks, count
    return took


def failures(infos: Infos) -> Table:
    """Trials with an attempt that did not end well: diverged, stopped, interrupted or failed."""
    several = len({label for label, _ in infos}) > 1
    rows = []
    for (label, _), info in infos.items():
        bad = [a for a in info.attempts if a.end not in ("", "completed")]
        if bad or info.state in ("lost", "interrupted"):
            last = bad[-1] if bad else info.attempts[-1]
            message = last.message or (f"at epoch {info.epoch}" if info.state == last.end else "")
            config = ", ".join(f"{k} {v}" for k, v in info.config.identity().items())
            kind = last.end or "no end written"
            sweep = (label,) * several
            rows.append((kind, info.state, *sweep, info.trial_id, config, str(len(info.attempts)), message))
    header = ("how the attempt ended", "trial's state", *("sweep",) * several, "trial")
    header += ("differs from the defaults in", "attempts", "message")
    numeric = (False, False, *(False,) * several, False, False, True, False)
    return Table(header, tuple(sorted(rows)), numeric)


def shown_failures(table: Table) -> Table:
    """The rows on the page: the first ones if there are very many."""
    return replace(table, rows=table.rows[:_MOST_FAILURES])


def write_failures(table: Table, path: Path) -> bool:
    """Write all failures as CSV if the page has not all of them; return whether it was written."""
    if len(table.rows) <= _MOST_FAILURES:
        return False
    write_bytes(path, csv_bytes(pd.DataFrame(table.rows, columns=list(table.header))))
    return True


def provenance(infos: Infos) -> Table:
    """Revisions, versions, hosts and commands, each with its number of trials."""
    counts: dict[str, Counter[str]] = {}
    for info in infos.values():
        source = info.provenance
        facts = {
            "code revision": _revisions(info),
            "your code": {a.code for a in info.attempts},
            "Python": {str(source.get("python", ""))},
            **{name: {str(version)} for name, version in source.get("versions", {}).items()},
            "platform": {str(source.get("platform", ""))},
            "host": {a.host for a in info.attempts},
            "place": {a.place for a in info.attempts},
            "device": {a.device for a in info.attempts},
            "command": {_shortened(str(source.get("command", "")))},
        }
        for name, values in facts.items():
            counts.setdefault(name, Counter()).update(v for v in values if v)
    rows = [
        (name, value, str(number))
        for name, counter in counts.items()
        for value, number in sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    ]
    return Table(("what", "value", "trials"), tuple(rows), (False, False, True))


def code_warning(study: Study) -> str:
    """A sentence on trials that different code has trained, '' if there are none."""
    known = {attempt.code for info in study.infos.values() for attempt in info.attempts if attempt.code}
    codes = {_same_code(study.readings, code) for code in known}
    return (
        f" Different code has trained these trials: {len(codes)} versions of yours." if len(codes) > 1 else ""
    )


def _same_code(readings: Sequence[Reading], code: str) -> str:
    """A digest by today's rules, from the copy in one of these stores."""
    found = (same_code(reading.store.path, code) for reading in readings)
    return next((digest for digest in found if digest != code), code)


def _revisions(info: TrialInfo) -> set[str]:
    """The revisions of the code that trained a trial; older stores have one per trial, not per attempt."""
    source = info.provenance
    revisions = {attempt.revision for attempt in info.attempts if attempt.revision}
    revisions = revisions or {str(source.get("revision", "")) or "not recorded"}
    dirty = source.get("revision") if source.get("dirty") else None
    return {f"{r} with uncommitted changes" if r == dirty else r for r in revisions}


def _shortened(text: str) -> str:
    """A long command without its middle."""
    head, tail = _COMMAND_ENDS
    return text if len(text) <= head + tail else f"{text[:head]} … {text[-tail:]}"
