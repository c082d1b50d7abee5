"""Suggestions: which trial comes next, by Optuna's TPE behind Ray Tune's OptunaSearch, fed from the store.

A suggestion follows from the search seed, its number, and what the store says of the trials before it. Each is
asked of a searcher made for it alone, which has been told all of that, so that there is no searcher's state to
lose: a sweep that goes on after a kill decides as it would have.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import ConfigError
from mixsweep.core.store.store import SweepStore, TrialInfo
from mixsweep.core.trainables.interface import Trainable
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.sweep.planning.schema import Part, SpecError, SweepSpec
from mixsweep.sweep.planning.space import meets, switch_off, to_ray

# So often is asked again for a trial that is not in the plan yet, and from so many on at random.
_ASKED, _ASKED_AT_RANDOM = 200, 20

_STUDY = "sweep"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the store says of a trial, as a searcher looks at it.

    Args:
        state: of STATES; `waiting` where there is none.
        value: the metric at the last epoch of a completed trial.
        curve: the metric by epoch.
        point: its varied fields (see point_of), once they are worked out: that takes longer than to ask TPE.
    """

    config: TrialConfig
    state: str
    value: float | None
    curve: Mapping[int, float]
    point: Mapping[str, Any] | None = None


def read_result(
    config: TrialConfig, info: TrialInfo | None, store: SweepStore, spec: SweepSpec, done: bool
) -> Result:
    """A trial's result; one that is not done is `waiting` or runs, and has no value yet."""
    if info is None or not done:
        return Result(config=config, state="waiting", value=None, curve={})
    table = store.trial(config.trial_id).records()
    curve = dict(zip(table["epoch"].to_pylist(), table[spec.metric].to_pylist()))
    value = curve.get(config.epochs) if info.state == "completed" else None
    point = point_of(spec.parts[0], config)
    return Result(config=config, state=info.state, value=value, curve=curve, point=point)


def suggest(
    spec: SweepSpec, number: int, results: Sequence[Result], taken: Callable[[str], bool]
) -> TrialConfig | None:
    """The suggestion of this number, or None where nothing new is found.

    Args:
        number: of the suggestion, from 0 on.
        results: of all trials that the searcher is to know; those not done yet count as not good.
        taken: whether a trial has been suggested before; its value is known, and it is not run again.

    Raises:
        SpecError: whatever is suggested is no trial; with the last one's values.
    """
    assert spec.search is not None
    (part,) = spec.parts
    problem = ""
    for asked in range(_ASKED):
        startup = spec.search.startup_trials if asked < _ASKED_AT_RANDOM else len(results) + 1
        values = _ask(spec, part, startup, _seed(spec.search_seed, number, asked), results)
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
    """A trial as the sweep file has it now (it may ask for more epochs), or None where it is none of its space."""
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
    """The values of the varied fields that count in a trial; None where one is not of its axis."""
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
    point = switch_off({**part.base, **values}, part.when, spec.trainable.defaults)
    return spec.trainable.config({**point, "seed": spec.seeds[0]})


def _is_within(value: float, distribution: Any) -> bool:
    import optuna

    try:
        optuna.trial.create_trial(value=0.0, params={"x": value}, distributions={"x": distribution})
    except ValueError:
        return False
    return True


def _has(config: TrialConfig, key: str, value: Any) -> bool:
    """Whether a field says this; two spellings of one value are the same."""
    try:
        return config.with_values(**{key: value}) == config
    except ConfigError:
        return False


def _in_order(
    part: Part, trainable: Trainable, values: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The varied fields that count, each after those on which that depends; the caller fills in `values`."""
    standing = {**trainable.defaults, **part.base}
    left = list(part.space)
    while left:
        ready = [key for key in left if not _depends_on(part, trainable, key) & (set(left) - {key})] or left
        key = ready[0]
        left.remove(key)
        now = {**standing, **values}
        conditions = part.when.get(key, {})
        if trainable.is_effective(key, now) and all(meets(now[other], v) for other, v in conditions.items()):
            yield key, part.space[key]


def _depends_on(part: Part, trainable: Trainable, key: str) -> set[str]:
    return {*trainable.field(key).applies, *part.when.get(key, {})}


def _ask(
    spec: SweepSpec, part: Part, startup_trials: int, seed: int, results: Sequence[Result]
) -> dict[str, Any]:
    """The values that TPE chooses after these results."""
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
        if values is not None and result.state != "failed":  # what failed says nothing of its values
            study.add_trial(_as_optuna_has_it(result, values, part))
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


def _as_optuna_has_it(result: Result, values: Mapping[str, Any], part: Part) -> Any:
    """A trial's result as a trial of Optuna's.

    One that a rule stopped is pruned, ranked behind what was completed, by how far it came and its value there.
    One that diverged is pruned without a value: the worst there is. One that is not done is running, and TPE
    takes it for a bad one, lest several that run at once be the same.
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
    """Ask Optuna's trial for one field."""
    import optuna

    known = _distribution(key, axis)
    if isinstance(known, optuna.distributions.CategoricalDistribution):
        return json.loads(trial.suggest_categorical(key, known.choices))
    if isinstance(known, optuna.distributions.IntDistribution):
        return trial.suggest_int(key, known.low, known.high, step=known.step, log=known.log)
    return trial.suggest_float(key, known.low, known.high, step=known.step, log=known.log)


def _distribution(key: str, axis: Mapping[str, Any]) -> Any:
    """An axis as Optuna has it, by Ray's own conversion; a choice is of texts, for it may be of lists."""
    ((name, values),) = axis.items()
    return _converted(key, name, tuple(json.dumps(v) if name == "choice" else v for v in values))


@cache
def _converted(key: str, name: str, values: tuple[Any, ...]) -> Any:
    from ray.tune.search.optuna import OptunaSearch

    return OptunaSearch.convert_search_space(to_ray({key: {name: list(values)}}))[key]


def _seed(search_seed: int, number: int, asked: int) -> int:
    digest = hashlib.sha256(f"{search_seed}/{number}/{asked}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
