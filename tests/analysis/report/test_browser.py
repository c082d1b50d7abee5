"""The page in a real browser: its tables sort, its pictures load, it complains of nothing."""

import json
import re
from pathlib import Path

import pytest

from mixsweep.analysis.report.report import write_report
from tests.support.browser import find_chromium, show
from tests.support.synthetic_store import learning_rates

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs headless Chromium: apt-get install chromium"),
]

# Click the head of a column of the first sortable table once and twice; say what the page then has.
SCRIPT = """
const table = document.querySelector("table.sortable");
const column = name => [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent.includes(name));
const order = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent.trim());
const button = table.tHead.rows[0].cells[column("final valid accuracy")].querySelector("button");
const told = { before: order() };
button.click();
told.ascending = order();
told.marked = button.parentElement.getAttribute("aria-sort");
button.click();
told.descending = order();
table.tHead.rows[0].cells[0].querySelector("button").click();
told.by_rate = order();
const images = [...document.images];
Promise.all(images.map(image => image.decode())).then(() => {
  told.pictures = images.length;
  told.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  document.body.dataset.told = JSON.stringify(told);
});
"""


def test_tables_sort_pictures_load_and_nothing_is_complained_of(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    page = write_report([learning_rates(tmp_path / "rates", epochs=4)])
    shown = show(CHROMIUM, page, SCRIPT, tmp_path)
    assert shown.complaints == []
    (found,) = re.findall(r'data-told="([^"]*)"', shown.document)
    told = json.loads(found.replace("&quot;", '"'))
    assert told["ascending"] == ["1e-5", "1e-2", "1e-4", "1e-3", "1e-1"]  # the diverged one has none: last
    assert told["descending"] == ["1e-3", "1e-4", "1e-2", "1e-5", "1e-1"]
    assert told["marked"] == "ascending"
    assert told["by_rate"] == told["before"] == ["1e-5", "1e-4", "1e-3", "1e-2", "1e-1"]
    assert told["pictures"] == 6
    assert told["wide"] is False


def test_an_error_of_a_script_is_a_complaint(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    page = tmp_path / "broken.html"
    page.write_text("<!doctype html><body></body>")
    assert show(CHROMIUM, page, "missing()", tmp_path).complaints != []
