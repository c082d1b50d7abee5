"""What the commands share: their arguments' types, their console, and how a name is found in a store."""

import glob
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from mixsweep.cluster.places import find_place
from mixsweep.core.errors import UserError, did_you_mean
from mixsweep.sweep.cli.completion import complete_file, complete_place, complete_sweep, complete_trial

if TYPE_CHECKING:  # these read tables: a shell that completes, `--help` and `--version` do not wait for them
    from mixsweep.core.store.store import SweepStore, TrialFolder
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
TrialName = Annotated[
    str,
    typer.Argument(
        metavar="TRIAL",
        help="A trial's id or the beginning of it; SWEEP/ID if several sweeps have it.",
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
    """Something that was asked for does not exist."""


def plan_of(file: str, settings: list[str] | None, root: Path) -> "Plan":
    """The plan of a sweep file; of an adaptive one with the trials that its store has."""
    from mixsweep.core.store.store import SweepStore
    from mixsweep.sweep.planning.parse import load_spec
    from mixsweep.sweep.planning.plan import make_plan
    from mixsweep.sweep.search.suggestions import with_known

    made = make_plan(load_spec(file, settings or ()))
    return with_known(made, SweepStore(root / made.spec.name))


def elsewhere(place: str | None, *words: str) -> None:
    """Where a place keeps the store out of reach, run the command there and exit as it does."""
    where = find_place(place) if place else None
    if where is not None and where.ray and where.ray.takes_jobs:
        from mixsweep.sweep.backends.ray.job import run_on_cluster, write_out

        with suppress(KeyboardInterrupt):
            raise typer.Exit(run_on_cluster(where, words, write_out))
        raise typer.Exit(130)


def check_store(root: Path) -> None:
    """Make sure that the store's path does not lead through a file."""
    for path in (root, *root.parents):
        if path.exists():
            if not path.is_dir():
                raise UsageError(f"--store {root}: {path} is not a folder")
            return


def find_sweep(name: str, root: Path) -> "SweepStore":
    """The sweep of this name in a store, or in a folder of its own.

    Raises:
        UsageError: there is none, with the nearest name.
    """
    from mixsweep.core.store.store import SweepStore

    for path in (root / name, Path(name)):
        store = SweepStore(path)
        if store.exists():
            return store
    known = [one.name for one in all_sweeps(root)]
    hint = did_you_mean(name, known) if known else "; there are none yet"
    raise UsageError(f"{name}: no such sweep in {root}{hint}")


def all_sweeps(root: Path) -> "list[SweepStore]":
    """The sweeps of a store, by name."""
    from mixsweep.core.store.store import SweepStore

    return [SweepStore(path.parent) for path in sorted(root.glob("*/sweep.toml"))]


def find_trial(name: str, root: Path) -> "TrialFolder":
    """The trial whose id begins so; `SWEEP/ID` where several sweeps have it.

    Raises:
        UsageError: there is none, or more than one.
    """
    from mixsweep.core.store.store import TrialFolder

    sweep, _, prefix = name.rpartition("/")
    found = sorted(
        path for path in root.glob(f"{glob.escape(sweep) or '*'}/trials/{prefix}*") if path.is_dir()
    )
    if not found:
        raise UsageError(f"{name}: no such trial in {root}; `sweep status SWEEP` lists them")
    if len({path.name for path in found}) > 1:
        raise UsageError(f"{name}: {len(found)} trials begin so; write more of the id")
    if len(found) > 1:
        names = ", ".join(f"{path.parent.parent.name}/{path.name}" for path in found)
        raise UsageError(f"{name}: the same trial is in several sweeps; name one: {names}")
    return TrialFolder(found[0])
