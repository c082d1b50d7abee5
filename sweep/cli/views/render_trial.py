"""The output of `sweep show`."""

import json
import shlex
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixsweep.core.store.store import TrialFolder
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.sweep.cli.views.live_view import STYLES


def trial_mapping(folder: TrialFolder) -> dict[str, Any]:
    """Return all that the store has of a trial, as plain values."""
    info = folder.info()
    values: dict[str, Any] = json.loads(info.to_json()) if info else {"trial_id": folder.trial_id}
    if folder.patch_path.is_file():
        values["patch"] = str(folder.patch_path)
    values["records"] = [
        {**row, "recorded_at": row["recorded_at"].isoformat()} for row in folder.records().to_pylist()
    ]
    return values


def describe_trial(folder: TrialFolder, out: Console, last: int = 5) -> None:
    """Print a trial's config, provenance, attempts and last records."""
    info = folder.info()
    if info is None:
        out.print(f"{folder.trial_id}: no attempt yet")
        return
    out.print(Text(info.trial_id, "bold"), Text(info.state, STYLES[info.state]), f"at epoch {info.epoch}")
    out.print(f"folder  {folder.path}", markup=False, soft_wrap=True)
    trainable, identity = find_trainable(info.config.kind), info.config.identity()
    config = Table("field", "value", "meaning", box=None, header_style="bold")
    for name, value in info.config.to_mapping().items():
        style = "bold" if name in identity else "dim"
        config.add_row(name, Text(str(value), style), trainable.field(name).doc)
    out.print(config)
    attempts = Table("attempt", "place", "host", "from epoch", "start", "end", box=None, header_style="bold")
    for one in info.attempts:
        ending = f"{one.end or 'runs'} {one.message}".strip()
        attempts.add_row(
            str(one.number), one.place, one.host, str(one.from_epoch), one.started_at[:19], Text(ending)
        )
    out.print(attempts)
    for name, value in info.provenance.items():
        out.print(f"{name}: {value}", markup=False, highlight=False)
    if folder.patch_path.is_file():
        out.print(
            f"patch on that revision: {folder.patch_path}", markup=False, highlight=False, soft_wrap=True
        )
    sweep = folder.path.parent.parent / "sweep.toml"
    again = f"sweep run {shlex.quote(str(sweep))} --trial {folder.trial_id} --store again"
    out.print(f"to run this trial again: {again}", markup=False, highlight=False, soft_wrap=True)
    rows = folder.records().to_pylist()[-last:]
    names = ("epoch", *trainable.objectives, *trainable.reported_tests)
    table = Table(*names, box=None, header_style="bold")
    for row in rows:
        table.add_row(*("" if row[n] is None else f"{row[n]:.4g}" for n in names))
    out.print(table)
