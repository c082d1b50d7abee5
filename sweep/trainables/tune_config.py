"""What Ray Tune tells a trainable: its `config`, and facts of its trial."""

from types import SimpleNamespace
from typing import Any

from mixsweep.core.trainables import interface
from mixsweep.core.trainables.declared import DeclaredConfig
from mixsweep.core.trainables.definition import UNLIMITED

SEPARATOR = "/"  # of nested keys, as in Tune's results


def config_of(config: DeclaredConfig) -> dict[str, Any]:
    """The dictionary that a class's `setup` or a function gets: the values of the declared fields."""
    own: dict[str, Any] = {}
    specs = {spec.name: spec for spec in config.definition.fields}
    for name, value in config.to_mapping().items():
        if name == "parent" or (specs[name].budget and specs[name].default == UNLIMITED):
            continue  # not the user's
        *folders, last = name.split(SEPARATOR)
        table = own
        for folder in folders:
            table = table.setdefault(folder, {})
        table[last] = value
    return own


def trial_info(config: DeclaredConfig, run: interface.Run) -> SimpleNamespace:
    """A trial's name, id and resources, under Tune's names for them."""
    from ray.tune import PlacementGroupFactory

    resources = {"CPU": float(run.threads), "GPU": float(run.device.type == "cuda")}
    return SimpleNamespace(
        trial_id=config.trial_id,
        trial_name=f"{config.definition.name.rpartition(':')[2]}_{config.trial_id}",
        trial_resources=PlacementGroupFactory([{name: value for name, value in resources.items() if value}]),
        experiment_name="mixsweep",
    )
