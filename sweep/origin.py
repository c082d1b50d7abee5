"""Which sweep file a store's sweep came from, so that another file of the same name does not take it over unseen.

A sweep's folder keeps `origin.json`: the file of its last run, as a path, within its project, and seen from the store.
Any of the three recognises it, so that a project may be moved, copied with its store, or mounted elsewhere.
"""

import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from mixsweep.core.execution.superseded import Superseded
from mixsweep.core.failures import DamagedError
from mixsweep.core.provenance import SUBMITTER_VERSION
from mixsweep.core.store import files
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.backends.base import RunError
from mixsweep.sweep.planning.plan import Plan
from mixsweep.sweep.planning.user_code import find_project
from mixsweep.sweep.presets.catalog import PRESETS

_NAME = "origin.json"


@dataclass(frozen=True)
class Origin:
    """A sweep file: its absolute path or `preset:NAME`, its path in its project, and its path from the store."""

    file: str
    in_project: str = ""
    from_store: str = ""

    def is_same_file(self, other: "Origin") -> bool:
        """Whether this one, of now, is the file of an earlier run."""
        if self.file == other.file or (self.from_store and self.from_store == other.from_store):
            return True
        # The project was moved, or is mounted elsewhere: the earlier path leads nowhere here.
        return (
            bool(self.in_project) and self.in_project == other.in_project and not os.path.exists(other.file)
        )


def origin_of(plan: Plan, store: SweepStore) -> Origin | None:
    """Return the origin of a plan; None for one without a file of its own: from Python, or shipped to a cluster."""
    path = plan.spec.path
    if path is None or os.environ.get(SUBMITTER_VERSION):
        return None
    path = Path(os.path.realpath(path))
    if path.parent == PRESETS.resolve():
        return Origin(f"preset:{path.stem}")
    folder = os.path.realpath(store.path)
    if path.parent == Path(folder):
        return None  # the store's own copy, which is what the last run had
    inside = path.relative_to(find_project(path.parent))
    return Origin(str(path), str(inside), os.path.relpath(path, folder))


def check_origin(plan: Plan, store: SweepStore) -> None:
    """Refuse a sweep file that would take over the sweep of another file, with which it has no trial in common.

    Raises:
        RunError: names both files, and how to keep both sweeps.
    """
    now, before = origin_of(plan, store), _read(store)
    if now is None or before is None or now.is_same_file(before) or _shares_trials(plan, store):
        return
    raise RunError(
        f"{store.path}: holds the sweep of {before.file}, which has no trial in common with {now.file}; "
        f'give this one a name of its own (name = "…" in the file, or --set name=…) or another --store'
    )


def save_origin(plan: Plan, store: SweepStore) -> None:
    """Write a plan's origin beside its sweep file, if it has one and it has changed."""
    origin = origin_of(plan, store)
    if origin is not None and origin != _read(store):
        files.write_bytes(store.path / _NAME, files.json_bytes(asdict(origin)))


def new_store_line(plan: Plan, store: SweepStore) -> str:
    """Return the line that announces a new store, and names another one that has this sweep; '' for a known one."""
    root = store.path.parent.absolute()
    if store.exists() or any(root.glob("*/sweep.toml")):
        return ""
    line = f"A new store begins at {root}"
    if found := _elsewhere(plan, root):
        line += f"; {found} has a sweep {store.name} already: --store {found}"
    return line + "."


def _elsewhere(plan: Plan, root: Path) -> Path | None:
    """A store with a sweep of this name, in a folder above, or where the sweep file is and above it."""
    here = Path.cwd()
    starts = [here, *([Path(os.path.realpath(plan.spec.path)).parent] if plan.spec.path else [])]
    for start in starts:
        for folder in (start, *start.parents):
            for candidate in (folder / root.name, folder / "runs"):
                if candidate != root and SweepStore(candidate / plan.spec.name).exists():
                    return candidate
    return None


def _read(store: SweepStore) -> Origin | None:
    """The origin in a store; None where an older version made it, or the file is damaged."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        values = files.read_json(store.path / _NAME)
        return Origin(*(str(values[name]) for name in ("file", "in_project", "from_store")))
    return None


def _shares_trials(plan: Plan, store: SweepStore) -> bool:
    """Whether a trial of the plan has a folder or a row in the store's plan; True where that cannot be known."""
    if plan.spec.search is not None:  # its trials are chosen as it runs
        with suppress(OSError, DamagedError, ValueError):
            known = store.sweep_file()
            return all(known.get(key) == plan.spec.source.get(key) for key in ("search", "space"))
        return True
    try:
        planned = set(store.plan()["trial_id"].to_pylist())
    except (OSError, DamagedError, ValueError, KeyError):
        return True
    if not planned:
        return True
    names = store.trial_names()
    known_trials = planned.union(names)
    if any(config.trial_id in known_trials for config in plan.trials):
        return True
    by_id = {config.trial_id: config for config in plan.trials}
    return plan.spec.code == "pin" and bool(Superseded(store).among(names, by_id))
