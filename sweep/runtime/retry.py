"""Run rounds on a cluster until every trial is terminal or held elsewhere.

One round hands the cluster all that is left. What a round leaves behind, because processes died in it or others
held it, is looked up in the store, and tried again as long as that leads on.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import pyarrow as pa

from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import UserError
from mixsweep.core.execution.remaining import is_held, remaining
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.store.store import SweepStore

T = TypeVar("T")

# Done; told to halt; only others' trials are left; workers left by themselves, with or without having trained.
Ending = Literal["done", "halted", "held", "paused", "stuck"]

_POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class RetryLoop:
    """How to go on until nothing is left.

    Args:
        store: of the sweep.
        run_config: of this command.
        run: one round on the cluster; returns a line for each worker process that died for good.
        halt: asked before each round; True ends it there.
        patience_seconds: how long to wait for trials that others hold; one that died on a host that is gone
            keeps its lease until that is stale.
        workers_pause: whether workers pause by clocks of their own, so that a further round would not lead on.
    """

    store: SweepStore
    run_config: RunConfig
    run: Callable[[list[TrialConfig]], list[str]]
    halt: Callable[[], bool]
    patience_seconds: float = 0.0
    workers_pause: bool = False

    def run_all(self, trials: Sequence[TrialConfig]) -> Ending:
        """Run rounds of these trials.

        Raises:
            UserError: processes die, and nothing is trained.
        """
        left = list(trials)
        patience = self.patience_seconds
        while left:
            if self.halt():
                return "halted"
            if not self._any_free(left):
                if patience <= 0:
                    return "held"
                time.sleep(_POLL_SECONDS)
                patience -= _POLL_SECONDS
                left = self._remaining(left)
                continue
            before = epochs_in_store(self.store, left)
            deaths = self.run(left)
            progress = epochs_in_store(self.store, left) > before
            if deaths and not progress:
                raise UserError(f"every worker process failed: {deaths[0]}")
            left = self._remaining(left)
            if not deaths and self._any_free(left):
                if not progress:
                    return "stuck"
                if self.workers_pause:
                    return "paused"
            patience = self.patience_seconds
        return "done"

    def _remaining(self, trials: Sequence[TrialConfig]) -> list[TrialConfig]:
        """What is not done; a failure is tried anew by a new command, not by a new round."""
        return remaining(trials, self.store, replace(self.run_config, retry_failed=False))

    def _any_free(self, trials: Sequence[TrialConfig]) -> bool:
        return not all(is_held(self.store, config) for config in trials)


def epochs_in_store(store: SweepStore, trials: Sequence[TrialConfig]) -> int:
    """The epochs that these trials have recorded."""
    return sum(store.trial(config.trial_id).records().num_rows for config in trials)


def in_background(job: Callable[[], T], on_tick: Callable[[], None]) -> T:
    """Run a job in a thread, so that this one hears signals and ticks; hand on how the job or a tick ended."""
    results: list[T] = []
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            results.append(job())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded, daemon=True, name="tune-driver")
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
        on_tick()
    if errors:
        raise errors[0]
    return results[0]


def ignore_read_errors(on_tick: Callable[[], None]) -> Callable[[], None]:
    """A tick whose failure to read the store must not end the trials."""

    def tick() -> None:
        with suppress(OSError, UserError, pa.ArrowInvalid):
            on_tick()

    return tick
