"""W&B Sweeps: a sweep file as a W&B definition, and the command that `wandb agent` runs for each of its trials.

W&B hands out the trials of our plan and no others, so that each keeps its identity. A trial that is already done is
not run again, only shown.
"""

import os
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import ConfigError, UserError, did_you_mean
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.derive import complete
from mixsweep.sweep.planning.plan import Plan, labels_of, pick, with_seed
from mixsweep.sweep.planning.space import Combine, expand

COMMAND = ("${env}", "${interpreter}", "-m", "mixsweep", "agent")


class AgentError(UserError):
    """W&B asks for a trial that the sweep file does not have."""


def definition(plan: Plan, file: str, store: Path, project: str) -> str:
    """Return a W&B sweep definition as YAML.

    A grid becomes W&B's grid over the same fields, so that its panels have them as axes. What W&B cannot express
    (conditions, parts, zipped axes, excluded points, our random draws) becomes a grid over the ids of the planned
    trials.

    Args:
        file: the path of the sweep file for `sweep agent`.
        store: the store that the trials are written to.
    """
    spec = plan.spec
    part = spec.parts[0]
    grids = all("grid_search" in axis for axis in part.space.values())
    plain = len(spec.parts) == 1 and not part.when and grids and part.combine == Combine()
    if plain:
        parameters = {key: {"values": list(axis["grid_search"])} for key, axis in part.space.items()}
        if "seed" in spec.trainable.field_names:
            parameters["seed"] = {"values": list(spec.seeds)}
    else:
        parameters = {"trial": {"values": [config.trial_id for config in plan.trials]}}
    source = {
        "name": spec.name,
        "description": spec.question,
        "project": project,
        "method": "grid",
        "metric": {"name": spec.metric, "goal": "maximize" if spec.mode == "max" else "minimize"},
        "parameters": parameters,
        "command": [*COMMAND, file, "--store", str(store), "${args}"],
    }
    return yaml.safe_dump(source, sort_keys=False)


def trial_for(plan: Plan, words: Sequence[str]) -> TrialConfig:
    """Return the planned trial for W&B's arguments, `--lr=0.1 --seed=42` or `--trial=0123456789ab`.

    Raises:
        AgentError: an argument is not a field, or no planned trial matches.
    """
    values = dict(_value_of(word, plan.spec.trainable.field_names) for word in words)
    if "trial" in values:
        return pick(plan.trials, str(values["trial"]))
    spec, part = plan.spec, plan.spec.parts[0]
    space = {key: {"grid_search": [value]} for key, value in values.items() if key != "seed"}
    seed = values.get("seed", spec.seeds[0])
    try:
        axes = expand(part.base, space, {}, 1, 0, spec.trainable.defaults_beside)
        (point,) = (complete(values, part.derive, part.when, spec.trainable) for values in axes)
        wanted = spec.trainable.config(with_seed(spec, point, seed)).trial_id
    except ConfigError as error:
        raise AgentError(f"{' '.join(words)}: {error}") from error
    for config in plan.trials:
        if config.trial_id == wanted:
            return config
    raise AgentError(f"{' '.join(words)}: no trial of {plan.spec.name}; export the definition again")


def show_in_wandb(store: SweepStore, config: TrialConfig, plan: Plan) -> None:
    """Push a trial to the run that `wandb agent` has started for it; without an agent, do nothing.

    Raises:
        MirrorError: W&B cannot be used.
        TransientError: the push failed and can be tried again.
    """
    run_id = os.environ.get("WANDB_RUN_ID")
    info = store.trial(config.trial_id).info()
    if not run_id or info is None:
        return
    from mixsweep.analysis.wandb_mirror.payload import run_content
    from mixsweep.analysis.wandb_mirror.sinks import OnlineSink

    spec = plan.spec
    label = labels_of(plan.rows)[config.trial_id]
    run = run_content(store, info, label, {}, spec.metric, spec.mode, only_settled=True)
    project = os.environ.get("WANDB_PROJECT") or "mixsweep"
    target = OnlineSink(store.path / "mirror", project, os.environ.get("WANDB_ENTITY"))
    try:
        target.push(replace(run, run_id=run_id))
    finally:
        target.close()


def _value_of(word: str, names: Sequence[str]) -> tuple[str, Any]:
    key, given, text = word.removeprefix("--").partition("=")
    if not word.startswith("--") or not given:
        raise AgentError(f"{word}: not like --lr=0.1, as `wandb agent` gives it")
    if key not in ("trial", *names):
        raise AgentError(f"{word}: unknown field {key!r}{did_you_mean(key, names)}")
    if key == "trial":
        return key, text
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text  # a bare word
