"""The output of `sweep show`."""

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixsweep.core.errors import UserError
from mixsweep.core.formatting import axes_lines, size_text
from mixsweep.core.store.code_copy import patch_path, same_code
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.folder import TrialFolder
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.trainables.definition import UNLIMITED
from mixsweep.core.trainables.interface import Trainable
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.sweep.cli.views.live_view import STYLES

_MOST_KEPT = 20  # kept files to list


def trial_mapping(folder: TrialFolder) -> dict[str, Any]:
    """Return all that the store has of a trial, as plain values."""
    info = folder.info(verify=True)
    values: dict[str, Any] = json.loads(info.to_json()) if info else {"trial_id": folder.trial_id}
    if info and (path := _patch_of(folder, info)):
        values["patch"] = path
    if info:
        values["codes"] = list(
            dict.fromkeys(same_code(folder.path.parent.parent, code) for code in info.codes)
        )
    if derived := _derived_of(folder):
        values["derived"] = derived
    if kept := folder.kept_files():
        values["artifacts"] = [
            {"file": name, "path": str(path), "bytes": size}
            for name, (path, size) in _with_sizes(kept).items()
        ]
    if line := _predictions_line(folder):
        values["predictions"] = line
    values["records"] = [
        {**row, "recorded_at": row["recorded_at"].isoformat()} for row in folder.records().to_pylist()
    ]
    return values


def _derived_of(folder: TrialFolder) -> dict[str, str]:
    """Return the expressions of a trial's derived fields, as its sweep's file now has them."""
    store = SweepStore(folder.path.parent.parent)
    try:
        file, plan = store.sweep_file(), store.plan().select(["trial_id", "part"]).to_pylist()
    except (UserError, OSError, KeyError):  # the trial is shown without
        return {}
    mine = {row["part"] for row in plan if row["trial_id"] == folder.trial_id}
    found: dict[str, str] = {}
    for number, table in enumerate(file.get("parts", [file]), start=1):
        if "parts" not in file or table.get("name", f"part-{number}") in mine:
            found |= table.get("derive", {})
    return found if mine else {}


def _patch_of(folder: TrialFolder, info: TrialInfo) -> str:
    """Return the file of the uncommitted changes that a trial was trained with, '' if there were none."""
    digest = info.provenance.get("patch")
    path = patch_path(folder.path.parent.parent, str(digest))
    return str(path) if digest and path.is_file() else ""


def describe_trial(folder: TrialFolder, out: Console, last: int = 5) -> None:
    """Print a trial's config, provenance, attempts and last records."""
    info = folder.info(verify=True)
    if info is None:
        damages = folder.damages()
        out.print(
            damages[0] if damages else f"{folder.trial_id}: no attempt yet", markup=False, soft_wrap=True
        )
        return
    out.print(Text(info.trial_id, "bold"), Text(info.state, STYLES[info.state]), f"at epoch {info.epoch}")
    out.print(f"folder  {folder.path}", markup=False, soft_wrap=True)
    sweep = folder.path.parent.parent
    codes = dict.fromkeys(same_code(sweep, code) for code in info.codes)
    if len(codes) > 1:
        line = f"of two definitions: {' and then '.join(codes)} have trained it (code/ in {sweep})"
        out.print(Text(line, "yellow"), soft_wrap=True)
    trainable, identity = find_trainable(info.config.kind), info.config.identity()
    config = Table("field", "value", "meaning", box=None, header_style="bold")
    for name, value in info.config.to_mapping().items():
        style = "bold" if name in identity else "dim"
        shown = "until it ends" if name == trainable.budget and value == UNLIMITED else str(value)
        config.add_row(name, Text(shown, style), trainable.field(name).doc)
    out.print(config)
    for line in axes_lines({"derive": _derived_of(folder)}):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    attempts = Table("attempt", "place", "host", "from epoch", "start", "end", box=None, header_style="bold")
    for one in info.attempts:
        ending = f"{one.end or 'runs'} {one.message}".strip()
        attempts.add_row(
            str(one.number), one.place, one.host, str(one.from_epoch), one.started_at[:19], Text(ending)
        )
    out.print(attempts)
    for line in _project_lines(info, sweep):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    for name, value in info.provenance.items():
        if name != "patch":
            out.print(f"{name}: {value}", markup=False, highlight=False)
    if path := _patch_of(folder, info):
        out.print(f"patch on that revision: {path}", markup=False, highlight=False, soft_wrap=True)
    if kept := _with_sizes(folder.kept_files()):
        (first, *_), total = kept.items(), sum(size for _, size in kept.values())
        where = first[1][0].parents[first[0].count("/")]
        out.print(
            f"kept files: {len(kept)}, {size_text(total)} in {where}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        for name, (_, size) in list(kept.items())[:_MOST_KEPT]:
            out.print(f"  {size_text(size):>10}  {name}", markup=False, highlight=False, soft_wrap=True)
        if len(kept) > _MOST_KEPT:
            out.print(f"  and {len(kept) - _MOST_KEPT} more; all with --json", style="dim")
    if line := _predictions_line(folder):
        out.print(f"predictions: {line}", markup=False, highlight=False, soft_wrap=True)
    again = f"sweep run {shlex.quote(str(sweep / 'sweep.toml'))} --trial {folder.trial_id} --store again"
    out.print(f"to run this trial again: {again}", markup=False, highlight=False, soft_wrap=True)
    rows = folder.records().to_pylist()[-last:]
    names = _shown_metrics(trainable, rows)
    table = Table(*names, box=None, header_style="bold")
    for row in rows:
        table.add_row(*("" if row[n] is None else f"{row[n]:.4g}" for n in names))
    out.print(table)


def _predictions_line(folder: TrialFolder) -> str:
    """Return how many predictions a trial has kept and how many are right, or what is wrong with them."""
    try:
        found = folder.predictions()
    except UserError as error:
        return str(error)
    return f"{len(found.label):,} examples, {found.accuracy:.2%} right" if found else ""


def _project_lines(info: TrialInfo, sweep: Path) -> list[str]:
    """Return a line for each revision of the user's project that an attempt began with, and its attempts."""
    found: dict[str, list[str]] = {}
    for one in info.attempts:
        if one.project_revision:
            changed = " with uncommitted changes" if one.project_dirty else ""
            if one.project_patch:
                changed += f" ({patch_path(sweep, one.project_patch)})"
            found.setdefault(f"{one.project_revision}{changed}", []).append(str(one.number))
    only = len(found) == 1 and len(next(iter(found.values()))) == len(info.attempts)
    return [
        f"your project's revision: {words}"
        + ("" if only else f" (attempt{'s' * (len(numbers) > 1)} {', '.join(numbers)})")
        for words, numbers in found.items()
    ]


def _with_sizes(kept: Mapping[str, Path]) -> dict[str, tuple[Path, int]]:
    """Return kept files with their sizes; a running trial may have replaced one meanwhile."""
    found = {}
    for name, path in kept.items():
        with suppress(OSError):
            found[name] = path, path.stat().st_size
    return found


def _shown_metrics(trainable: Trainable, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of records to show: the epoch, declared metrics, then others that these records have."""
    declared = ("epoch", *trainable.objectives, *trainable.reported_tests)
    others = [name for name in (rows[0] if rows else ()) if name not in trainable.schema.names]
    return [
        name
        for name in (*declared, *others)
        if name == trainable.default_metric or any(row.get(name) is not None for row in rows)
    ]
