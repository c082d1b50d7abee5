"""Population based training (Jaderberg et al., 2017, arXiv:1711.09846) by Ray Tune's scheduler, fed from the store.

All members of a population train to the same epoch, pause, and are compared. Ray's synchronous
`PopulationBasedTraining` decides which members exploit which checkpoints, and with which values. It needs only the
values recorded at that epoch, and is called through its public methods with stand-ins for its trials. A decision is
written to `population/<metric>-<mode>/<epoch>.json` before it is carried out, so that a resumed sweep carries out the
same one. A member that exploits another becomes a new trial, whose identity names its parent and the epoch.
"""

import json
import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mixsweep.core.config import TrialConfig
from mixsweep.core.execution.remaining import is_done
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.store import files
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.lease import take_lease
from mixsweep.core.store.trial.term import Term
from mixsweep.core.store.trial.transfer import copy_checkpoint
from mixsweep.sweep.planning.derive import complete
from mixsweep.sweep.planning.plan import Plan, Planned
from mixsweep.sweep.planning.schema import SweepSpec
from mixsweep.sweep.planning.space import to_ray
from mixsweep.sweep.search.trial_source import TrialRequest

_MAX_DRAWS = 20  # draws of a decision until all of its new trials differ


@dataclass(frozen=True)
class ExploitDecision:
    """The replacement of a poor member: whose checkpoint it continues, and with which values."""

    parent: str
    values: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class PopulationDecision:
    """The comparison at an epoch, member by member. `exploits` holds None for a member that continues unchanged."""

    epoch: int
    members: tuple[str, ...]
    scores: tuple[float, ...]
    exploits: tuple[ExploitDecision | None, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON values."""
        exploits = [e and {"parent": e.parent, "values": dict(e.values)} for e in self.exploits]
        # Stores of earlier versions name the key so.
        return {"epoch": self.epoch, "members": self.members, "scores": self.scores, "heirs": exploits}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "PopulationDecision":
        """The decision of a `to_mapping` result."""
        exploits = tuple(e and ExploitDecision(**e) for e in values["heirs"])
        return cls(
            epoch=values["epoch"],
            members=tuple(values["members"]),
            scores=tuple(values["scores"]),
            exploits=exploits,
        )


def decide(
    spec: SweepSpec, epoch: int, members: Sequence[TrialConfig], values: Sequence[float | None]
) -> PopulationDecision:
    """Return the decision of Ray's scheduler after an epoch; the same values give the same decision.

    Args:
        values: the metric at that epoch, by member; None for a member that diverged or failed, ranked last.
    """
    worst = -math.inf if spec.mode == "max" else math.inf
    scores = [worst if value is None or math.isnan(value) else value for value in values]
    exploits: list[ExploitDecision | None] = []
    for draw in range(_MAX_DRAWS):
        exploits = _run_scheduler(spec, members, scores, f"{spec.search_seed}/{epoch}/{draw}")
        alive = {config.trial_id for config, score in zip(members, scores) if score != worst}
        exploits = [e if e is not None and e.parent in alive else None for e in exploits]
        made = [json.dumps([e.parent, e.values], sort_keys=True) for e in exploits if e is not None]
        if len(set(made)) == len(made):
            break
    exploits = [e and _with_derived(spec, members, e) for e in exploits]
    ids = tuple(config.trial_id for config in members)
    return PopulationDecision(epoch=epoch, members=ids, scores=tuple(scores), exploits=tuple(exploits))


def _with_derived(
    spec: SweepSpec, members: Sequence[TrialConfig], exploit: ExploitDecision
) -> ExploitDecision:
    """Return an exploit with the derived fields that its values change."""
    (part,) = spec.parts
    (parent,) = (config for config in members if config.trial_id == exploit.parent)
    given = {n: v for n, v in parent.to_mapping().items() if n not in part.derive} | dict(exploit.values)
    made = complete(given, part.derive, part.when, spec.trainable)
    derived = {name: made.get(name, spec.trainable.defaults[name]) for name in part.derive}
    changed = {name: value for name, value in derived.items() if value != parent[name]}
    return ExploitDecision(exploit.parent, {**exploit.values, **changed})


def exploited_configs(decision: PopulationDecision, members: Sequence[TrialConfig]) -> list[TrialConfig]:
    """Return the members after a decision."""
    known = {config.trial_id: config for config in members}
    return [
        known[exploit.parent].with_values(**exploit.values, parent=f"{exploit.parent}@{decision.epoch}")
        if exploit
        else config
        for config, exploit in zip(members, decision.exploits)
    ]


def boundaries(spec: SweepSpec, epochs: int) -> range:
    """Return the epochs at which a population is compared."""
    assert spec.search is not None
    return range(spec.search.interval_epochs, epochs, spec.search.interval_epochs)


def decision_path(store: SweepStore, spec: SweepSpec, epoch: int, members: Sequence[TrialConfig]) -> Path:
    """Return the file of the decision about these members at an epoch, by one metric and mode."""
    about = files.digest_of(" ".join(config.trial_id for config in members).encode())
    return _decisions_path(store, spec) / f"{epoch}.{about}.json"


def _decisions_path(store: SweepStore, spec: SweepSpec) -> Path:
    return store.objective_path("population", spec.metric, spec.mode)


def read_decision(
    store: SweepStore, spec: SweepSpec, epoch: int, members: Sequence[TrialConfig]
) -> PopulationDecision | None:
    """Return the decision about these members at an epoch, None if there is none or it is damaged."""
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        return PopulationDecision.from_mapping(files.read_json(decision_path(store, spec, epoch, members)))
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # of an earlier version
        text = (_decisions_path(store, spec) / f"{epoch}.json").read_text(encoding="utf-8")
        decision = PopulationDecision.from_mapping(json.loads(text))
        return decision if decision.members == tuple(config.trial_id for config in members) else None
    return None


def with_exploited(plan: Plan, store: SweepStore) -> Plan:
    """Return a population's plan with the members that recorded decisions have created."""
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
    """A trial source that trains a population from one comparison to the next, and carries out each decision.

    Args:
        plan: the plan of the first generation.
        fence: called before each write that only the sweep's driver may make.
    """

    exhausted = False

    def __init__(self, plan: Plan, store: SweepStore, run_config: RunConfig, fence: Callable[[], None]):
        self._spec, self._store, self._run_config, self._fence = plan.spec, store, run_config, fence
        self._plan = plan
        self._members = list(plan.trials)
        self._left = list(boundaries(plan.spec, self._members[0].epochs))  # comparisons to come
        self._taken: set[str] = set()  # ids handed out since the last comparison
        self._running: set[str] = set()  # those whose request has not ended
        self.started = 0
        self._compare_where_all_wait()

    @property
    def plan(self) -> Plan:
        """The plan with all members chosen so far."""
        return self._plan

    def take(self) -> TrialRequest | None:
        """Return a member that has not reached the next comparison or its last epoch."""
        self._compare_where_all_wait()
        for config in self._members:
            if config.trial_id not in self._taken and not self._waits(config):
                self._taken.add(config.trial_id)
                self._running.add(config.trial_id)
                self.started += 1
                return TrialRequest(config, self._until)
        return None

    def is_over(self) -> bool:
        if self._run_config.stop_requested():
            return True
        return not self._left and all(c.trial_id in self._taken or self._waits(c) for c in self._members)

    def ended(self, request: TrialRequest) -> None:
        """Take note that the member's worker has left it; its result is read from the store."""
        self._running.discard(request.config.trial_id)

    @property
    def _until(self) -> int | None:
        return self._left[0] if self._left else None

    def _waits(self, config: TrialConfig) -> bool:
        """Whether a member has reached the next comparison or its last epoch, or never will."""
        info = self._store.trial(config.trial_id).info()
        if info is not None and info.state == "completed" and self._until is not None:
            return info.epoch >= self._until  # the sweep file now asks for more epochs
        return is_done(info, config, replace(self._run_config, until=self._until))

    def _compare_where_all_wait(self) -> None:
        # A worker writes that its member waits before it gives up the lease, without which nobody can train it further.
        while self._left and not self._running:
            epoch = self._left[0]
            decision = read_decision(self._store, self._spec, epoch, self._members)
            if decision is None:
                if not all(map(self._waits, self._members)):
                    return
                values = [self._value(config, epoch) for config in self._members]
                decision = decide(self._spec, epoch, self._members, values)
                decision = self._record(decision, epoch)
            self._apply(decision)
            self._left.pop(0)
            self._taken.clear()

    def _record(self, decision: PopulationDecision, epoch: int) -> PopulationDecision:
        """Record a decision, and return the one that counts: the first."""
        path = decision_path(self._store, self._spec, epoch, self._members)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fence()
        content = files.json_bytes(decision.to_mapping())
        while not files.create_exclusive(path, content):
            if (first := read_decision(self._store, self._spec, epoch, self._members)) is not None:
                return first
            path.unlink(missing_ok=True)  # damaged; the same values give the same decision again
        return decision

    def _apply(self, decision: PopulationDecision) -> None:
        """Carry out a decision; repeated after a kill, it changes nothing more."""
        before, self._members = self._members, exploited_configs(decision, self._members)
        rows = (*self._plan.rows, *_new_rows(self._plan.rows, self._members))
        if rows != self._plan.rows:
            self._plan = replace(self._plan, rows=rows)
            self._fence()
            files.write_table(self._plan.table(), self._store.path / "plan.parquet")
        for config, exploit in zip(self._members, decision.exploits):
            if exploit is not None:
                self._copy_checkpoint(config.trial_id, exploit.parent)
        for config in before:
            if config not in self._members:
                self._stop(config)

    def _value(self, config: TrialConfig, epoch: int) -> float | None:
        table = self._store.trial(config.trial_id).records()
        by_epoch = dict(zip(table["epoch"].to_pylist(), table[self._spec.metric].to_pylist()))
        info = self._store.trial(config.trial_id).info()
        return by_epoch.get(epoch) if info and info.state in ("interrupted", "completed") else None

    def _copy_checkpoint(self, trial_id: str, parent: str) -> None:
        """Copy the parent's checkpoint to a new trial; where it is gone, the trial's attempt reports that."""
        folder = self._store.trial(trial_id)
        lease = take_lease(folder.path)
        if lease is None:
            return
        with lease:
            if folder.info() is None and not folder.has_checkpoint():
                copy_checkpoint(self._store.trial(parent), folder)

    def _stop(self, config: TrialConfig) -> None:
        """Mark a replaced member as stopped and apply the retention policy to it."""
        folder = self._store.trial(config.trial_id)
        lease = take_lease(folder.path)
        if lease is None:
            return
        with lease:
            info = folder.info()
            if info is not None and not info.ended:
                stopped = replace(info, state="stopped")
                with Term(folder, lease) as term:
                    term.begin(stopped)
                    term.seal(stopped)
                self._run_config.retention.apply(self._store, stopped)


@dataclass(eq=False)
class _PausedTrial:
    """The attributes and methods of a paused Tune trial that Ray's PBT scheduler uses."""

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
        return self.trial_id  # the scheduler only copies it, so that the owner's id is enough

    @property
    def exploited(self) -> str | None:
        """The id of the trial whose checkpoint the scheduler assigned."""
        result = self.run_metadata.checkpoint_manager._latest_checkpoint_result
        return result and result.checkpoint

    def is_finished(self) -> bool:
        return False

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config

    def set_experiment_tag(self, tag: str) -> None:
        self.experiment_tag = tag


def _run_scheduler(
    spec: SweepSpec, members: Sequence[TrialConfig], scores: Sequence[float], seed: str
) -> list[ExploitDecision | None]:
    """Run one round of Ray's scheduler, with the global random generators seeded and then restored."""
    import numpy as np
    from ray.tune.schedulers import PopulationBasedTraining

    logging.getLogger("ray.tune.schedulers.pbt").setLevel(logging.WARNING)  # the decision says it all
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
        _PausedTrial(config.trial_id, {name: config[name] for name in search.mutate}) for config in members
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
    """Clip values that Ray's scheduler moved out of their range."""
    kept = {}
    for name, value in config.items():
        ((kind, allowed),) = space[name].items()
        kept[name] = value if kind in ("choice", "randn") else min(max(value, allowed[0]), allowed[1])
    return kept


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
