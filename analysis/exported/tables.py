"""Exported tables, found among what a command or a caller names."""

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from mixsweep.analysis.exported.facts import SweepFacts, path_beside, read_facts
from mixsweep.analysis.exported.guess import guessed_facts
from mixsweep.analysis.exported.store import ExportedStore
from mixsweep.core.errors import UserError, did_you_mean
from mixsweep.core.store.store import SweepStore

SUFFIXES = (".parquet", ".csv")

RECORDED_AT = pa.timestamp("ms", "UTC")
_TEXTS = ("sweep", "part", "trial_id", "state")
_LARGEST_BLOCK = 2**31 - 1  # bytes, Arrow's


def is_table(path: Path | str) -> bool:
    """Whether this is the path of a table, or `TABLE/NAME`, one of its sweeps."""
    path = Path(path)
    return any(one.suffix in SUFFIXES and one.is_file() for one in (path, path.parent))


def sweeps_in(path: Path) -> list[ExportedStore]:
    """The sweeps of a table, or the one that `TABLE/NAME` names.

    Raises:
        UserError: it cannot be read as a table of `sweep export`, has no such sweep, or none of its rows.
    """
    table = path if path.is_file() else path.parent
    frame = _read(table)
    missing = [name for name in ("sweep", "part", "trial_id", "state", "epoch") if name not in frame]
    if missing:
        raise UserError(f"{table}: not a table of `sweep export`: it has no column {missing[0]}")
    known = {facts.name: facts for facts in read_facts(table)}
    if frame.empty:
        raise UserError(f"{table}: has no rows; export the sweep again")
    names = list(known or dict.fromkeys(frame["sweep"]))
    if path != table:
        if path.name not in names:
            raise UserError(f"{table}: no sweep {path.name!r} in it{did_you_mean(path.name, names)}")
        names = [path.name]
    is_alone = len(known or frame["sweep"].unique()) == 1
    return [
        _store(table if is_alone else table / name, known.get(name), frame[frame["sweep"] == name], name)
        for name in names
    ]


def one_sweep(path: Path) -> ExportedStore:
    """The sweep of a table.

    Raises:
        UserError: as for `sweeps_in`; or it has several.
    """
    found = sweeps_in(path)
    if len(found) > 1:
        names = " and ".join(one.name for one in found)
        raise UserError(f"{path}: has the sweeps {names}; choose one: {path}/{found[0].name}")
    return found[0]


def check_what_is_told(stores: Iterable[SweepStore]) -> None:
    """Check that the tables among these stores say what their sweeps ask and claim, as a report needs it.

    Raises:
        UserError: one does not, as a table of an older version.
    """
    for store in stores:
        if isinstance(store, ExportedStore) and store.facts.is_guess:
            beside = f" (or {path_beside(store.path).name} is gone)" if store.path.suffix == ".csv" else ""
            raise UserError(
                f"{store.path}: says nothing of its question and claims: it is of an older version{beside}; "
                "export the sweep again"
            )


def _store(path: Path, told: SweepFacts | None, rows: pd.DataFrame, name: str) -> ExportedStore:
    facts = told or guessed_facts(name, rows)
    if rows.empty and any(trial["epoch"] > 0 for trial in facts.trials.values()):
        raise UserError(f"{path}: has no rows of sweep {name!r}, whose trials have records; export it again")
    if strangers := set(rows["trial_id"]) - facts.trials.keys():
        raise UserError(
            f"{path}: trial {min(strangers)} is not in what the table says of its sweep; export it again"
        )
    stored = {own: column for column, own in facts.columns.items() if own in rows}
    once = rows.drop_duplicates(["trial_id", "epoch"])[["trial_id", "epoch", *stored]].rename(columns=stored)
    return ExportedStore(path, facts, pa.Table.from_pandas(once, preserve_index=False))


def _read(table: Path) -> pd.DataFrame:
    """The rows of a table, in the types of a store as far as the columns tell."""
    try:
        if table.suffix == ".parquet":
            return pq.read_table(table).to_pandas()
        whole = max(1, min(table.stat().st_size, _LARGEST_BLOCK))  # types are inferred from the first block
        types = {**dict.fromkeys(_TEXTS, pa.string()), "recorded_at": RECORDED_AT}
        options = csv.ConvertOptions(column_types=types)
        frame = csv.read_csv(table, csv.ReadOptions(block_size=whole), convert_options=options).to_pandas()
    except (ValueError, pa.ArrowException) as error:
        raise UserError(f"{table}: not a table: {' '.join(str(error).split())}") from error
    for name in frame.select_dtypes(include=["object", "string"]):
        if name not in _TEXTS:
            frame[name] = frame[name].map(_parsed)
    return frame


def _parsed(value: Any) -> Any:
    """A cell of CSV that holds a list, as a list."""
    if isinstance(value, str) and value[:1] in "([" and value[-1:] in ")]":
        try:
            return list(ast.literal_eval(value))
        except (ValueError, SyntaxError):
            return value
    return value
