"""Shared by the commands: the types of their arguments, the console, and look-ups of names in a store."""

import glob
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from mixsweep.cluster.places import find_place
from mixsweep.core.errors import UserError, did_you_mean
from mixsweep.sweep.cli.completion import complete_file, complete_place, complete_sweep, complete_trial

if TYPE_CHECKING:  # slow imports, which completion, `--help` and `--version` do without
    from mixsweep.core.store.store import SweepStore
    from mixsweep.core.store.trial.folder import TrialFolder
    from mixsweep.sweep.planning.plan import Plan

out = Console(highlight=False, soft_wrap=False)

File = Annotated[
    str,
    typer.Argument(metavar="FILE", help="A sweep file, or a preset's name.", autocompletion=complete_file),
]
SweepName = Annotated[
    str,
    typer.Argument(
        metavar="SWEEP", help="A sweep's name in the store, or its folder.", autocompletion=complete_sweep
    ),
]
SweepNames = Annotated[
    list[str],
    typer.Argument(metavar="SWEEP...", help="Names in the store, or folders.", autocompletion=complete_sweep),
]
SourceNames = Annotated[
    list[str],
    typer.Argument(
        metavar="SWEEP...",
        help="Names in the store, folders, or exported tables.",
        autocompletion=complete_sweep,
    ),
]
TrialName = Annotated[
    str,
    typer.Argument(
        metavar="TRIAL",
        help="A trial's id or the start of it; SWEEP/ID if several sweeps have it.",
        autocompletion=complete_trial,
    ),
]
Store = Annotated[Path, typer.Option(help="The folder of sweeps.")]
Data = Annotated[
    Path | None, typer.Option(help="The folder of the images; left out: SWEEP_DATA, then the place's data.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override the file: base.epochs=2.")
]
PlaceName = Annotated[
    str,
    typer.Option(help="Where to run: debug, local, or one of places.toml.", autocompletion=complete_place),
]
WhereStore = Annotated[
    str | None,
    typer.Option(
        "--place", help="A Ray place with a job server: ask its store.", autocompletion=complete_place
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class UsageError(UserError):
    """A wrong argument, or a name that does not exist."""


def plan_of(file: str, settings: list[str] | None, root: Path) -> "Plan":
    """Return the plan of a sweep file; an adaptive one includes its trials in the store."""
    from mixsweep.core.store.store import SweepStore
    from mixsweep.sweep.planning.parse import load_spec
    from mixsweep.sweep.planning.plan import make_plan
    from mixsweep.sweep.search.suggestions import with_known

    made = make_plan(load_spec(file, settings or ()))
    return with_known(made, SweepStore(root / made.spec.name))


def duration_of(text: str, option: str) -> float:
    """Return the seconds of a duration like `90s`, `30m`, `4h` or `2d`.

    Raises:
        UsageError: it is not one.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([smhd])", text.strip())
    if found is None or float(found[1]) <= 0:
        raise UsageError(f"{option} {shown(text)}: not a duration; write it like 90s, 30m, 4h or 2d")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def elsewhere(place: str | None, *words: str) -> None:
    """Run the command on the cluster if the place keeps its store there; then exit with its exit code."""
    where = find_place(place) if place else None
    if where is not None and where.ray and where.ray.takes_jobs:
        from mixsweep.sweep.backends.ray.job import run_on_cluster, write_out

        with suppress(KeyboardInterrupt):
            raise typer.Exit(run_on_cluster(where, words, write_out))
        raise typer.Exit(130)


def check_store(root: Path) -> None:
    """Raise UsageError if part of the store's path is a file."""
    for path in (root, *root.parents):
        if path.exists():
            if not path.is_dir():
                raise UsageError(f"--store {root}: {path} is not a folder")
            return


def find_sweep(name: str, root: Path) -> "SweepStore":
    """Return the sweep of this name in a store, or the sweep in this folder.

    Raises:
        UsageError: neither exists; with the nearest name.
    """
    from mixsweep.core.store.store import SweepStore
    from mixsweep.sweep.planning.parse import is_folder_name

    candidates = [root / name] if is_folder_name(name) else []
    if name.strip() and "\0" not in name:
        candidates.append(Path(name))
    for path in candidates:
        store = SweepStore(path if path.name not in ("", "..") else path.absolute().resolve())
        with suppress(OSError):  # a name that is too long, a folder that may not be read
            if store.exists():
                return store
    known = [one.name for one in all_sweeps(root)]
    hint = did_you_mean(name, known) if known else "; there are none yet"
    raise UsageError(f"{shown(name)}: no such sweep in {root}{hint}")


def find_sources(names: Iterable[str], root: Path) -> "list[SweepStore]":
    """Return the sweeps of these names; the path of an exported table stands for the sweeps in it.

    Raises:
        UsageError: as `find_sweep`.
        UserError: a table cannot be read as one of `sweep export`.
    """
    found: list[SweepStore] = []
    for name in names:
        if name.endswith((".parquet", ".csv")) or ".parquet/" in name or ".csv/" in name:
            from mixsweep.analysis.exported.tables import is_table, sweeps_in

            if is_table(name):
                found += sweeps_in(Path(name))
                continue
        found.append(find_sweep(name, root))
    return found


def all_sweeps(root: Path) -> "list[SweepStore]":
    """Return the sweeps of a store, by name."""
    from mixsweep.core.store.store import SweepStore

    return [SweepStore(path.parent) for path in sorted(root.glob("*/sweep.toml"))]


def shown(name: str) -> str:
    """Return an argument as an error quotes it: printable, and not longer than a line."""
    text = name if name.isprintable() and name else repr(name)
    return text if len(text) <= 80 else f"{text[:77]}…"


def find_trial(name: str, root: Path) -> "TrialFolder":
    """Return the trial whose id begins with this prefix, or with `SWEEP/PREFIX` in one sweep.

    Raises:
        UsageError: no trial matches, or more than one.
    """
    from mixsweep.core.store.trial.folder import TrialFolder
    from mixsweep.sweep.planning.parse import is_folder_name
    from mixsweep.sweep.planning.plan import is_trial_prefix

    sweep, _, prefix = name.rpartition("/")
    if not is_trial_prefix(prefix) or (sweep and not is_folder_name(sweep)):
        raise UsageError(f"{shown(name)}: not a trial's id or the start of one")
    found = sorted(
        path for path in root.glob(f"{glob.escape(sweep) or '*'}/trials/{prefix}*") if path.is_dir()
    )
    if not found:
        raise UsageError(f"{name}: no such trial in {root}; `sweep status SWEEP` lists them")
    if (count := len({path.name for path in found})) > 1:
        raise UsageError(f"{name}: {count} trials have ids that begin with it; write more of the id")
    if len(found) > 1:
        names = ", ".join(f"{path.parent.parent.name}/{path.name}" for path in found)
        raise UsageError(f"{name}: the same trial is in several sweeps; choose one: {names}")
    return TrialFolder(found[0])
