"""The store's records as tidy tables: one row per epoch, or one row per trial."""

from collections.abc import Sequence

import pandas as pd

from mixsweep.analysis.parts import Part, of_part, plain, value_codes, values_of, varied_fields
from mixsweep.analysis.reading import KEYS, Reading, Sweep, open_sweep, read_planned, read_sweep, with_tables
from mixsweep.analysis.trial_figures import attempt_seconds, rows_of, trial_figures
from mixsweep.core.records import PLAN_COLUMNS
from mixsweep.core.trainables.interface import Trainable

__all__ = [
    "Part",
    "Reading",
    "Sweep",
    "attempt_seconds",
    "figure_column",
    "load",
    "load_trials",
    "of_part",
    "open_sweep",
    "parts",
    "plain",
    "read_planned",
    "read_sweep",
    "record_columns",
    "value_codes",
    "values_of",
    "with_tables",
]


def parts(sweep: Sweep) -> tuple[Part, ...]:
    """The ablations of a sweep, in the order of its file; a file without parts has one.

    Raises:
        UserError: the sweep is unknown or empty.
    """
    return read_sweep(sweep).parts


def load(*sweeps: Sweep) -> pd.DataFrame:
    """Every epoch record of one or more sweeps, with its trial's config.

    Columns: sweep_folder, sweep, part, trial_id, point, replica, state; the varied fields, then the other fields of a
    trial; epoch and the metrics, in the units that its kind declares (a record's `lr` is `epoch_lr`).
    A trial that belongs to several parts appears once per part, each time up to that part's epochs. Two sweeps of one
    name are told apart by `sweep_folder`.

    Args:
        sweeps: folders of sweeps, or tables that `sweep export` wrote.

    Raises:
        UserError: a sweep is unknown or empty.
    """
    readings = [read_sweep(sweep) for sweep in with_tables(sweeps)]
    names: dict[str, None] = {}  # of fields, and of records' columns
    columns: dict[str, None] = {}
    frames, begun = [], []
    for reading in readings:
        own = record_columns(reading.trainable, tuple(reading.records.columns))
        names |= dict.fromkeys(reading.trainable.field_names)
        columns |= dict.fromkeys(own.values())
        trials = reading.plan.assign(state=reading.states)
        order = trials.sort_values(["part", "trial_id"]).index.to_numpy()
        spans = reading.spans.iloc[order]
        rows, of_trial = rows_of(spans["start"].to_numpy(), spans["end"].to_numpy())
        records = reading.records.drop(columns="trial_id").rename(columns=own).take(rows)
        mine = trials.take(order[of_trial])
        frames.append(pd.concat([mine.reset_index(drop=True), records.reset_index(drop=True)], axis=1))
        begun.append(trials.iloc[order[spans["end"].to_numpy() > spans["start"].to_numpy()]])
    varied = varied_fields(pd.concat(begun, ignore_index=True), tuple(names), ())
    others = tuple(name for name in names if name not in varied)
    frame = frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)
    return frame[[*KEYS, "state", *varied, *others, "epoch", *columns]]


def record_columns(trainable: Trainable, stored: Sequence[str] = ()) -> dict[str, str]:
    """A frame's names of record columns, by their names in the store: `epoch_lr` for `lr`, which is also a field.

    Args:
        stored: the columns of its records, which may have more than its kind declares.
    """
    names = dict.fromkeys((*trainable.schema.names, *stored))
    for key in ("trial_id", "epoch"):
        names.pop(key, None)
    for key in ("attempt", "recorded_at"):  # of the store, so they come last
        if key in names:
            names[key] = names.pop(key)
    taken = {*trainable.field_names, *PLAN_COLUMNS}
    return {name: f"epoch_{name}" if name in taken else name for name in names}


def load_trials(*sweeps: Sweep) -> pd.DataFrame:
    """One row per (part, trial) of the plan, begun or not.

    If parts have different budgets for a trial, each sees it up to its own budget: it is completed
    there once it has reached that epoch, and its test figures are NaN if they belong to a longer run.

    Beyond the keys, the state and the config: `epochs_planned`, the budget; `epochs_trained`; `trained_on_to`,
    the last epoch of a trial that was trained beyond its part's budget, else NaN; `final_<metric>`, of each objective
    in the record of a completed trial that counts (its last one, or its best by the sweep's metric), and of each test
    metric in its last one, NaN for any other trial; `last`, the sweep's metric at the last
    recorded epoch; `best` and `best_epoch`, by the sweep's metric over all epochs (optimistic, since chosen on it;
    test figures are those of the last epoch); the seconds of a record (`train_seconds` and `valid_seconds`) and
    its size (`train_images`), medians over the epochs without the first, which warms up; `parameters`; `device`,
    `attempts`,
    `device_seconds` (wall time of all attempts, in all parts, times the devices of each), `energy_joules` (of
    all epochs in the store, in all parts; NaN if no device measured it), `message` (of the last failure). Where a
    field of the user's has one of these names, such as `device`, the figure is `trial_device`.

    Raises:
        UserError: a sweep is unknown or empty.
    """
    frames = []
    for reading in map(read_sweep, with_tables(sweeps)):
        figures = trial_figures(reading)
        named = {figure_column(reading.trainable, name): column for name, column in figures.items()}
        frames.append(reading.plan.assign(**named))
    return pd.concat(frames, ignore_index=True)


def figure_column(trainable: Trainable, name: str) -> str:
    """The column of a figure of trials, which has another name where a field has this one."""
    return f"trial_{name}" if name in trainable.field_names else name
