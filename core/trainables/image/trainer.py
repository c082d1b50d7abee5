"""The built-in kind of trial: an image classifier, its fields and metrics, and how one is started.

Importing this module needs no torch; the trainer is imported when a trial is started.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import ConfigError
from mixsweep.core.records import Record
from mixsweep.core.registry import registered
from mixsweep.core.trainables.definition import Definition
from mixsweep.core.trainables.image import costs, records
from mixsweep.core.trainables.image.config import FIELDS, ImageConfig, applies
from mixsweep.core.trainables.image.own_fields import config_class
from mixsweep.core.trainables.interface import (
    CurvePanel,
    EpochWork,
    MeasuredEpoch,
    Run,
    RunningTrial,
    Trainable,
    WeightPictures,
)

if TYPE_CHECKING:
    import torch

    from mixsweep.core.data.datasets import Images

# Valid images of the clean split, for data sets where the number is known before loading.
_VALID_IMAGES = {"cifar10": 5000}

# Built-in models without BatchNorm; ResNet18 has it, and a registered model may.
_WITHOUT_BATCH_NORM = ("mlp", "mixer")


class ImageTrainer(Trainable):
    """Image classifiers, trained epoch by epoch on a data set in memory (core.training.trainer).

    Args:
        config_class: of its trials, with the fields of registered parts.
        definition: of those fields; None: there are none.
        code: digest of the user's code, where it is part of the identities of its trials.
    """

    def __init__(
        self,
        config_class: type[ImageConfig] = ImageConfig,
        definition: Definition | None = None,
        code: str = "",
    ):
        self.config_class = config_class
        self._code = code
        self.definition = definition
        self.kind = config_class.kind
        self.fields = (*FIELDS, *config_class.own)
        self.work_fields = (*costs.WORK_FIELDS, *(spec.name for spec in config_class.own))

    budget = "epochs"
    data_field = "dataset"
    mutable_fields = ("lr", "weight_decay", "momentum", "dropout", "label_smoothing", "augment")
    tag_fields = ("model", "dataset")
    metrics = records.METRICS
    default_metric = "valid_accuracy"
    headline_metrics = ("valid_accuracy", "valid_loss")
    reported_tests = ("test_accuracy",)
    panels = (
        CurvePanel("loss (nats)", {"train": "train_loss", "valid": "valid_loss"}),
        CurvePanel("accuracy (%)", {"train": "train_accuracy", "valid": "valid_accuracy"}, is_fraction=True),
    )
    curve_words = "train and valid loss and accuracy"
    method_notes = (
        "Accuracies are fractions of samples, losses means over samples in nats. Train figures are those of the "
        "training pass itself, with augmentation, dropout and label smoothing; valid losses are without "
        "smoothing. Valid figures follow each epoch; test figures are taken once, at a trial's last epoch.",
        "A best value is chosen on the valid images that also give its figure, so that figure is slightly "
        "optimistic; its test accuracy is not affected.",
    )
    second_metrics = ("train_seconds", "valid_seconds")
    record_products: ClassVar = {"train_images": ("images_per_second", "train_seconds")}
    predicted_accuracy = "test_accuracy"

    def config(self, values: Mapping[str, Any]) -> ImageConfig:
        pinned = {"pinned_code": self._code} if self._code else {}
        return self.config_class.from_mapping({**pinned, **values})

    def defaults_beside(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**self.defaults, **self.config_class.defaults_beside(values)}

    def config_from_store(self, values: Mapping[str, Any]) -> ImageConfig:
        return self.config_class.from_store(values)

    def pinned(self, code: str) -> "ImageTrainer":
        return ImageTrainer(self.config_class, self.definition, code)

    def unpinned(self, config: TrialConfig) -> TrialConfig:
        return config.with_values(pinned_code="")

    def check_value(self, name: str, value: Any) -> None:
        if name in {spec.name for spec in self.config_class.own}:
            self.field(name).checked(value)
            return
        # Set the fields that this one depends on: otherwise its value would be reset to the default unchecked.
        company: dict[str, Any] = {}
        if name == "patch_size":
            dataset = costs.dataset_with_patches(value)
            company = {"model": "mixer", "dataset": dataset}
        if name == "init":
            company = {"model": "mixer"}  # which may have every scheme
        if name == "accumulate" and isinstance(value, int) and value > 0:
            company = {"batch_size": value}
        self.config_class.from_mapping({**company, name: value})

    def own_value(self, name: str, value: Any, values: Mapping[str, Any]) -> Any:
        """Only `init` has names for one value: `recipe` is a scheme of its own in each model."""
        if name != "init":
            return value
        try:
            return ImageConfig(model=values["model"], init=value).init
        except ConfigError:  # not for this model, or a model that is not imported here
            return value

    def is_effective(self, name: str, values: Mapping[str, Any]) -> bool:
        spec = self.field(name)
        return applies(values, spec.applies, strictly=spec in self.config_class.own)

    def check_data(self, configs: Iterable[TrialConfig], data_dir: Path | None) -> None:
        if any(config["dataset"] == "cifar10" for config in configs):
            from mixsweep.core.data.cifar10 import source_files

            source_files(data_dir)

    def start(self, config: TrialConfig, run: Run) -> RunningTrial:
        from mixsweep.core.training.process_group import Ranks
        from mixsweep.core.training.trainer import Trial

        config = cast(ImageConfig, config)
        return Trial(
            config,
            _images_of(config, run),
            run.device,
            accumulate=run.accumulate,
            compile=run.compile,
            ranks=Ranks(run.rank, run.world_size, run.local_rank),
            batch_norm=run.batch_norm,
        )

    def accumulate_after(self, config: TrialConfig, out_of_memory: int, ranks: int) -> int:
        """Double the micro-batches for each such attempt, as far as the batch can be divided."""
        least, batch_size = config["accumulate"], config["batch_size"]
        accumulate: int = least * 2**out_of_memory
        while accumulate > least and (batch_size % accumulate or batch_size // accumulate < ranks):
            accumulate //= 2
        return accumulate

    def micro_batches_matter(self, config: TrialConfig, accumulate: int) -> bool:
        """True for models that may have a BatchNorm, which then sees smaller batches."""
        return accumulate > config["accumulate"] and config["model"] not in _WITHOUT_BATCH_NORM

    def has_diverged(self, record: Record, metric: str) -> bool:
        return records.has_diverged(record)

    def next_record_seconds(self, record: Record) -> float:
        # The test has twice as many images as validation.
        return 1.25 * float(record["train_seconds"] + 3 * record["valid_seconds"])

    def progress(self, record: Record) -> str:
        return records.progress(record)

    def epoch_work(self, config: TrialConfig) -> EpochWork:
        return costs.epoch_work(cast(ImageConfig, config))

    def measure_epoch(self, config: TrialConfig, run: Run, seconds: float) -> MeasuredEpoch:
        from mixsweep.core.trainables.image.timing import measure_epoch

        config = cast(ImageConfig, config)
        images = _images_of(config, run)
        return measure_epoch(config, images, run, seconds)

    def parameters(self, values: Mapping[str, Any]) -> float:
        return costs.count_parameters(values, self.config_class)

    def cost_words(self, metric: str, trials: Sequence[Mapping[str, Any]]) -> str:
        if metric == "train_seconds":
            counts = {trial["train_images"] for trial in trials} - {None}
            return f"train one epoch of {counts.pop():,.0f} images" if len(counts) == 1 else "train one epoch"
        counts = {trial["valid_limit"] or _VALID_IMAGES.get(trial["dataset"]) for trial in trials}
        count = counts.pop() if len(counts) == 1 else None
        return f"infer {count:,.0f} valid images" if count else "infer the valid images"

    def weight_pictures(self, state: Mapping[str, Any]) -> WeightPictures | None:
        from mixsweep.core.trainables.image import weights

        return weights.token_pictures(state["model"]) or weights.kernel_pictures(state["model"])


def _images_of(config: ImageConfig, run: Run) -> "Images":
    own = tuple(sorted(config.values_of("dataset").items()))
    return _images(
        _Loader(registered("dataset", config.dataset)), config.dataset, own, run.data_dir, run.device
    )


class _Loader:
    """What loads a registered data set: equal if it is the same object, since a name may be registered again."""

    def __init__(self, load: Callable[..., Any] | None):
        self._load = load

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Loader) and self._load is other._load

    def __hash__(self) -> int:
        return id(self._load)


@lru_cache(maxsize=1)
def _images(
    loader: _Loader,
    dataset: str,
    own: tuple[tuple[str, Any], ...],
    data_dir: Path | None,
    device: "torch.device",
) -> "Images":
    """A data set on a device, loaded once for consecutive trials that share it."""
    from mixsweep.core.data import datasets

    return datasets.load_images(dataset, data_dir, dict(own)).to(device)


def with_fields(definition: Definition) -> ImageTrainer:
    """The image trainer with the fields of registered parts, as a definition has them."""
    return ImageTrainer(config_class(definition), definition)


TRAINABLE = ImageTrainer()
