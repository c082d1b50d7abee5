"""The train images of a batch, augmented as a trial's config says, and normalised."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mixsweep.core import registry
from mixsweep.core.data.augment import Crops, draw_crops, prepare
from mixsweep.core.data.datasets import Images, stream_generator
from mixsweep.core.errors import ConfigError
from mixsweep.core.registry import Shape
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.core.trainables.image.own_fields import call_part


class Augmentation:
    """A trial's augmentation in one epoch, built in or registered; all its randomness is drawn on the CPU.

    Raises:
        ConfigError: the file that registers it is not imported.
    """

    def __init__(self, config: ImageConfig, shape: Shape, device: torch.device, epoch: int):
        self._config, self._size, self._device = config, shape[1:], device
        self._generator = stream_generator(config.seed, epoch, "augmentation")
        self._own = registry.registered("augment", config.augment)
        if self._own is None and config.augment not in registry.BUILT_IN["augment"]:
            raise ConfigError(
                f"augment = {config.augment!r}: the file that registers it is not imported", "augment"
            )

    def draw(self, batches: int, count: int) -> Iterator[Crops | None]:
        """Draw the crops of `batches` batches of `count` images; None for each without any."""
        kind = "none" if self._own else self._config.augment
        return draw_crops(kind, batches, count, self._generator, self._device, self._size)

    def apply(
        self, images: Images, chosen: Tensor, crops: Crops | None, own: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The images of a batch, augmented and normalised, float32 [B, C, H, W], and their labels.

        Args:
            chosen: the whole batch's indices into the train images.
            own: positions in the batch of those to return; None: all. A registered augmentation is called with the
                whole batch, so that images are augmented alike on any number of ranks.
        """
        part = chosen if own is None else chosen[own]
        if self._own is not None:
            batch = images.train_images[chosen]
            pixels = call_part("augment", self._config, self._own, batch, self._generator)
            if not isinstance(pixels, Tensor) or pixels.shape != batch.shape:
                found = list(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
                raise ConfigError(
                    f"augment = {self._config.augment!r}: it returned {found}, not images of shape "
                    f"{list(batch.shape)}",
                    "augment",
                )
            pixels = pixels if own is None else pixels[own]
        else:
            pixels = images.train_images[part]
            if own is not None and crops is not None:
                crops = Crops(crops.rows[own], crops.columns[own])
        return prepare(pixels, images.mean, images.std, crops), images.train_labels[part]
