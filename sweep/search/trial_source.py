"""A supply: what hands out the trials of an adaptive sweep, one at a time, as others end; and Tune's side of it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mixsweep.core.config import TrialConfig


@dataclass(frozen=True)
class Leg:
    """A trial to train now, to its end or until an epoch where it waits for others."""

    config: TrialConfig
    until: int | None = None

    def to_json(self) -> str:
        return json.dumps({"config": self.config.to_mapping(), "until": self.until})

    @classmethod
    def from_json(cls, text: str) -> "Leg":
        values = json.loads(text)
        return cls(TrialConfig.from_store(values["config"]), values["until"])


class Supply(Protocol):
    """Hands out legs. Called by one thread, that of the driver."""

    def take(self) -> Leg | None:
        """The next leg to run; None: there is none before one of those taken comes to an end, or at all."""

    def is_over(self) -> bool:
        """Whether there will be no further one, whatever becomes of those taken."""

    def ended(self, leg: Leg) -> None:
        """A leg that was taken has come to an end, whichever; the store says which."""


def as_searcher(supply: Supply) -> Any:
    """A supply as a searcher of Ray Tune's: each of Tune's trials is one leg."""
    from ray.tune.search import Searcher

    class FromSupply(Searcher):
        def __init__(self, supply: Supply | None = None) -> None:
            super().__init__()
            self._supply = supply
            self._legs: dict[str, Leg] = {}

        def suggest(self, trial_id: str) -> Any:
            assert self._supply is not None
            leg = None if self._supply.is_over() else self._supply.take()
            if leg is not None:
                self._legs[trial_id] = leg
                return {"leg": leg.to_json()}
            return None if self._legs and not self._supply.is_over() else Searcher.FINISHED

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            if self._supply is not None and (leg := self._legs.pop(trial_id, None)) is not None:
                self._supply.ended(leg)

        def save(self, checkpoint_path: str) -> None:
            """An empty file: the store is the state."""
            Path(checkpoint_path).touch()

        def restore(self, checkpoint_path: str) -> None:
            """Nothing, as above."""

        def __getstate__(self) -> dict[str, Any]:
            return {"_supply": None}  # Tune pickles its searcher into its snapshots, which nobody reads

    return FromSupply(supply)
