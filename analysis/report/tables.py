"""The tables of a study, with the results and costs of each value: as numbers, text, CSV and LaTeX."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mixsweep.analysis.frames import Part, figure_column, of_part, plain
from mixsweep.analysis.inference import statistics
from mixsweep.analysis.inference.comparisons import MOST_COMPARED, ordered_points, point_scores
from mixsweep.analysis.inference.ranges import possible_range, within
from mixsweep.analysis.inference.statistics import Interval, t_interval
from mixsweep.analysis.inference.wording import (
    axis_words,
    figure_text,
    interval_text,
    metric_words,
    value_label,
)
from mixsweep.core.formatting import duration, energy_text

_ENDED = ("completed", "stopped", "diverged", "failed")
_UNFINISHED = ("waiting", "running", "interrupted", "lost")


@dataclass(frozen=True)
class Table:
    """A table as text: one string a cell; `numeric` says which columns align to the right."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]


def ablation_table(part: Part, frame: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """One row per point, in natural order.

    Columns: the part's axes; `seeds`; mean, low and high (95 % t-interval over seeds, cut at the metric's possible
    range) of `final` (the part's
    metric in the record that counts, over the seeds that completed), of `best` (at each trial's
    best epoch) and of each test metric that its kind of trial reports (at the last epoch); `probability_best`,
    if all trials have finished and there are not very many points; `trained_on_to`, the last epoch of trials whose
    test figures belong to a longer part's run; the numbers of completed, stopped, diverged, failed and unfinished
    trials.
    """
    trials = of_part(part, trials)
    scores = point_scores(part, of_part(part, frame), trials)
    probabilities = _probabilities(part, trials)
    tests = part.trainable.reported_tests
    shown = [*part.axes, "state", "best", "trained_on_to", *(f"final_{test}" for test in tests)]
    of_point = dict(iter(trials[["point", *dict.fromkeys(shown)]].groupby("point")))
    rows = []
    for point in ordered_points(part, trials):
        mine = of_point[point]
        states = Counter(mine["state"])
        row: dict[str, Any] = {axis: plain(mine[axis].iat[0]) for axis in part.axes}
        row["seeds"] = len(mine)
        row |= _columns(part, "final", part.metric, scores[point])
        ended_well = mine[mine["state"] == "completed"]
        row |= _columns(part, "best", part.metric, t_interval(ended_well["best"].dropna().tolist()))
        for test in tests:
            row |= _columns(part, test, test, t_interval(ended_well[f"final_{test}"].dropna().tolist()))
        untested = ended_well[[f"final_{test}" for test in tests]].isna().all(axis=1)
        row["trained_on_to"] = ended_well.loc[untested, "trained_on_to"].max()
        row["probability_best"] = probabilities.get(point, np.nan)
        row |= {state: states[state] for state in _ENDED}
        row["unfinished"] = sum(states[state] for state in _UNFINISHED)
        rows.append(row)
    return pd.DataFrame(rows)


def ablation_text(part: Part, table: pd.DataFrame) -> Table:
    """An ablation table as text."""
    metric = part.metric
    header = [*map(axis_words, part.axes), "seeds", f"{part.figure_word} {metric_words(metric)}"]
    header += ["at its best epoch"] * (part.score != "best")
    tests = part.trainable.reported_tests
    computed = bool(table["probability_best"].notna().any())
    header += [*map(metric_words, tests), *["probability of being best"] * computed, "trials"]
    rows = []
    for row in table.to_dict("records"):
        probability = row["probability_best"]
        states = (*_ENDED, "unfinished")
        rows.append(
            (
                *(value_label(axis, plain(row[axis])) for axis in part.axes),
                str(row["seeds"]),
                interval_text(metric, interval_of(row, "final")),
                *[interval_text(metric, interval_of(row, "best"))] * (part.score != "best"),
                *(
                    interval_text(test, interval_of(row, test)) + trained_on_text(row["trained_on_to"])
                    for test in tests
                ),
                *["–" if np.isnan(probability) else f"{probability:.2f}"] * computed,
                ", ".join(f"{row[state]} {state}" for state in states if row[state]),
            )
        )
    figures = (True,) * (len(header) - len(part.axes) - 1)
    numeric = (*(False for _ in part.axes), *figures, False)
    return Table(tuple(header), tuple(rows), numeric)


def cost_table(part: Part, trials: pd.DataFrame) -> pd.DataFrame:
    """The costs of each point: one row per point and device, so that timings of devices are never mixed.

    Columns: the part's axes; `device`; `parameters`; the work and seconds of a record that its kind of trial measures
    (for the image trainer, `train_images`, `train_seconds` to train one epoch and `valid_seconds` to infer the valid
    images once), medians over epochs without the first, then over seeds;
    `device_seconds`, the wall time of all attempts together, times the devices of each; `energy_joules`, of
    all epochs, NaN if no device measured it.
    """
    trials = of_part(part, trials)
    seconds = part.trainable.second_metrics
    of_device, parameters = (figure_column(part.trainable, name) for name in ("device", "parameters"))
    measured = (parameters, *part.trainable.record_products, *seconds)
    ranks = {point: rank for rank, point in enumerate(ordered_points(part, trials))}
    timed = trials[~trials[list(seconds)].isna().all(axis=1)]
    groups = [
        (int(here["point"].tolist()[0]), str(here[of_device].tolist()[0]), here)
        for _, here in timed.groupby(["point", of_device])
    ]
    rows = []
    for _, device, here in sorted(groups, key=lambda group: (ranks[group[0]], group[1])):
        row: dict[str, Any] = {axis: plain(here[axis].iat[0]) for axis in part.axes}
        row |= {of_device: device, "trials": len(here)}
        for column in measured:
            row[column] = float(here[column].median())
        row["device_seconds"] = float(here["device_seconds"].sum())
        row["energy_joules"] = float(here["energy_joules"].sum(min_count=1))
        rows.append(row)
    columns = [*part.axes, of_device, "trials", *measured, "device_seconds", "energy_joules"]
    return pd.DataFrame(rows, columns=columns)


def cost_text(part: Part, table: pd.DataFrame, trials: pd.DataFrame) -> Table:
    """A cost table as text; the header names what the seconds are spent on."""
    seconds = part.trainable.second_metrics
    described = [*part.trainable.field_names, *part.trainable.record_products]
    different = trials[described].drop_duplicates([name for name in described if name != "seed"])
    each = [{str(name): plain(value) for name, value in row.items()} for row in different.to_dict("records")]
    spent_on = [part.trainable.cost_words(metric, each) for metric in seconds]
    energy = bool(table["energy_joules"].notna().any())
    header = (*map(axis_words, part.axes), "parameters", *spent_on, "all trials, device time")
    header += ("all trials, energy",) * energy + ("device",)
    rows = [
        (
            *(value_label(axis, plain(row[axis])) for axis in part.axes),
            figure_text("parameters", row[figure_column(part.trainable, "parameters")]),
            *(figure_text(metric, row[metric]) for metric in seconds),
            duration(row["device_seconds"]),
            *((energy_text(row["energy_joules"]),) * energy),
            row[figure_column(part.trainable, "device")] or "not recorded",
        )
        for row in table.to_dict("records")
    ]
    numeric = (*(False for _ in part.axes), True, *(True for _ in seconds), True, *((True,) * energy), False)
    return Table(header, tuple(rows), numeric)


def trial_table(part: Part, trials: pd.DataFrame) -> pd.DataFrame:
    """One row per trial, the best by the part's final metric first, then those without one.

    Columns: `trial_id`; the part's axes; `seed`; `state`; `epochs_trained`; `last`; the final metric and
    those of its kind's reported tests; `attempts`; `device_seconds`; `energy_joules`, all as in `load_trials`.
    """
    trials = of_part(part, trials)
    final = f"final_{part.metric}"
    finals = (final, *(f"final_{test}" for test in part.trainable.reported_tests))
    shown = ["state", "epochs_trained", "last", *dict.fromkeys(finals)]
    columns = ["trial_id", *part.axes, "seed", *shown, "attempts", "device_seconds", "energy_joules"]
    ordered = trials.reindex(columns=columns).sort_values(
        [final, "trial_id"], ascending=[part.mode == "min", True], na_position="last"
    )
    return ordered.reset_index(drop=True)


def trial_text(part: Part, table: pd.DataFrame) -> Table:
    """A table of trials as text."""
    energy = bool(table["energy_joules"].notna().any())
    tests = part.trainable.reported_tests
    header = ("trial", *map(axis_words, part.axes), "seed", "state", "epochs")
    header += (
        f"{part.figure_word} {metric_words(part.metric)}",
        *map(metric_words, tests),
        "attempts",
        "device time",
    )
    header += ("energy",) * energy
    rows = [
        (
            row["trial_id"],
            *(value_label(axis, plain(row[axis])) for axis in part.axes),
            str(row["seed"]),
            row["state"],
            str(row["epochs_trained"]),
            figure_text(part.metric, row[f"final_{part.metric}"]),
            *(figure_text(test, row[f"final_{test}"]) for test in tests),
            str(row["attempts"]),
            duration(row["device_seconds"]),
            *((energy_text(row["energy_joules"]),) * energy),
        )
        for row in table.to_dict("records")
    ]
    numeric = (
        False,
        *(False for _ in part.axes),
        True,
        False,
        True,
        True,
        *(True for _ in tests),
        True,
        True,
    )
    return Table(header, tuple(rows), numeric + (True,) * energy)


def trained_on_text(epoch: float) -> str:
    """A note on a missing test figure: its trial was trained further for a longer part, and tested there."""
    return "" if np.isnan(epoch) else f" (trained on to {int(epoch)})"


def csv_bytes(table: pd.DataFrame) -> bytes:
    """The table's numbers as CSV, with empty cells for missing ones."""
    content = io.StringIO()
    table.to_csv(content, index=False, lineterminator="\n")
    return content.getvalue().encode()


def latex(table: Table, caption: str, label: str) -> str:
    """The table as LaTeX, for a document that loads the `booktabs` package."""
    columns = "".join("r" if numeric else "l" for numeric in table.numeric)
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape_latex(caption)}}}",
        rf"  \label{{tab:{label}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        f"    {_latex_row(table.header)}",
        r"    \midrule",
        *(f"    {_latex_row(row)}" for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
}


def escape_latex(text: str) -> str:
    """Text escaped for LaTeX, on one line."""
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(escape_latex, cells)) + r" \\"


def interval_of(row: Mapping[Any, Any], name: str) -> Interval:
    """The interval of a figure in a row of an ablation table."""
    mean, low, high = (row[f"{name}_{bound}"] for bound in ("mean", "low", "high"))
    return Interval(mean, low, high, 0 if np.isnan(mean) else row["seeds"])


def _columns(part: Part, name: str, metric: str, interval: Interval) -> dict[str, float]:
    cut = within(interval, possible_range(part.trainable, metric))
    return {f"{name}_mean": cut.mean, f"{name}_low": cut.low, f"{name}_high": cut.high}


def _probabilities(part: Part, trials: pd.DataFrame) -> dict[int, float]:
    """The probability of each point being the best, if there are several and all trials have finished."""
    points = ordered_points(part, trials)
    if not 2 <= len(points) <= MOST_COMPARED or not trials["state"].isin(("completed", "diverged")).all():
        return {}
    scores = trials.pivot(index="point", columns="replica", values=f"final_{part.metric}").loc[points]
    finished = trials.pivot(index="point", columns="replica", values="state").loc[points].notna()
    if not finished.to_numpy().all() or scores.shape[1] < statistics.MIN_SEEDS:
        return {}
    found = statistics.probability_of_best(scores.to_numpy(dtype=float), part.mode)
    return dict(zip(points, map(float, found)))
