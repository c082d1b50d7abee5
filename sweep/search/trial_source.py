"""A supply: what hands out the trials of an adaptive sweep, one at a time, as others end; and Tune's side of it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mixsweep.core.config import TrialConfig
from mixsweep.core.trainables.kinds import find_trainable


@dataclass(frozen=True)
class TrialRequest:
    """A trial to train now, to its end or until an epoch where it waits for others."""

    config: TrialConfig
    until: int | None = None

    def to_json(self) -> str:
        config = self.config.to_mapping()
        return json.dumps({"kind": self.config.kind, "config": config, "until": self.until})

    @classmethod
    def from_json(cls, text: str) -> "TrialRequest":
        values = json.loads(text)
        return cls(find_trainable(values["kind"]).config_from_store(values["config"]), values["until"])


class TrialSource(Protocol):
    """Hands out legs. Called by one thread, that of the driver."""

    def take(self) -> TrialRequest | None:
        """The next leg to run; None: there is none before one of those taken comes to an end, or at all."""

    def is_over(self) -> bool:
        """Whether there will be no further one, whatever becomes of those taken."""

    def ended(self, request: TrialRequest) -> None:
        """A leg that was taken has come to an end, whichever; the store says which."""


def to_tune_searcher(trial_source: TrialSource) -> Any:
    """A supply as a searcher of Ray Tune's: each of Tune's trials is one leg."""
    from ray.tune.search import Searcher

    class FromTrialSource(Searcher):
        def __init__(self, trial_source: TrialSource | None = None) -> None:
            super().__init__()
            self._trial_source = trial_source
            self._requests: dict[str, TrialRequest] = {}

        def suggest(self, trial_id: str) -> Any:
            assert self._trial_source is not None
            request = None if self._trial_source.is_over() else self._trial_source.take()
            if request is not None:
                self._requests[trial_id] = request
                return {"request": request.to_json()}
            return None if self._requests and not self._trial_source.is_over() else Searcher.FINISHED

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            if self._trial_source is not None and (request := self._requests.pop(trial_id, None)) is not None:
                self._trial_source.ended(request)

        def save(self, checkpoint_path: str) -> None:
            """An empty file: the store is the state."""
            Path(checkpoint_path).touch()

        def restore(self, checkpoint_path: str) -> None:
            """Nothing, as above."""

        def __getstate__(self) -> dict[str, Any]:
            return {"_supply": None}  # Tune pickles its searcher into its snapshots, which nobody reads

    return FromTrialSource(trial_source)
