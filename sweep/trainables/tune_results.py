"""The results that Ray Tune's trainables report, as records and as what a checkpoint keeps beside their files."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ray.tune import result as tune_result

from mixsweep.core import records
from mixsweep.core.records import COMMON_COLUMNS, Record
from mixsweep.core.trainables.declared import DeclaredConfig
from mixsweep.core.trainables.definition import SECONDS

# Keys of a result that Tune fills in or acts on. Totals of steps and episodes are the trainable's own.
_TUNES = {
    *tune_result.AUTO_RESULT_KEYS,
    *tune_result.DEBUG_METRICS,
    tune_result.DONE,
    tune_result.SHOULD_CHECKPOINT,
    tune_result.EXPERIMENT_TAG,
    tune_result.RESULT_DUPLICATE,
} - {tune_result.TIMESTEPS_TOTAL, tune_result.EPISODES_TOTAL}

# What `Trainable.restore` reads of the last result.
_COUNTS = (
    tune_result.TRAINING_ITERATION,
    tune_result.TIME_TOTAL_S,
    tune_result.TIMESTEPS_TOTAL,
    tune_result.EPISODES_TOTAL,
)

_RESERVED = {*COMMON_COLUMNS, "parent", SECONDS}
_FILES, _RESULT = "checkpoint", "result.json"  # in a checkpoint's folder


class Results:
    """Makes records of a trial's results, and says once what it leaves out.

    Args:
        log: writes a line into the trial's log.
    """

    def __init__(self, config: DeclaredConfig, log: Callable[[str], None]):
        self._config = config
        self._log = log
        self._left_out: set[str] = set()

    def record(self, result: Mapping[str, Any], *, epoch: int, attempt: int, seconds: float) -> Record:
        """The record of a result: its numbers by name, nested ones joined by `/`.

        Its `step`, else Tune's total of steps, is the record's step.
        """
        metrics: dict[str, Any] = {}
        left_out: dict[str, str] = {}
        for name, value in _flat({key: value for key, value in result.items() if key not in _TUNES}):
            number = _number(value)
            if name in _RESERVED and name != "step":
                left_out[name] = "a reserved name"
            elif number is not None:
                metrics[name] = number
            elif value is not None:
                left_out[name] = "not a number"
        step = metrics.pop("step", metrics.get(tune_result.TIMESTEPS_TOTAL, epoch))
        if new := {name: why for name, why in left_out.items() if name not in self._left_out}:
            self._left_out.update(new)
            self._log(f"not kept: {', '.join(f'{name} ({why})' for name, why in new.items())}")
        return Record(
            trial_id=self._config.trial_id,
            epoch=epoch,
            step=int(step) if math.isfinite(step) else epoch,
            attempt=attempt,
            recorded_at=records.now(),
            metrics={**metrics, SECONDS: seconds},
        )


def is_done(result: Mapping[str, Any]) -> bool:
    """Whether a result completes its trial."""
    return bool(result.get(tune_result.DONE))


def asks_for_checkpoint(result: Mapping[str, Any]) -> bool:
    """Whether a result asks for a checkpoint."""
    return bool(result.get(tune_result.SHOULD_CHECKPOINT))


def counts_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """What Tune counts over the whole of a trial."""
    return {name: number for name in _COUNTS if (number := _number(result.get(name))) is not None}


def files_of(folder: Path) -> Path:
    """Where the trainable's own files lie in a checkpoint's folder."""
    return folder / _FILES


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Keep in a checkpoint's folder what a restored trial has to know of its last result."""
    kept = {tune_result.DONE: is_done(result), **counts_of(result)}
    (folder / _RESULT).write_text(json.dumps(kept), encoding="utf-8")


def read_result(folder: Path) -> dict[str, Any]:
    """What `write_result` kept."""
    found: dict[str, Any] = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
    return found


def _flat(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _number(value: Any) -> int | float | None:
    """A plain number, also of an array or tensor of one; None if it is none."""
    if hasattr(value, "item") and not isinstance(value, str):
        try:
            value = value.item()
        except (ValueError, RuntimeError, TypeError):  # of several
            return None
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, int | float) else None
