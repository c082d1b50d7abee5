"""What a sweep declared before its first trial started: its claims, its seeds, and how comparisons are tested.

A claim that was written, or changed, after that is late, and so is one of a part that is new but has old trials: a part
that was renamed, for example. The file is written by each `sweep run` and only added to once a trial has begun. A sweep
that an older version began counts what its last sweep file declared.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

from mixsweep.core import records
from mixsweep.core.errors import UserError
from mixsweep.core.store import files
from mixsweep.core.store.store import DECLARED_FILE, SweepStore

OWN_ERROR = "own"  # the error of a comparison unless the sweep file says otherwise


def declare(
    store: SweepStore, file: Mapping[str, Any], seeds: int, planned: Mapping[str, Collection[str]]
) -> None:
    """Record what a sweep file declares that is about to be run; claims that are known keep their time.

    Args:
        file: the resolved sweep file; the store still has the one of the run before.
        seeds: the number of its seeds.
        planned: the ids of each part's trials, by the part's name.
    """
    trials = set(store.trial_names())
    begun = bool(trials)
    known = store.declared()
    if known is None and begun:
        known = _of_older_version(store)
    if known is None or not begun:
        known = {"claims": {}, "parts": {}}
    moment = records.now().isoformat(timespec="seconds")
    before = min((part["seeds"] for part in known["parts"].values()), default=seeds)
    for name, part in _parts(file):
        has_begun = not trials.isdisjoint(planned.get(name, ()))
        late = has_begun or (begun and name in known["parts"])
        own = {"seeds": seeds, "error": file.get("error", OWN_ERROR)}
        known["parts"].setdefault(name, {"seeds": before, "error": OWN_ERROR} if has_begun else own)
        for claim in part.get("claims", ()):
            first = _recorded(known, file, name, part, claim) or {"recorded_at": moment, "late": late}
            known["claims"].setdefault(_digest(file, name, part, claim), first)
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
        if (_recorded(known, file, part, table, claim) or {"late": True})["late"]
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
            _digest(file, name, part, claim): {"recorded_at": "", "late": False}
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


def _recorded(
    known: Mapping[str, Any],
    file: Mapping[str, Any],
    name: str,
    part: Mapping[str, Any],
    claim: Mapping[str, Any],
) -> dict[str, Any] | None:
    """What is known of a claim of a part; an older version did not say which values it was about."""
    claims: Mapping[str, dict[str, Any]] = known["claims"]
    return claims.get(_digest(file, name, part, claim)) or claims.get(_digest(file, name, {}, claim))


def _digest(file: Mapping[str, Any], name: str, part: Mapping[str, Any], claim: Mapping[str, Any]) -> str:
    """Of all that a claim's test rests on; its text may be reworded."""
    tested = {key: value for key, value in claim.items() if key != "text"}
    judged = {key: file.get(key) for key in ("metric", "mode", "score", "error")}
    content = json.dumps([name, tested, judged, *_values(part, claim)], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _values(part: Mapping[str, Any], claim: Mapping[str, Any]) -> list[Any]:
    """The values that a claim is about beside those that it names: all of its field's, and what is left out of them."""
    names_all = (
        "best" in claim
        or "worst" in claim
        or "monotone" in claim
        or claim.get("alike") == "all"
        or ("alike" not in claim and claim.get("than", "rest") == "rest")
    )
    axis = part.get("space", {}).get(claim["compare"])
    if not names_all or axis is None:
        return []
    listed = axis.get("grid_search", axis.get("choice"))
    if isinstance(listed, list) and "monotone" not in claim:
        axis = sorted(json.dumps(value) for value in listed)
    return [axis, part.get("combine", {}).get("exclude", [])]
