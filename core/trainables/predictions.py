"""The predictions of a classifier on its test set, as a store keeps them: a row an example, in a few bytes each.

A confidence is the probability of the predicted class, kept in steps of 1/65535. With ten classes, 10,000 examples
take about 35 kB.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from mixsweep.core.errors import ConfigError, did_you_mean

NEEDED = ("label", "prediction", "confidence")
OPTIONAL = ("index", "classes")

_STEPS = 65535  # of a confidence
_MOST_CLASSES = 65536
_CLASSES_KEY = b"mixsweep:classes"  # in the metadata of a table: the names of the classes, as JSON
_DOCS = {
    "index": "of the example in the test set; without this column they are counted from 0",
    "label": "the number of the right class",
    "prediction": "the number of the predicted class",
    "confidence": "the probability of the predicted class, in units of 1/65535; null: not a number",
}


@runtime_checkable
class OffersPredictions(Protocol):
    """A trial that has predictions to keep with it. All its ranks make the same call, after `test`."""

    def predictions(self) -> pa.Table | None:
        """The predictions on its test set, from `to_table`; None if it has none."""


@dataclass(frozen=True)
class Predictions:
    """What a trial predicted for the N examples of its test set.

    Args:
        index: of each example in the test set, int64 [N].
        label: the number of its right class, int64 [N].
        prediction: the number of the predicted class, int64 [N].
        confidence: the probability of that class, float64 [N]; NaN where it was none.
        classes: the names of the classes, as far as they are known.
    """

    index: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    confidence: np.ndarray
    classes: tuple[str, ...] = ()

    @cached_property
    def is_right(self) -> np.ndarray:
        """Whether each example's class was predicted, bool [N]."""
        return np.asarray(self.prediction == self.label)

    @property
    def accuracy(self) -> float:
        """The fraction of examples whose class was predicted."""
        return float(self.is_right.mean())


def to_table(
    label: np.ndarray,
    prediction: np.ndarray,
    confidence: np.ndarray,
    classes: Sequence[str] = (),
    index: np.ndarray | None = None,
) -> pa.Table:
    """Predictions as a table for the store; the arrays are those of Predictions, of any number type."""
    top = int(max(label.max(), prediction.max()))
    kind = pa.uint8() if top < 256 else pa.uint16()
    unknown = np.isnan(confidence)
    steps = np.rint(np.where(unknown, 0.0, np.clip(confidence, 0.0, 1.0)) * _STEPS).astype(np.uint16)
    columns = {
        "label": pa.array(label.astype(np.uint16)).cast(kind),
        "prediction": pa.array(prediction.astype(np.uint16)).cast(kind),
        "confidence": pa.array(steps, mask=unknown),
    }
    if index is not None and not np.array_equal(index, np.arange(len(label))):
        columns["index"] = pa.array(index.astype(np.int64))
    fields = [pa.field(name, values.type, metadata={"doc": _DOCS[name]}) for name, values in columns.items()]
    metadata = {_CLASSES_KEY: json.dumps(list(classes)).encode()} if classes else None
    return pa.table(list(columns.values()), schema=pa.schema(fields, metadata=metadata))


def from_table(table: pa.Table) -> Predictions:
    """The predictions in a table of `to_table`.

    Raises:
        ValueError, KeyError: these are none.
    """
    names = (table.schema.metadata or {}).get(_CLASSES_KEY, b"[]")
    values = {name: table[name].to_numpy() for name in NEEDED}
    index = table["index"].to_numpy() if "index" in table.column_names else np.arange(table.num_rows)
    return Predictions(
        index=index,
        label=values["label"].astype(np.int64),
        prediction=values["prediction"].astype(np.int64),
        confidence=values["confidence"].astype(np.float64) / _STEPS,
        classes=tuple(json.loads(names)),
    )


def checked_table(given: Any, where: str) -> pa.Table:
    """What a user's `predictions()` returned, as a table for the store.

    Args:
        given: a mapping with NEEDED, and perhaps OPTIONAL, to arrays, tensors or lists of one length.
        where: the name of the method, for messages.

    Raises:
        ConfigError: what is missing or wrong, in one line.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: {type(given).__qualname__} is not a mapping with {', '.join(NEEDED)}")
    for name in given:
        if name not in (*NEEDED, *OPTIONAL):
            hint = did_you_mean(str(name), (*NEEDED, *OPTIONAL))
            raise ConfigError(f"{where}: unknown key {name!r}{hint}")
    if missing := [name for name in NEEDED if name not in given]:
        raise ConfigError(f"{where}: lacks {', '.join(missing)}")
    arrays = {name: _array(given[name], f"{where}: {name}") for name in given if name != "classes"}
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1 or not lengths["label"]:
        counts = ", ".join(f"{count} of {name}" for name, count in lengths.items())
        raise ConfigError(f"{where}: {counts}; one of each for every example of the test set")
    for name in ("label", "prediction"):
        _check_whole(arrays[name], f"{where}: {name}", _MOST_CLASSES)
    if "index" in arrays:
        _check_whole(arrays["index"], f"{where}: index", 2**53)
        if len(np.unique(arrays["index"])) < len(arrays["index"]):
            raise ConfigError(f"{where}: index: an example is named twice")
    sure = arrays["confidence"].astype(np.float64)
    if not np.all(np.isnan(sure) | ((sure >= 0) & (sure <= 1))):
        raise ConfigError(f"{where}: confidence: probabilities are from 0 to 1; one is {_outside(sure):g}")
    classes = _class_names(given.get("classes", ()), arrays, where)
    return to_table(arrays["label"], arrays["prediction"], sure, classes, arrays.get("index"))


def _array(values: Any, where: str) -> np.ndarray:
    plain = values.detach().cpu() if hasattr(values, "detach") else values  # a tensor may be on a device
    if hasattr(plain, "is_floating_point") and plain.is_floating_point():
        plain = plain.double()  # NumPy has no bfloat16
    try:
        array = np.asarray(plain)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: not an array of numbers ({error})") from error
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iuf"):
        raise ConfigError(f"{where}: {array.dtype} {list(array.shape)}, not an array [N] of numbers")
    return array


def _check_whole(values: np.ndarray, where: str, below: int) -> None:
    numbers = values.astype(np.float64)
    is_right = (numbers >= 0) & (numbers < below) & (numbers == np.floor(numbers))
    if not is_right.all():
        raise ConfigError(f"{where}: {numbers[~is_right][0]:g} is not a whole number from 0 to {below - 1}")


def _outside(sure: np.ndarray) -> float:
    return float(sure[(sure < 0) | (sure > 1)][0])


def _class_names(given: Any, arrays: Mapping[str, np.ndarray], where: str) -> list[str]:
    is_list = isinstance(given, Sequence) and not isinstance(given, str)
    if not is_list or not all(isinstance(name, str) for name in given):
        raise ConfigError(f"{where}: classes: {given!r:.80} is not a list of names")
    top = int(max(arrays["label"].max(), arrays["prediction"].max()))
    if given and top >= len(given):
        raise ConfigError(f"{where}: classes: {len(given)} names, but there is a class {top}")
    return list(given)
