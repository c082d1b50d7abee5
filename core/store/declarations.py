"""What a sweep declared before its first trial started: its claims, its seeds, and how comparisons are tested.

A claim that was written, or changed, after that is late. The file is written by each `sweep run` and only added to once
a trial has begun. A sweep that an older version began counts what its last sweep file declared.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from mixsweep.core import records
from mixsweep.core.errors import UserError
from mixsweep.core.store import files
from mixsweep.core.store.store import DECLARED_FILE, SweepStore

OWN_ERROR = "own"  # the error of a comparison unless the sweep file says otherwise


def declare(store: SweepStore, file: Mapping[str, Any], seeds: int) -> None:
    """Record what a sweep file declares that is about to be run; claims that are known keep their time.

    Args:
        file: the resolved sweep file; the store still has the one of the run before.
        seeds: the number of its seeds.
    """
    begun = bool(store.trial_names())
    known = store.declared()
    if known is None and begun:
        known = _of_older_version(store)
    if known is None or not begun:
        known = {"claims": {}, "parts": {}}
    moment = records.now().isoformat(timespec="seconds")
    for name, part in _parts(file):
        late = begun and name in known["parts"]
        known["parts"].setdefault(name, {"seeds": seeds, "error": file.get("error", OWN_ERROR)})
        for claim in part.get("claims", ()):
            known["claims"].setdefault(_digest(file, name, claim), {"recorded_at": moment, "late": late})
    files.write_json(store.path / DECLARED_FILE, known)


def declared_before(store: SweepStore, file: Mapping[str, Any], part: str) -> dict[str, Any]:
    """What a part declared before its first trial: `declared` seeds (0: not known), `late` claims, and the `error`.

    Args:
        file: the store's sweep file.
    """
    error = str(file.get("error", OWN_ERROR))
    known = store.declared()
    if known is None:
        return {"declared": 0, "late": (), "error": error}
    first = known["parts"].get(part, {"seeds": 0, "error": OWN_ERROR})
    table = next((table for name, table in _parts(file) if name == part), {})
    late = tuple(
        number
        for number, claim in enumerate(table.get("claims", ()))
        if known["claims"].get(_digest(file, part, claim), {"late": True})["late"]
    )
    return {
        "declared": int(first["seeds"]),
        "late": late,
        "error": error if error == first["error"] else OWN_ERROR,
    }


def _of_older_version(store: SweepStore) -> dict[str, Any] | None:
    """What the sweep file of the last run declared, at an unknown time."""
    with suppress(OSError, UserError):
        file, plan = store.sweep_file(), store.plan()
        seeds = 1 + max((int(n) for n in plan["replica"].to_pylist()), default=0)
        claims = {
            _digest(file, name, claim): {"recorded_at": "", "late": False}
            for name, part in _parts(file)
            for claim in part.get("claims", ())
        }
        error = file.get("error", OWN_ERROR)
        return {
            "claims": claims,
            "parts": {name: {"seeds": seeds, "error": error} for name, _ in _parts(file)},
        }
    return None


def _parts(file: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    several = file.get("parts")
    for number, table in enumerate(several or [file], start=1):
        yield str(table.get("name", f"part-{number}" if several else file["name"])), table


def _digest(file: Mapping[str, Any], part: str, claim: Mapping[str, Any]) -> str:
    """Of all that a claim's test rests on; its text may be reworded."""
    tested = {key: value for key, value in claim.items() if key != "text"}
    judged = {key: file.get(key) for key in ("metric", "mode", "score", "error")}
    content = json.dumps([part, tested, judged], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
