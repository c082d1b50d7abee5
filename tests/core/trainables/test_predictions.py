"""core.trainables.predictions: what is kept is what was predicted, and what is none is refused in one line."""

from typing import Any

import numpy as np
import pytest
import torch

from mixsweep.core.errors import ConfigError
from mixsweep.core.store import files
from mixsweep.core.trainables.predictions import checked_table, from_table, to_table

GOOD = {"label": [0, 1, 2], "prediction": [0, 2, 2], "confidence": [0.5, 0.25, 1.0]}


def test_predictions_come_back_as_they_were_kept() -> None:
    rng = np.random.default_rng(0)
    label, prediction = rng.integers(0, 10, (2, 10_000))
    confidence = rng.uniform(0.1, 1, 10_000)
    confidence[7] = np.nan
    names = [f"class {number}" for number in range(10)]
    table = to_table(label, prediction, confidence, names)
    found = from_table(table)
    assert np.array_equal(found.label, label)
    assert np.array_equal(found.prediction, prediction)
    assert np.array_equal(found.index, np.arange(10_000))
    assert np.isnan(found.confidence[7])
    assert np.nanmax(np.abs(found.confidence - confidence)) <= 0.5 / 65535 + 1e-12
    assert found.classes == tuple(names)
    assert found.accuracy == (label == prediction).mean()
    assert len(files.table_bytes(table, ("label", "prediction"))) < 40_000


def test_more_than_256_classes_and_an_index_of_ones_own_are_kept() -> None:
    given = {**GOOD, "label": [0, 999, 65535], "index": [40, 7, 2**40]}
    found = from_table(checked_table(given, "walk:Walk.predictions"))
    assert found.label.tolist() == [0, 999, 65535]
    assert found.index.tolist() == [40, 7, 2**40]


@pytest.mark.parametrize("make", [list, np.array, torch.tensor])
def test_lists_arrays_and_tensors_are_alike(make: Any) -> None:
    given = {name: make(values) for name, values in GOOD.items()}
    assert checked_table(given, "here").equals(checked_table(GOOD, "here"))
    low = {**GOOD, "confidence": torch.tensor(GOOD["confidence"], dtype=torch.bfloat16, requires_grad=True)}
    assert checked_table(low, "here").equals(checked_table(GOOD, "here"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, "here: lacks label"),
        ({"labels": [1, 2, 3]}, "here: unknown key 'labels'; did you mean 'label'?"),
        ({"prediction": [1, 2]}, "3 of label, 2 of prediction, 3 of confidence; one of each"),
        ({"prediction": [[1], [2], [3]]}, "prediction: int64 [3, 1], not an array [N] of numbers"),
        ({"label": ["cat", "dog", "cat"]}, "label: <U3 [3], not an array [N] of numbers"),
        ({"label": [0, 1, 1.5]}, "label: 1.5 is not a whole number from 0 to 65535"),
        ({"prediction": [0, -1, 2]}, "prediction: -1 is not a whole number from 0 to 65535"),
        ({"confidence": [0.5, 1.5, 0.1]}, "confidence: probabilities are from 0 to 1; one is 1.5"),
        ({"index": [1, 1, 2]}, "index: an example is named twice"),
        ({"classes": ["a", "b"]}, "classes: 2 names, but there is a class 2"),
        ({"classes": "abc"}, "classes: 'abc' is not a list of names"),
        ({"label": [], "prediction": [], "confidence": []}, "one of each for every example"),
    ],
)
def test_what_is_no_prediction_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    given = {name: values for name, values in {**GOOD, **changes}.items() if values is not None}
    with pytest.raises(ConfigError) as caught:
        checked_table(given, "here")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_something_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(ConfigError, match="here: list is not a mapping with label, prediction, confidence"):
        checked_table([1, 2], "here")
