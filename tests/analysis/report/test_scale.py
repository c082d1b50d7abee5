"""A report's work grows with its trials, not with their pairs."""

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from mixsweep.analysis.report.report import write_report
from mixsweep.core.store.compaction import compact
from mixsweep.core.store.store import SweepStore
from tests.support.page import Page
from tests.support.synthetic_store import SyntheticPart, write_sweep


def grid(folder: Path, rates: int) -> SweepStore:
    """A grid of `rates` times four values, two seeds each."""
    space = {"lr": [round(1e-5 * 1.05**i, 12) for i in range(rates)], "dropout": [0.0, 0.1, 0.2, 0.3]}
    part = SyntheticPart(name="grid", base={"hidden": (8,)}, space=space, final={})
    store = write_sweep(folder / f"grid-{rates}", [part], seeds=2, epochs=2)
    compact(store)
    return store


def calls_of_ours(store: SweepStore) -> int:
    """The calls of functions of analysis in a report, of which the clock is no measure on a busy machine."""
    counts: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and "/analysis/" in frame.f_code.co_filename:
            counts[frame.f_code.co_name] += 1

    sys.setprofile(count)
    try:
        write_report([store])
    finally:
        sys.setprofile(None)
    return counts.total()


def test_twice_as_many_points_are_at_most_little_more_than_twice_the_work(tmp_path: Path) -> None:
    small, large = grid(tmp_path, 20), grid(tmp_path, 40)
    write_report([small])  # imports, and caches of fonts
    assert calls_of_ours(large) < 2.5 * calls_of_ours(small)


def test_very_many_points_are_thinned_out_and_all_in_the_files(tmp_path: Path) -> None:
    store = grid(tmp_path, 40)
    path = write_report([store])
    page = Page(path)
    assert "Of 160 combinations, " in page.text
    assert "The best 30 of 160; all are in grid-40-results.csv." in page.text
    assert "The best 30 of 160." in page.text  # of the final values, too
    assert len(path.with_name("grid-40-results.csv").read_text().splitlines()) == 161
    assert len(path.with_name("grid-40-trials.csv").read_text().splitlines()) == 321
    assert {"grid-40-parallel", "grid-40-importance", "grid-40-curves", "grid-40-along-lr"} <= set(page.ids)
    assert path.stat().st_size < 5_000_000
