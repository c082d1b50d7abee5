"""core.training.loss against torch's cross_entropy."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mixsweep.core.training.loss import cross_entropy

TOLERANCES: dict[torch.dtype, Any] = {
    torch.float64: {"atol": 1e-12, "rtol": 1e-10},
    torch.float32: {"atol": 1e-5, "rtol": 1e-5},
    torch.bfloat16: {"atol": 1e-2, "rtol": 1e-2},
}


@given(
    batch=st.integers(1, 9),
    classes=st.integers(1, 12),
    spread=st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e4, 1e30]),
    offset=st.sampled_from([0.0, -1e3, 1e4]),
    smoothing=st.sampled_from([0.0, 0.1, 0.9]),
    reduction=st.sampled_from(["mean", "sum"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=200)
def test_value_and_gradient_equal_torchs_even_for_extreme_logits(
    batch: int,
    classes: int,
    spread: float,
    offset: float,
    smoothing: float,
    reduction: str,
    dtype: torch.dtype,
    seed: int,
) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = (torch.randn(batch, classes, generator=random, dtype=torch.float64) * spread + offset).to(dtype)
    labels = torch.randint(0, classes, (batch,), generator=random)
    assert_as_torch(logits, labels, smoothing, reduction)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_bfloat16_logits_give_a_bfloat16_loss_near_torchs(smoothing: float, reduction: str) -> None:
    random = torch.Generator().manual_seed(0)
    logits = (torch.randn(64, 10, generator=random) * 5).bfloat16()
    labels = torch.randint(0, 10, (64,), generator=random)
    assert cross_entropy(logits, labels, smoothing, reduction).dtype == torch.bfloat16
    assert_as_torch(logits, labels, smoothing, reduction)


def assert_as_torch(logits: torch.Tensor, labels: torch.Tensor, smoothing: float, reduction: str) -> None:
    a, b = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    ours = cross_entropy(a, labels, smoothing, reduction)
    theirs = F.cross_entropy(b, labels, label_smoothing=smoothing, reduction=reduction)
    torch.testing.assert_close(ours, theirs, **TOLERANCES[logits.dtype])
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(a.grad, b.grad, **TOLERANCES[logits.dtype])


def test_equal_logits_cost_the_logarithm_of_the_classes() -> None:
    loss = cross_entropy(torch.zeros(4, 10, dtype=torch.float64), torch.arange(4))
    assert loss.item() == pytest.approx(2.302585092994046, abs=1e-15)


def test_a_nan_logit_makes_the_loss_nan() -> None:
    logits = torch.zeros(2, 3)
    logits[1, 2] = torch.nan
    assert cross_entropy(logits, torch.tensor([0, 1])).isnan()


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), r"logits are float32 \[3\]"),
        (torch.zeros(3, 2, 2), torch.zeros(3, dtype=torch.int64), r"logits are float32 \[3, 2, 2\]"),
        (torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), "logits are int64"),
        (torch.zeros(3, 2), torch.zeros(3), "labels are float32"),
        (torch.zeros(3, 2), torch.zeros(3, 1, dtype=torch.int64), r"labels are int64 \[3, 1\]"),
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.int32), "labels are int32"),
        (torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64), "3 rows of logits but 4 labels"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "the batch is empty"),
        (torch.zeros(2, 2), torch.tensor([0, 2]), "labels run from 0 to 2, outside 0 … 1"),
        (torch.zeros(2, 2), torch.tensor([-1, 1]), "labels run from -1 to 1, outside 0 … 1"),
        (torch.zeros(2, 2), torch.tensor([-100, 1]), "labels run from -100 to 1"),
    ],
)
def test_what_is_no_batch_of_logits_and_labels_is_refused(
    logits: torch.Tensor, labels: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cross_entropy(logits, labels)


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match="reduction = 'none'"):
        cross_entropy(torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64), reduction="none")
