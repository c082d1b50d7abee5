"""Trial sources, which hand out the trials of an adaptive sweep one at a time, and their adapter to Ray Tune."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mixsweep.core.config import TrialConfig
from mixsweep.core.trainables.kinds import find_trainable


@dataclass(frozen=True)
class TrialRequest:
    """A trial to train now, to its last epoch or until the epoch of the next comparison."""

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
    """Hands out trial requests. Only the driver's thread calls it."""

    def take(self) -> TrialRequest | None:
        """Return the next request; None where there is none until a running one ends, or none at all."""

    def is_over(self) -> bool:
        """Whether there will be no further request, however the running ones end."""

    def ended(self, request: TrialRequest) -> None:
        """Note that a request has ended; the store says how."""


def to_tune_searcher(trial_source: TrialSource) -> Any:
    """Return a trial source as a Ray Tune searcher: each Tune trial is one request."""
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
            """Write an empty file: the state is in the store."""
            Path(checkpoint_path).touch()

        def restore(self, checkpoint_path: str) -> None:
            """Do nothing: the state is in the store."""

        def __getstate__(self) -> dict[str, Any]:
            return {"_trial_source": None}  # Tune pickles its searcher into snapshots that nobody reads

    return FromTrialSource(trial_source)
