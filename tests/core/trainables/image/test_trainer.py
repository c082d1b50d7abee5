"""core.trainables: the built-in kind says of itself what the rest of the program asks, and other kinds are refused."""

from datetime import UTC, datetime

import pytest

from mixsweep.core.errors import ConfigError, UserError
from mixsweep.core.records import Record
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.core.trainables.kinds import find_trainable

IMAGE = find_trainable()


def test_every_field_and_metric_that_the_kind_names_is_one_of_its_own() -> None:
    named = {IMAGE.budget, IMAGE.data_field, *IMAGE.mutable_fields, *IMAGE.work_fields, *IMAGE.tag_fields}
    assert named <= set(IMAGE.field_names)
    curves = {metric for panel in IMAGE.panels for metric in panel.metrics.values()}
    products = {metric for pair in IMAGE.record_products.values() for metric in pair}
    metrics = {metric.name for metric in IMAGE.metrics}
    assert {
        IMAGE.default_metric,
        *IMAGE.headline_metrics,
        *IMAGE.second_metrics,
        *curves,
        *products,
    } <= metrics
    assert set(IMAGE.reported_tests) <= set(IMAGE.test_metrics) <= set(IMAGE.result_metrics) <= metrics
    assert IMAGE.default_metric in IMAGE.objectives
    assert all(metric.better for metric in IMAGE.metrics if metric.is_objective or metric.is_test)


def test_the_columns_of_its_records_stay_as_they_were() -> None:
    assert IMAGE.schema.names == [
        "trial_id", "epoch", "step", "train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "test_loss",
        "test_accuracy", "lr", "train_seconds", "valid_seconds", "images_per_second", "peak_memory_bytes",
        "device_utilisation", "device_memory_bytes", "device_energy_joules", "attempt", "recorded_at",
    ]  # fmt: skip
    assert IMAGE.trajectory_columns == tuple(IMAGE.schema.names[:10])


def test_a_sweep_is_judged_by_what_its_file_says_or_by_what_suits_the_metric() -> None:
    for file, expected in (
        ({}, ("valid_accuracy", "max")),
        ({"metric": "valid_loss"}, ("valid_loss", "min")),
        ({"metric": "train_accuracy", "mode": "min"}, ("train_accuracy", "min")),
    ):
        objective = IMAGE.objective(file)
        assert (objective.metric, objective.mode) == expected


@pytest.mark.parametrize(
    ("accumulate", "batch_size", "out_of_memory", "ranks", "expected"),
    [
        (1, 128, 0, 1, 1),
        (1, 128, 3, 1, 8),
        (2, 128, 1, 1, 4),
        (1, 6, 2, 1, 2),
        (1, 8, 3, 4, 2),
        (3, 9, 1, 1, 3),
    ],
)
def test_micro_batches_double_after_each_out_of_memory_as_far_as_the_batch_divides(
    accumulate: int, batch_size: int, out_of_memory: int, ranks: int, expected: int
) -> None:
    config = ImageConfig(accumulate=accumulate, batch_size=batch_size)
    assert IMAGE.accumulate_after(config, out_of_memory, ranks) == expected


def test_a_value_is_checked_even_where_it_would_have_no_effect() -> None:
    for name, value in (("patch_size", 5), ("token_ratio", 0), ("hidden", []), ("accumulate", 0)):
        with pytest.raises(ConfigError) as error:
            IMAGE.check_value(name, value)
        assert error.value.field == name
    IMAGE.check_value("accumulate", 3)
    IMAGE.check_value("patch_size", 8)


def test_a_trial_of_an_unknown_kind_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"^kind of trial 'images' is not known; did you mean 'image'\?$"):
        find_trainable("images")
    text = TrialInfo(trial_id="0", config=ImageConfig(), state="running").to_json()
    assert '"kind"' not in text  # as before there were several
    with pytest.raises(UserError, match="kind of trial 'toy'"):
        TrialInfo.from_json(text.replace('"state"', '"kind": "toy", "state"'))


def test_a_record_leaves_out_what_it_lacks() -> None:
    record = Record(
        trial_id="0", epoch=1, step=2, attempt=1, recorded_at=datetime.now(UTC), metrics={"a": 1.0, "b": None}
    )
    assert (record["a"], record["b"], record["c"], record["step"]) == (1.0, None, None, 2)
    assert record.metrics == {"a": 1.0}
    assert record.with_metrics({"a": None, "b": 2.0}).metrics == {"b": 2.0}
