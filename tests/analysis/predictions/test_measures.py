"""What is said of predictions, against its definitions one example at a time."""

import time

import numpy as np
import pytest

from mixsweep.analysis.predictions import measures
from mixsweep.analysis.predictions.loading import PredictionSet, stack
from mixsweep.core.errors import UserError
from mixsweep.core.trainables.predictions import Predictions


def some(trials: int = 3, count: int = 400, classes: int = 4, seed: int = 0) -> PredictionSet:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, count)
    found = {}
    for number in range(trials):
        right = rng.random(count) < 0.7
        prediction = np.where(right, label, rng.integers(0, classes, count))
        confidence = rng.uniform(1 / classes, 1, count)
        found[f"trial {number}"] = Predictions(np.arange(count), label, prediction, confidence)
    stacked = stack(found)
    assert stacked is not None
    return stacked


def test_accuracy_and_that_of_classes_are_shares_of_right_predictions() -> None:
    found = some()
    right = [found.prediction[t, i] == found.label[i] for t in range(3) for i in range(400)]
    share = measures.accuracy(found)
    assert share.mean == pytest.approx(sum(right) / 1200)
    assert share.low < share.mean < share.high
    for row in measures.class_accuracy(found).to_dict("records"):
        mine = found.label == int(row["class"])
        assert row["examples"] == mine.sum()
        assert row["accuracy"] == pytest.approx((found.prediction[:, mine] == int(row["class"])).mean())
        assert row["low"] < row["accuracy"] < row["high"]


def test_a_class_without_examples_has_no_row() -> None:
    label = np.array([0, 0, 2])
    found = stack({"t": Predictions(np.arange(3), label, np.array([0, 3, 2]), np.ones(3), tuple("abcd"))})
    assert found is not None
    assert measures.class_accuracy(found)["class"].tolist() == ["a", "c"]
    assert measures.confusion(found).tolist() == [[1, 0, 0, 1], [0] * 4, [0, 0, 1, 0], [0] * 4]


def test_confusion_counts_a_mean_trial() -> None:
    found = some()
    counts = measures.confusion(found)
    for true in range(4):
        for predicted in range(4):
            cell = ((found.label == true) & (found.prediction == predicted)).sum() / 3
            assert counts[true, predicted] == pytest.approx(cell)


def test_the_calibration_error_is_that_of_its_definition() -> None:
    found = some()
    shown = measures.reliability(found, bins=10)
    for trial in range(3):
        error = 0.0
        for number in range(10):
            sure = found.confidence[trial]
            mine = (sure >= number / 10) & ((sure < (number + 1) / 10) | (number == 9))
            if mine.any():
                error += mine.sum() / 400 * abs(found.is_right[trial, mine].mean() - sure[mine].mean())
        assert shown.errors[trial] == pytest.approx(error)
    assert shown.share.sum() == pytest.approx(1)


def test_a_calibrated_model_has_a_small_error_and_a_sure_one_that_is_wrong_a_large_one() -> None:
    rng = np.random.default_rng(1)
    sure = rng.uniform(0.5, 1, 20_000)
    label = np.zeros(20_000, dtype=int)
    honest = Predictions(np.arange(20_000), label, (rng.random(20_000) > sure).astype(int), sure)
    boastful = Predictions(honest.index, label, honest.prediction, np.full(20_000, 0.999))
    for one, low, high in ((honest, 0.0, 0.02), (boastful, 0.2, 0.3)):
        found = stack({"t": one})
        assert found is not None
        assert low <= measures.reliability(found).errors[0] <= high


def test_confidences_that_are_no_numbers_count_in_no_bin() -> None:
    nan = float("nan")
    one = Predictions(np.arange(3), np.array([0, 0, 1]), np.array([0, 0, 0]), np.array([1.0, nan, nan]))
    found = stack({"t": one})
    assert found is not None
    assert measures.reliability(found).errors.tolist() == [0.0]
    assert measures.most_wrong(found)["index"].tolist() == [2]


def test_the_most_confident_errors_of_all_trials_come_first() -> None:
    label = np.array([0, 0, 0, 1])
    predictions = [np.array([1, 2, 0, 1]), np.array([0, 2, 0, 1]), np.array([1, 1, 0, 1])]
    sure = [np.array([0.9, 0.8, 0.9, 1]), np.array([0.9, 0.7, 0.9, 1]), np.array([0.6, 0.9, 0.9, 1])]
    names, index = ("cat", "dog", "eel"), np.array([70, 5, 6, 7])
    found = stack({f"t{n}": Predictions(index, label, predictions[n], sure[n], names) for n in range(3)})
    assert found is not None
    rows = measures.most_wrong(found).to_dict("records")
    assert [row["index"] for row in rows] == [5, 70]
    assert [(row["label"], row["prediction"], row["wrong"], row["trials"]) for row in rows] == [
        ("cat", "eel", 3, 3), ("cat", "dog", 2, 3),
    ]  # fmt: skip
    assert [row["confidence"] for row in rows] == pytest.approx([0.8, 0.75])
    assert len(measures.most_wrong(found, 1)) == 1


def test_a_difference_is_paired_and_wider_over_both() -> None:
    found = some(trials=6, count=2000)
    ids = found.trial_ids
    difference = measures.accuracy_difference(found, ids[:3], ids[3:])
    by_seed = found.is_right.mean(1)[:3] - found.is_right.mean(1)[3:]
    assert difference.mean == pytest.approx(by_seed.mean())
    assert difference.seeds == 3
    assert difference.over_both >= difference.over_seeds > 0
    low, high = difference.ends(5.0)
    assert (low, high) == (-1.0, 1.0)
    nothing = measures.accuracy_difference(found, ids[:3], ids[:3])
    assert (nothing.mean, nothing.over_both) == (0, 0)
    with pytest.raises(UserError, match="1 trials against 3: give them in pairs of one seed"):
        measures.accuracy_difference(found, ids[:1], ids[3:])


def test_examples_in_another_order_are_the_same_and_others_are_not() -> None:
    one = Predictions(np.arange(4), np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0]), np.linspace(0, 1, 4))
    back = Predictions(one.index[::-1], one.label[::-1], one.prediction[::-1], one.confidence[::-1])
    found = stack({"one": one, "back": back})
    assert found is not None
    assert found.prediction[0].tolist() == found.prediction[1].tolist()
    assert found.confidence[0].tolist() == found.confidence[1].tolist()
    others = Predictions(one.index + 1, one.label, one.prediction, one.confidence)
    assert stack({"one": one, "others": others}) is None
    assert stack({}) is None


def test_fifteen_trials_of_10000_examples_take_less_than_a_second() -> None:
    found = some(trials=15, count=10_000, classes=10)
    start = time.process_time()
    measures.accuracy(found)
    measures.class_accuracy(found)
    measures.confusion(found)
    measures.reliability(found)
    measures.most_wrong(found)
    measures.accuracy_difference(found, found.trial_ids[:7], found.trial_ids[7:14])
    assert time.process_time() - start < 1.0
