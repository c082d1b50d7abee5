"""Trials that changed code has replaced in a plan, where code is part of their identities."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from mixsweep.core.config import TrialConfig, canonical_json
from mixsweep.core.errors import UserError
from mixsweep.core.store.store import SweepStore
from mixsweep.core.trainables.kinds import find_trainable


class Superseded:
    """Finds them repeatedly; what was looked at once is not read again."""

    def __init__(self, store: SweepStore):
        self._store = store
        self._bases: dict[str, str] = {}  # what identifies them without code, by id

    def among(self, others: Iterable[str], planned: Mapping[str, TrialConfig]) -> tuple[str, ...]:
        """Those of other trials in the store that differ from a planned one in nothing but the code.

        Args:
            planned: the trials of the plan by id.
        """
        for trial_id in planned.keys() - self._bases.keys():
            self._bases[trial_id] = _base_of(planned[trial_id])
        replaced_by = {self._bases[trial_id] for trial_id in planned}
        found = []
        for trial_id in others:
            if trial_id in planned:
                continue
            if trial_id not in self._bases:
                with suppress(OSError, UserError):
                    info = self._store.trial(trial_id).info()
                    if info is not None:
                        self._bases[trial_id] = _base_of(info.config)
            if self._bases.get(trial_id) in replaced_by:
                found.append(trial_id)
        return tuple(found)


def _base_of(config: TrialConfig) -> str:
    """What identifies a trial beside its code. Numbers count by value: changed code may write 16 as 16.0."""
    identity = find_trainable(config.kind).unpinned(config).identity()
    return canonical_json({name: _by_value(value) for name, value in identity.items()})


def _by_value(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_by_value(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
