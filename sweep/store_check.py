"""The check of a store, for `sweep doctor --store` and for tests."""

from collections.abc import Iterator
from pathlib import Path

from mixsweep.core.store.files import LEFTOVER_SECONDS
from mixsweep.core.store.integrity import Finding, check_sweep
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.search.rung_check import check_rungs

_SIGNS = ("sweep.toml", "plan.parquet", "trials")  # of a sweep's folder, whatever is damaged


def sweeps_below(root: Path) -> list[SweepStore]:
    """The sweeps of a store, or the sweep itself if its own folder is given."""
    if any((root / sign).exists() for sign in _SIGNS):
        return [SweepStore(root)]
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return [SweepStore(path) for path in folders if any((path / sign).exists() for sign in _SIGNS)]


def check(store: SweepStore, leftover_seconds: float = LEFTOVER_SECONDS) -> Iterator[Finding]:
    """Find what is not as it has to be in a sweep's folder, its decisions among it; reads only."""
    yield from check_sweep(store, leftover_seconds)
    yield from check_rungs(store)
