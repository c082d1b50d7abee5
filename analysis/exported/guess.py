"""Facts of an exported table that has none, from its columns and rows: it can be loaded and compared."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mixsweep.analysis.exported.facts import SweepFacts
from mixsweep.core.config import Field
from mixsweep.core.records import COMMON_COLUMNS, PLAN_COLUMNS, Metric
from mixsweep.core.trainables.definition import SECONDS, UNLIMITED, Definition
from mixsweep.core.trainables.kinds import find_trainable

SOURCE = "table"  # of a definition that was made of a table
_MACHINES = (
    "seconds",
    "per_second",
    "memory",
    "energy",
    "utilisation",
)  # in names of metrics that depend on it


def guessed_facts(name: str, rows: pd.DataFrame) -> SweepFacts:
    """The facts of one sweep of a table.

    Args:
        rows: of the sweep, with the columns of `sweep export`: keys, `state`, the fields, `epoch`, the metrics.
    """
    columns = list(rows.columns)
    at = columns.index("epoch")
    keys = {*PLAN_COLUMNS, "trial_id"}
    fields = [column for column in columns[:at] if column not in keys and rows[column].notna().any()]
    metrics = [column for column in columns[at + 1 :] if column not in COMMON_COLUMNS]
    definition = _definition(name, rows, fields, metrics)
    planned = rows.drop_duplicates(["part", "trial_id"])
    plan = {
        key: [_plain(v) for v in planned[key]] for key in ("part", "trial_id", "point", "replica", *fields)
    }
    budget = definition.budget
    if budget not in fields:
        plan[budget] = [UNLIMITED] * len(planned)
    parts = list(dict.fromkeys(planned["part"]))
    file: dict[str, Any] = {"name": name, "kind": definition.kind, **_objective(metrics)}
    if parts != [name]:
        file["parts"] = [{"name": part} for part in parts]
    return SweepFacts(
        name=name,
        file=file,
        definition=definition.to_mapping(),
        plan=plan,
        columns={column: column for column in columns[at + 1 :]},
        trials=_trials(rows, budget),
        provenances=[{}],
        is_guess=True,
    )


def _definition(name: str, rows: pd.DataFrame, fields: list[str], metrics: list[str]) -> Definition:
    made = [_field(column, rows[column]) for column in fields]
    budget = "epochs" if "epochs" in fields else "records asked for"
    known = {field.name for field in made}
    if budget not in known:
        made.append(Field(name=budget, type=int, default=UNLIMITED, doc="", applies={}, budget=True))
    if "parent" not in known:
        made.append(Field(name="parent", type=str, default="", doc="", applies={}))
    image = {metric.name: metric for metric in find_trainable().metrics}
    own = [image.get(column) or _metric(column) for column in metrics]
    if SECONDS not in metrics:
        own.append(Metric(name=SECONDS, doc="", unit="s", better="min"))
    return Definition(source=SOURCE, name=name, fields=tuple(made), metrics=tuple(own), budget=budget)


def _field(name: str, column: pd.Series) -> Field:
    values = [_plain(value) for value in column.dropna().drop_duplicates()]
    is_list = isinstance(values[0], list)
    items = [item for value in values for item in (value if is_list else [value])]
    types = {type(item) for item in items}
    kind = types.pop() if len(types) == 1 else float if types <= {int, float} else str
    optional = bool(column.isna().any())
    return Field(
        name=name, type=kind, default=None if optional else values[0], doc="", is_list=is_list, optional=optional,
        applies={}, budget=name == "epochs",
    )  # fmt: skip


def _metric(name: str) -> Metric:
    is_reproducible = not any(word in name for word in _MACHINES)
    return Metric(name=name, doc="", is_objective=is_reproducible, is_reproducible=is_reproducible)


def _objective(metrics: list[str]) -> dict[str, str]:
    image = find_trainable().default_metric
    return {"metric": image if image in metrics else metrics[0]} if metrics else {}


def _trials(rows: pd.DataFrame, budget: str) -> Mapping[str, Mapping[str, Any]]:
    """The infos of trials, as far as the rows tell."""
    found = {}
    ordered = rows.sort_values("epoch")
    for row in ordered.drop_duplicates("trial_id", keep="last").to_dict("records"):
        attempt = {"number": int(row.get("attempt", 1)), "end": row["state"], "to_epoch": int(row["epoch"])}
        found[str(row["trial_id"])] = {
            "state": row["state"],
            "epoch": int(row["epoch"]),
            "attempts": [attempt],
            "provenance": 0,
            "updated_at": str(row.get("recorded_at", "")),
            "budget": int(row.get(budget, UNLIMITED)),
        }
    return found


def _plain(value: Any) -> Any:
    """A value of a column as JSON has it."""
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and np.isnan(value) else value
