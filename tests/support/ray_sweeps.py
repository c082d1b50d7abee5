"""A sweep of tiny trials for tests on Ray clusters, and what its store says."""

import sys
from pathlib import Path

from mixsweep.core.store.store import SweepStore
from tests.support.commands import infos

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

# So that a trial is still at work when a test needs it to be, however fast the machine is.
BRAKED_MODEL = """
import os, time
from torch import nn
from mixsweep import register_model

class Brake(nn.Module):
    steps = 0

    def forward(self, x):
        if self.training and os.path.exists(os.environ.get("BRAKE", "")):
            self.steps += 1
            time.sleep(0.2 if self.steps <= 40 else 1.0)
        return x

def build(config, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 16), nn.ReLU(), Brake(), nn.Linear(16, classes))

register_model("braked", build)
"""


def write_many(folder: Path, epochs: int, extra: str = "") -> Path:
    """A sweep file of 24 tiny trials in a folder."""
    path = folder / "many.toml"
    path.write_text(SWEEP.format(epochs=epochs, extra=extra), encoding="utf-8")
    return path


def sweep(*words: str) -> list[str]:
    """A command as a person types it."""
    return [sys.executable, "-m", "mixsweep", *words]


def states(store: SweepStore) -> list[str]:
    """Their states."""
    return [info.state for info in infos(store)]


def nodes_at_work(store: SweepStore) -> int:
    """On how many nodes a trial runs that has recorded something."""
    running = [info for info in infos(store) if info.state == "running"]
    return len({i.attempts[-1].job for i in running if store.trial(i.trial_id).records().num_rows > 0})


def write_braked(folder: Path, epochs: int) -> tuple[Path, Path]:
    """As write_many, and a file whose existence slows the trials down to 0.8 s an epoch, from the 11th on to 4 s.

    So that 60 epochs take 200 s. Workers know it where the place's environment has its path as BRAKE.
    """
    (folder / "braked.py").write_text(BRAKED_MODEL, encoding="utf-8")
    path = write_many(folder, epochs, extra='imports = ["braked.py"]')
    text = (
        path.read_text(encoding="utf-8")
        .replace('model = "mlp"', 'model = "braked"')
        .replace("hidden = [16]\n", "")
    )
    path.write_text(text, encoding="utf-8")
    brake = folder / "brake"
    brake.touch()
    return path, brake
