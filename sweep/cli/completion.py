"""Shell completion of sweep files, sweeps, trials and places. It only lists folders, and never raises."""

import re
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

import typer

from mixsweep.cluster.places import BUILT_IN, places_files
from mixsweep.sweep.presets.catalog import preset_names

Offer = tuple[str, str]  # a word and its description, which some shells show

_NO_SWEEP_FILES = ("places.toml", "pyproject.toml")
_TRIAL = re.compile(r"[0-9a-f]{12}")
_MOST = 1000  # offers


def _quietly(offer: Callable[..., Iterator[Offer]]) -> Callable[..., list[Offer]]:
    """Return a completion that offers nothing on any error, as it may run at every key press."""

    @wraps(offer)
    def offered(*arguments: Any, **named: Any) -> list[Offer]:
        try:
            return [pair for pair, _ in zip(offer(*arguments, **named), range(_MOST))]
        except Exception:
            return []

    return offered


@_quietly
def complete_file(incomplete: str) -> Iterator[Offer]:
    """Offer presets, and the TOML files in the folder typed so far."""
    for name in preset_names():
        if name.startswith(incomplete):
            yield name, "a preset"
    typed, slash, _ = incomplete.rpartition("/")
    for path in sorted(Path(typed + slash or ".").glob("*.toml")):
        if path.name not in _NO_SWEEP_FILES:
            yield f"{typed}{slash}{path.name}", "a sweep file"


@_quietly
def complete_preset(incomplete: str) -> Iterator[Offer]:
    """Offer presets."""
    for name in preset_names():
        yield name, "a preset"


@_quietly
def complete_sweep(ctx: typer.Context, incomplete: str) -> Iterator[Offer]:
    """Offer the sweeps of the store."""
    given = {*(ctx.params.get("sweeps") or ()), ctx.params.get("a")}
    for path in sorted(_store(ctx).glob("*/sweep.toml")):
        if path.parent.name not in given:
            yield path.parent.name, "a sweep"


@_quietly
def complete_trial(ctx: typer.Context, incomplete: str) -> Iterator[Offer]:
    """Offer the trials of the store by id; by SWEEP/ID after `SWEEP/`, or where several sweeps have the trial."""
    sweep, slash, begin = incomplete.rpartition("/")
    where: dict[str, list[str]] = {}
    for folder in sorted(_store(ctx).glob("*/trials")):
        if not slash or folder.parent.name == sweep:
            for path in folder.iterdir():
                if path.name.startswith(begin) and _TRIAL.fullmatch(path.name):
                    where.setdefault(path.name, []).append(folder.parent.name)
    for trial_id, sweeps in sorted(where.items()):
        if slash or (len(sweeps) > 1 and begin == trial_id):
            yield from ((f"{name}/{trial_id}", "a trial") for name in sweeps)
        else:
            yield trial_id, f"of {', '.join(sweeps)}"


@_quietly
def complete_place(incomplete: str) -> Iterator[Offer]:
    """Offer the built-in places and those of places.toml."""
    kinds = dict(zip(BUILT_IN, BUILT_IN))
    for path in places_files():
        with suppress(OSError, ValueError, RecursionError):
            for name, table in tomllib.loads(path.read_text(encoding="utf-8-sig")).items():
                if isinstance(table, dict):
                    kinds.setdefault(name, str(table.get("kind", name)))
    for name, kind in sorted(kinds.items()):
        yield name, f"a place of kind {kind}"


def _store(ctx: typer.Context) -> Path:
    return Path(ctx.params.get("store") or "runs")
