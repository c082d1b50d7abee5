"""The content of the page for one part: its figures, its tables, and its best trial."""

import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mixsweep.analysis.frames import plain
from mixsweep.analysis.inference.claims import Judged
from mixsweep.analysis.inference.wording import axis_words, figure_text, listing, metric_words, value_label
from mixsweep.analysis.report import figures, tables
from mixsweep.analysis.report.answers import Answer, answer_of
from mixsweep.analysis.report.figures.pictures import Picture, picture
from mixsweep.analysis.report.part_figures import curve_pictures, effect_pictures, space_pictures
from mixsweep.analysis.report.predictions import PredictionPage, prediction_page
from mixsweep.analysis.report.study import Section
from mixsweep.core.extras import is_installed
from mixsweep.core.formatting import size_text
from mixsweep.core.store.files import write_bytes
from mixsweep.core.store.store import SweepStore
from mixsweep.core.trainables.definition import UNLIMITED

MOST_ROWS = 100  # of a table on the page; the file has all
_BEST_ROWS = 30  # of the results on the page where there are more than those


@dataclass(frozen=True)
class Best:
    """The best trial of a part.

    Args:
        trial_id: which one.
        sentence: what it reached.
        command: that runs it again.
        config: its fields that have an effect: name, value, and whether the part varies it.
        figures: its curves and, where its checkpoint is kept, its weights.
        note: on its weights.
    """

    trial_id: str
    sentence: str
    command: str
    config: list[tuple[str, str, bool]]
    figures: list[Picture] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class Listing:
    """A table on the page, with its caption."""

    table: tables.Table
    caption: str


@dataclass(frozen=True)
class PartPage:
    """The content of the page for one part.

    Args:
        answer: to its question, with the verdicts on its claims.
        origin: the sweep and part, what it varies, and its trials.
        figures: by heading, in their order.
        results, costs, trials: its tables; without rows where there is nothing to show.
        best: its best trial, if one is completed.
        predictions: of its best value on the test set, if they are kept.
    """

    answer: Answer
    origin: str
    figures: dict[str, list[Picture]]
    results: Listing
    costs: Listing
    trials: Listing
    best: Best | None
    predictions: PredictionPage | None = None

    @property
    def slug(self) -> str:
        """Of its files and its place on the page."""
        return self.answer.slug

    @property
    def pictures(self) -> list[Picture]:
        """All figures of the part."""
        own = [one for group in self.figures.values() for one in group]
        own += self.best.figures if self.best else []
        return own + (self.predictions.figures if self.predictions else [])


def part_page(section: Section, judged: Judged, out: Path) -> PartPage:
    """Draw a part's figures, write its tables, and return its content for the page.

    Args:
        section: the part.
        judged: the verdicts and answers of the study.
        out: the report's folder.
    """
    part, trials = section.part, section.trials
    results = tables.ablation_table(part, section.frame, trials)
    answer = answer_of(section, judged, results)
    row = _best_row(section)
    best_id = "" if row is None else str(row["trial_id"])
    drawn = {
        "Differences, values and costs": effect_pictures(section, answer, results, out),
        "All axes at once": space_pictures(section, out),
        "Curves": curve_pictures(section, best_id, out),
    }
    varied = listing(axis_words(axis) for axis in part.axes) or "nothing but the seed"
    seeds = trials["replica"].nunique()
    where = (
        f"Sweep {section.sweep}" if part.name == part.sweep else f"Part {part.name} of sweep {section.sweep}"
    )
    costs = tables.cost_table(part, trials)
    each = tables.trial_table(part, trials)
    return PartPage(
        answer=answer,
        origin=f"{where}. Varied: {varied}. {len(trials):,} trials, {seeds} seed{'s' if seeds > 1 else ''}.",
        figures={heading: pictures for heading, pictures in drawn.items() if pictures},
        results=_written(section, "results", results, _results_caption(section), out),
        costs=_written(section, "costs", costs, _costs_caption(costs), out),
        trials=_written(
            section, "trials", each, "Best first. Device time is summed over all attempts of a trial.", out
        ),
        best=None if row is None else _best(section, row, out),
        predictions=prediction_page(section, results, out),
    )


def _written(section: Section, kind: str, table: pd.DataFrame, caption: str, out: Path) -> Listing:
    """Write a table whole as CSV, and its first rows as LaTeX; return those for the page."""
    shown = _first_rows(section, kind, table)
    name = f"{section.slug}-{kind}"
    if len(shown) < len(table):
        which = "best" if kind == "results" else "first"
        caption += f" The {which} {len(shown)} of {len(table):,}; all are in {name}.csv."
    text = {
        "results": lambda: tables.ablation_text(section.part, shown),
        "costs": lambda: tables.cost_text(section.part, shown, section.trials),
        "trials": lambda: tables.trial_text(section.part, shown),
    }[kind]()
    write_bytes(out / f"{name}.csv", tables.csv_bytes(table))
    write_bytes(out / f"{name}.tex", tables.latex(text, caption, name).encode())
    return Listing(text, caption)


def _first_rows(section: Section, kind: str, table: pd.DataFrame) -> pd.DataFrame:
    if len(table) <= MOST_ROWS:
        return table
    if kind != "results":
        return table.head(MOST_ROWS)
    ordered = table["final_mean"].sort_values(ascending=section.part.mode == "min", kind="stable")
    return table.loc[ordered.index[:_BEST_ROWS]]


def _results_caption(section: Section) -> str:
    part = section.part
    tests = listing(map(metric_words, part.trainable.reported_tests))
    tested = f", and {tests} at the last epoch" if tests else ""
    epochs = (
        "at each trial's best epoch" if part.score == "best" else "at the last epoch and at each trial's best"
    )
    return (
        f"{metric_words(part.metric).capitalize()} {epochs}{tested}: "
        "mean ± 95 % t-interval over the seeds that have it; both ends where it is cut at the metric's range."
    )


def _costs_caption(costs: pd.DataFrame) -> str:
    caption = (
        "Parameters, and times as medians over epochs without the first, and over seeds. Device time is wall "
        "time times the devices of a trial."
    )
    if costs["energy_joules"].notna().any():
        caption += " Energy is that of a trial's first device during the trial, for all processes."
    return caption


def _best_row(section: Section) -> dict[Any, Any] | None:
    """The completed trial with the best figure."""
    final = f"final_{section.part.metric}"
    finals = section.trials.dropna(subset=[final])
    if finals.empty:
        return None
    ordered = finals.sort_values([final, "trial_id"], ascending=[section.part.mode == "min", True])
    return {name: plain(value) for name, value in ordered.iloc[0].items()}


def _best(section: Section, row: dict[Any, Any], out: Path) -> Best:
    """The best trial, its curves and, if its checkpoint is kept, its weights."""
    part, trial_id = section.part, str(row["trial_id"])
    trainable = part.trainable
    shown = (part.metric, *trainable.reported_tests)
    reached = [
        f"{metric_words(name)} {figure_text(name, math.nan if row[f'final_{name}'] is None else row[f'final_{name}'])}"
        for name in shown
    ]
    caption = f"Best trial: {trainable.curve_words} against epochs."
    curves = figures.draw_best(section.frame, trial_id, f"trial {trial_id}", trainable)
    drawn = [picture(curves, f"{section.slug}-best", caption, f"{caption} {', '.join(reached)}.", out)]
    weights, note = _weights(section, trial_id, out)
    trained_on_to = math.nan if row["trained_on_to"] is None else float(row["trained_on_to"])
    if weights and not math.isnan(trained_on_to):
        note = f"Its weights are those after epoch {int(trained_on_to)}, trained on for another part."
    note = f"{note} {_kept_words(section.reading.store, trial_id)}".strip()
    # From the resolved file, and into another store: in this one the trial is done.
    file = section.reading.store.path / "sweep.toml"  # which an exported table does not have
    command = f"sweep run {shlex.quote(str(file))} --trial {trial_id} --store again" if file.is_file() else ""
    values = {name: row[name] for name in trainable.field_names}
    return Best(
        trial_id=trial_id,
        sentence=f"{part.figure_word.capitalize()} {', '.join(reached)}"
        f"{tables.trained_on_text(trained_on_to)}, after {row['epochs_trained']} epochs. "
        "Chosen among all trials of the part, so partly by the luck of its seed.",
        command=command,
        config=[
            (name, _value_words(section, name, value), name in part.axes)
            for name, value in values.items()
            if name in part.axes or _counts(section, name, values)
        ],
        figures=drawn + weights,
        note=note,
    )


def _counts(section: Section, name: str, values: dict[str, Any]) -> bool:
    """Whether a field has an effect beside these values of the others."""
    if name in ("parent", "pinned_code"):
        return bool(values[name])
    return section.part.trainable.is_effective(name, values)


def _kept_words(store: SweepStore, trial_id: str) -> str:
    """A sentence on the files that a trial keeps, '' if it keeps none."""
    kept = store.trial(trial_id).kept_files()
    if not kept:
        return ""
    size = size_text(sum(path.stat().st_size for path in kept.values()))
    count = f"{len(kept)} file{'s' * (len(kept) > 1)}"
    return f"It keeps {count} ({size}); sweep show {trial_id} lists them."


def _weights(section: Section, trial_id: str, out: Path) -> tuple[list[Picture], str]:
    if not is_installed("train"):
        return [], "Its weights are not drawn: PyTorch is not installed where this report was written."
    store = section.reading.store
    folder = store.trial(trial_id)
    checkpoint = (
        folder.load_checkpoint() if folder.has_checkpoint() else None
    )  # PyTorch takes seconds to import
    if checkpoint is None:
        return [], "Its checkpoint is not kept, so its weights cannot be drawn."
    found = store.trainable.weight_pictures(checkpoint)
    if found is None:
        return [], ""
    caption = f"Best trial: {found.caption}"
    alt = (
        f"{caption} {len(found.pictures)} pictures of {found.pictures.shape[1]} × {found.pictures.shape[2]}."
    )
    return [picture(figures.draw_weights(found), f"{section.slug}-{found.name}", caption, alt, out)], ""


def _value_words(section: Section, name: str, value: Any) -> str:
    is_open = name == section.part.trainable.budget and value == UNLIMITED
    return "until it ends" if is_open else value_label(name, value)
