"""Adaptive sweeps: trials are chosen as others end. Their plan grows in the store, by one driver at a time.

What is chosen stands in the plan before it runs, so that every reader sees it as any other trial, and a sweep
that goes on takes up what was chosen and not finished before it chooses more.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from cluster.places import Place
from core import records
from core.config import TrialConfig, UserError
from core.lease import Lease, take_lease
from core.setting import Setting, is_done
from core.store import SweepStore, TrialInfo
from sweep.driver import Work, run_supply_on_ray
from sweep.plan import Plan, Planned, make_plan, read_plan, save_plan
from sweep.population import Population, with_heirs
from sweep.spec import SweepSpec
from sweep.supply import Leg
from sweep.tpe import Result, read_result, refit, suggest
from sweep.worker import Orders, work_by

# Kinds of places whose driver lives as long as the sweep.
DRIVEN = ("local", "ray")


class SearchError(UserError):
    """An adaptive sweep that cannot go on, in one line."""


def check_place(spec: SweepSpec, place: Place, limit: int | None = None) -> None:
    """Make sure that a place has the driver that a search needs.

    Raises:
        SearchError: it has none; or a population was to be run in part.
    """
    assert spec.search is not None
    if limit is not None and spec.search.algorithm == "pbt":
        raise SearchError("--limit: not with pbt, whose population trains together")
    if place.kind not in DRIVEN:
        raise SearchError(
            f"[search]: {spec.search.algorithm} needs a driver that lives as long as the sweep, and place "
            f"{place.name} ({place.kind}) has none; use a Ray place: --place local"
        )


def with_known(plan: Plan, store: SweepStore) -> Plan:
    """An adaptive plan with the trials that the store has of it; any other plan as it is.

    Only what is of the sweep file's space, as that is now, is of the plan; a longer budget is taken over.
    """
    if plan.spec.search is None:
        return plan
    if plan.spec.search.algorithm == "pbt":
        return with_heirs(plan, store)
    try:
        stored = read_plan(store)
    except FileNotFoundError:
        return plan
    rows = [replace(r, config=config) for r in stored if (config := refit(plan.spec, r.config)) is not None]
    return replace(plan, rows=tuple(rows))


def to_come(spec: SweepSpec, known: int) -> int:
    """How many trials an adaptive sweep has yet to choose, as far as that can be known."""
    if spec.search is None or spec.search.algorithm != "tpe":
        return 0
    return max(0, spec.search.trials - known)


def examples(spec: SweepSpec) -> list[TrialConfig]:
    """A trial of each data set that a search may choose."""
    (part,) = spec.parts
    axis = part.space.get("dataset", {"choice": [part.base.get("dataset", TrialConfig().dataset)]})
    return [TrialConfig(dataset=name) for (names,) in [axis.values()] for name in names]


def coming(plan: Plan) -> list[TrialConfig]:
    """A trial for each that a search is yet to choose, as those may be, for a forecast."""
    count = to_come(plan.spec, len(plan.trials))
    if not count:
        return []
    (part,) = plan.spec.parts
    return [plan.trials[-1] if plan.trials else TrialConfig.from_mapping(part.base)] * count


@contextmanager
def driving(store: SweepStore) -> Iterator[Lease]:
    """The right to choose trials for a sweep.

    Raises:
        SearchError: another live process has it.
    """
    lease = take_lease(store.path / "driver")
    if lease is None:
        raise SearchError(
            f"{store.path}: another command chooses this sweep's trials; wait for it, or `sweep stop "
            f"{store.name}` (if its machine died: try again in a minute)"
        )
    with lease:
        yield lease


def run_search(
    plan: Plan,
    orders: Orders,
    capacity: int,
    limit: int | None,
    on_end: Callable[[TrialInfo], None],
    say: Callable[[str], None],
    fence: Callable[[], None],
    work: Work = work_by,
    needs: Mapping[str, float] | None = None,
) -> int:
    """Run an adaptive sweep on the Ray cluster that this process is connected to, to its end or a stop.

    Args:
        plan: of the sweep file; what the store has of it is read here.
        orders: how; the store must be reachable from every node.
        capacity: how many trials the cluster holds at once.
        limit: run no more than so many trials.
        on_end: called in this process for each trial that came to an end or a halt.
        say: told what a user should know.
        fence: called before each write to the plan; raises where the right to it is lost.
        work: what a worker process does.
        needs: what a trial needs of its node, by Ray's names; None: the CPUs and GPUs of the orders.

    Returns:
        how many trials were not chosen, though the sweep file asks for them and the space has more.

    Raises:
        SearchError: no process could work.
    """
    store = SweepStore(orders.setting.store)
    while True:
        plan = with_known(plan, store)
        save_plan(plan, store)
        supply: Suggestions | Population
        if plan.spec.search is not None and plan.spec.search.algorithm == "pbt":
            supply = Population(make_plan(plan.spec), store, orders.setting, fence)
        else:
            supply = Suggestions(plan, store, orders.setting, limit, fence)
        before = _epochs(store)
        deaths = run_supply_on_ray(supply, orders, capacity, on_end, work, needs)
        if supply.exhausted:
            say(f"The space has no further trial: the search ends with {len(supply.plan.trials)}.")
            return 0
        if not deaths or store.stop_requested(orders.setting.started_at):
            return to_come(plan.spec, len(supply.plan.trials)) if limit is None else 0
        if _epochs(store) == before:
            raise SearchError(f"no worker process could work: {deaths[0]}")
        limit = None if limit is None else max(0, limit - supply.started)


def _epochs(store: SweepStore) -> int:
    return sum(folder.records().num_rows for folder in store.trials())


class Suggestions:
    """A supply that suggests trials by TPE until the plan has as many as the sweep file asks for."""

    def __init__(
        self, plan: Plan, store: SweepStore, setting: Setting, limit: int | None, fence: Callable[[], None]
    ):
        self._spec, self._store, self._setting, self._fence = plan.spec, store, setting, fence
        self._plan = plan
        self._limit = limit
        self._results: dict[str, Result] = {}  # of what is done, which does not change
        self._unfinished: deque[TrialConfig] = deque()
        self._exhausted = False
        self.started = 0
        for config in plan.trials:
            info = store.trial(config.trial_id).info()
            if not is_done(info, config, setting) and (info is None or info.state != "running"):
                self._unfinished.append(config)
        self._others = self._read_others()

    @property
    def plan(self) -> Plan:
        """As it has grown."""
        return self._plan

    @property
    def exhausted(self) -> bool:
        """Whether the space has no further trial."""
        return self._exhausted

    def take(self) -> Leg | None:
        """An unfinished trial of the plan, or else a new suggestion."""
        if self._limit is not None and self.started >= self._limit:
            return None
        if self._unfinished:
            self.started += 1
            return Leg(self._unfinished.popleft())
        if not to_come(self._spec, len(self._plan.trials)):
            return None
        known = {config.trial_id for config in self._plan.trials} | self._others.keys()
        number = 1 + max((row.point for row in self._plan.rows), default=-1)
        config = suggest(self._spec, number, self._read_results(), known.__contains__)
        if config is None:
            self._exhausted = True
            return None
        row = Planned(part=self._spec.parts[0].name, point=number, replica=0, config=config)
        self._plan = replace(self._plan, rows=(*self._plan.rows, row))
        records.write_table(self._plan.table(), self._store.path / "plan.parquet", self._fence)
        self.started += 1
        return Leg(config)

    def is_over(self) -> bool:
        if self._exhausted or self._store.stop_requested(self._setting.started_at):
            return True
        if self._limit is not None and self.started >= self._limit:
            return True
        return not self._unfinished and not to_come(self._spec, len(self._plan.trials))

    def ended(self, leg: Leg) -> None:
        """Nothing: what has become of it is read from the store."""

    def _read_results(self) -> list[Result]:
        """What is known of the plan's trials, in its order, and of others in the store."""
        found = []
        for config in self._plan.trials:
            if config.trial_id not in self._results:
                info = self._store.trial(config.trial_id).info()
                done = is_done(info, config, self._setting)
                result = read_result(config, info, self._store, self._spec, done)
                if not done:
                    found.append(result)
                    continue
                self._results[config.trial_id] = result
            found.append(self._results[config.trial_id])
        return [*found, *self._others.values()]

    def _read_others(self) -> dict[str, Result]:
        """Trials of this space that the store has from another plan, and that are done: they are known."""
        planned = {config.trial_id for config in self._plan.trials}
        found: dict[str, Result] = {}
        for folder in self._store.trials():
            if folder.trial_id in planned or (info := _readable(folder.info)) is None:
                continue
            config = refit(self._spec, info.config)
            if config is not None and is_done(info, config, self._setting):
                found[folder.trial_id] = read_result(config, info, self._store, self._spec, True)
        return found


def _readable(read: Callable[[], TrialInfo | None]) -> TrialInfo | None:
    try:
        return read()
    except (UserError, OSError):  # what cannot be read is no result
        return None
