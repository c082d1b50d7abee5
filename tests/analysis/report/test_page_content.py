"""What the page shows of a part: which figures, their numbers in words, fields that count, the colours of the page."""

import base64
import csv
import json
import re
from pathlib import Path

import pytest

from mixsweep.analysis.report.report import write_report
from mixsweep.core import records
from mixsweep.core.store.trial.folder import TrialFolder
from tests.support.page import Page
from tests.support.synthetic_store import SyntheticPart, learning_rates, write_sweep
from tests.support.trials import write_trial


@pytest.fixture(scope="module")
def rates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report([learning_rates(tmp_path_factory.mktemp("runs") / "rates", epochs=4)])


def test_the_first_table_has_question_answer_verdicts_and_a_link(rates: Path) -> None:
    page = Page(rates)
    first = page.text[: page.text.index("What did not finish")]
    for words in (
        "Which learning rate trains ResNet18 best",
        "Test accuracy of 1e-3 at the last epoch",
        "1 contradicted",
    ):
        assert words in first
    assert "#rates" in page.links


def test_a_part_of_one_axis_has_its_figures(rates: Path) -> None:
    assert {f"rates-{kind}" for kind in ("forest", "finals", "along-lr", "cost", "curves-lr", "best")} <= set(
        Page(rates).ids
    )


def test_alternative_texts_carry_the_numbers(rates: Path) -> None:
    of_figure = dict(zip((i for i in Page(rates).ids if i.startswith("rates-")), Page(rates).alternatives))
    assert re.search(
        r"1e-3 − 1e-4: \+\d\.\d points \[95 % CI \+\d\.\d, \+\d\.\d\]", of_figure["rates-forest"]
    )
    with rates.with_name("rates-results.csv").open() as file:
        best = max(csv.DictReader(file), key=lambda row: float(row["final_mean"] or 0))
    assert f"1e-3: {100 * float(best['final_mean']):.1f} ± " in of_figure["rates-finals"]
    assert "1e-1: diverged" in of_figure["rates-finals"]
    assert f"1e-3: {100 * float(best['final_mean']):.1f} ± " in of_figure["rates-along-lr"]
    assert " at 5." in of_figure["rates-cost"]
    assert "1e-5: " in of_figure["rates-curves-lr"]


def test_the_configuration_has_only_fields_that_have_an_effect(tmp_path: Path) -> None:
    part = SyntheticPart(name="s", base={"model": "mlp"}, space={"lr": [1e-3, 1e-2]}, final={1e-3: 0.5})
    config = Page(write_report([write_sweep(tmp_path / "s", [part], epochs=2)])).text.split(
        "Its configuration"
    )[1]
    assert "hidden" in config
    assert "learning" not in config.split("lr")[0]
    assert "patch_size" not in config
    assert "embed_dim" not in config


def test_figures_have_no_background_and_two_sets_of_colours(rates: Path) -> None:
    pictures = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', rates.read_text())
    assert pictures
    for picture in pictures:
        svg = base64.b64decode(picture).decode()
        assert "prefers-color-scheme: dark" in svg
        assert "fill: #ffffff" not in svg
        assert "var(--c0)" in svg
    assert "fill: #ffffff" in rates.with_name("rates-forest.svg").read_text()  # a file is read by itself


def test_no_interval_leaves_the_range_of_an_accuracy(tmp_path: Path) -> None:
    curves = {1e-3: [0.5, 1.0], 1e-2: [0.5, 0.4]}
    part = SyntheticPart(name="s", space={"lr": [1e-3, 1e-2]}, final={}, curves=curves)
    store = write_sweep(tmp_path / "s", [part], epochs=2)
    for number, folder in enumerate(f for f in store.trials() if f.info().config["lr"] == 1e-3):  # type: ignore[union-attr]
        _set_last(folder, 1.0 - 0.04 * number)
    page = write_report([store])
    with page.with_name("s-results.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row["lr"] == "0.001")
    assert float(row["final_high"]) == 1.0
    assert float(row["final_low"]) < 0.9
    assert len(re.findall(r"96\.0 \[8\d\.\d, 100\.0\] %", Page(page).text)) >= 3  # answers and tables


def _set_last(folder: TrialFolder, value: float) -> None:
    info = folder.info()
    assert info is not None
    rows = records.from_table(folder.records())
    write_trial(folder, info, [*rows[:-1], rows[-1].with_metrics({"valid_accuracy": value})])


def test_two_axes_have_a_heat_map_three_have_parallel_coordinates(tmp_path: Path) -> None:
    space = {"lr": [1e-3, 1e-2], "dropout": [0.0, 0.3]}
    two = SyntheticPart(name="two", space=space, final={})
    three = SyntheticPart(name="three", space={**space, "activation": ["relu", "tanh"]}, final={})
    ids = set(Page(write_report([write_sweep(tmp_path / "s", [two, three], epochs=2, seeds=2)])).ids)
    assert "s-two-heat" in ids
    assert not {"s-two-parallel", "s-three-heat"} & ids
    assert {"s-three-parallel", "s-three-importance"} <= ids


def test_the_summary_is_listed_among_the_files_and_safe_in_markdown(tmp_path: Path) -> None:
    claim = {"text": "a | b *c* <d>", "compare": "lr", "better": 1e-3}
    part = SyntheticPart(
        name="s", question="x | y?", space={"lr": [1e-3, 1e-2]}, final={1e-3: 0.5}, claims=[claim]
    )
    page = write_report([write_sweep(tmp_path / "s", [part], epochs=2)])
    assert "summary.md" in json.loads(page.with_name("files.json").read_text())
    text = page.with_name("summary.md").read_text()
    assert r"| x \| y? | 1e-3 is best" in text
    assert r"**a \| b \*c\* &lt;d&gt;**: supported." in text
