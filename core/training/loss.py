"""Cross-entropy, written from log-softmax.

Shapes: B batch, K classes.
"""

import torch
from torch import Tensor


def cross_entropy(
    logits_BK: Tensor, labels_B: Tensor, label_smoothing: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Minus the log-probability of the label, averaged (`mean`) or summed (`sum`) over the batch, in nats.

    With smoothing ε the target is 1 − ε on the label plus ε / K on every class (Szegedy et al. 2015,
    arXiv:1512.00567, section 7).

    Raises:
        ValueError: the logits are not floating [B, K] or the labels not int64 [B] with B > 0; or the reduction
            is unknown; or, if the labels are on the CPU, one of them is outside 0 … K − 1 (on a GPU
            the check would make the host wait; there the gather itself stops the process).
    """
    _check(logits_BK, labels_B, reduction)
    # logits − logsumexp(logits), after subtracting the largest: at −1000 a float32 logsumexp is 3e-5 off.
    log_probs_BK = logits_BK.log_softmax(1)
    loss_B = -log_probs_BK.gather(1, labels_B[:, None]).squeeze(1)
    if label_smoothing:
        loss_B = (1 - label_smoothing) * loss_B - label_smoothing * log_probs_BK.mean(1)
    return loss_B.mean() if reduction == "mean" else loss_B.sum()


def _check(logits_BK: Tensor, labels_B: Tensor, reduction: str) -> None:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction = {reduction!r} is not known; allowed: mean, sum")
    if logits_BK.ndim != 2 or not logits_BK.is_floating_point():
        raise ValueError(f"logits are {_describe(logits_BK)}, not floating [batch, classes]")
    if labels_B.ndim != 1 or labels_B.dtype != torch.int64:
        raise ValueError(f"labels are {_describe(labels_B)}, not int64 [batch]")
    batch, classes = logits_BK.shape
    if len(labels_B) != batch:
        raise ValueError(f"{batch} rows of logits but {len(labels_B)} labels")
    if batch == 0:
        raise ValueError("the batch is empty: its mean loss is not defined")
    if labels_B.is_cpu:
        low, high = (int(bound) for bound in labels_B.aminmax())
        if low < 0 or high >= classes:
            raise ValueError(f"labels run from {low} to {high}, outside 0 … {classes - 1}")


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
