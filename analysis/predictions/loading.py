"""Predictions of a sweep's trials, from its store: as a tidy table, or as arrays over trials and examples."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from mixsweep.analysis.frames import Sweep, open_sweep
from mixsweep.core.errors import UserError
from mixsweep.core.failures import DamagedError
from mixsweep.core.store.store import SweepStore
from mixsweep.core.trainables.predictions import Predictions

_COLUMNS = ("sweep", "trial_id", "index", "label", "prediction", "confidence")


@dataclass(frozen=True)
class PredictionSet:
    """What T trials predicted for the same N examples of K classes.

    Args:
        trial_ids: of the trials, in the order of the arrays.
        index: of each example in the test set [N].
        label: the number of its right class [N].
        prediction: the number of the predicted class [T, N].
        confidence: the probability of that class [T, N]; NaN where it was none.
        classes: the names of the classes [K]: their numbers where no names are known.
    """

    trial_ids: tuple[str, ...]
    index: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    confidence: np.ndarray
    classes: tuple[str, ...]

    @cached_property
    def is_right(self) -> np.ndarray:
        """Whether each trial predicted each example's class, bool [T, N]."""
        return np.asarray(self.prediction == self.label)

    def of_trials(self, trial_ids: Sequence[str]) -> "PredictionSet":
        """Those of some of its trials, in this order."""
        rows = [self.trial_ids.index(trial_id) for trial_id in trial_ids]
        return PredictionSet(
            tuple(trial_ids),
            self.index,
            self.label,
            self.prediction[rows],
            self.confidence[rows],
            self.classes,
        )


def load_predictions(*sweeps: Sweep, trial_ids: Iterable[str] | None = None) -> pd.DataFrame:
    """What the completed trials of sweeps predicted for each example of their test sets.

    A damaged or missing file is left out with a warning that names it.

    Args:
        sweeps: folders of sweeps in a store.
        trial_ids: only these trials; left out: all of the plan.

    Returns:
        a row a trial and example: sweep, trial_id, index (of the example in the test set), label and prediction (the
        numbers of the right and of the predicted class), confidence (the probability of the predicted class, 0 … 1;
        NaN where it was none). No rows for trials that kept none.

    Raises:
        UserError: a sweep is unknown or empty.
    """
    wanted = None if trial_ids is None else set(trial_ids)
    frames = [pd.DataFrame({name: [] for name in _COLUMNS})]
    for store in map(open_sweep, sweeps):
        planned = dict.fromkeys(store.plan()["trial_id"].to_pylist())
        found, problems = read_predictions(store, [i for i in planned if wanted is None or i in wanted])
        for line in problems:
            warnings.warn(line, stacklevel=2)
        frames += [_frame(store, trial_id, predictions) for trial_id, predictions in found.items()]
    return pd.concat(frames[1:] or frames, ignore_index=True)


def prediction_set(sweep: Sweep, trial_ids: Sequence[str]) -> PredictionSet:
    """What some trials of a sweep predicted, as arrays over the trials and the examples that they share.

    Args:
        sweep: its folder in a store.
        trial_ids: of the trials, in the order of the arrays.

    Raises:
        UserError: a trial kept no predictions, its file is damaged, or their examples differ.
    """
    store = open_sweep(sweep)
    found, problems = read_predictions(store, trial_ids)
    if problems:
        raise UserError(problems[0])
    if missing := [trial_id for trial_id in trial_ids if trial_id not in found]:
        raise UserError(f"{store.path}: trial {missing[0]} has no predictions; see `[keep] predictions`")
    stacked = stack(found)
    if stacked is None:
        raise UserError(f"{store.path}: these trials were not tested on the same examples; choose others")
    return stacked


def read_predictions(
    store: SweepStore, trial_ids: Iterable[str]
) -> tuple[dict[str, Predictions], tuple[str, ...]]:
    """The predictions of some trials, by id, of those that kept any; and a line for each damaged file."""
    found, problems = {}, []
    for trial_id in trial_ids:
        try:
            predictions = store.trial(trial_id).predictions()
        except DamagedError as error:
            problems.append(str(error))
            continue
        if predictions is not None:
            found[trial_id] = predictions
    return found, tuple(problems)


def stack(found: Mapping[str, Predictions]) -> PredictionSet | None:
    """The predictions of several trials for the same examples, in the order of those; None if theirs differ."""
    if not found:
        return None
    sets = list(found.values())
    orders = [np.argsort(one.index, kind="stable") for one in sets]
    index, label = sets[0].index[orders[0]], sets[0].label[orders[0]]
    for one, order in zip(sets, orders):
        if not (np.array_equal(one.index[order], index) and np.array_equal(one.label[order], label)):
            return None
    prediction = np.stack([one.prediction[order] for one, order in zip(sets, orders)])
    number = int(max(label.max(), prediction.max())) + 1
    names = max((one.classes for one in sets), key=len)
    return PredictionSet(
        trial_ids=tuple(found),
        index=index,
        label=label,
        prediction=prediction,
        confidence=np.stack([one.confidence[order] for one, order in zip(sets, orders)]),
        classes=(*names, *map(str, range(len(names), number))),
    )


def _frame(store: SweepStore, trial_id: str, found: Predictions) -> pd.DataFrame:
    values = {name: getattr(found, name) for name in _COLUMNS[2:]}
    return pd.DataFrame({"sweep": store.name, "trial_id": trial_id, **values})
