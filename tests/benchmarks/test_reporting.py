"""A report of ten thousand trials and an export keep to their time, memory and size."""

from pathlib import Path

import pytest

from tests.benchmarks.reporting import measure, write_large


@pytest.mark.bench
@pytest.mark.timeout(3600)  # most of it writes the store
def test_ten_thousand_trials_are_reported_and_exported_in_their_time(tmp_path: Path) -> None:
    store = write_large(tmp_path, 2000).path
    report = measure("report", str(store), "--out", str(tmp_path / "page"))
    export = measure("export", str(store), "--to", str(tmp_path / "table.parquet"))
    # Processor time, which other programs on the machine do not change.
    assert report.cpu_seconds < 30
    assert report.peak_bytes < 2**30
    assert (tmp_path / "page" / "index.html").stat().st_size < 10e6
    assert export.cpu_seconds < 3


def test_the_benchmark_measures_what_it_says(tmp_path: Path) -> None:
    store = write_large(tmp_path, 40, seeds=1, epochs=1).path
    took = measure("export", str(store), "--to", str(tmp_path / "table.csv"))
    assert took.cpu_seconds > 0
    assert took.peak_bytes > 2**20
    with pytest.raises(RuntimeError, match="no such sweep"):
        measure("export", str(tmp_path / "nowhere"), "--to", str(tmp_path / "table.csv"))
