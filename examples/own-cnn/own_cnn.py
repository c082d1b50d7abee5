"""A small CNN on grey 28×28 digits, with an optimizer and a schedule that mixsweep does not ship."""

from collections.abc import Iterable
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import mixsweep


def build(
    shape: tuple[int, int, int], classes: int, *, width: int = mixsweep.field(16, low=1), kernel_size: int = 3
) -> nn.Module:
    """Two convolutions of `width` and 2 · `width` channels, each followed by a pooling."""
    channels, height, rows = shape
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel_size, padding="same"),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, kernel_size, padding="same"),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * (height // 4) * (rows // 4), classes),
    )


def load(data_dir: Path | None) -> mixsweep.Images:
    """scikit-learn's 1,797 digits at 28×28, with images for validation of their own."""
    digits = load_digits()
    small = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    images = nn.functional.interpolate(small, size=28, mode="bilinear").round().to(torch.uint8)
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, valid, test = order[:1_200], order[1_200:1_500], order[1_500:]
    pixels = images[train].double() / 255
    return mixsweep.Images(
        train_images=images[train],
        train_labels=labels[train],
        valid_images=images[valid],
        valid_labels=labels[valid],
        test_images=images[test],
        test_labels=labels[test],
        classes=10,
        mean=(pixels.mean().item(),),
        std=(pixels.std().item(),),
    )


class Lion(torch.optim.Optimizer):
    """Steps of one size, along the sign of a momentum (Chen et al. 2023, arXiv:2302.06675, algorithm 2)."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, beta: float):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "beta": beta})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                momentum: Tensor = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                direction = momentum.lerp(weight.grad, 1 - group["beta"]).sign()
                weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])
                momentum.lerp_(weight.grad, 0.01)


def lion(
    parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float, beta: float = 0.9
) -> torch.optim.Optimizer:
    """Lion, with `beta` as a field of the trial."""
    return Lion(parameters, lr, weight_decay, beta)


def stable_then_down(step: int, steps: int, *, decay_share: float = 0.2) -> float:
    """The full learning rate, and then a straight line to 0 over the last share of the steps."""
    return min(1.0, (steps - step) / (decay_share * steps))


mixsweep.register_model("cnn", build)
mixsweep.register_dataset("digits28", load, shape=(1, 28, 28), classes=10, augment="none")
mixsweep.register_optimizer("lion", lion)
mixsweep.register_schedule("stable-then-down", stable_then_down)
