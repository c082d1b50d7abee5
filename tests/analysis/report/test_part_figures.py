"""The figures of a part compare what its claims compare, each in its own metric, mode and field."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mixsweep.analysis.report.report import write_report
from tests.support.page import Page
from tests.support.synthetic_store import SyntheticPart, write_sweep


def alternatives(path: Path, part: SyntheticPart, **changes: Any) -> dict[str, str]:
    """The alternative texts of a report's figures by their names, without the sweep's."""
    page = Page(write_report([write_sweep(path / "s", [part], **changes)]))
    names = [name.removeprefix("s-") for name in page.ids if name.startswith("s-")]
    return dict(zip(names, page.alternatives))


def dropouts(claims: Sequence[Mapping[str, Any]]) -> SyntheticPart:
    """Two values of dropout, each at two learning rates: its trials are interleaved in time."""
    space = {"lr": [1e-3, 1e-2], "dropout": [0.0, 0.3]}
    final = {(lr, dropout): 0.8 - dropout for lr in space["lr"] for dropout in space["dropout"]}
    return SyntheticPart(name="s", space=space, final=final, claims=claims, noise=0.0)


def test_a_claim_of_speed_without_a_metric_has_a_forest_of_seconds(tmp_path: Path) -> None:
    faster = {"text": "it costs time", "compare": "dropout", "faster": 0.0, "than": 0.3}
    better = {"text": "it costs accuracy", "compare": "dropout", "better": 0.0, "than": 0.3}
    drawn = alternatives(tmp_path, dropouts([faster, better]), epochs=2)
    assert "0 − 0.3: +0 s [" in drawn["forest-train_seconds"]
    assert "Better: to the left." in drawn["forest-train_seconds"]
    assert "0 − 0.3: +29.1 points [" in drawn["forest"]
    assert "Better: to the right." in drawn["forest"]


def test_equal_values_of_two_fields_are_two_differences(tmp_path: Path) -> None:
    space = {"batch_size": [32, 64], "embed_dim": [32, 64]}
    final = {(32, 32): 0.4, (32, 64): 0.6, (64, 32): 0.3, (64, 64): 0.5}
    claims = [{"text": axis, "compare": axis, "better": 64, "than": 32} for axis in space]
    part = SyntheticPart(
        name="s", base={"model": "mixer"}, space=space, final=final, claims=claims, noise=0.0
    )
    told = alternatives(tmp_path, part, epochs=2)["forest"]
    assert "batch size 64 − 32: −9.7 points [" in told
    assert "embedding dimension 64 − 32: +19.4 points [" in told


def test_one_field_is_not_named_in_each_row(tmp_path: Path) -> None:
    better = {"text": "it costs accuracy", "compare": "dropout", "better": 0.0, "than": 0.3}
    told = alternatives(tmp_path, dropouts([better]), epochs=2)["forest"]
    assert "Better: to the right. 0 − 0.3: " in told


def test_a_forest_has_the_mode_of_its_claim(tmp_path: Path) -> None:
    usual = {"text": "less loss", "compare": "dropout", "better": 0.0, "than": 0.3, "metric": "valid_loss"}
    other = {"text": "more loss", "compare": "dropout", "better": 0.3, "than": 0.0, "metric": "valid_loss"}
    drawn = alternatives(tmp_path, dropouts([usual, {**other, "mode": "max"}]), epochs=2)
    assert "Better: to the left. 0 − 0.3: −" in drawn["forest-valid_loss"]
    assert "Better: to the right. 0.3 − 0: +" in drawn["forest-valid_loss.max"]


def alike_dropouts(states: Mapping[Any, Sequence[str]]) -> SyntheticPart:
    """Three values of dropout that are alike, and an activation that matters."""
    space = {"dropout": [0.0, 0.2, 0.4], "activation": ["relu", "tanh"]}
    final = {(d, a): 0.8 if a == "relu" else 0.4 for d in space["dropout"] for a in space["activation"]}
    return SyntheticPart(name="s", space=space, final=final, noise=0.0, states=states)


def means_along(told: str) -> list[float]:
    """The mean of each value, from a figure's alternative text."""
    return [float(mean) for mean in re.findall(r"0(?:\.\d)?: (\d+\.\d) ±", told)]


def test_values_along_an_axis_are_averaged_over_the_combinations_that_all_have(tmp_path: Path) -> None:
    told = alternatives(tmp_path, alike_dropouts({(0.2, "tanh"): ("failed",) * 3}), epochs=2)["along-dropout"]
    assert means_along(told) == pytest.approx([77.7] * 3, abs=0.5)
    assert "Counted: 1 of 2 combinations, those with a figure at every value." in told


def test_a_seed_that_lacks_a_combination_is_not_in_the_mean_along_an_axis(tmp_path: Path) -> None:
    states = {(0.2, "tanh"): ("completed", "failed", "completed")}
    told = alternatives(tmp_path, alike_dropouts(states), epochs=2)["along-dropout"]
    assert means_along(told) == pytest.approx([58.5] * 3, abs=0.6)
    assert "Not in the mean: 1 of the dots, of seeds that lack one of the combinations." in told
    assert "Counted:" not in told


def test_the_caption_says_that_values_along_an_axis_share_no_combination(tmp_path: Path) -> None:
    states = {(0.2, "tanh"): ("failed",) * 3, (0.4, "relu"): ("failed",) * 3}
    told = alternatives(tmp_path, alike_dropouts(states), epochs=2)["along-dropout"]
    assert means_along(told) == pytest.approx([58.5, 77.7, 39.0], abs=0.6)
    assert "The values have different combinations of these, which a difference may come from." in told


def test_a_caption_along_an_axis_of_a_full_grid_leaves_nothing_out(tmp_path: Path) -> None:
    told = alternatives(tmp_path, alike_dropouts({}), epochs=2)["along-dropout"]
    assert means_along(told) == pytest.approx([58.5] * 3, abs=0.6)
    assert "averaged over activation. 0: " in told
