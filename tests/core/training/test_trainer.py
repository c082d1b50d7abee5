"""core.training.trainer: the same bits after any resume, means over samples, and losses that stay what they were."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from mixsweep.core import registry
from mixsweep.core.data.augment import prepare
from mixsweep.core.data.datasets import Images, epoch_order, split_indices
from mixsweep.core.errors import ConfigError
from mixsweep.core.records import Record
from mixsweep.core.store.trial.checkpoint import load_state, write_state
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.core.trainables.image.records import has_diverged
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.core.training.trainer import Trial

CPU = torch.device("cpu")
Tiny = Callable[..., ImageConfig]

# Whatever a checkpoint must carry or must not need: moments, dropout, the schedule's place, augmentation.
EVERYTHING: list[dict[str, Any]] = [
    {"optimizer": "adamw", "dropout": 0.2, "schedule": "cosine", "warmup_epochs": 1.5},
    {"optimizer": "adam", "augment": "flip_crop"},
    {"optimizer": "momentum", "lr": 0.05, "augment": "none", "dropout": 0.5},
    {"optimizer": "sgd", "lr": 0.05, "schedule": "cosine", "label_smoothing": 0.1},
    {"model": "mixer", "embed_dim": 8, "blocks": 1, "patch_size": 16, "dropout": 0.1, "train_limit": 128},
]


def run(config: ImageConfig, images: Images) -> list[Record]:
    return list(Trial(config, images, CPU).train())


def trajectory(rows: list[Record]) -> list[list[Any]]:
    """What must be equal bit for bit."""
    return [[row[name] for name in find_trainable().trajectory_columns] for row in rows]


@pytest.mark.parametrize("values", EVERYTHING)
def test_a_resume_after_any_epoch_gives_the_same_bits_as_no_interruption(
    values: dict[str, Any], tiny: Tiny, digits: Images, tmp_path: Path
) -> None:
    config = tiny(epochs=4, **values)
    whole = Trial(config, digits, CPU)
    expected = list(whole.train())
    assert len(expected) == 4
    for stop in range(5):
        first = Trial(config, digits, CPU)
        rows = [row for _, row in zip(range(stop), first.train())]
        made = write_state(tmp_path, 1, first.state())
        torch.manual_seed(stop)  # what else a process did must not matter
        second = Trial(config, digits, CPU)
        state = load_state(tmp_path, [made])
        assert state is not None
        second.restore(state)
        rows += second.train(attempt=2)
        assert trajectory(rows) == trajectory(expected)
        assert second.test() == whole.test()
        for name, tensor in whole.model.state_dict().items():
            assert torch.equal(tensor, second.model.state_dict()[name])


@settings(max_examples=15)
@given(data=st.data())
def test_any_number_of_resumes_gives_the_same_bits(data: st.DataObject, tiny: Tiny, digits: Images) -> None:
    values = data.draw(st.sampled_from(EVERYTHING[:4]))
    stops = data.draw(st.lists(st.integers(0, 5), max_size=4).map(sorted))
    config = tiny(epochs=5, seed=data.draw(st.integers(0, 2**31 - 1)), **values)
    trial, rows = Trial(config, digits, CPU), []
    for stop in [*stops, 5]:
        state = trial.state()
        trial = Trial(config, digits, CPU)
        trial.restore(state)
        epochs = trial.train()
        while trial.epoch < stop:
            rows.append(next(epochs))
    assert trajectory(rows) == trajectory(run(config, digits))


def test_a_resnet_resumes_to_the_same_bits_with_its_running_statistics(tiny: Tiny, digits: Images) -> None:
    config = tiny(model="resnet18", batch_size=8, train_limit=16, valid_limit=8, epochs=2)
    expected = run(config, digits)
    first = Trial(config, digits, CPU)
    row = next(first.train())
    second = Trial(config, digits, CPU)
    second.restore(first.state())
    assert trajectory([row, *second.train()]) == trajectory(expected)


def test_extending_a_constant_rate_trial_equals_a_longer_one(tiny: Tiny, digits: Images) -> None:
    short, long = tiny(epochs=2), tiny(epochs=5)
    assert short.trial_id == long.trial_id
    first = Trial(short, digits, CPU)
    rows = list(first.train())
    second = Trial(long, digits, CPU)
    second.restore(first.state())
    assert trajectory([*rows, *second.train()]) == trajectory(run(long, digits))


@pytest.mark.parametrize("accumulate", [2, 4, 64])
def test_micro_batches_change_nothing_but_rounding(accumulate: int, tiny: Tiny, digits: Images) -> None:
    whole = Trial(tiny(label_smoothing=0.1), digits, CPU)
    parts = Trial(tiny(label_smoothing=0.1), digits, CPU, accumulate=accumulate)
    for one, other in zip(whole.train(), parts.train(), strict=True):
        assert one.step == other.step
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert one["valid_loss"] == pytest.approx(other["valid_loss"], rel=1e-4)


def test_trials_in_one_process_neither_see_each_other_nor_their_order(tiny: Tiny, digits: Images) -> None:
    one, other = tiny(dropout=0.3, lr=0.01), tiny(seed=1, dropout=0.1, optimizer="momentum")
    alone = trajectory(run(one, digits)), trajectory(run(other, digits))
    assert (trajectory(run(one, digits)), trajectory(run(other, digits))) == alone
    swapped = trajectory(run(other, digits)), trajectory(run(one, digits))
    assert swapped == alone[::-1]
    # Even epoch by epoch in turn.
    both = zip(Trial(one, digits, CPU).train(), Trial(other, digits, CPU).train())
    first, second = (trajectory(list(rows)) for rows in zip(*both))
    assert (first, second) == alone


def test_a_registered_model_may_draw_from_pythons_and_numpys_random_numbers(
    tiny: Tiny, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Noisy(nn.Module):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.linear = nn.Linear(3072, classes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            noise = random.random() + np.random.random() if self.training else 0.0
            return self.linear(x.flatten(1) + noise)

    monkeypatch.setitem(registry._registered["model"], "noisy", lambda config, classes: Noisy(classes))
    config = tiny(model="noisy", epochs=2)
    first = trajectory(run(config, digits))
    random.seed(1)
    np.random.seed(1)
    assert trajectory(run(config, digits)) == first


def test_seeds_and_augmentation_make_a_difference(tiny: Tiny, digits: Images) -> None:
    variants = [tiny(), tiny(seed=1), tiny(augment="none"), tiny(augment="flip_crop"), tiny(dropout=0.1)]
    assert len({run(config, digits)[-1]["train_loss"] for config in variants}) == len(variants)


def test_bf16_trains_close_to_fp32_and_not_on_its_bits(tiny: Tiny, digits: Images) -> None:
    full, half = run(tiny(epochs=6), digits), run(tiny(epochs=6, precision="bf16"), digits)
    assert not any(has_diverged(row) for row in half)
    assert half[-1]["train_loss"] != full[-1]["train_loss"]
    assert half[-1]["train_loss"] == pytest.approx(full[-1]["train_loss"], rel=0.05)
    assert half[-1]["train_loss"] < half[0]["train_loss"]


def test_a_trial_that_diverges_ends_with_the_record_that_shows_it(tiny: Tiny, digits: Images) -> None:
    rows = run(tiny(optimizer="sgd", lr=1e8, epochs=10), digits)
    assert len(rows) < 10
    assert [has_diverged(row) for row in rows] == [False] * (len(rows) - 1) + [True]


def test_figures_are_means_over_samples_as_a_loop_written_by_hand_has_them(
    tiny: Tiny, digits: Images
) -> None:
    config = tiny(optimizer="sgd", lr=0.05, weight_decay=0.01, augment="none", train_limit=200)
    trial = Trial(config, digits, CPU)
    weights = [p.detach().clone().requires_grad_() for p in trial.model.parameters()]
    train, valid = split_indices(config, digits)
    order = train[epoch_order(config, 1, len(train))]
    record = next(trial.train())

    def forward(indices: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        x = (images[indices].float() / 255 - torch.tensor(digits.mean).view(-1, 1, 1)) / torch.tensor(
            digits.std
        ).view(-1, 1, 1)
        return torch.relu(x.flatten(1) @ weights[0].T + weights[1]) @ weights[2].T + weights[3]

    losses, hits = [], []
    for start in range(0, 192, 64):  # three whole batches of 64; the last 8 images are left out
        chosen = order[start : start + 64]
        logits = forward(chosen, digits.train_images)
        labels = digits.train_labels[chosen]
        each = torch.stack([row.logsumexp(0) - row[label] for row, label in zip(logits, labels)])
        losses += each.tolist()
        hits += (logits.argmax(1) == labels).tolist()
        gradients = torch.autograd.grad(each.mean(), weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients):
                weight -= 0.05 * (gradient + 0.01 * weight)
    with torch.no_grad():
        logits = forward(valid, digits.train_images)
        valid_loss = functional.cross_entropy(logits, digits.train_labels[valid])
        test_loss = functional.cross_entropy(
            forward(torch.arange(360), digits.test_images), digits.test_labels
        )
    assert len(losses) == 192
    assert record["train_loss"] == pytest.approx(sum(losses) / 192, abs=2e-6)
    assert record["train_accuracy"] == sum(hits) / 192
    assert record["valid_loss"] == pytest.approx(valid_loss.item(), abs=2e-6)
    assert record["valid_accuracy"] == pytest.approx(
        (logits.argmax(1) == digits.train_labels[valid]).double().mean().item()
    )
    assert trial.test()["test_loss"] == pytest.approx(test_loss.item(), abs=2e-6)
    assert (record.epoch, record.step) == (1, 3)


def test_means_over_the_valid_images_do_not_overweigh_a_short_last_batch(
    tiny: Tiny, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tiny(), digits)
    monkeypatch.setattr(
        "mixsweep.core.training.trainer._EVALUATION_BATCH", 33
    )  # 100 valid images: the last batch has one
    pieces = run(tiny(), digits)
    for one, other in zip(whole, pieces, strict=True):
        assert one["valid_loss"] == pytest.approx(other["valid_loss"], rel=1e-6)
        assert one["valid_accuracy"] == other["valid_accuracy"]


def test_valid_and_test_images_are_not_augmented(tiny: Tiny, digits: Images) -> None:
    trial = Trial(tiny(augment="flip_resized_crop", dropout=0.5), digits, CPU)
    next(trial.train())
    trial.model.eval()
    for indices, (loss, accuracy) in (
        (trial._valid, trial._evaluate(digits.train_images, digits.train_labels, trial._valid)[:2]),
        (None, tuple(trial.test().values())),
    ):
        images, labels = (
            (digits.test_images, digits.test_labels)
            if indices is None
            else (digits.train_images[indices], digits.train_labels[indices])
        )
        with torch.no_grad():
            logits = trial.model(prepare(images, digits.mean, digits.std))
        assert loss == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-5)
        assert accuracy == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    assert trial.test() == trial.test()


def test_label_smoothing_shapes_training_but_not_the_valid_loss(tiny: Tiny, digits: Images) -> None:
    sharp, smooth = (Trial(tiny(label_smoothing=s, lr=1e-12), digits, CPU) for s in (0.0, 0.5))
    one, other = next(sharp.train()), next(smooth.train())
    assert other["valid_loss"] == pytest.approx(one["valid_loss"], abs=1e-5)
    assert abs(other["train_loss"] - one["train_loss"]) > 1e-3


def test_a_record_tells_time_memory_rate_and_attempt(tiny: Tiny, digits: Images) -> None:
    rows = list(Trial(tiny(schedule="cosine", epochs=4, lr=0.01), digits, CPU).train(attempt=3))
    assert [row.epoch for row in rows] == [1, 2, 3, 4]
    assert [row.step for row in rows] == [4, 8, 12, 16]
    for row in rows:
        assert row.attempt == 3
        assert row["peak_memory_bytes"] > 10_000_000  # a process with torch in it
        assert row["train_seconds"] > 0
        assert row["valid_seconds"] > 0
        assert row["images_per_second"] == pytest.approx(256 / row["train_seconds"])
        assert row["lr"] == pytest.approx(0.005 * (1 + math.cos(math.pi * (row.step - 1) / 16)))


def test_the_last_short_batch_is_dropped(tiny: Tiny, digits: Images) -> None:
    assert Trial(tiny(train_limit=255), digits, CPU).steps_per_epoch == 3
    assert Trial(tiny(train_limit=64), digits, CPU).steps_per_epoch == 1


def test_a_batch_larger_than_the_train_set_is_refused(tiny: Tiny, digits: Images) -> None:
    with pytest.raises(ConfigError, match="batch_size = 64 is larger than the 63 train images"):
        Trial(tiny(train_limit=63), digits, CPU)


# Recorded when the trainer was written: train_loss, train_accuracy, valid_loss, valid_accuracy an epoch.
GOLDEN_CURVES = [
    (
        {"hidden": [16]},
        [
            (2.1832848489284515, 0.201171875, 1.8885771179199218, 0.27),
            (1.6706696450710297, 0.400390625, 1.5134890747070313, 0.45),
        ],
    ),
    (
        {"model": "mixer", "embed_dim": 16, "blocks": 2, "patch_size": 8, "dropout": 0.1},
        [
            (2.286761552095413, 0.11328125, 2.2532553100585937, 0.135),
            (2.233031541109085, 0.21875, 2.212685241699219, 0.205),
        ],
    ),
    (
        {
            "model": "mixer",
            "embed_dim": 16,
            "blocks": 2,
            "patch_size": 8,
            "dropout": 0.1,
            "init": "recipe-0.2",
        },
        [
            (2.293819785118103, 0.119140625, 2.3178851318359377, 0.185),
            (2.2261641919612885, 0.212890625, 2.2239845275878904, 0.27),
        ],
    ),
]


@pytest.mark.parametrize(("values", "curve"), GOLDEN_CURVES)
def test_loss_curves_stay_what_they_were(
    values: dict[str, Any], curve: list[tuple[float, ...]], digits: Images
) -> None:
    small: dict[str, Any] = {
        "dataset": "digits",
        "epochs": 2,
        "train_limit": 512,
        "valid_limit": 200,
        "batch_size": 64,
    }
    for row, expected in zip(run(ImageConfig(**small, **values), digits), curve, strict=True):
        found = (row["train_loss"], row["train_accuracy"], row["valid_loss"], row["valid_accuracy"])
        assert found == pytest.approx(expected, rel=1e-4)


def test_a_model_learns_the_digits(digits: Images) -> None:
    config = ImageConfig(dataset="digits", hidden=(64,), epochs=12, augment="none", batch_size=64)
    trial = Trial(config, digits, CPU)
    rows = list(trial.train())
    assert rows[-1]["valid_accuracy"] > 0.9
    assert trial.test()["test_accuracy"] > 0.9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; run on a machine with one")
def test_a_gpu_gives_the_cpus_losses_up_to_rounding(tiny: Tiny, digits: Images) -> None:
    there = list(Trial(tiny(), digits, torch.device("cuda")).train())
    for one, other in zip(run(tiny(), digits), there, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)
        assert other["peak_memory_bytes"] > 0
