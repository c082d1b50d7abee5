"""A sweep of tiny trials for tests on Ray clusters, and what its store says."""

import sys
from pathlib import Path

from core.store import SweepStore, TrialInfo

SWEEP = """
name = "many"
seeds = 4
{extra}
[base]
model = "mlp"
dataset = "digits"
hidden = [16]
batch_size = 64
train_limit = 256
valid_limit = 100
epochs = {epochs}
[space]
activation = {{ grid_search = ["relu", "tanh", "sigmoid"] }}
lr = {{ grid_search = [1e-2, 1e-3] }}
"""


def write_many(folder: Path, epochs: int, extra: str = "") -> Path:
    """A sweep file of 24 tiny trials in a folder."""
    path = folder / "many.toml"
    path.write_text(SWEEP.format(epochs=epochs, extra=extra), encoding="utf-8")
    return path


def sweep(*words: str) -> list[str]:
    """A command as a person types it."""
    return [sys.executable, "-m", "sweep", *words]


def infos(store: SweepStore) -> list[TrialInfo]:
    """What the store says of all trials that have begun."""
    return [info for trial in store.trials() if (info := trial.info())]


def states(store: SweepStore) -> list[str]:
    """Their states."""
    return [info.state for info in infos(store)]


def nodes_at_work(store: SweepStore) -> int:
    """On how many nodes a trial runs that has recorded something."""
    running = [info for info in infos(store) if info.state == "running"]
    return len({i.attempts[-1].job for i in running if store.trial(i.trial_id).records().num_rows > 0})
