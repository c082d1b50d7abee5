"""Run passes on a cluster until every trial is terminal or held elsewhere.

One pass runs all trials that are left. Trials that it leaves, because processes died or other commands held them,
are found in the store and run again as long as passes make progress.
"""

import logging
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

_log = logging.getLogger(__name__)

T = TypeVar("T")

# All done; `halt` returned True; other processes hold what is left; all workers left, with or without progress.
Ending = Literal["done", "halted", "held", "paused", "stuck"]

_POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class RetryLoop:
    """Runs passes until no trial is left, or no further pass would help.

    Args:
        store: the sweep's.
        run_config: of this command.
        run: one pass on the cluster; returns a line for each worker process that died after its restarts.
        halt: called before each pass; True ends the loop.
        patience_seconds: how long to wait for trials that other processes hold; a process that died on another host
            holds its lease until that is stale.
        workers_pause: whether workers pause by their own clock, so that another pass would not help.
    """

    store: SweepStore
    run_config: RunConfig
    run: Callable[[list[TrialConfig]], list[str]]
    halt: Callable[[], bool]
    patience_seconds: float = 0.0
    workers_pause: bool = False

    def run_all(self, trials: Sequence[TrialConfig]) -> Ending:
        """Run passes of these trials; return why the loop ended.

        Raises:
            UserError: every worker process failed and nothing was trained.
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
            _log.info("a pass of %d trials begins", len(left))
            before = epochs_in_store(self.store, left)
            dead_workers = self.run(left)
            progress = epochs_in_store(self.store, left) > before
            if dead_workers and not progress:
                raise UserError(f"every worker process failed: {dead_workers[0]}")
            left = self._remaining(left)
            _log.info("the pass has ended: %d trials left, %d dead workers", len(left), len(dead_workers))
            if not dead_workers and self._any_free(left):
                if not progress:
                    return "stuck"
                if self.workers_pause:
                    return "paused"
            patience = self.patience_seconds
        return "done"

    def _remaining(self, trials: Sequence[TrialConfig]) -> list[TrialConfig]:
        """The trials that are not done; failed ones are retried by a new command only, not by a new pass."""
        return remaining(trials, self.store, replace(self.run_config, retry_failed=False))

    def _any_free(self, trials: Sequence[TrialConfig]) -> bool:
        """Whether one of the trials is not held by a process."""
        return not all(is_held(self.store, config) for config in trials)


def epochs_in_store(store: SweepStore, trials: Sequence[TrialConfig]) -> int:
    """The number of epochs that these trials have recorded."""
    return sum(store.trial(config.trial_id).records().num_rows for config in trials)


def in_background(job: Callable[[], T], on_tick: Callable[[], None]) -> T:
    """Run `job` in a thread while this one handles signals and ticks; return its result or raise its error."""
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
    """A tick that ignores errors in reading the store, which must not end the trials."""

    def tick() -> None:
        with suppress(OSError, UserError, pa.ArrowInvalid):
            on_tick()

    return tick
