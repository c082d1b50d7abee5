"""Suggestions by Optuna's TPE through Ray Tune's OptunaSearch, fed from the store.

A suggestion depends only on the search seed, its number, and the results in the store. Each one comes from a new
searcher that is given all results, so that there is no searcher state to lose: a sweep resumed after a kill suggests
what it would have suggested without it.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import ConfigError
from mixsweep.core.scoring import scored_so_far
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.trainables.interface import Trainable
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.sweep.planning.derive import complete
from mixsweep.sweep.planning.plan import with_seed
from mixsweep.sweep.planning.schema import Part, SpecError, SweepSpec
from mixsweep.sweep.planning.space import meets, to_ray

# Draws until a trial is new; those after the first 20 are random.
_MAX_DRAWS, _TPE_DRAWS = 200, 20

_STUDY = "sweep"


@dataclass(frozen=True, kw_only=True)
class Result:
    """A trial's result in the store, as a searcher needs it.

    Args:
        state: one of STATES; `waiting` for a trial without a result.
        value: the metric in the record of a completed trial that counts.
        curve: the metric by epoch, each in the record that counts up to there.
        point: the varied fields (see point_of), if already computed: that takes longer than a draw from TPE.
    """

    config: TrialConfig
    state: str
    value: float | None
    curve: Mapping[int, float]
    point: Mapping[str, Any] | None = None


def read_result(
    config: TrialConfig, info: TrialInfo | None, store: SweepStore, spec: SweepSpec, done: bool
) -> Result:
    """Return a trial's result; a trial that is not done is `waiting`, without a value."""
    if info is None or not done:
        return Result(config=config, state="waiting", value=None, curve={})
    table = store.trial(config.trial_id).records()
    recorded = [
        (e, v) for e, v in zip(table["epoch"].to_pylist(), table[spec.metric].to_pylist()) if v is not None
    ]
    epochs, values = np.array([e for e, _ in recorded]), np.array([v for _, v in recorded], dtype=float)
    counted = scored_so_far(values, spec.mode, spec.score)
    curve = dict(zip(epochs.tolist(), values[counted].tolist()))
    reached = max((epoch for epoch in curve if epoch <= config.epochs), default=0)
    value = curve.get(reached) if info.state == "completed" else None
    point = point_of(spec.parts[0], config)
    return Result(config=config, state=info.state, value=value, curve=curve, point=point)


def suggest(
    spec: SweepSpec, number: int, results: Sequence[Result], taken: Callable[[str], bool]
) -> TrialConfig | None:
    """Return the suggestion of this number, or None where no new trial is found.

    Args:
        number: the suggestion's number, from 0 on.
        results: of all trials that the searcher learns from; unfinished ones count as poor.
        taken: whether a trial, by its id, has been suggested before; it is not suggested again.

    Raises:
        SpecError: no draw gives a valid config; the message has the values of the last.
    """
    assert spec.search is not None
    (part,) = spec.parts
    problem = ""
    for draw in range(_MAX_DRAWS):
        startup = spec.search.startup_trials if draw < _TPE_DRAWS else len(results) + 1
        values = _draw_values(spec, part, startup, _seed(spec.search_seed, number, draw), results)
        try:
            config = _trial(spec, part, values)
        except ConfigError as error:
            at = ", ".join(f"{key} = {value!r}" for key, value in values.items())
            problem = f"{spec.path or spec.name}: {error} (at {at})"
            continue
        if not taken(config.trial_id):
            return config
        problem = ""
    if problem:
        raise SpecError(problem)
    return None


def refit(spec: SweepSpec, config: TrialConfig) -> TrialConfig | None:
    """Return a trial with the sweep file's present budget, or None where it is outside the space."""
    (part,) = spec.parts
    values = point_of(part, config)
    if values is None:
        return None
    try:
        again = _trial(spec, part, values)
    except ConfigError:
        return None
    return again if again.trial_id == config.trial_id else None


def point_of(part: Part, config: TrialConfig) -> dict[str, Any] | None:
    """Return the varied fields that have an effect in a trial; None where a value is not on its axis."""
    values: dict[str, Any] = {}
    trainable = find_trainable(config.kind)
    for key, axis in _in_order(part, trainable, values):
        ((name, allowed),) = axis.items()
        if name == "choice":
            found = [one for one in allowed if _has(config, key, one)]
            if not found:
                return None
            values[key] = found[0]
        else:
            values[key] = config[key]
            if not _is_within(values[key], _distribution(key, axis)):
                return None
    return values


def _trial(spec: SweepSpec, part: Part, values: Mapping[str, Any]) -> TrialConfig:
    point = complete({**part.base, **values}, part.derive, part.when, spec.trainable)
    return spec.trainable.config(with_seed(spec, point, spec.seeds[0]))


def _is_within(value: float, distribution: Any) -> bool:
    import optuna

    try:
        optuna.trial.create_trial(value=0.0, params={"x": value}, distributions={"x": distribution})
    except ValueError:
        return False
    return True


def _has(config: TrialConfig, key: str, value: Any) -> bool:
    """Whether a field has this value; two spellings of one value are equal."""
    try:
        return config.with_values(**{key: value}) == config
    except ConfigError:
        return False


def _in_order(
    part: Part, trainable: Trainable, values: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the varied fields that have an effect, each after those it depends on; the caller fills `values`."""
    left = list(part.space)
    while left:
        ready = [key for key in left if not _depends_on(part, trainable, key) & (set(left) - {key})] or left
        key = ready[0]
        left.remove(key)
        given = {**part.base, **values}
        now = {**trainable.defaults_beside(given), **given}
        conditions = part.when.get(key, {})
        if trainable.is_effective(key, now) and all(meets(now[other], v) for other, v in conditions.items()):
            yield key, part.space[key]


def _depends_on(part: Part, trainable: Trainable, key: str) -> set[str]:
    return {*trainable.field(key).applies, *part.when.get(key, {})}


def _draw_values(
    spec: SweepSpec, part: Part, startup_trials: int, seed: int, results: Sequence[Result]
) -> dict[str, Any]:
    """Return the values that TPE chooses after these results."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def space(trial: Any) -> None:
        values: dict[str, Any] = {}
        for key, axis in _in_order(part, spec.trainable, values):
            values[key] = _suggest(trial, key, axis)

    storage = optuna.storages.InMemoryStorage()
    direction = optuna.study.StudyDirection[{"max": "MAXIMIZE", "min": "MINIMIZE"}[spec.mode]]
    study = optuna.create_study(storage=storage, study_name=_STUDY, direction=direction)
    for result in results:
        values = result.point or point_of(part, result.config)
        if values is not None and result.state != "failed":  # a failure says nothing about its values
            study.add_trial(_to_optuna_trial(result, values, part))
    searcher = OptunaSearch(
        space=space,
        metric=spec.metric,
        mode=spec.mode,
        sampler=optuna.samplers.TPESampler(n_startup_trials=startup_trials, seed=seed),
        study_name=_STUDY,
        storage=storage,
    )
    chosen = searcher.suggest("next")
    return {k: json.loads(v) if "choice" in part.space[k] else v for k, v in chosen.items()}


def _to_optuna_trial(result: Result, values: Mapping[str, Any], part: Part) -> Any:
    """Return a result as an Optuna trial.

    A stopped trial is PRUNED: TPE ranks it behind completed ones, by its last epoch and its value there. A diverged
    trial is PRUNED without a value, the worst rank. An unfinished trial is RUNNING: TPE counts it as poor, so that
    trials that run at once differ.
    """
    import optuna
    from optuna.trial import TrialState

    states = {"completed": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "diverged": TrialState.PRUNED}
    curve = {} if result.state == "diverged" else dict(result.curve)
    return optuna.trial.create_trial(
        state=states.get(result.state, TrialState.RUNNING),
        value=result.value,
        params={k: json.dumps(v) if "choice" in part.space[k] else v for k, v in values.items()},
        distributions={key: _distribution(key, part.space[key]) for key in values},
        intermediate_values=curve,
    )


def _suggest(trial: Any, key: str, axis: Mapping[str, Any]) -> Any:
    """Draw one field from an Optuna trial."""
    import optuna

    known = _distribution(key, axis)
    if isinstance(known, optuna.distributions.CategoricalDistribution):
        return json.loads(trial.suggest_categorical(key, known.choices))
    if isinstance(known, optuna.distributions.IntDistribution):
        return trial.suggest_int(key, known.low, known.high, step=known.step, log=known.log)
    return trial.suggest_float(key, known.low, known.high, step=known.step, log=known.log)


def _distribution(key: str, axis: Mapping[str, Any]) -> Any:
    """Return an axis as an Optuna distribution, by Ray's conversion; choices are JSON texts, as they may be lists."""
    ((name, values),) = axis.items()
    return _converted(key, name, tuple(json.dumps(v) if name == "choice" else v for v in values))


@cache
def _converted(key: str, name: str, values: tuple[Any, ...]) -> Any:
    from ray.tune.search.optuna import OptunaSearch

    return OptunaSearch.convert_search_space(to_ray({key: {name: list(values)}}))[key]


def _seed(search_seed: int, number: int, draw: int) -> int:
    digest = hashlib.sha256(f"{search_seed}/{number}/{draw}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
