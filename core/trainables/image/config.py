"""The config of the built-in image trainer: its fields, their conditions, and the identity computed from them.

Like core.config, it imports neither torch nor Ray.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd
from typing import Any, ClassVar

from mixsweep.core import registry
from mixsweep.core.config import (
    Field,
    check_name,
    check_parent,
    declared_fields,
    declared_names,
    epoch_of_parent,
    option,
    trial_id_of,
)
from mixsweep.core.errors import ConfigError, did_you_mean

ACTIVATIONS = registry.BUILT_IN["activation"]
INITS = ("recipe", "course", "torch", "glorot_normal", "glorot_uniform", "he_normal", "recipe-0.2")
OPTIMIZERS = registry.BUILT_IN["optimizer"]
PRECISIONS = ("fp32", "bf16")
SPLITS = ("clean", "leaky")

_OWN_INIT = {"mlp": "glorot_normal"}  # the scheme that is the same as `recipe`, by model

# The scheme that `recipe` stands for, by model. Versions before 0.3 drew these models otherwise and called that
# `recipe`: it is `recipe-0.2` now, and left out of identities, so that their trials keep their ids.
_RECIPE = {"mixer": "course", "resnet18": "torch"}
_EARLY_RECIPE = "recipe-0.2"
_OWN_ACTIVATION = {"mlp": "relu", "resnet18": "relu", "mixer": "gelu"}


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """The values that determine a training trajectory of the built-in image trainer. Defaults: the course's recipe.

    A default never changes once released: identities leave out values that equal their default.

    Raises:
        ConfigError: a value is of the wrong type, out of range, or not among the allowed ones.
    """

    model: str = option(
        "mlp", "architecture: mlp, resnet18, mixer, or a registered one", examples=registry.BUILT_IN["model"]
    )
    dataset: str = option(
        "cifar10", "images: cifar10, digits, or a registered set", examples=registry.BUILT_IN["dataset"]
    )
    split: str = option(
        "clean", "clean: valid images are never trained on; leaky: the course's two splits", choices=SPLITS
    )
    augment: str = option(
        "flip_resized_crop",
        "train-time augmentation; left out: a registered data set's own",
        examples=registry.BUILT_IN["augment"],
    )
    activation: str | None = option(
        None, "nonlinearity; left out: the model's own (relu; gelu in the Mixer)", examples=ACTIVATIONS
    )
    hidden: tuple[int, ...] = option(
        (1024, 512, 64, 64), "widths of the hidden layers", low=1, applies={"model": ("mlp",)}
    )
    patch_size: int = option(4, "side of a patch, pixels", low=1, applies={"model": ("mixer",)})
    embed_dim: int = option(256, "channels of a token", low=1, applies={"model": ("mixer",)})
    blocks: int = option(4, "Mixer blocks", low=1, applies={"model": ("mixer",)})
    token_ratio: float = option(
        0.5, "token-mixing width over embed_dim", above=0, applies={"model": ("mixer",)}
    )
    channel_ratio: float = option(
        4.0, "channel-mixing width over embed_dim", above=0, applies={"model": ("mixer",)}
    )
    dropout: float = option(
        0.0, "probability of dropping a hidden unit", low=0, high=0.99, applies={"model": ("mlp", "mixer")}
    )
    init: str = option(
        "recipe",
        "initial weights; recipe: the course's for the model; recipe-0.2: that of versions before 0.3",
        choices=INITS,
    )
    optimizer: str = option("adamw", "update rule", examples=OPTIMIZERS)
    lr: float = option(1e-3, "peak learning rate", above=0)
    momentum: float = option(
        0.9, "momentum of the update", low=0, high=0.9999, applies={"optimizer": ("momentum",)}
    )
    weight_decay: float = option(
        5e-4, "decoupled under adamw, added to the gradient (L2) under the others", low=0
    )
    schedule: str = option("constant", "learning rate against steps", examples=registry.BUILT_IN["schedule"])
    warmup_epochs: float = option(0.0, "epochs of linear warm-up from 0", low=0)
    batch_size: int = option(128, "images an optimizer step", low=1)
    accumulate: int = option(1, "micro-batches that a batch is computed in", low=1)
    label_smoothing: float = option(0.0, "probability spread over all classes", low=0, high=0.99)
    epochs: int = option(15, "passes over the train images", low=1)
    precision: str = option("fp32", "arithmetic of forward and backward pass", choices=PRECISIONS)
    seed: int = option(42, "seed of weights, data order and augmentation", low=0, high=2**31 - 1)
    train_limit: int | None = option(None, "use only so many train images", low=1)
    valid_limit: int | None = option(None, "use only so many valid images", low=1)
    parent: str = option(
        "", "trial@epoch whose checkpoint this trial continues from; set only in populations"
    )

    pinned_code: str = option("", "digest of your code; set only by code = 'pin'")

    kind: ClassVar[str] = "image"
    own: ClassVar[
        tuple[Field, ...]
    ] = ()  # fields of registered parts, in a subclass (core.trainables.image.own_fields)

    def __post_init__(self) -> None:
        for spec in declared_fields(type(self)):
            object.__setattr__(self, spec.name, spec.checked(getattr(self, spec.name)))
        if self.activation is None:
            object.__setattr__(self, "activation", _OWN_ACTIVATION.get(self.model, "relu"))
        for part in registry.BUILT_IN:
            if not registry.is_known(part, getattr(self, part)):
                check_name(part, getattr(self, part), registry.names(part))
        for spec in declared_fields(type(self)):
            if not self._applies(spec):
                object.__setattr__(self, spec.name, spec.default)
        if self.init == _OWN_INIT.get(
            self.model, "torch" if self.model not in registry.BUILT_IN["model"] else ""
        ):
            object.__setattr__(self, "init", "recipe")  # one initialisation, one identity
        if self.init == "recipe" and self.model in _RECIPE:
            object.__setattr__(self, "init", _RECIPE[self.model])
        if self.init in ("course", _EARLY_RECIPE) and self.init not in _schemes_of(self.model):
            raise ConfigError(
                f"init = {self.init!r} is not for model = {self.model!r}; "
                f"allowed: {', '.join(_schemes_of(self.model))}",
                "init",
            )
        if self.model == "mixer":
            self._check_patches()
        check_parent(self.parent)
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"accumulate = {self.accumulate} does not divide batch_size = {self.batch_size}", "accumulate"
            )

    def _check_patches(self) -> None:
        form = registry.form_of(self.dataset)
        if form is None:  # its file is not imported here
            return
        _, height, width = form.shape
        common = gcd(height, width)
        if common % self.patch_size:
            side = f"image side {height}" if height == width else f"images of {height}×{width}"
            allowed = ", ".join(str(size) for size in range(1, common + 1) if common % size == 0)
            raise ConfigError(
                f"patch_size = {self.patch_size} does not divide the {side}; allowed: {allowed}", "patch_size"
            )

    def _applies(self, spec: Field) -> bool:
        return applies(vars(self), spec.applies, strictly=spec in self.own)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "ImageConfig":
        """Build a config from plain values, as a sweep file or a trial.json holds them.

        Raises:
            ConfigError: as for the class; or a key is not a field, with the nearest field name.
        """
        known = [spec.name for spec in declared_fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(f"unknown field {key!r}{did_you_mean(key, known)}", key)
        return cls(**{**cls.defaults_beside(values), **values})

    @classmethod
    def defaults_beside(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults that depend on the values of other fields: a registered data set has its own augmentation."""
        form = registry.form_of(values["dataset"]) if isinstance(values.get("dataset"), str) else None
        return {} if form is None else {"augment": form.augment}

    @classmethod
    def from_store(cls, values: Mapping[str, Any]) -> "ImageConfig":
        """Build a config from a store: its parts may be registered in a file not imported here."""
        registry.recall_names(values)
        if values["model"] in _RECIPE and values.get("init", "recipe") == "recipe":
            values = {**values, "init": _EARLY_RECIPE}  # a version before 0.3 wrote it
        return cls.from_mapping(values)

    def __getitem__(self, name: str) -> Any:
        """The value of a field."""
        if name not in declared_names(type(self)):
            raise KeyError(name)
        return getattr(self, name)

    def to_mapping(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        values = ((spec.name, getattr(self, spec.name)) for spec in declared_fields(type(self)))
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values}

    def values_of(self, part: str) -> dict[str, Any]:
        """The values of the fields that the trial's registered part brought, by name.

        Args:
            part: the field that names it, such as `model`.
        """
        return {
            spec.name: getattr(self, spec.name)
            for spec in self.own
            if getattr(self, part) in spec.applies.get(part, ())
        }

    @property
    def begins_after(self) -> int:
        """The epoch of the checkpoint that it continues from; 0 for a trial that starts from scratch."""
        return epoch_of_parent(self.parent)

    def identity(self) -> dict[str, Any]:
        """The values that determine the trajectory and differ from the defaults, as plain JSON values.

        The epoch budget is part of it only under a schedule that depends on it, so that a constant-rate
        trial is extended, not replaced, by more epochs.
        """
        values = self.to_mapping()
        own_activation = _OWN_ACTIVATION.get(self.model, "relu")
        kept = {}
        for spec in declared_fields(type(self)):
            default = own_activation if spec.name == "activation" else spec.default
            if spec.name == "init" and self.model in _RECIPE:
                default = _EARLY_RECIPE
            if spec in self.own:
                is_kept = self._applies(spec) and not (spec.added and getattr(self, spec.name) == default)
            else:
                is_kept = getattr(self, spec.name) != default
            if is_kept:
                kept[spec.name] = values[spec.name]
        if self.schedule == "constant":
            kept.pop("epochs", None)
        return kept

    @cached_property
    def trial_id(self) -> str:
        """The first 12 hex digits of the SHA-256 of the identity's canonical JSON."""
        return trial_id_of(self.identity())

    def with_values(self, **values: Any) -> "ImageConfig":
        """A validated copy with some fields changed."""
        return replace(self, **values)


TrialConfig = ImageConfig  # the public name, older than the other kinds of trials

FIELDS = declared_fields(ImageConfig)
FIELD_NAMES = tuple(spec.name for spec in FIELDS)


def _schemes_of(model: str) -> tuple[str, ...]:
    """The initial weights that a model may have."""
    without = {"mixer": (), "resnet18": ("course",)}.get(model, ("course", _EARLY_RECIPE))
    return tuple(scheme for scheme in INITS if scheme not in without)


def applies(
    values: Mapping[str, Any], conditions: Mapping[str, tuple[str, ...]], strictly: bool = False
) -> bool:
    """Whether a field under these conditions has an effect beside these values of the others.

    Args:
        strictly: also with a registered model, which otherwise may use any built-in field, so that none is reset to
            its default.
    """
    if not strictly and values["model"] not in registry.BUILT_IN["model"]:
        conditions = {other: allowed for other, allowed in conditions.items() if other != "model"}
    return all(values[other] in allowed for other, allowed in conditions.items())
