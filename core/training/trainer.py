"""The trainer: one trial, read from top to bottom. A Trial yields epoch records; its caller decides.

Shapes: B batch, C channels, H height, W width, K classes.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from mixsweep.core import records, registry
from mixsweep.core.data.augment import prepare
from mixsweep.core.data.batches import Augmentation
from mixsweep.core.data.datasets import Images, epoch_order, split_indices, stream_seed
from mixsweep.core.errors import ConfigError
from mixsweep.core.failures import kind_of
from mixsweep.core.models.build import build_model
from mixsweep.core.records import ENERGY, UTILISATION, Record
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.core.trainables.image.records import has_diverged
from mixsweep.core.trainables.predictions import to_table
from mixsweep.core.training import device as devices
from mixsweep.core.training.loss import cross_entropy
from mixsweep.core.training.optim import build_optimizer, learning_rate, plain_step, set_learning_rate
from mixsweep.core.training.process_group import ALONE, Ranks
from mixsweep.core.training.sync_batch_norm import synchronise
from mixsweep.core.training.telemetry import counters_of

_EVALUATION_BATCH = 500


class Trial:
    """A model, its optimizer and its progress, which a checkpoint holds, and the loop that trains it.

    With several ranks each computes its part of every micro-batch, on images augmented as on a single rank,
    and all have the same state and yield records with the same losses and accuracies.

    Args:
        config: what to train.
        images: the data set, on any device; it is moved to `device` as uint8, whole.
        device: where to compute.
        accumulate: micro-batches per batch, if memory requires more than the config's.
        compile: run the model through torch.compile.
        ranks: the processes that train it together; they have joined a process group.
        batch_norm: over the micro-batch of all ranks (`synchronised`), or over each rank's own part (`local`).

    Raises:
        ConfigError: the batch is larger than the train set, or a micro-batch has fewer images than ranks.
    """

    def __init__(
        self,
        config: ImageConfig,
        images: Images,
        device: torch.device,
        *,
        accumulate: int | None = None,
        compile: bool = False,
        ranks: Ranks = ALONE,
        batch_norm: str = "synchronised",
    ):
        self.config = config
        self.device = device
        self.epoch = 0
        self.step = 0
        self._accumulate = accumulate or config.accumulate
        self._ranks = ranks
        self._batch_norm = batch_norm
        self.images = images.to(device)
        train, valid = split_indices(config, images)
        self._train, self._valid = train.to(device), valid.to(device)
        self._valid_part = (self.images.train_images, self.images.train_labels)
        if self.images.valid_images is not None and self.images.valid_labels is not None:
            self._valid_part = (self.images.valid_images, self.images.valid_labels)
        if len(train) < config.batch_size:
            raise ConfigError(
                f"batch_size = {config.batch_size} is larger than the {len(train)} train images", "batch_size"
            )
        if config.batch_size // self._accumulate < ranks.world:
            raise ConfigError(
                f"batch_size = {config.batch_size} in {self._accumulate} micro-batches leaves fewer than "
                f"one image for each of {ranks.world} ranks",
                "batch_size",
            )
        self._layout = torch.channels_last if config.model == "resnet18" else torch.contiguous_format
        _seed_globals(stream_seed(config.seed, 0, "weights"))
        self.model = (
            build_model(config, images.classes, images.shape).to(device).to(memory_format=self._layout)
        )
        if ranks.world > 1 and batch_norm == "synchronised":
            self.model = synchronise(self.model, device)
        self.optimizer = build_optimizer(config, self.model.parameters())
        self._update = plain_step(self.optimizer)
        self._tested: list[tuple[Tensor, Tensor]] = []  # classes and confidences of this rank's test images
        self._infer: Callable[[Tensor], Tensor] = torch.compile(self.model) if compile else self.model
        self._forward = self._infer
        if ranks.world > 1:
            self._replica = ranks.replicate(self.model, self.images.train_images[:1].float())
            self._forward = torch.compile(self._replica) if compile else self._replica

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches per epoch; an incomplete last batch is dropped."""
        return len(self._train) // self.config.batch_size

    @property
    def facts(self) -> dict[str, Any]:
        """Facts for the trial's provenance: the numbers of train and test images, and the kind of batch norm."""
        facts: dict[str, Any] = {"images": [len(self.images.train_labels), len(self.images.test_labels)]}
        if self._ranks.world > 1:
            facts["batch_norm"] = self._batch_norm
        return facts

    def state(self) -> dict[str, Any]:
        """The content of a checkpoint. Data order, augmentation and dropout follow from (seed, epoch)."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.epoch, self.step = state["epoch"], state["step"]
        # A trial that continues from another one's state keeps its own hyperparameters.
        own = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        self._load("model", self.model, state)
        self._load("optimizer", self.optimizer, state)
        for group, values in zip(self.optimizer.param_groups, own):
            group.update(values)

    def _load(self, part: str, into: torch.nn.Module | torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Load a part's state.

        Raises:
            ConfigError: the user's code of it does not fit the checkpoint any more.
        """
        try:
            into.load_state_dict(state[part])
        except Exception as error:
            if registry.registered(part, self.config[part]) is None or kind_of(error) != "bug":
                raise
            problem = " ".join(str(error).split())
            raise ConfigError(
                f"{part} = {self.config[part]!r}: its code does not fit the checkpoint any more ({problem:.160}); "
                f"start the trial again: --fresh {self.config.trial_id}",
                part,
            ) from error

    def train(self, attempt: int = 1) -> Iterator[Record]:
        """Train from the trial's current epoch, and yield a record after each epoch.

        The trial's state is that of the yielded record until the next one is requested. A record whose
        loss is NaN or infinite is the last.
        """
        counters = counters_of(self.device)
        try:
            while self.epoch < self.config.epochs:
                devices.reset_peak_memory(self.device)
                counters.begin()
                train_loss, train_accuracy, train_seconds = self._train_epoch()
                valid_loss, valid_accuracy, valid_seconds = self._evaluate(*self._valid_part, self._valid)
                reading = counters.end()
                record = Record(
                    trial_id=self.config.trial_id,
                    epoch=self.epoch,
                    step=self.step,
                    attempt=attempt,
                    recorded_at=records.now(),
                    metrics={
                        "train_loss": train_loss,
                        "train_accuracy": train_accuracy,
                        "valid_loss": valid_loss,
                        "valid_accuracy": valid_accuracy,
                        "lr": self._learning_rate(self.step - 1),
                        "train_seconds": train_seconds,
                        "valid_seconds": valid_seconds,
                        "images_per_second": self.steps_per_epoch * self.config.batch_size / train_seconds,
                        "peak_memory_bytes": devices.peak_memory_bytes(self.device),
                        UTILISATION: reading.utilisation,
                        "device_memory_bytes": reading.memory_bytes,
                        ENERGY: reading.energy_joules,
                    },
                )
                yield record
                if has_diverged(record):
                    return
        finally:
            counters.end()  # also if the trial is left in the middle of an epoch: its sampler thread must end

    def test(self) -> dict[str, float]:
        """Mean loss (nats) and accuracy over the test images."""
        everything = torch.arange(len(self.images.test_labels), device=self.device)
        self._tested = []
        part = (self.images.test_images, self.images.test_labels)
        loss, accuracy, _ = self._evaluate(*part, everything, self._tested)
        return {"test_loss": loss, "test_accuracy": accuracy}

    def predictions(self) -> pa.Table:
        """The predictions that gave the test figures, for all ranks' images in the data set's order."""
        count = len(self.images.test_labels)
        predicted = torch.zeros(count, dtype=torch.int64, device=self.device)
        confidence = torch.zeros(count, device=self.device)
        own = self._ranks.shard(torch.arange(count, device=self.device))
        if self._tested:
            predicted[own], confidence[own] = map(torch.cat, zip(*self._tested))
        self._ranks.all_reduce(predicted, confidence)
        label = self.images.test_labels.cpu().numpy()
        return to_table(label, predicted.cpu().numpy(), confidence.cpu().numpy(), self.images.class_names)

    def leave(self) -> tuple[Record, ...]:
        """Nothing: its state is always whole."""
        return ()

    def close(self) -> None:
        """Nothing is outside of memory."""

    def _train_epoch(self) -> tuple[float, float, float]:
        """One pass over the train images: mean loss, accuracy, seconds."""
        config, images = self.config, self.images
        epoch = self.epoch + 1
        order = self._train[epoch_order(config, epoch, len(self._train)).to(self.device)]
        augmentation = Augmentation(config, images.shape, self.device, epoch)
        rank = "" if self._ranks.leads else f" of rank {self._ranks.rank}"
        _seed_globals(stream_seed(config.seed, epoch, "dropout" + rank))
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self.model.train()
        devices.synchronize(self.device)
        start = time.perf_counter()
        own = self._own_part()
        crops = augmentation.draw(self.steps_per_epoch, config.batch_size)
        for chosen, crop in zip(order.split(config.batch_size), crops):  # without an incomplete last batch
            x_BCHW, labels_B = augmentation.apply(images, chosen, crop, own)
            x_BCHW = x_BCHW.contiguous(memory_format=self._layout)
            set_learning_rate(self.optimizer, self._learning_rate(self.step))
            self.optimizer.zero_grad(set_to_none=True)
            for x, labels in self._micro_batches(x_BCHW, labels_B):
                with self._autocast():
                    logits_BK = self._forward(x)
                loss = cross_entropy(logits_BK.float(), labels, config.label_smoothing, reduction="sum")
                (loss / config.batch_size).backward()
                # Sums stay on the device: reading one in each step would make the host wait.
                loss_sum += loss.detach()
                correct += (logits_BK.detach().argmax(1) == labels).sum()
            self._update()
            self.step += 1
        self._ranks.all_reduce(loss_sum, correct)
        self._ranks.equalise(self.model)
        devices.synchronize(self.device)
        seconds = time.perf_counter() - start
        self.epoch = epoch
        count = self.steps_per_epoch * config.batch_size
        return loss_sum.item() / count, correct.item() / count, seconds

    def _own_part(self) -> Tensor | None:
        """Positions in a batch of this rank's images; None where there is one rank.

        Each micro-batch is split over the ranks, so that it has the same images on any number of ranks.
        """
        if self._ranks.world == 1:
            return None
        micro_batches = torch.arange(self.config.batch_size, device=self.device).view(self._accumulate, -1)
        return self._ranks.shard(micro_batches, 1).flatten()

    def _micro_batches(self, x_BCHW: Tensor, labels_B: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        parts = zip(x_BCHW.chunk(self._accumulate), labels_B.chunk(self._accumulate))
        return parts if self._ranks.world == 1 else _synchronising_the_last(self._replica, parts)

    @torch.no_grad()
    def _evaluate(
        self,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        answers: list[tuple[Tensor, Tensor]] | None = None,
    ) -> tuple[float, float, float]:
        """Mean loss without smoothing, accuracy, and seconds, over the images at these indices.

        Args:
            answers: takes the predicted classes of this rank's images and their probabilities, a pair a batch.
        """
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self.model.eval()
        devices.synchronize(self.device)
        start = time.perf_counter()
        own = self._ranks.shard(indices)
        for chosen in own.split(_EVALUATION_BATCH) if len(own) else ():
            x_BCHW = prepare(images[chosen], self.images.mean, self.images.std)
            with self._autocast():
                logits_BK = self._infer(x_BCHW.contiguous(memory_format=self._layout))
            loss_sum += cross_entropy(logits_BK.float(), labels[chosen], reduction="sum")
            predicted = logits_BK.argmax(1)
            correct += (predicted == labels[chosen]).sum()
            if answers is not None:
                answers.append((predicted, _largest_probability(logits_BK.float())))
        self._ranks.all_reduce(loss_sum, correct)
        devices.synchronize(self.device)
        seconds = time.perf_counter() - start
        return loss_sum.item() / len(indices), correct.item() / len(indices), seconds

    def _learning_rate(self, step: int) -> float:
        return learning_rate(self.config, step, self.steps_per_epoch)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.config.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()


def _synchronising_the_last(
    replica: DistributedDataParallel, parts: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the micro-batches; gradients are summed over the ranks only in the last one's backward pass."""
    *first, last = parts
    with replica.no_sync():
        yield from first
    yield last


def _largest_probability(logits_BK: Tensor) -> Tensor:
    return (logits_BK.amax(1) - logits_BK.logsumexp(1)).exp()


def _seed_globals(seed: int) -> None:
    """Seed the global random generators: torch's, and for registered models Python's and NumPy's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
