"""The benchmark in miniature: every contestant does its work, and the ratios are what they say. No speeds."""

import io
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from rich.console import Console

from mixsweep.core.trainables.image.config import ImageConfig
from tests.benchmarks import recording, speed, sweeping, training
from tests.benchmarks.comparison import Comparison, Figure, comparison_table, figure_table
from tests.benchmarks.training import Case

TINY = Case(
    name="tiny",
    config=ImageConfig(hidden=(16,), batch_size=8, epochs=1_000_000),
    steps=2,
    threads=1,
    device="cpu",
)


def shown(table: object) -> str:
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


def test_a_ratio_says_how_many_times_faster_ours_is_round_by_round() -> None:
    row = Comparison(
        part="a", ours="ours", theirs="theirs", images=100, target=2.0,
        ours_seconds=(1.0, 2.0, 1.0), theirs_seconds=(3.0, 4.0, 5.0),
    )  # fmt: skip
    assert row.ratios == (3.0, 2.0, 5.0)
    assert row.ratio == 3.0
    line = shown(comparison_table([row]))
    for word in ("100 images/s", "25 images/s", "3.00", "2–5", "≥ 2"):
        assert word in line


def test_a_figure_shows_its_median_its_range_and_its_unit() -> None:
    line = shown(figure_table([Figure(part="d", what="start", values=(3.0, 1.0, 2.5), unit="s")]))
    assert "2.5 s" in line
    assert "1–3" in line


def test_contestants_take_turns_after_a_round_of_warm_up() -> None:
    first, second = training.in_turn([(counting, TINY), (counting, replace(TINY, steps=100))], rounds=3)
    assert first == [4.0, 6.0, 8.0]  # the first measurement, 2.0, was warm-up
    assert second == [200.0, 300.0, 400.0]  # in a process of its own, begun once


def counting(case: Case) -> Iterator[float]:
    """A contestant whose n-th measurement takes n seconds a step."""
    number = 0
    while True:
        number += 1
        yield float(number * case.steps)


@pytest.mark.parametrize("config", [case.config for case in training.cases(1, "cpu", full=True)], ids=repr)
def test_the_measured_models_are_the_studys(config: ImageConfig) -> None:
    from mixsweep.core.models.build import build_model, count_parameters

    sizes = {
        "mlp": 3_709_194,
        "resnet18": 11_173_962,
        "mixer": {8: 2_175_818, 4: 2_188_298}[config.patch_size],
    }
    assert count_parameters(build_model(config, training.CLASSES)) == sizes[config.model]


@pytest.mark.parametrize("contestant", [training.trainer, training.textbook_0, training.bare_loop])
def test_every_contestant_makes_the_steps_of_a_measurement(
    contestant: training.Contestant, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    original = torch.optim.AdamW.step

    def counted(optimizer: torch.optim.AdamW) -> None:
        made.append(1)
        original(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    measured = contestant(TINY)
    assert next(measured) > 0
    before = len(made)
    assert next(measured) > 0
    warm = training._WARM_STEPS if contestant is training.textbook_0 else 0
    assert len(made) - before == warm + TINY.steps


def test_the_textbooks_pictures_are_the_trainers_images_transformed() -> None:
    images = training.random_images(4)
    pictures = training._Pictures(images)
    x_CHW, label = pictures[0]
    assert x_CHW.shape == (3, 32, 32)
    assert label == images.train_labels[0]
    picture_HWC = torch.from_numpy(numpy.array(pictures._pictures[0]))
    assert torch.equal(picture_HWC.permute(2, 0, 1), images.train_images[0])


def test_training_is_compared_with_both_loops() -> None:
    rows = training.against_textbook(TINY, 2, ["fp32", "bf16"], target=3.0)
    rows += training.against_bare_loop(TINY, 2, "fp32", target=0.95)
    assert [row.target for row in rows] == [None, 3.0, 0.95, 0.95]
    for row in rows:
        assert len(row.ratios) == 2
        assert all(math.isfinite(ratio) and ratio > 0 for ratio in row.ratios)
        assert row.images == 16


@pytest.mark.ray
@pytest.mark.bench
def test_tune_and_the_local_place_train_the_same_trials_to_the_same_losses() -> None:
    rows = sweeping.against_tune(trials=2, cpus=2, rounds=1)
    assert [row.target for row in rows] == [10.0, 10.0]
    for row in rows:
        assert math.isfinite(row.ratio)
        assert row.ratio > 0
    assert rows[0].theirs_seconds > rows[1].theirs_seconds  # the start of Ray takes time


@pytest.mark.ray
@pytest.mark.bench
def test_the_drivers_memory_is_a_process_s_and_not_nothing() -> None:
    few, many, added = sweeping.driver_memory((1, 2), cpus=1)
    assert 20 < few.values[0] < 2000
    assert added.values[0] == pytest.approx((many.values[0] - few.values[0]) * 1024)


@pytest.mark.ray
@pytest.mark.bench
def test_a_record_costs_few_milliseconds_and_no_more_at_the_end_of_a_long_trial() -> None:
    row = recording.against_tune(300, rounds=1)
    assert row.ratio > 0
    figures = {figure.what: figure.values[0] for figure in recording.of_one_trial(20_000, 500)}
    assert figures["a record of 500 with a rule, checkpoints and files"] <= recording.MOST_CPU_MS
    assert figures["the same, by CPU time"] >= recording.RECORDS_PER_SECOND
    assert figures["its last records"] <= 2 * figures["its first records"]


def test_a_sweep_that_fails_is_told_in_its_own_words() -> None:
    with pytest.raises(RuntimeError, match="0 replicas"):
        sweeping.sweep_once("local", 0, 1)


def test_the_command_prints_a_table_and_writes_what_it_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "speed.json"
    speed.main(["--parts", "d", "--starts", "1", "--threads", "1", "--places", "debug", "--json", str(file)])
    assert "command to first record, debug" in capsys.readouterr().out
    content = json.loads(file.read_text())
    assert [figure["what"] for figure in content["figures"]] == ["command to first record, debug"]
    assert 0.1 < content["figures"][0]["median"] < 200
    assert content["machine"]["torch"] == torch.__version__
