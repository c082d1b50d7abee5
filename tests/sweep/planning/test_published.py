"""Published figures in a sweep file: kept in the resolved file, checked by name and type, shown beside ours."""

from pathlib import Path
from typing import Any

import pytest

from mixsweep.analysis.frames import parts
from mixsweep.analysis.report.report import write_report
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.parse import load_spec, parse_spec
from mixsweep.sweep.planning.schema import SpecError
from tests.support.page import Page
from tests.support.synthetic_store import learning_rates

FILE: dict[str, Any] = {"name": "s", "space": {"lr": {"grid_search": [1e-3, 1e-2]}}}


def test_a_preset_carries_what_was_published() -> None:
    spec = load_spec("best-mixer")
    assert spec.parts[0].published == {"test_accuracy": 0.779, "source": "the study, figure 7"}
    assert "test_accuracy = 0.779" in spec.to_toml()


def test_parts_have_their_own() -> None:
    part = {"name": "a", "space": FILE["space"], "published": {"finding": "none"}}
    assert parse_spec({"name": "s", "parts": [part]}).parts[0].published == {"finding": "none"}
    with pytest.raises(SpecError, match=r"published: belongs inside each of \[\[parts\]\]"):
        parse_spec({"name": "s", "parts": [part], "published": {"finding": "none"}})


@pytest.mark.parametrize(
    ("published", "message"),
    [
        ({"test_acuracy": 0.9}, r"published.test_acuracy: unknown key.*test_accuracy"),
        ({"test_accuracy": "0.9"}, "published.test_accuracy: '0.9' is not a number"),
        ({"test_accuracy": True}, "published.test_accuracy: True is not a number"),
        ({"test_accuracy": float("nan")}, "published.test_accuracy: nan is not a number"),
        ({"source": 3}, "published.source: 3 is not a string"),
        (0.9, "published: 0.9 is not a table"),
    ],
)
def test_what_is_not_a_published_figure_is_refused(published: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_spec({**FILE, "published": published})


def test_ours_stand_beside_what_was_published(tmp_path: Path) -> None:
    store = learning_rates(tmp_path / "rates")
    _publish(store, 'published = { test_accuracy = 0.902, finding = "1e-3 best", source = "a paper" }\n')
    (part,) = parts(store)
    assert part.published == {"test_accuracy": 0.902, "finding": "1e-3 best", "source": "a paper"}
    path = write_report([store])
    text = Page(path).text
    assert "test accuracy: 87.2 ± 0.8 %, published 90.2 %" in text
    assert "finding, published: 1e-3 best" in text
    assert "a paper" in text
    assert "test accuracy: 87.2 ± 0.8 %, published 90.2 %" in path.with_name("summary.md").read_text()


def _publish(store: SweepStore, line: str) -> None:
    file = store.path / "sweep.toml"
    file.write_text(line + file.read_text(encoding="utf-8"), encoding="utf-8")
