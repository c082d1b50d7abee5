"""Adaptive sweeps: the driver chooses trials as others end, and appends them to the plan in the store.

A chosen trial is written to the plan before it runs, so that readers see it as any other trial. A resumed sweep
finishes the chosen trials before it chooses more.
"""

import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import UserError
from mixsweep.core.execution.remaining import is_done
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.extras import require
from mixsweep.core.failures import DamagedError, LeaseLostError
from mixsweep.core.store import files
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.sweep.planning.plan import Plan, Planned, read_plan
from mixsweep.sweep.planning.schema import SweepSpec
from mixsweep.sweep.search.extra_seeds import with_extra_seeds
from mixsweep.sweep.search.pbt import with_exploited
from mixsweep.sweep.search.tpe import Result, read_result, refit, suggest
from mixsweep.sweep.search.trial_source import TrialRequest


class SearchError(UserError):
    """An adaptive sweep that cannot continue; the message is one line."""


def with_known(plan: Plan, store: SweepStore) -> Plan:
    """Return a plan with the trials that the store adds: those that a search has chosen, or more seeds.

    Trials that a search chose outside the sweep file's present space are left out; a longer budget is applied to the
    others.
    """
    if plan.spec.search is None:
        return with_extra_seeds(plan, store)
    if plan.spec.search.algorithm == "pbt":
        return with_exploited(plan, store)
    require("search", what="[search] algorithm = 'tpe'")
    stored: dict[int, Planned] = {}
    with suppress(FileNotFoundError, DamagedError):  # the suggestions' own files have all of them
        stored = {row.point: row for row in read_plan(store)}
    stored |= {row.point: row for row in _read_suggestions(store)}
    rows = (stored[point] for point in sorted(stored))
    known = [replace(r, config=config) for r in rows if (config := refit(plan.spec, r.config)) is not None]
    return replace(plan, rows=tuple(known))


def _suggestion_path(store: SweepStore, number: int) -> Path:
    return store.path / "suggestions" / f"{number:06d}.json"


def _record_suggestion(store: SweepStore, row: Planned) -> None:
    """Write a suggestion under its number, which only one process can take.

    Raises:
        LeaseLostError: another process has made the suggestion with this number.
    """
    path = _suggestion_path(store, row.point)
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {"part": row.part, "number": row.point, "request": TrialRequest(row.config).to_json()}
    if not files.create_exclusive(path, files.json_bytes({**values, "token": uuid.uuid4().hex})):
        raise LeaseLostError(f"{path}: another process chooses this sweep's trials")


def _read_suggestions(store: SweepStore) -> list[Planned]:
    """Return the suggestions that were made, by number; a damaged one is left to the plan."""
    found = []
    for path in sorted((store.path / "suggestions").glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            values = files.read_json(path)
            config = TrialRequest.from_json(values["request"]).config
            found.append(Planned(part=values["part"], point=int(values["number"]), replica=0, config=config))
    return found


def to_come(spec: SweepSpec, known: int) -> int:
    """Return how many trials an adaptive sweep has yet to choose; 0 where that is not known."""
    if spec.search is None or spec.search.algorithm != "tpe":
        return 0
    return max(0, spec.search.trials - known)


def examples(spec: SweepSpec) -> list[TrialConfig]:
    """Return one trial for each data set that a search may choose."""
    (part,) = spec.parts
    trainable = spec.trainable
    name = trainable.data_field
    if not name:
        return []
    axis = part.space.get(name, {"choice": [part.base.get(name, trainable.defaults[name])]})
    return [trainable.config({name: value}) for (values,) in [axis.values()] for value in values]


def coming(plan: Plan) -> list[TrialConfig]:
    """Return a likely config for each trial that a search has yet to choose, for a forecast."""
    count = to_come(plan.spec, len(plan.trials))
    if not count:
        return []
    (part,) = plan.spec.parts
    return [plan.trials[-1] if plan.trials else plan.spec.trainable.config(part.base)] * count


class Suggestions:
    """A trial source that suggests trials by TPE until the plan has as many as the sweep file asks for."""

    def __init__(
        self,
        plan: Plan,
        store: SweepStore,
        run_config: RunConfig,
        limit: int | None,
        fence: Callable[[], None],
    ):
        self._spec, self._store, self._run_config, self._fence = plan.spec, store, run_config, fence
        self._plan = plan
        self._limit = limit
        self._results: dict[str, Result] = {}  # of finished trials, whose results no longer change
        self._unfinished: deque[TrialConfig] = deque()
        self._exhausted = False
        # Also of trials that the present space does not have.
        numbers = (path.stem for path in (store.path / "suggestions").glob("*.json"))
        self._last_number = max((int(number) for number in numbers if number.isdecimal()), default=-1)
        self.started = 0
        for config in plan.trials:
            info = store.trial(config.trial_id).info()
            if not is_done(info, config, run_config) and (info is None or info.state != "running"):
                self._unfinished.append(config)
        self._others = self._read_others()

    @property
    def plan(self) -> Plan:
        """The plan with all trials chosen so far."""
        return self._plan

    @property
    def exhausted(self) -> bool:
        """Whether no new trial was found in the space."""
        return self._exhausted

    def take(self) -> TrialRequest | None:
        """Return an unfinished trial of the plan, or else a new suggestion."""
        if self._limit is not None and self.started >= self._limit:
            return None
        if self._unfinished:
            self.started += 1
            return TrialRequest(self._unfinished.popleft())
        if not to_come(self._spec, len(self._plan.trials)):
            return None
        known = {config.trial_id for config in self._plan.trials} | self._others.keys()
        number = 1 + max((self._last_number, *(row.point for row in self._plan.rows)))
        config = suggest(self._spec, number, self._read_results(), known.__contains__)
        if config is None:
            self._exhausted = True
            return None
        row = Planned(part=self._spec.parts[0].name, point=number, replica=0, config=config)
        self._plan = replace(self._plan, rows=(*self._plan.rows, row))
        self._fence()
        _record_suggestion(self._store, row)
        files.write_table(self._plan.table(), self._store.path / "plan.parquet")
        self.started += 1
        return TrialRequest(config)

    def is_over(self) -> bool:
        if self._exhausted or self._run_config.stop_requested():
            return True
        if self._limit is not None and self.started >= self._limit:
            return True
        return not self._unfinished and not to_come(self._spec, len(self._plan.trials))

    def ended(self, request: TrialRequest) -> None:
        """Do nothing: results are read from the store."""

    def _read_results(self) -> list[Result]:
        """Return the results of the plan's trials, in its order, then of others in the store."""
        found = []
        for config in self._plan.trials:
            if config.trial_id not in self._results:
                info = self._store.trial(config.trial_id).info()
                done = is_done(info, config, self._run_config)
                result = read_result(config, info, self._store, self._spec, done)
                if not done:
                    found.append(result)
                    continue
                self._results[config.trial_id] = result
            found.append(self._results[config.trial_id])
        return [*found, *self._others.values()]

    def _read_others(self) -> dict[str, Result]:
        """Return the results of finished trials in this space that an earlier plan left in the store."""
        planned = {config.trial_id for config in self._plan.trials}
        found: dict[str, Result] = {}
        for folder in self._store.trials():
            if folder.trial_id in planned or (info := _readable(folder.info)) is None:
                continue
            config = refit(self._spec, info.config)
            if config is not None and is_done(info, config, self._run_config):
                found[folder.trial_id] = read_result(config, info, self._store, self._spec, True)
        return found


def _readable(read: Callable[[], TrialInfo | None]) -> TrialInfo | None:
    try:
        return read()
    except (UserError, OSError):  # an unreadable trial gives no result
        return None
