"""Multi-layer perceptron over the flattened image.

Rosenblatt 1958; as trained here, Rumelhart, Hinton & Williams 1986, "Learning representations by
back-propagating errors". 3072–1024–512–64–64–10 has 3,709,194 parameters.
"""

from collections.abc import Callable, Sequence

from torch import nn


class MLP(nn.Sequential):
    """Images of `inputs` numbers, [batch, …], to logits [batch, classes], through hidden layers of the given widths.

    Each hidden layer is linear, activation, and dropout where `dropout` is above 0.
    """

    def __init__(
        self,
        hidden: Sequence[int],
        classes: int,
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.0,
        inputs: int = 3 * 32 * 32,
    ):
        layers: list[nn.Module] = [nn.Flatten()]
        for width in hidden:
            layers += [nn.Linear(inputs, width), activation()]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
            inputs = width
        super().__init__(*layers, nn.Linear(inputs, classes))
