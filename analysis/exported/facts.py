"""What an exported table says of its sweeps beside its rows: sweep file, plan, and how each trial was trained.

In Parquet it is metadata of the file, in CSV a file of JSON beside it.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mixsweep.core.errors import UserError
from mixsweep.core.store.code_copy import same_code
from mixsweep.core.store.files import write_bytes
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo

VERSION = 1
METADATA_KEY = b"mixsweep:sweeps"


@dataclass(frozen=True, kw_only=True)
class SweepFacts:
    """What a table says of one of its sweeps, as plain JSON values.

    Args:
        name: of the sweep, as the rows have it.
        file: the resolved sweep file.
        definition: of the trainable, if it is not a built-in one.
        plan: the columns of the plan.
        columns: the table's names of the records' columns, by their names in a store.
        trials: of each trial that has begun, its info without its config.
        provenances: what has trained them; a trial has the number of its own.
        declared: before the first trial; see core.store.declarations.
        is_guess: whether it was made of the rows alone.
    """

    name: str
    file: Mapping[str, Any]
    definition: Mapping[str, Any] | None
    plan: Mapping[str, list[Any]]
    columns: Mapping[str, str]
    trials: Mapping[str, Mapping[str, Any]]
    provenances: Sequence[Mapping[str, Any]]
    declared: Mapping[str, Any] | None = None
    is_guess: bool = False


def facts_of(store: SweepStore, infos: Mapping[str, TrialInfo], columns: Mapping[str, str]) -> SweepFacts:
    """The facts of a sweep.

    Args:
        infos: of the trials that have begun.
        columns: the table's names of the records' columns, by their names in the store.
    """
    definition, file = store.trainable.definition, store.sweep_file()
    provenances: dict[str, int] = {}
    trials = {}
    for trial_id, info in infos.items():
        values = info.to_mapping()
        key = json.dumps(values.pop("provenance"), sort_keys=True)
        budget = values["config"][store.trainable.budget]
        for left_out in ("config", "identity", "trial_id"):
            del values[left_out]
        attempts = [
            {
                name: value
                for name, value in {**one, "code": same_code(store.path, one["code"])}.items()
                if value
            }
            for one in values["attempts"]
        ]
        number = provenances.setdefault(key, len(provenances))
        trials[trial_id] = {**values, "attempts": attempts, "provenance": number, "budget": budget}
    return SweepFacts(
        name=str(file["name"]),
        file=file,
        definition=definition.to_mapping() if definition else None,
        plan=store.plan().to_pydict(),
        columns=dict(columns),
        trials=trials,
        provenances=[json.loads(key) for key in provenances],
        declared=store.declared(),
    )


def to_json(facts: Sequence[SweepFacts]) -> str:
    """The facts of a table's sweeps as JSON."""
    sweeps = [{name: value for name, value in vars(one).items() if name != "is_guess"} for one in facts]
    return json.dumps({"version": VERSION, "sweeps": sweeps})


def to_metadata(facts: Sequence[SweepFacts]) -> bytes:
    """The facts as metadata of a Parquet file."""
    return base64.b64encode(zlib.compress(to_json(facts).encode()))


def write_beside(facts: Sequence[SweepFacts], table: Path) -> Path:
    """Write the facts beside a table in CSV; return the file's path."""
    path = path_beside(table)
    write_bytes(path, f"{to_json(facts)}\n".encode())
    return path


def path_beside(table: Path) -> Path:
    """Where the facts of a table in CSV are."""
    return table.with_name(f"{table.name}.sweeps.json")


def read_facts(table: Path) -> tuple[SweepFacts, ...]:
    """The facts of a table's sweeps; none if it has none, as one of an older version.

    Raises:
        UserError: they cannot be read.
    """
    try:
        if table.suffix == ".csv":
            path = path_beside(table)
            return _from_json(path.read_bytes(), path) if path.is_file() else ()
        metadata = pq.read_schema(table).metadata or {}
        found = metadata.get(METADATA_KEY)
        return () if found is None else _from_json(zlib.decompress(base64.b64decode(found)), table)
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{table}: what it says of its sweeps cannot be read ({error}); export it again"
        ) from error


def _from_json(text: bytes, path: Path) -> tuple[SweepFacts, ...]:
    content = json.loads(text)
    if content["version"] > VERSION:
        raise UserError(f"{path}: written by a newer version of mixsweep; install that version")
    return tuple(SweepFacts(**sweep) for sweep in content["sweeps"])
