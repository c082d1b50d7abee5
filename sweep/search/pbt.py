"""Population based training (Jaderberg et al., 2017, arXiv:1711.09846): Ray Tune's own, fed from the store.

A population trains to the same epoch, waits there, and is compared. Who goes on from whose checkpoint, and with
which values, is the word of Ray's `PopulationBasedTraining` in its synchronous form, which needs only the
values recorded at that epoch: it is asked through its public methods, with stand-ins for its trials. A decision
is recorded in `population/<epoch>.json` before anything follows from it, so that a sweep that goes on does what
was decided. Who goes on from another is a trial of its own, whose identity names that one and the epoch.
"""

import json
import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mixsweep.core.config import TrialConfig
from mixsweep.core.execution.remaining import is_done
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.store import files
from mixsweep.core.store.checkpoint import copy_checkpoint, has_checkpoint
from mixsweep.core.store.lease import take_lease
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.plan import Plan, Planned
from mixsweep.sweep.planning.schema import SweepSpec
from mixsweep.sweep.planning.space import to_ray
from mixsweep.sweep.search.trial_source import TrialRequest

_ASKED = 20  # times at most, until no two new trials are the same


@dataclass(frozen=True)
class ExploitDecision:
    """What becomes of a member that is given up: who it goes on from, and with which values of its own."""

    parent: str
    values: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was decided at an epoch, member by member; None: it goes on as it is."""

    epoch: int
    members: tuple[str, ...]
    scores: tuple[float, ...]
    heirs: tuple[ExploitDecision | None, ...]

    def to_json(self) -> str:
        heirs = [heir and {"parent": heir.parent, "values": dict(heir.values)} for heir in self.heirs]
        return json.dumps({**vars(self), "heirs": heirs}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Decision":
        values = json.loads(text)
        heirs = tuple(heir and ExploitDecision(**heir) for heir in values["heirs"])
        return cls(
            epoch=values["epoch"],
            members=tuple(values["members"]),
            scores=tuple(values["scores"]),
            heirs=heirs,
        )


def decide(
    spec: SweepSpec, epoch: int, members: Sequence[TrialConfig], values: Sequence[float | None]
) -> Decision:
    """Who goes on from whom after an epoch: the word of Ray's scheduler, always the same for the same values.

    Args:
        values: of the metric at that epoch; None of a member that diverged or failed, which is the worst.
    """
    worst = -math.inf if spec.mode == "max" else math.inf
    scores = [worst if value is None or math.isnan(value) else value for value in values]
    heirs: list[ExploitDecision | None] = []
    for asked in range(_ASKED):
        heirs = _ask(spec, members, scores, f"{spec.search_seed}/{epoch}/{asked}")
        alive = {config.trial_id for config, score in zip(members, scores) if score != worst}
        heirs = [heir if heir is not None and heir.parent in alive else None for heir in heirs]
        made = [json.dumps([h.parent, h.values], sort_keys=True) for h in heirs if h is not None]
        if len(set(made)) == len(made):
            break
    ids = tuple(config.trial_id for config in members)
    return Decision(epoch=epoch, members=ids, scores=tuple(scores), heirs=tuple(heirs))


def exploited_configs(decision: Decision, members: Sequence[TrialConfig]) -> list[TrialConfig]:
    """The members after a decision."""
    known = {config.trial_id: config for config in members}
    return [
        known[heir.parent].with_values(**heir.values, parent=f"{heir.parent}@{decision.epoch}")
        if heir
        else config
        for config, heir in zip(members, decision.heirs)
    ]


def boundaries(spec: SweepSpec, epochs: int) -> range:
    """The epochs at which a population is compared."""
    assert spec.search is not None
    return range(spec.search.interval_epochs, epochs, spec.search.interval_epochs)


def decision_path(store: SweepStore, spec: SweepSpec, epoch: int) -> Path:
    """Where the decision at an epoch stands: one metric's, for no other may be compared with it."""
    return store.path / "population" / f"{spec.metric}-{spec.mode}" / f"{epoch}.json"


def read_decision(
    store: SweepStore, spec: SweepSpec, epoch: int, members: Sequence[TrialConfig]
) -> Decision | None:
    """The decision about these members at an epoch, where there is one; one about others does not count."""
    try:
        decision = Decision.from_json(decision_path(store, spec, epoch).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return decision if decision.members == tuple(config.trial_id for config in members) else None


def with_exploited(plan: Plan, store: SweepStore) -> Plan:
    """A population's plan with all members that recorded decisions have made."""
    members, rows = list(plan.trials), list(plan.rows)
    for epoch in boundaries(plan.spec, members[0].epochs):
        decision = read_decision(store, plan.spec, epoch, members)
        if decision is None:
            break
        members = exploited_configs(decision, members)
        rows += _new_rows(rows, members)
    return replace(plan, rows=tuple(rows))


def _new_rows(rows: Sequence[Planned], members: Sequence[TrialConfig]) -> list[Planned]:
    known = {row.trial_id for row in rows}
    new = [config for config in members if config.trial_id not in known]
    part = rows[0].part
    return [Planned(part=part, point=len(rows) + n, replica=0, config=c) for n, c in enumerate(new)]


class Population:
    """A supply that trains a population from one comparison to the next, and acts upon what is decided there.

    Args:
        plan: the first generation's.
        fence: called before each write that only the sweep's driver may make.
    """

    exhausted = False

    def __init__(self, plan: Plan, store: SweepStore, run_config: RunConfig, fence: Callable[[], None]):
        self._spec, self._store, self._run_config, self._fence = plan.spec, store, run_config, fence
        self._plan = plan
        self._members = list(plan.trials)
        self._left = list(boundaries(plan.spec, self._members[0].epochs))  # comparisons to come
        self._taken: set[str] = set()  # since the last comparison
        self.started = 0
        self._compare_where_all_wait()

    @property
    def plan(self) -> Plan:
        """As it has grown."""
        return self._plan

    def take(self) -> TrialRequest | None:
        """A member that has not come as far as the next comparison, or to its end."""
        self._compare_where_all_wait()
        for config in self._members:
            if config.trial_id not in self._taken and not self._waits(config):
                self._taken.add(config.trial_id)
                self.started += 1
                return TrialRequest(config, self._until)
        return None

    def is_over(self) -> bool:
        if self._store.stop_requested(self._run_config.started_at):
            return True
        return not self._left and all(c.trial_id in self._taken or self._waits(c) for c in self._members)

    def ended(self, request: TrialRequest) -> None:
        """Nothing: what has become of it is read from the store."""

    @property
    def _until(self) -> int | None:
        return self._left[0] if self._left else None

    def _waits(self, config: TrialConfig) -> bool:
        """Whether a member has come as far as it should by now, or will never."""
        info = self._store.trial(config.trial_id).info()
        if info is not None and info.state == "completed" and self._until is not None:
            return info.epoch >= self._until  # its sweep has been given more epochs
        return is_done(info, config, replace(self._run_config, until=self._until))

    def _compare_where_all_wait(self) -> None:
        while self._left:
            epoch = self._left[0]
            decision = read_decision(self._store, self._spec, epoch, self._members)
            if decision is None:
                if not all(map(self._waits, self._members)):
                    return
                values = [self._value(config, epoch) for config in self._members]
                decision = decide(self._spec, epoch, self._members, values)
                path = decision_path(self._store, self._spec, epoch)
                path.parent.mkdir(parents=True, exist_ok=True)
                files.write_bytes(path, decision.to_json().encode(), self._fence)
            self._act(decision)
            self._left.pop(0)
            self._taken.clear()

    def _act(self, decision: Decision) -> None:
        """What follows from a decision; done again after a kill, it changes nothing more."""
        before, self._members = self._members, exploited_configs(decision, self._members)
        rows = (*self._plan.rows, *_new_rows(self._plan.rows, self._members))
        if rows != self._plan.rows:
            self._plan = replace(self._plan, rows=rows)
            files.write_table(self._plan.table(), self._store.path / "plan.parquet", self._fence)
        for config, heir in zip(self._members, decision.heirs):
            if heir is not None:
                self._inherit(config.trial_id, heir.parent)
        for config in before:
            if config not in self._members:
                self._give_up(config)

    def _value(self, config: TrialConfig, epoch: int) -> float | None:
        table = self._store.trial(config.trial_id).records()
        by_epoch = dict(zip(table["epoch"].to_pylist(), table[self._spec.metric].to_pylist()))
        info = self._store.trial(config.trial_id).info()
        return by_epoch.get(epoch) if info and info.state in ("interrupted", "completed") else None

    def _inherit(self, trial_id: str, parent: str) -> None:
        """Give a new trial its parent's checkpoint; where that is gone, its attempt will say so."""
        folder = self._store.trial(trial_id)
        lease = take_lease(folder.path)
        if lease is None:
            return
        with lease:
            if folder.info() is None and not has_checkpoint(folder.path):
                copy_checkpoint(self._store.trial(parent).path, folder.path, lease.check)

    def _give_up(self, config: TrialConfig) -> None:
        folder = self._store.trial(config.trial_id)
        lease = take_lease(folder.path)
        if lease is None:
            return
        with lease:
            info = folder.info()
            if info is not None and not info.ended:
                stopped = replace(info, state="stopped")
                folder.write_info(stopped, lease.check)
                self._run_config.retention.apply(self._store, stopped, [])


@dataclass(eq=False)
class _StandIn:
    """What Ray's scheduler looks at in one of its trials, which is paused, and what it does to it."""

    trial_id: str
    config: dict[str, Any]
    status: str = "PAUSED"
    experiment_tag: str = ""
    evaluated_params: dict[str, Any] = field(default_factory=dict)
    temporary_state: Any = field(default_factory=lambda: SimpleNamespace(saving_to=None))
    run_metadata: Any = field(
        default_factory=lambda: SimpleNamespace(
            checkpoint_manager=SimpleNamespace(
                checkpoint_config=SimpleNamespace(num_to_keep=None), _latest_checkpoint_result=None
            )
        )
    )

    @property
    def checkpoint(self) -> str:
        return self.trial_id  # all that is asked of it: whose it is

    @property
    def exploited(self) -> str | None:
        """Whose checkpoint the scheduler gave it."""
        result = self.run_metadata.checkpoint_manager._latest_checkpoint_result
        return result and result.checkpoint

    def is_finished(self) -> bool:
        return False

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config

    def set_experiment_tag(self, tag: str) -> None:
        self.experiment_tag = tag


def _ask(
    spec: SweepSpec, members: Sequence[TrialConfig], scores: Sequence[float], seed: str
) -> list[ExploitDecision | None]:
    """One round of Ray's scheduler, which draws from the process's own random numbers."""
    import numpy as np
    from ray.tune.schedulers import PopulationBasedTraining

    logging.getLogger("ray.tune.schedulers.pbt").setLevel(logging.WARNING)  # its news stand in the decision
    search, space = spec.search, spec.parts[0].space
    assert search is not None
    drawn = to_ray({name: space[name] for name in search.mutate})
    mutations = {name: space[name].get("choice", drawn[name]) for name in search.mutate}
    scheduler = PopulationBasedTraining(
        time_attr="round",
        metric="value",
        mode=spec.mode,
        perturbation_interval=1,
        hyperparam_mutations=mutations,
        quantile_fraction=search.quantile,
        resample_probability=search.resample,
        custom_explore_fn=lambda config: _within(config, space),
        log_config=False,
        synch=True,
    )
    trials: list[Any] = [
        _StandIn(config.trial_id, {name: config[name] for name in search.mutate}) for config in members
    ]
    controller: Any = SimpleNamespace(
        search_alg=None, get_trials=lambda: trials, get_live_trials=lambda: trials
    )
    before = random.getstate(), np.random.get_state()
    try:
        random.seed(seed)
        np.random.seed(random.getrandbits(32))
        for trial in trials:
            scheduler.on_trial_add(controller, trial)
        for trial, score in zip(trials, scores):
            scheduler.on_trial_result(controller, trial, {"round": 1, "value": score})
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
    return [
        ExploitDecision(trial.exploited, _plain(trial.config)) if trial.exploited else None
        for trial in trials
    ]


def _within(config: dict[str, Any], space: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Values that Ray's scheduler moved out of their range, back at its end."""
    kept = {}
    for name, value in config.items():
        ((kind, allowed),) = space[name].items()
        kept[name] = value if kind in ("choice", "randn") else min(max(value, allowed[0]), allowed[1])
    return kept


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
