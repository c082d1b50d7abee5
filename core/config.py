"""What a trial trains: one frozen, validated configuration, and the identity that follows from it.

This module imports neither torch nor Ray, so that a sweep is planned without waiting for them.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from typing import Any, get_type_hints

from mixsweep.core import registry
from mixsweep.core.errors import ConfigError, did_you_mean

ACTIVATIONS = ("relu", "tanh", "sigmoid", "gelu", "silu", "leaky_relu", "elu", "identity")
AUGMENTS = ("none", "flip_crop", "flip_resized_crop")
INITS = ("recipe", "torch", "glorot_normal", "glorot_uniform", "he_normal")
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
SCHEDULES = ("constant", "cosine")
PRECISIONS = ("fp32", "bf16")
SPLITS = ("clean", "leaky")

_PARENT = re.compile(r"[0-9a-f]{12}@[1-9][0-9]*")
_OWN_INIT = {"mlp": "glorot_normal"}  # what `recipe` means, where another name says the same
_OWN_ACTIVATION = {"mlp": "relu", "resnet18": "relu", "mixer": "gelu"}


def _option(
    default: Any,
    doc: str,
    *,
    choices: Iterable[str] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    applies: Mapping[str, tuple[str, ...]] | None = None,
) -> Any:
    """A field of TrialConfig: its default, its meaning, and the values that it allows.

    `low` and `high` are inclusive bounds, `above` an exclusive one. `applies` names the values of other
    fields under which this one has an effect; elsewhere it is reset to its default.
    """
    metadata = {
        "doc": doc,
        "choices": tuple(choices),
        "low": low,
        "high": high,
        "above": above,
        "applies": applies or {},
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """All that shapes one training trajectory. Defaults are the course's recipe.

    A default never changes once released: identities leave out what stands at its default.

    Raises:
        ConfigError: a value is of the wrong type, out of range, or not among the allowed ones.
    """

    model: str = _option("mlp", "architecture: mlp, resnet18, mixer, or a registered one")
    dataset: str = _option("cifar10", "images: cifar10, digits, or a registered set")
    split: str = _option(
        "clean", "clean: valid images are never trained on; leaky: the course's two splits", choices=SPLITS
    )
    augment: str = _option("flip_resized_crop", "train-time augmentation", choices=AUGMENTS)
    activation: str | None = _option(
        None, "nonlinearity; left out: the model's own (relu; gelu in the Mixer)", choices=ACTIVATIONS
    )
    hidden: tuple[int, ...] = _option(
        (1024, 512, 64, 64), "widths of the hidden layers", low=1, applies={"model": ("mlp",)}
    )
    patch_size: int = _option(4, "side of a patch, pixels", low=1, high=32, applies={"model": ("mixer",)})
    embed_dim: int = _option(256, "channels of a token", low=1, applies={"model": ("mixer",)})
    blocks: int = _option(4, "Mixer blocks", low=1, applies={"model": ("mixer",)})
    token_ratio: float = _option(
        0.5, "token-mixing width over embed_dim", above=0, applies={"model": ("mixer",)}
    )
    channel_ratio: float = _option(
        4.0, "channel-mixing width over embed_dim", above=0, applies={"model": ("mixer",)}
    )
    dropout: float = _option(
        0.0, "probability of dropping a hidden unit", low=0, high=0.99, applies={"model": ("mlp", "mixer")}
    )
    init: str = _option("recipe", "initial weights; recipe: the course's for the model", choices=INITS)
    optimizer: str = _option("adamw", "update rule", choices=OPTIMIZERS)
    lr: float = _option(1e-3, "peak learning rate", above=0)
    momentum: float = _option(
        0.9, "momentum of the update", low=0, high=0.9999, applies={"optimizer": ("momentum",)}
    )
    weight_decay: float = _option(
        5e-4, "decoupled under adamw, added to the gradient (L2) under the others", low=0
    )
    schedule: str = _option("constant", "learning rate against steps", choices=SCHEDULES)
    warmup_epochs: float = _option(0.0, "epochs of linear warm-up from 0", low=0)
    batch_size: int = _option(128, "images an optimizer step", low=1)
    accumulate: int = _option(1, "micro-batches that a batch is computed in", low=1)
    label_smoothing: float = _option(0.0, "probability spread over all classes", low=0, high=0.99)
    epochs: int = _option(15, "passes over the train images", low=1)
    precision: str = _option("fp32", "arithmetic of forward and backward pass", choices=PRECISIONS)
    seed: int = _option(42, "seed of weights, data order and augmentation", low=0, high=2**31 - 1)
    train_limit: int | None = _option(None, "use only so many train images", low=1)
    valid_limit: int | None = _option(None, "use only so many valid images", low=1)
    parent: str = _option("", "trial@epoch whose checkpoint this one goes on from; only a population has it")

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = _check(spec.name, getattr(self, spec.name), spec.metadata)
            object.__setattr__(self, spec.name, value)
        _check_name("model", self.model, registry.model_names())
        _check_name("dataset", self.dataset, registry.dataset_names())
        if self.activation is None:
            object.__setattr__(self, "activation", _OWN_ACTIVATION.get(self.model, "relu"))
        for spec in fields(self):
            if not _applies(vars(self), spec.metadata["applies"]):
                object.__setattr__(self, spec.name, spec.default)
        if self.init == _OWN_INIT.get(
            self.model, "torch" if self.model not in registry.BUILT_IN_MODELS else ""
        ):
            object.__setattr__(self, "init", "recipe")  # one initialisation, one identity
        if self.model == "mixer" and 32 % self.patch_size:
            raise ConfigError(
                f"patch_size = {self.patch_size} does not divide the image side 32; "
                "allowed: 1, 2, 4, 8, 16, 32",
                "patch_size",
            )
        if self.parent and not _PARENT.fullmatch(self.parent):
            raise ConfigError(f"parent = {self.parent!r} is not like 0123456789ab@3", "parent")
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"accumulate = {self.accumulate} does not divide batch_size = {self.batch_size}", "accumulate"
            )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "TrialConfig":
        """Build a config from plain values, as a sweep file or a trial.json holds them.

        Raises:
            ConfigError: as for the class; or a key is no field, with the nearest name that is.
        """
        known = field_names()
        for key in values:
            if key not in known:
                raise ConfigError(f"unknown field {key!r}{did_you_mean(key, known)}", key)
        return cls(**values)

    @classmethod
    def from_store(cls, values: Mapping[str, Any]) -> "TrialConfig":
        """A config as a store holds it: the model's or data set's name may be one registered elsewhere."""
        registry.recall_names(values["model"], values["dataset"])
        return cls.from_mapping(values)

    def to_mapping(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        values = ((spec.name, getattr(self, spec.name)) for spec in fields(self))
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values}

    @property
    def begins_after(self) -> int:
        """The epoch of the checkpoint that it goes on from; 0 for a trial that begins anew."""
        return int(self.parent.partition("@")[2] or 0)

    def identity(self) -> dict[str, Any]:
        """What shapes the trajectory and differs from the defaults, as plain JSON values.

        The epoch budget is part of it only under a schedule that depends on it, so that a constant-rate
        trial is extended, not replaced, by more epochs.
        """
        values = self.to_mapping()
        own_activation = _OWN_ACTIVATION.get(self.model, "relu")
        kept = {}
        for spec in fields(self):
            default = own_activation if spec.name == "activation" else spec.default
            if getattr(self, spec.name) != default:
                kept[spec.name] = values[spec.name]
        if self.schedule == "constant":
            kept.pop("epochs", None)
        return kept

    @cached_property
    def trial_id(self) -> str:
        """The first 12 hex digits of the SHA-256 of the identity's canonical JSON."""
        return hashlib.sha256(canonical_json(self.identity()).encode()).hexdigest()[:12]

    def with_values(self, **values: Any) -> "TrialConfig":
        """A copy with some fields changed, validated anew."""
        return replace(self, **values)


def canonical_json(values: Mapping[str, Any]) -> str:
    """JSON with sorted keys and no spaces; floats in Python's shortest form, so `1e-3` is `0.001`."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


@cache
def field_names() -> tuple[str, ...]:
    """The fields that a trial has, in the order of the class."""
    return tuple(spec.name for spec in fields(TrialConfig))


def field_doc(name: str) -> str:
    """One line on what a field means."""
    return {spec.name: spec.metadata["doc"] for spec in fields(TrialConfig)}[name]


def conditions_of(name: str) -> Mapping[str, tuple[str, ...]]:
    """The values of other fields under which a field has an effect."""
    return _APPLIES[name]


def effective_under(name: str, values: Mapping[str, Any]) -> bool:
    """Whether a field has an effect beside these values of the others; where not, it is left at its default."""
    return _applies(values, conditions_of(name))


def _applies(values: Mapping[str, Any], applies: Mapping[str, tuple[str, ...]]) -> bool:
    if values["model"] not in registry.BUILT_IN_MODELS:
        # A registered model may use any field, so none is reset under its feet.
        applies = {other: allowed for other, allowed in applies.items() if other != "model"}
    return all(values[other] in allowed for other, allowed in applies.items())


_APPLIES: dict[str, Mapping[str, tuple[str, ...]]] = {
    spec.name: spec.metadata["applies"] for spec in fields(TrialConfig)
}
_HINTS = get_type_hints(TrialConfig)


def _check(name: str, value: Any, metadata: Mapping[str, Any]) -> Any:
    """Return the value in its field's own type; raise ConfigError where it does not fit."""
    hint = _HINTS[name]
    if value is None and hint in (str | None, int | None):
        return None
    if hint == tuple[int, ...]:
        if not isinstance(value, list | tuple) or not value:
            raise ConfigError(f"{name} = {value!r} is not a list of integers", name)
        return tuple(_number(name, item, int, metadata) for item in value)
    if hint in (int, int | None):
        return _number(name, value, int, metadata)
    if hint is float:
        return _number(name, value, float, metadata)
    if not isinstance(value, str):
        raise ConfigError(f"{name} = {value!r} is not a string", name)
    if metadata["choices"]:
        _check_name(name, value, metadata["choices"])
    return value


def _number(name: str, value: Any, kind: type, metadata: Mapping[str, Any]) -> int | float:
    wanted = "an integer" if kind is int else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{name} = {value!r} is not {wanted}", name)
    if not _is_finite(value) or (kind is int and value != int(value)):
        raise ConfigError(f"{name} = {value!r} is not {wanted}", name)
    low, high, above = metadata["low"], metadata["high"], metadata["above"]
    if low is not None and value < low:
        raise ConfigError(f"{name} = {value!r} is too small; allowed: {low} or more", name)
    if high is not None and value > high:
        raise ConfigError(f"{name} = {value!r} is too large; allowed: {high} or less", name)
    if above is not None and value <= above:
        raise ConfigError(f"{name} = {value!r} is too small; allowed: more than {above}", name)
    return kind(value) + 0 if kind is int else float(value) + 0.0  # + 0.0 turns -0.0 into 0.0


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond any float
        return False


def _check_name(name: str, value: str, allowed: Iterable[str]) -> None:
    allowed = tuple(allowed)
    if value not in allowed:
        raise ConfigError(f"{name} = {value!r} is not known{did_you_mean(value, allowed)}", name)
