"""ResNet18 for small images: 3×3 stem of stride 1, no max-pool, otherwise as for ImageNet.

He, Zhang, Ren & Sun 2015, "Deep Residual Learning for Image Recognition" (arXiv:1512.03385), fig. 5 left and
table 1. Original: https://github.com/KaimingHe/deep-residual-networks. Parameters are named as in
torchvision's `resnet18`, so that its weights load (all but the stem's). With 10 classes 11,173,962 in all.
"""

from collections.abc import Callable

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with batch norm, and a shortcut: [B, C, H, W] to [B, C', H/stride, W/stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: Callable[[], nn.Module]):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.activation = activation()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        residual = self.activation(self.bn1(self.conv1(x_BCHW)))
        residual = self.bn2(self.conv2(residual))
        return self.activation(residual + self.downsample(x_BCHW))


class ResNet18(nn.Module):
    """Images [batch, channels, height, width] to logits [batch, classes]."""

    def __init__(self, classes: int, activation: Callable[[], nn.Module] = nn.ReLU, channels: int = 3):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.activation = activation()
        self.layer1 = _stage(64, 64, 1, activation)
        self.layer2 = _stage(64, 128, 2, activation)
        self.layer3 = _stage(128, 256, 2, activation)
        self.layer4 = _stage(256, 512, 2, activation)
        self.fc = nn.Linear(512, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.activation(self.bn1(self.conv1(x_BCHW)))
        x_BCHW = self.layer4(self.layer3(self.layer2(self.layer1(x_BCHW))))
        return self.fc(x_BCHW.mean((2, 3)))


def _stage(inputs: int, outputs: int, stride: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(inputs, outputs, stride, activation), BasicBlock(outputs, outputs, 1, activation)
    )
